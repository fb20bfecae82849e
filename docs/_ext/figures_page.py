"""Tables and pictures of bench/results/*.json, by the code of bench/ that prints them after a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.table import Table

import cells
import gpu
import layers
import modules
import report

# Files of bench/results by title, each with the command that makes it.
FULL = {
    "cpu-full-2-threads": ("float32, two threads", "python bench --suite full --threads 2 --rounds 13"),
    "cpu-full-1-thread": ("float32, one thread", "python bench --suite full --threads 1"),
    "cpu-full-float64": ("float64, two threads", "python bench --suite full --threads 2 --dtype float64"),
    "cpu-full-avx2": ("float32, held to AVX2", "python bench --suite full --threads 2 --isa avx2 --peers torch"),
    "cpu-full-2-threads-intel": ("float32, two threads, on another machine", "python bench --suite full --threads 2"),
}


class Markdown:
    """Takes the place of a console, and keeps tables as Markdown."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def print(self, table: Table) -> None:
        columns = [[str(cell).replace("|", "\\|") for cell in column.cells] for column in table.columns]
        self.lines += ["", f"**{table.title}**", ""]
        self.lines += ["| " + " | ".join(str(column.header) for column in table.columns) + " |"]
        self.lines += ["|" + "|".join("---:" if c.justify == "right" else "---" for c in table.columns) + "|"]
        self.lines += ["| " + " | ".join(row) + " |" for row in zip(*columns, strict=True)]
        self.lines += ["", f"{table.caption or ''}", ""]


def _machine(run: dict[str, Any]) -> str:
    machine, versions = run["machine"], run.get("versions", {})
    parts = [machine["cpu"], f"{machine['cpus']} CPUs", f"Python {machine['python']}"]
    parts += [f"{name} {version}" for name, version in versions.items()] + [run["date"]]
    return ", ".join(parts) + "."


def _full(run: dict[str, Any], name: str, folder: Path) -> list[str]:
    report.plot(run["results"], folder / f"{name}.png")
    return [_machine(run), "", report.markdown(run["results"]), "", f"![Peers' time over ours, by size]({name}.png)"]


def page(results: Path, folder: Path) -> str:
    """The page; pictures are written into `folder`, where the page will be."""
    folder.mkdir(parents=True, exist_ok=True)
    run = {path.stem: json.loads(path.read_text()) for path in results.glob("*.json")}
    lines = ["# All figures", ""]
    lines += ["The files of `bench/results/`, as the code that measured them prints them. How to read the entries of"]
    lines += ["the first tables: [speed.md](../speed.md). How the numbers are taken: [benchmarks](benchmarks.md).", ""]
    for name, (title, command) in FULL.items():
        lines += [f"## {title}", "", f"`{command}`", "", *_full(run[name], name, folder), ""]
    lines += ["## Cells", "", "`python bench --cells`: time over the plain cell's, and milliseconds.", ""]
    lines += cells.markdown(run["cpu-cells"]["ms"])
    for title, command, printed, name, key in (
        ("Stacks of layers", "python bench --layers", layers.print_tables, "cpu-layers", "layers"),
        ("Modules of PyTorch", "python bench --torch --suite full", modules.print_tables, "cpu-modules", "results"),
        ("On a GPU", "python bench --device cuda", gpu.print_table, "cuda-h200", "results"),
    ):
        console: Any = Markdown()
        printed(run[name][key], console)
        lines += ["", f"## {title}", "", f"`{command}`", *console.lines]
    return "\n".join(lines) + "\n"
