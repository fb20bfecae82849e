"""How the speed came about: the committed versions of a file of bench/results/, as git has them, as a table and a plot.

    python bench/history.py                                      # results/cpu-full-2-threads.json
    python bench/history.py bench/results/cpu-full-avx2.json --out bench/out/avx2.png

A point is the geometric mean of the fastest peer's time over that of fusedrnn, over the sizes of the grid (`suite.py`)
that all versions of the file have. Lines join versions that were measured on the same processor: ratios of different
ones do not compare.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from report import GRID_LABELS, geometric_mean, label, ratio, title

FILE = Path(__file__).parent / "results" / "cpu-full-2-threads.json"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#555555")
MARKERS = "osD^v"

Record = dict[str, Any]


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True).stdout


def versions(file: Path) -> list[Record]:
    """The versions of the file that were committed, oldest first."""
    found = []
    for commit in git(file.parent, "log", "--reverse", "--format=%h", "--diff-filter=AM", "--", file.name).split():
        found.append(json.loads(git(file.parent, "show", f"{commit}:./{file.name}")))
    return found


def means(records: list[Record]) -> dict[str, list[float]]:
    """For each kind of call that all records have, a mean for each of them."""
    ratios = [{(title(r), label(r["case"])): ratio(r) for r in record["results"]} for record in records]
    common = [key for key in ratios[0] if key[1] in GRID_LABELS and all(record.get(key) for record in ratios)]
    found = {}
    for kind in dict.fromkeys(kind for kind, _ in common):
        found[kind] = [geometric_mean([r[key] or 0 for key in common if key[0] == kind]) for r in ratios]
    return found


def processor(record: Record) -> str:
    return f"{record['machine']['cpu']}, {record['threads']} threads"


def name_of(record: Record) -> str:
    return f"{record['commit'].removesuffix('-dirty')}\n{record['date']}"


def plot(records: list[Record], found: dict[str, list[float]], out: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    modes = list(dict.fromkeys(kind.split()[1] for kind in found))
    machines = list(dict.fromkeys(map(processor, records)))
    figure, axes = plt.subplots(1, len(modes), figsize=(5.5 * len(modes), 4.4), squeeze=False)
    for axis, mode in zip(axes.flat, modes, strict=True):
        kinds = [kind for kind in found if kind.split()[1] == mode]
        for colour, kind in zip(COLOURS, kinds, strict=False):
            for marker, machine in zip(MARKERS, machines, strict=False):
                at = [i for i, record in enumerate(records) if processor(record) == machine]
                height = [found[kind][i] for i in at]
                axis.plot(at, height, marker=marker, color=colour, label=f"{kind.split()[0]}, {machine}")
        axis.axhline(1, color="black", linewidth=1)
        axis.set_title(f"{mode}, {kinds[0].split()[2]}")
        axis.set_xlabel("commit that was measured")
        axis.set_ylabel("fastest peer's time / ours (geometric mean)")
        axis.set_xticks(range(len(records)), map(name_of, records), fontsize=7)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=-(-len(labels) // len(machines)), fontsize=7)
    figure.tight_layout(rect=(0, 0.05 + 0.04 * len(machines), 1, 1))
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=FILE)
    parser.add_argument("--out", type=Path, default=Path("bench/out/history.png"))
    args = parser.parse_args()
    try:
        records = versions(args.file.resolve())
    except subprocess.CalledProcessError as e:
        sys.exit(e.stderr.strip())
    if not records:
        sys.exit(f"no version of {args.file} is committed")
    found = means(records)
    if not found:
        sys.exit(f"the versions of {args.file} have no size in common that a peer ran")
    table = Table(title=f"{args.file.name}: fastest peer's time / ours")
    for column in ("commit", "date", "fusedrnn", "processor", *found):
        words = column.removesuffix(" float32").replace(" ", "\n")
        table.add_column(words, justify="right" if column in found else "left", no_wrap=column not in found)
    for i, record in enumerate(records):
        ratios = [f"{values[i]:.2f}x" for values in found.values()]
        table.add_row(record["commit"], record["date"], record["versions"]["fusedrnn"], processor(record), *ratios)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    plot(records, found, args.out)
    print(args.out)


if __name__ == "__main__":
    main()
