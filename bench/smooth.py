"""No cliffs: time per unit of work against H, B and T, as a figure: `python bench/smooth.py`.

The table gives the largest jump of the time between neighbours over that of the work: 1 where time only ever grows in
step with work."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from rich.console import Console
from rich.progress import track
from rich.table import Table

from suite import Case
from systems import FusedRNN, prepared

# Up to 1100 units in steps that hit the edges of vectors, tiles and parts, and what lies between.
EDGES = sorted({1, 1100} | {48 * i + off for i in range(1, 23) for off in (-1, 0, 1, 20)})
AXES = {
    **{f"hidden_size, B={B}": ("H", EDGES, {"T": 5, "B": B, "I": 64}) for B in (1, 5, 20, 33)},
    "batch_size": ("B", range(1, 131), {"T": 20, "I": 128, "H": 128}),
    "seq_len": ("T", [*range(1, 64, 3), *range(64, 5001, 211)], {"B": 1, "I": 64, "H": 64}),
}


def seconds(run: Any, budget: float) -> float:
    """The median call."""
    times: list[float] = []
    stop = time.perf_counter() + budget
    while len(times) < 3 or time.perf_counter() < stop:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ops", default="lstm,gru")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--budget", type=float, default=0.03, help="seconds per point")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "smooth.png")
    args = parser.parse_args()
    system = FusedRNN(args.threads)
    figure, axes = plt.subplots(3, 2, figsize=(12, 10))
    table = Table(
        title=f"{args.threads} threads: largest jump of the time from one point to the next, over that of the work"
    )
    for column in ("axis", "op", "mode", "jump", "at"):
        table.add_column(column)
    console = Console(width=120)
    for axis, (title, (name, values, fixed)) in zip(axes.flat, AXES.items(), strict=True):
        for op in args.ops.split(","):
            for mode in ("infer", "train"):
                cases = [Case(op, mode, "float32", **{**fixed, name: v}) for v in values]
                # Twice along the axis, the faster of each point: another's work on the machine is not ours.
                passes = [
                    seconds(prepared(system, c), args.budget)
                    for c in track([*cases, *cases], f"{title} {op} {mode}", console=console, transient=True)
                ]
                times = [min(pair) for pair in zip(passes[: len(cases)], passes[len(cases) :], strict=True)]
                axis.plot(list(values), [1e3 * t for t in times], label=f"{op} {mode}", linewidth=1)
                jumps = [
                    (times[i + 1] / times[i] / max(1.0, cases[i + 1].flops / cases[i].flops), cases[i + 1])
                    for i in range(len(cases) - 1)
                ]
                jump, at = max(jumps, key=lambda j: j[0])
                table.add_row(title, op, mode, f"{jump:.2f}x", str(at))
        axis.set_xlabel(title)
        axis.set_ylabel("ms")
        axis.set_title(", ".join(f"{k}={v}" for k, v in fixed.items()), fontsize=10)
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=8)
    figure.tight_layout()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=100)
    console.print(table)
    console.print(f"written: {args.out}")


if __name__ == "__main__":
    main()
