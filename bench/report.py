"""Tables, JSON and pictures of results."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from suite import GRID

Result = dict[str, Any]


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def label(case: dict[str, Any]) -> str:
    return f"({case['T']},{case['B']},{case['I']},{case['H']})"


GRID_LABELS = [label(dict(zip("TBIH", size, strict=True))) for size in GRID]


def title(r: Result) -> str:
    return f"{r['case']['op']} {r['case']['mode']} {r['case']['dtype']}"


def ratio(r: Result) -> float | None:
    """Fastest peer's time over ours: above 1, we are ahead."""
    peers = [v for k, v in r["ms"].items() if k != "fusedrnn"]
    return min(peers) / r["ms"]["fusedrnn"] if peers else None


def groups(results: list[Result]) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for r in results:
        found.setdefault(title(r), []).append(r)
    return found


def print_tables(results: list[Result], console: Console) -> None:
    systems = list(dict.fromkeys(name for r in results for name in r["ms"]))
    for name, rows in groups(results).items():
        table = Table(title=f"{name}: ms per call, T,B,I,H")
        for column in ("size", *systems, "x fastest peer", "of ceiling", "ceiling"):
            table.add_column(column, justify="left" if column in ("size", "ceiling") else "right")
        for r in rows:
            times = [f"{r['ms'][s]:.4g}" if s in r["ms"] else "-" for s in systems]
            faster = ratio(r)
            table.add_row(
                label(r["case"]),
                *times,
                f"{faster:.2f}" if faster else "-",
                f"{100 * r['fraction']:.0f}%",
                r["ceiling"],
            )
        ratios = [v for v in map(ratio, rows) if v]
        if ratios:
            table.caption = f"geometric mean {geometric_mean(ratios):.2f}x the fastest peer, least {min(ratios):.2f}x"
        console.print(table)


def markdown(results: list[Result]) -> str:
    """One table: a row per size, a column per op and mode; our ms, the fastest peer's time over ours, and how much of
    the binding ceiling that is."""
    found = {k: {label(r["case"]): r for r in rows} for k, rows in groups(results).items()}
    found = {k: rows for k, rows in found.items() if len(rows) > 1} or found
    sizes = list(dict.fromkeys(label(r["case"]) for r in results))
    lines = ["| T,B,I,H | " + " | ".join(found) + " |", "|---|" + "---:|" * len(found)]
    for size in sizes:
        cells = []
        for rows in found.values():
            r = rows.get(size)
            faster = r and ratio(r)
            cells.append(
                f"{r['ms']['fusedrnn']:.3g} ({faster:.2f}x, {100 * r['fraction']:.0f}%)" if r and faster else ""
            )
        lines.append(f"| {size[1:-1]} | " + " | ".join(cells) + " |")
    for name, wanted in (
        ("geometric mean, grid", GRID_LABELS),
        ("geometric mean, all", sizes),
    ):
        means = [geometric_mean([v for s in wanted if s in rows and (v := ratio(rows[s]))]) for rows in found.values()]
        lines.append(f"| {name} | " + " | ".join(f"{m:.2f}x" for m in means) + " |")
    return "\n".join(lines)


def plot(results: list[Result], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = {k: [r for r in v if ratio(r)] for k, v in groups(results).items()}
    found = {k: v for k, v in found.items() if len(v) > 1} or {k: v for k, v in found.items() if v}
    if not found:
        return
    rows_of_axes = (len(found) + 1) // 2
    figure, axes = plt.subplots(rows_of_axes, 2, figsize=(12, 3.2 * rows_of_axes), squeeze=False)
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    for axis, (name, rows) in zip(axes.flat, found.items(), strict=False):
        for offset, (peer, colour) in enumerate((("torch", "tab:orange"), ("onnxruntime", "tab:green"))):
            at = [i + 0.4 * (offset - 0.5) for i, r in enumerate(rows) if peer in r["ms"]]
            height = [r["ms"][peer] / r["ms"]["fusedrnn"] for r in rows if peer in r["ms"]]
            if height:
                axis.bar(at, height, width=0.38, color=colour, label=peer)
        axis.axhline(1, color="black", linewidth=1)
        axis.set_yscale("log")
        axis.set_ylabel("peer's time / ours")
        axis.set_title(f"{name} (T,B,I,H)", fontsize=10)
        axis.set_xticks(range(len(rows)), [label(r["case"])[1:-1] for r in rows], fontsize=7, rotation=40, ha="right")
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
