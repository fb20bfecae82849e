"""How calls scale over the cores of this machine: `python bench/scaling.py`, some minutes, which also draws a figure.

For LSTMs of some sizes: the time on each number of threads, its speed-up over one thread and the efficiency (speed-up
over threads), the schedule (parts of the rows x parts of the units), and what the cost model predicts.

    python bench/scaling.py --predict 8,16,32,64,96

only predicts, for machines with more cores, with the costs of this one; docs/scaling.md explains."""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from rich.console import Console
from rich.progress import track
from rich.table import Table

import fusedrnn
from schedules import Calls
from suite import Case
from worker import seconds_per_call

CPUS = len(os.sched_getaffinity(0))
SIZES = [(B, H) for H in (256, 1024) for B in (1, 16, 64, 256)]


def powers(most: int) -> list[int]:
    """1, 2, 4, ... and the most."""
    return sorted({1 << i for i in range(most.bit_length()) if 1 << i <= most} | {most})


def predicted(native: Any, T: int, B: int, threads: int, backward: bool) -> tuple[str, float]:
    """The schedule, and milliseconds."""
    rows, units, workers = native.schedule(T, B, threads, backward)
    return f"{rows}x{units}", native.cost(T, B, rows, units, workers, backward) / 1e6


def measured(runs: dict[int, Callable[[], Any]], rounds: int, budget: float) -> dict[int, float]:
    """Milliseconds by threads: medians over rounds in which all take turns."""
    times: dict[int, list[float]] = {threads: [] for threads in runs}
    for _ in range(rounds):
        for threads, run in runs.items():
            fusedrnn.set_num_threads(threads)
            run()
            times[threads].append(1e3 * seconds_per_call(run, budget))
    return {threads: statistics.median(t) for threads, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--predict", default="", metavar="THREADS", help="numbers of threads, of which nothing is timed"
    )
    parser.add_argument("--T", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=0.05, help="seconds of a turn")
    parser.add_argument("--out", type=Path, help="the figure")
    args = parser.parse_args()
    console = Console(width=130)
    counts = sorted({1, *map(int, args.predict.split(","))}) if args.predict else powers(CPUS)
    name = "scaling-predicted.png" if args.predict else "scaling.png"
    out = args.out or Path(__file__).parent / "out" / name
    table = Table(title=f"LSTM, T={args.T}, I=H, {fusedrnn.isa()}: ms, speed-up (efficiency), schedule")
    table.add_column("B, H, direction")
    for threads in counts:
        table.add_column(f"{threads} threads", justify="right")
    curves: dict[str, list[float]] = {}
    for B, H in track(SIZES, "scaling", console=console, transient=True):
        calls = Calls(Case("lstm", "infer", "float32", args.T, B, H, H))
        for backward in (False, True):
            label = f"B={B}, H={H}, {'backward' if backward else 'forward'}"
            plans = {n: predicted(calls.native(), args.T, B, n, backward) for n in counts}
            times = (
                {n: ms for n, (_, ms) in plans.items()}
                if args.predict
                else measured(dict.fromkeys(counts, calls.call(backward)), args.rounds, args.budget)
            )
            curves[label] = [times[1] / times[n] for n in counts]
            cells = []
            for n in counts:
                schedule, model = plans[n]
                beside = "" if args.predict else f"; predicted {plans[1][1] / model:.1f}x"
                speed_up = times[1] / times[n]
                cells.append(f"{times[n]:.3g} ms, {speed_up:.1f}x ({speed_up / n:.0%}), {schedule}{beside}")
            table.add_row(label, *cells)
    console.print(table)
    figure, axes = plt.subplots(1, 2, figsize=(12, 5))
    for axis, direction in zip(axes, ("forward", "backward"), strict=True):
        for label, speed_ups in curves.items():
            if label.endswith(direction):
                axis.plot(counts, speed_ups, marker="o", label=label.rsplit(",", 1)[0])
        axis.plot(counts, counts, color="grey", linestyle=":", label="one to one")
        axis.set_xlabel("threads")
        axis.set_ylabel("speed-up, predicted" if args.predict else "speed-up")
        axis.set_title(direction)
        axis.legend(fontsize=8)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100)
    console.print(f"written: {out}")


if __name__ == "__main__":
    main()
