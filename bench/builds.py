"""Two builds of fusedrnn, alternating in one run: whether a change pays.

pip install --target /tmp/old . ; (change) ; pip install --target /tmp/new .
python bench/builds.py /tmp/old /tmp/new --op lstm --mode infer,train --size 100,64,512,512
"""

from __future__ import annotations

import argparse
import os
import statistics

from rich.console import Console
from rich.table import Table

from process import Worker
from report import geometric_mean
from suite import GATES, GRID, cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="folder that `pip install --target` wrote")
    parser.add_argument("new")
    parser.add_argument("--op", default=",".join(GATES))
    parser.add_argument("--mode", default="infer,train")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--size", action="append", metavar="T,B,I,H", help="may be repeated; default: the grid")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    sizes: list[tuple[int, ...]] = [tuple(map(int, s.split(","))) for s in args.size] if args.size else [*GRID]
    chosen = cases("full", args.op.split(","), args.mode.split(","), args.dtype.split(","), sizes)
    workers = [Worker("fusedrnn", args.threads, path=path) for path in (args.old, args.new)]
    table = Table(title=f"ms per call, {args.threads} threads")
    for column in ("case", "old", "new", "old/new"):
        table.add_column(column, justify="left" if column == "case" else "right")
    ratios = []
    for case in chosen:
        for worker in workers:
            worker.ask("prepare", case=case.as_dict())
        times = [[1e3 * w.ask("time", budget=0.04) for w in workers] for _ in range(args.rounds)]
        old, new = (statistics.median(t) for t in zip(*times, strict=True))
        ratios.append(old / new)
        table.add_row(str(case), f"{old:.4g}", f"{new:.4g}", f"{old / new:.3f}")
    for worker in workers:
        worker.close()
    table.caption = f"geometric mean {geometric_mean(ratios):.3f}"
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
