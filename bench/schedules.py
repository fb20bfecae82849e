"""What the work of kernels costs on this machine, by which fusedrnn chooses how to share a call among threads
(csrc/machine.hpp has the costs, csrc/cost.cpp the formula): `python bench/schedules.py`, some minutes. To keep them:

    python bench/schedules.py --out machine.txt
    export FUSEDRNN_MACHINE=$PWD/machine.txt

First, probes measure what can be measured alone: a vector of multiply-adds, a cache line from each level, a meeting of
threads. Then random calls of forward and of backward are timed under each schedule. All costs are then fitted to these
times: each in turn is moved up and down as long as the mean of the squared logarithms of predicted over measured time
(at most 1 each) falls; a weak pull keeps costs that few calls tell near where they started. The last tables say, of the
same calls, how far predictions are from the times, how much slower the cheapest schedule by the model is than the best
one that was timed, and what all threads gain over one.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import _common  # noqa: F401
import fusedrnn
from fusedrnn import _core
from suite import Case, random_case
from systems import Inputs

CPUS = len(os.sched_getaffinity(0))
SIZES = {"l1_bytes", "l2_bytes", "l3_bytes"}  # these are told by the system, and not fitted
Costs = dict[str, float]
MOST, MOST_FLOPS = {"T": 200, "B": 256, "I": 1024, "H": 1024}, 1.5e9  # of calls that are timed
ROUNDS = 4
LEAST = 5000  # nanoseconds of a call that is more than the way to it


def schedules(threads: int) -> Iterator[tuple[str, int, int]]:
    """Names of schedules, and their parts: rows x units, for each number of units that divides the threads."""
    for units in range(1, threads + 1):
        if threads % units == 0:
            yield f"{threads // units}x{units}", threads // units, units


@dataclass
class Sample:
    """A call of forward or of backward, and its times in nanoseconds, by (rows, units, workers)."""

    case: Case
    backward: bool
    weights: Any
    times: dict[tuple[int, int, int], float] = field(default_factory=dict)

    def cost(self, parts: tuple[int, int, int]) -> float:
        return float(self.weights.cost(self.case.T, self.case.B, *parts, self.backward))


def nanoseconds(run: Callable[[], Any], budget: float) -> float:
    """The least of some calls: what disturbs a call only makes it longer."""
    times: list[float] = []
    stop = time.perf_counter() + budget
    while len(times) < 3 or (time.perf_counter() < stop and len(times) < 400):
        start = time.perf_counter_ns()
        run()
        times.append(time.perf_counter_ns() - start)
    return min(times)


def overhead() -> float:
    """Of a call from Python: the least there is."""
    w = fusedrnn.RNNWeights(np.zeros((1, 1), "float32"), np.zeros((1, 1), "float32"))
    x = np.zeros((1, 1, 1), "float32")
    return nanoseconds(lambda: fusedrnn.rnn(x, w), 0.2)


class Calls:
    """Calls of a case, all with the same weights."""

    def __init__(self, case: Case) -> None:
        self.op, self.inputs = case.op, Inputs(case)
        self.weights = getattr(fusedrnn, f"{case.op.upper()}Weights")(*self.inputs.weights)

    def native(self) -> Any:
        return self.weights._loaded

    def call(self, backward: bool) -> Callable[[], Any]:
        infer, forward, run = (getattr(fusedrnn, self.op + s) for s in ("", "_forward", "_backward"))
        if not backward:
            return lambda: infer(self.inputs.x, self.weights)
        _, reserve = forward(self.inputs.x, self.weights)
        return lambda: run(reserve, self.inputs.dy)


def measure(shapes: int, seed: int, budget: float, console: Console) -> list[Sample]:
    rng, called = np.random.default_rng(seed), overhead()
    samples = []
    names = [("1x1", 1, 1), *(schedules(CPUS) if CPUS > 1 else ())]
    cases = [random_case(rng, ["infer"], MOST, MOST_FLOPS) for _ in range(shapes)]
    for case in track(cases, "timing", console=console, transient=True):
        calls = Calls(case)
        for backward in (False, True):
            native, run = calls.native(), calls.call(backward)
            sample = Sample(case, backward, native)
            for name, rows, units in ROUNDS * names:  # in turns, as the machine is not always as fast
                fusedrnn.set_num_threads(rows * units)
                _core.set_schedule(name)
                run()
                parts = native.schedule(case.T, case.B, 0, backward)  # rows and units may be fewer
                taken = nanoseconds(run, budget / ROUNDS) - called
                sample.times[parts] = min(sample.times.get(parts, math.inf), max(taken, 100))
            if min(sample.times.values()) > LEAST:
                samples.append(sample)
    _core.set_schedule("auto")
    fusedrnn.set_num_threads(CPUS)
    return samples


def probed() -> Costs:
    """What can be measured alone."""
    sizes = dict(_core.machine())
    fusedrnn.set_num_threads(1)
    lanes = {"avx512": 16, "avx2": 8, "neon": 4, "portable": 1}[fusedrnn.isa()]
    rate = max(_core.probe_fma(False, 10_000_000) for _ in range(5))

    def line(size: float) -> float:
        rounds = max(3, int(2e8 / size))
        return 64 / max(_core.probe_read(False, int(size), rounds) for _ in range(5))

    costs = {"fma": 2 * lanes / rate, "l2_line": line(sizes["l2_bytes"] / 2), "l3_line": line(3 * sizes["l2_bytes"])}
    costs["memory_line"] = max(line(min(2 * sizes["l3_bytes"], 2**29)), costs["l3_line"])
    if CPUS > 1:
        costs["meeting"] = min(_core.probe_meeting(2, 20000)[1] for _ in range(5))
        most = min(_core.probe_meeting(CPUS, 20000)[1] for _ in range(5))
        if CPUS > 2:
            costs["meeting_more"] = max(10.0, (most - costs["meeting"]) / (math.log2(CPUS) - 1))
    fusedrnn.set_num_threads(CPUS)
    return costs


def misfit(samples: list[Sample]) -> float:
    errors = [math.log(s.cost(parts) / t) for s in samples for parts, t in s.times.items()]
    return statistics.fmean(min(e * e, 1.0) for e in errors)


def fitted(costs: Costs, samples: list[Sample]) -> Costs:
    """Moves one cost at a time; the mean of squared logarithms falls with each move."""

    def value(c: Costs) -> float:
        _core.set_machine(list(c.items()))
        # Costs that few samples tell stay near where they are.
        return misfit(samples) + 0.01 * statistics.fmean(math.log(c[k] / costs[k]) ** 2 for k in c)

    names = [name for name in costs if CPUS > 2 or name not in ("meeting_more", "start_more")]
    now, least, factor = dict(costs), value(costs), 2.0
    while factor > 1.02:
        moved = False
        for name in names:
            for by in (factor, 1 / factor):
                tried = {**now, name: now[name] * by}
                if (v := value(tried)) < least:
                    now, least, moved = tried, v, True
                    break
        if not moved:
            factor = math.sqrt(factor)
    _core.set_machine(list(now.items()))
    return now


def quality(samples: list[Sample]) -> list[tuple[str, str]]:
    errors = sorted(abs(math.log(s.cost(parts) / t)) for s in samples for parts, t in s.times.items())
    regrets = []
    for s in samples:
        chosen = min(s.times, key=s.cost)
        regrets.append(s.times[chosen] / min(s.times.values()))
    regrets.sort()

    def at(values: list[float], share: float) -> float:
        return values[min(len(values) - 1, int(share * len(values)))]

    return [
        ("predicted over measured time, off by (median)", f"{math.exp(at(errors, 0.5)) - 1:.0%}"),
        ("the same (95% of calls within)", f"{math.exp(at(errors, 0.95)) - 1:.0%}"),
        ("chosen schedules within 5% of the best", f"{sum(r <= 1.05 for r in regrets) / len(regrets):.0%}"),
        ("95% of chosen schedules within", f"{at(regrets, 0.95) - 1:.0%}"),
        ("the worst behind the best", f"{regrets[-1] - 1:.0%}"),
    ]


def speedups(samples: list[Sample]) -> list[tuple[str, str, str, str]]:
    """With all threads and parts of rows, over one thread: the medians of what was measured and predicted."""
    one, rows = (1, 1, 1), (CPUS, 1, CPUS)
    found = []
    for backward in (False, True):
        for least, most in ((0.0, 3e4), (3e4, 3e5), (3e5, math.inf)):
            some = [s for s in samples if s.backward == backward and {one, rows} <= s.times.keys()]
            some = [s for s in some if least <= s.times[one] < most]
            if not some:
                continue
            title = f"{'backward' if backward else 'forward'}, {least / 1e3:.0f} to {most / 1e3:.0f} us"
            measured = statistics.median(s.times[one] / s.times[rows] for s in some)
            predicted = statistics.median(s.cost(one) / s.cost(rows) for s in some)
            found.append((title, str(len(some)), f"{measured:.2f}x", f"{predicted:.2f}x"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=0.06, help="seconds of a timing")
    parser.add_argument("--out", type=Path, help="where to write the costs")
    args = parser.parse_args()
    console = Console(width=100)
    before = dict(_core.machine())
    samples = measure(args.shapes, args.seed, args.budget, console)
    if not samples:
        raise SystemExit(f"all {args.shapes} shapes are too small to tell anything: draw more, or with another --seed")
    start = {name: value for name, value in before.items() if name not in SIZES} | probed()
    costs = fitted(start, samples)
    table = Table(title=f"costs on this machine, {fusedrnn.isa()}, {CPUS} CPUs: nanoseconds")
    for column in ("cost", "before", "start of the fit", "fitted"):
        table.add_column(column, justify="left" if column == "cost" else "right")
    for name, value in costs.items():
        table.add_row(name, f"{before[name]:.3g}", f"{start[name]:.3g}", f"{value:.3g}")
    console.print(table)
    for title, values in (("with the costs before", before), ("with the fitted costs", costs)):
        _core.set_machine(list(values.items()))
        table = Table(title=f"{title}: {len(samples)} calls under {len(samples[0].times)} schedules")
        table.add_column("of these calls")
        table.add_column("", justify="right")
        for row in quality(samples):
            table.add_row(*row)
        console.print(table)
    if CPUS > 1:
        table = Table(title=f"speed-up of {CPUS} threads with parts of rows: medians")
        for column in ("calls", "number", "measured", "predicted"):
            table.add_column(column, justify="left" if column == "calls" else "right")
        for speedup in speedups(samples):
            table.add_row(*speedup)
        console.print(table)
    if args.out:
        lines = [f"# costs of this machine in nanoseconds, by bench/schedules.py, {fusedrnn.isa()}, {CPUS} CPUs"]
        args.out.write_text("\n".join([*lines, *(f"{name} {value:.4g}" for name, value in costs.items())]) + "\n")
        console.print(f"written: {args.out}; export FUSEDRNN_MACHINE={args.out.resolve()}")


if __name__ == "__main__":
    main()
