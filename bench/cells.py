"""Every cell's time as a ratio to the plain cell of its kind: what a variant costs.

python bench --cells                       # --size, --rounds, --threads and --out as for the other tables

All run in one process and take turns; figures are medians. `train` makes new weights, runs forward and backward, and
makes every gradient, those of peepholes too.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import _common  # noqa: F401
import fusedrnn
from cases import CELLS, Cell, Problem, make_problem

SIZES = [(100, 16, 256, 256), (100, 64, 512, 512)]
GRU, RNN = "gru_reset_after", "rnn_tanh"
PLAIN = {"gru": GRU, "layer_norm_gru": GRU, "rnn": RNN, "indrnn": RNN, "clockwork_rnn": RNN}  # by op; all others: lstm


def plain_of(cell: Cell) -> str:
    return PLAIN.get(cell.op, "lstm")


def runs(cell: Cell, problem: Problem) -> dict[str, Callable[[], Any]]:
    """Inference and training of one cell, on arrays made beforehand."""
    infer, forward, backward, _ = (getattr(fusedrnn, cell.op + s) for s in ("", "_forward", "_backward", "_cell"))
    arrays = {name: np.array(a) for name, a in problem.w.arrays().items() if a is not None}
    B, I, H = problem.x.shape[1], problem.w.input_size, problem.w.hidden_size
    x, dy = np.ascontiguousarray(problem.x[..., :I]), np.ascontiguousarray(problem.dy[..., :H])
    weights = cell.weights
    if cell.clocked:  # that of the tests makes a mask each time
        clocks = {"periods": problem.w.periods, "nonlinearity": problem.w.nonlinearity}
        weights = partial(fusedrnn.ClockworkRNNWeights, **clocks)
    inputs = (np.ones((len(x), B, H), x.dtype),) if cell.below else ()

    def train() -> Any:
        out, reserve = forward(x, weights(**arrays), *inputs)
        return out, backward(reserve, dy)

    return {"infer": lambda: infer(x, problem.w, *inputs), "train": train}


def measure(size: tuple[int, int, int, int], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds by cell and mode."""
    rng = np.random.default_rng(0)
    work = {cell.name: runs(cell, make_problem(cell, size, "float32", rng)) for cell in CELLS}
    times: dict[str, dict[str, list[float]]] = {name: {mode: [] for mode in w} for name, w in work.items()}
    for _ in range(rounds + 1):
        for name, modes in work.items():
            for mode, run in modes.items():
                start = time.perf_counter()
                run()
                times[name][mode].append(1e3 * (time.perf_counter() - start))
    return {name: {mode: statistics.median(t[1:]) for mode, t in modes.items()} for name, modes in times.items()}


Results = dict[str, dict[str, dict[str, float]]]  # milliseconds by size, cell and mode


def _row(cell: Cell, results: Results) -> list[str]:
    row = []
    for times in results.values():
        mine, plain = times[cell.name], times[plain_of(cell)]
        row += [f"{mine[m] / plain[m]:.2f}x ({mine[m]:.3g})" for m in ("infer", "train")]
    return row


def markdown(results: Results) -> list[str]:
    """The lines of a table: the time of each measured cell over that of its plain cell, and milliseconds."""
    measured = next(iter(results.values()))
    lines = [f"| cell | {' | '.join(f'{m} {s}' for s in results for m in ('infer', 'train'))} |"]
    lines.append("|---|" + "---:|" * (2 * len(results)))
    return lines + [f"| {cell.name} | {' | '.join(_row(cell, results))} |" for cell in CELLS if cell.name in measured]


def report(sizes: list[tuple[int, int, int, int]], rounds: int, out: Path, console: Console) -> None:
    results = {",".join(map(str, size)): measure(size, rounds) for size in sizes}
    table = Table(title=f"time over the plain cell's (ms), float32, {fusedrnn.get_num_threads()} threads")
    table.add_column("cell", no_wrap=True)
    for size in results:
        for mode in ("infer", "train"):
            table.add_column(f"{mode} {size}", justify="right")
    for cell in CELLS:
        table.add_row(cell.name, *_row(cell, results))
    console.print(table)
    out.mkdir(parents=True, exist_ok=True)
    record = {"isa": fusedrnn.isa(), "threads": fusedrnn.get_num_threads(), "rounds": rounds, "ms": results}
    (out / "cells.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / "cells.md").write_text("\n".join(markdown(results)) + "\n")
    console.print(f"written: {out / 'cells'}.json, .md")
