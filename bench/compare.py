"""Compares two runs of the benchmarks: `python bench/compare.py A.json B.json`. Above 1, B is faster."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from report import geometric_mean, label, title


def load(path: str) -> tuple[dict[str, Any], dict[tuple[str, str], float]]:
    record = json.loads(Path(path).read_text())
    return record, {(title(r), label(r["case"])): r["ms"]["fusedrnn"] for r in record["results"]}


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    (a, times_a), (b, times_b) = load(sys.argv[1]), load(sys.argv[2])
    console = Console(width=None if sys.stdout.isatty() else 120)
    for what in ("machine", "threads", "versions"):
        if a[what] != b[what]:
            console.print(f"[yellow]{what} differs: {a[what]} against {b[what]}")
    common = [key for key in times_a if key in times_b]
    if not common:
        sys.exit("the two runs have no case in common")
    table = Table(title=f"A = {sys.argv[1]} ({a['commit']}), B = {sys.argv[2]} ({b['commit']})")
    for head in ("case", "size", "A ms", "B ms", "A / B"):
        table.add_column(head, justify="left" if head in ("case", "size") else "right")
    ratios = [times_a[key] / times_b[key] for key in common]
    for key, value in zip(common, ratios, strict=True):
        table.add_row(*key, f"{times_a[key]:.4g}", f"{times_b[key]:.4g}", f"{value:.2f}")
    table.caption = f"geometric mean {geometric_mean(ratios):.3f}"
    console.print(table)
    left = len(times_a) + len(times_b) - 2 * len(common)
    if left:
        console.print(f"{left} cases are in one run only")


if __name__ == "__main__":
    main()
