"""Where the thresholds in csrc/run.cpp (struct Machine) come from: time against batch and hidden size, on one thread
and on all. A schedule is well chosen where two threads are never slower than one: `python bench/schedules.py`."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

from rich.console import Console
from rich.table import Table

import fusedrnn
from suite import GATES, Case
from systems import FusedRNN


def milliseconds(run: Any) -> float:
    times = []
    for _ in range(15):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--op", choices=list(GATES), default="lstm")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    system = FusedRNN(args.threads)
    table = Table(title=f"{args.op} infer, T=100: ms on 1 thread / on {args.threads}, and their ratio")
    table.add_column("H")
    batches = [1, 2, 4, 8, 16, 32, 64]
    for batch in batches:
        table.add_column(f"B={batch}", justify="right")
    for hidden in (16, 32, 64, 128, 256, 512):
        row = []
        for batch in batches:
            run = system.prepare(Case(args.op, "infer", "float32", 100, batch, hidden, hidden))
            times = []
            for threads in (1, args.threads):
                fusedrnn.set_num_threads(threads)
                times.append(milliseconds(run))
            row.append(f"{times[0]:.3g}/{times[1]:.3g} {times[0] / times[1]:.2f}x")
        table.add_row(str(hidden), *row)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
