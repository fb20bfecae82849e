"""What has to stay small: subnormals, memory, waiting threads, packing, latency: `python bench/limits.py`."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import _common
import fusedrnn
from by_address import ByAddress, address
from process import peak_memory
from suite import GATES, Case
from systems import SYSTEMS, FusedRNN, PyTorch, prepared
from worker import seconds_per_call

assert _common
CPUS = len(os.sched_getaffinity(0))


def in_turns(runs: list[Callable[[], Any]], rounds: int = 9, budget: float = 0.03) -> list[float]:
    """Median milliseconds of each."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, taken in zip(runs, times, strict=True):
            taken.append(1e3 * seconds_per_call(run, budget))
    return [statistics.median(t) for t in times]


def subnormals(op: str) -> tuple[float, float]:
    """Time of inference and training where everything decays into the subnormal range, over that of normal values."""
    T, B, H = 100, 16, 128
    rng = np.random.default_rng(0)
    g = GATES[op] * H
    weights = [(rng.standard_normal((g, k)) / 20).astype("float32") for k in (H, H)]
    x = rng.standard_normal((T, B, H)).astype("float32")
    dy = rng.standard_normal((T, B, H)).astype("float32")
    infer, forward, backward = (getattr(fusedrnn, op + s) for s in ("", "_forward", "_backward"))
    w = getattr(fusedrnn, f"{op.upper()}Weights")(*weights)

    def train(x: Any, dy: Any) -> Any:
        _, reserve = forward(x, w)
        return backward(reserve, dy)

    tiny_x, tiny_dy = x * np.float32(1e-39), dy * np.float32(1e-39)
    normal, tiny, normal_train, tiny_train = in_turns(
        [lambda: infer(x, w), lambda: infer(tiny_x, w), lambda: train(x, dy), lambda: train(tiny_x, tiny_dy)]
    )
    return tiny / normal, tiny_train / normal_train


def peak_mib(system: str, shape: str) -> float:
    """What one training step adds to a process's peak memory."""
    code = f"import limits; print(limits.step_mib({system!r}, {shape!r}))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    return float(out.stdout)


def step_mib(system: str, shape: str) -> float:
    return (
        peak_memory(prepared(SYSTEMS[system](CPUS), Case("lstm", "train", "float32", *map(int, shape.split(",")))))
        / 2**20
    )


def packing(H: int) -> tuple[float, float]:
    """A new weights object, its copies and both packed forms included, and NumPy's copies of as many bytes, in ms."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((4 * H, H)).astype("float32") for _ in range(2)]
    x, dy = np.zeros((1, 1, H), "float32"), np.zeros((1, 1, H), "float32")
    copies = [np.empty_like(w) for w in weights]
    kept = fusedrnn.LSTMWeights(*weights)

    def train(w: Any) -> None:
        _, reserve = fusedrnn.lstm_forward(x, w)
        fusedrnn.lstm_backward(reserve, dy)

    def copy() -> None:
        for _ in range(3):  # one snapshot, two packed forms
            for to, w in zip(copies, weights, strict=True):
                np.copyto(to, w)

    new, old, copied = in_turns([lambda: train(fusedrnn.LSTMWeights(*weights)), lambda: train(kept), copy])
    return new - old, copied


def on(threads: int, run: Callable[[], Any]) -> Callable[[], Any]:
    def call() -> Any:
        fusedrnn.set_num_threads(threads)
        return run()

    return call


def scaling(shape: str, mode: str) -> tuple[float, float]:
    """Milliseconds on one thread and on all."""
    run = prepared(FusedRNN(CPUS), Case("lstm", mode, "float32", *map(int, shape.split(","))))

    one, all_threads = in_turns([on(1, run), on(CPUS, run)])
    return one, all_threads


def oversubscribed() -> float:
    """Time with four threads a CPU over that with one a CPU."""
    run = prepared(FusedRNN(CPUS), Case("lstm", "infer", "float32", 100, 16, 256, 256))

    few, many = in_turns([on(CPUS, run), on(4 * CPUS, run)])
    fusedrnn.set_num_threads(CPUS)
    return many / few


def idle_cpu() -> float:
    """Seconds of CPU that the process burns in one second, from 50 ms after a call on."""
    prepared(FusedRNN(CPUS), Case("lstm", "infer", "float32", 100, 16, 256, 256))()
    time.sleep(0.05)
    start = time.process_time()
    time.sleep(1)
    return time.process_time() - start


def latency() -> dict[str, float]:
    """Microseconds of one call at B=1, H=I=32."""
    system = FusedRNN(CPUS)
    steps = {f"{op}_cell": prepared(system, Case(op, "step", "float32", 1, 1, 32, 32)) for op in GATES}
    calls = {f"{op}, T=1": prepared(system, Case(op, "infer", "float32", 1, 1, 32, 32)) for op in GATES}
    runs = {f"{name}, B=1, H=I=32": run for name, run in (steps | calls).items()}
    runs |= {f"{op} by address, T=B=H=I=1": by_address(op) for op in GATES}
    return dict(zip(runs, (1e3 * t for t in in_turns(list(runs.values()))), strict=True))


def by_address(op: str) -> Callable[[], Any]:
    """One step as front ends call it, with everything given."""
    calls = ByAddress(getattr(fusedrnn, op.upper())(1, 1, rng=0))
    x, states = np.zeros((1, 1, 1), "float32"), [np.zeros((1, 1, 1), "float32") for _ in calls.states]
    common, kept = calls.common(x, states, None, None)
    y, last = np.empty_like(x), calls.new_states(1, "float32")
    T, B, lengths, offsets, start, resets, x_at, states_at, before, parameters = common
    y_at, last_at, infer, alive = address(y), tuple(map(address, last)), calls.runner.infer, (kept, y, last, calls)

    def call(_: Any = alive) -> None:
        infer(T, B, lengths, offsets, start, resets, x_at, states_at, before, parameters, y_at, 1, last_at, 0)

    return call


def main() -> None:
    table = Table(title=f"fusedrnn {fusedrnn.__version__}, {fusedrnn.isa()}, {CPUS} CPUs")
    for column in ("limit", "measured"):
        table.add_column(column)
    for name, us in latency().items():
        table.add_row(f"latency: {name}", f"{us:.2f} us")
    table.add_row("CPU burnt in a second, 50 ms after a call", f"{1e3 * idle_cpu():.1f} ms")
    table.add_row("four threads a CPU, time over one a CPU: lstm infer (100,16,256,256)", f"{oversubscribed():.2f}x")
    for shape in ("100,1,64,64", "100,1,256,256", "100,16,256,256", "100,64,128,128", "100,64,512,512"):
        for mode in ("infer", "train"):
            one, both = scaling(shape, mode)
            table.add_row(
                f"threads: lstm {mode} ({shape}), 1 over {CPUS}", f"{one:.3g} / {both:.3g} ms = {one / both:.2f}x"
            )
    for op in GATES:
        infer, train = subnormals(op)
        table.add_row(f"subnormal inputs over normal ones: {op}", f"infer {infer:.2f}x, train {train:.2f}x")
    for H in (128, 512, 1024):
        new, copied = packing(H)
        table.add_row(
            f"new LSTM weights, H=I={H}: snapshot and both packed forms", f"{new:.2f} ms, copies {copied:.2f} ms"
        )
    for shape in ("1000,16,128,128", "25,128,1024,1024"):
        ours = peak_mib("fusedrnn", shape)
        try:
            PyTorch(CPUS)
            theirs = f"PyTorch {peak_mib('torch', shape):.0f} MiB"
        except ImportError:
            theirs = "PyTorch is not installed"
        table.add_row(f"memory that an LSTM training step adds ({shape})", f"{ours:.0f} MiB, {theirs}")
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
