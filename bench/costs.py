"""What options of training cost: a call with one over the same call without, in turns: part of `python bench --layers`,
and by itself `python bench/costs.py`."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import fusedrnn

SIZE = (100, 16, 256, 256)  # T, B, I, H
# By name: arguments of the layer; and of the call, from its sizes.
Options = dict[str, tuple[dict[str, Any], Callable[..., dict[str, Any]]]]


def resets(T: int, B: int, H: int, states: int, each: int = 25) -> dict[str, Any]:
    """An episode has `each` steps in the mean."""
    return {"resets": np.random.default_rng(1).random((T, B)) < 1 / each}


def learned_resets(T: int, B: int, H: int, states: int) -> dict[str, Any]:
    before = tuple(np.zeros((1, H), "f4") for _ in range(states))
    return resets(T, B, H, states) | {"reset_state": before if states > 1 else before[0]}


def nothing(*sizes: int) -> dict[str, Any]:
    return {}


REGULARISATION = {
    "zoneout_h": 0.1,
    "zoneout_c": 0.1,
    "input_dropout": 0.2,
    "recurrent_dropout": 0.2,
    "candidate_dropout": 0.2,
    "weight_dropout": 0.5,
}
OPTIONS: Options = {
    "resets": ({}, resets),
    "resets, with reset_state": ({}, learned_resets),
    **{f"{name}={p}": ({name: p}, nothing) for name, p in REGULARISATION.items()},
    **{f"num_heads={n}": ({"num_heads": n}, nothing) for n in (2, 4, 8)},
}
GRID = [
    (1, 1, 32, 32),
    (100, 1, 64, 64),
    (100, 1, 256, 256),
    (100, 1, 512, 512),
    (100, 16, 256, 256),
    (100, 64, 128, 128),
    (100, 64, 512, 512),
    (25, 128, 1024, 1024),
]


def calls(op: str, size: tuple[int, ...], mode: str, options: dict[str, Any], given: dict[str, Any]) -> Any:
    """A call of inference, or a training step with new parameters."""
    T, B, I, H = size
    rng = np.random.default_rng(0)
    layer = getattr(fusedrnn, op)(I, H, rng=0, **options)
    x, dy = rng.standard_normal((T, B, I)).astype("f4"), rng.standard_normal((T, B, H)).astype("f4")
    if mode == "infer":
        return lambda: layer(x, **given)

    def train() -> Any:
        for a in layer.parameters.values():
            a.flat[0] += 1e-3
        return layer.backward(layer.forward(x, **given)[1], dy)

    return train


def medians(runs: list[Callable[[], Any]], rounds: int, budget: float) -> list[float]:
    """Seconds of a call of each, in turns of `budget` seconds."""
    for run in runs:
        run()
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, mine in zip(runs, times, strict=True):
            count, start = 0, time.perf_counter()
            while count == 0 or time.perf_counter() - start < budget:
                run()
                count += 1
            mine.append((time.perf_counter() - start) / count)
    return [statistics.median(mine) for mine in times]


def measure(op: str, rounds: int, budget: float, size: tuple[int, ...] = SIZE) -> dict[str, dict[str, float]]:
    """Ratios by option and mode."""
    T, B, _, H = size
    states = len(getattr(fusedrnn, op)(1, 1).spec.states)
    found: dict[str, dict[str, float]] = {name: {} for name, (layer, _) in OPTIONS.items() if has(op, layer)}
    for mode in ("infer", "train"):
        plain = calls(op, size, mode, {}, {})
        with_options = [calls(op, size, mode, OPTIONS[n][0], OPTIONS[n][1](T, B, H, states)) for n in found]
        without, *times = medians([plain, *with_options], rounds, budget)
        for name, t in zip(found, times, strict=True):
            found[name][mode] = t / without
    return found


def has(op: str, options: dict[str, Any]) -> bool:
    try:
        getattr(fusedrnn, op)(1, 8, **options)
    except ValueError:  # such as zoneout_c of a cell without c
        return False
    return True


def compare(one: str, other: str, rounds: int, budget: float, console: Console) -> list[dict[str, Any]]:
    """The time of one cell over that of another, at the sizes of the grid."""
    table = Table(title=f"Time of {one} over that of {other}, float32")
    for heading in ("T,B,I,H", "infer", "train"):
        table.add_column(heading, justify="left" if heading == "T,B,I,H" else "right")
    results = []
    for size in GRID:
        ratios = []
        for mode in ("infer", "train"):
            mine, its = medians([calls(op, size, mode, {}, {}) for op in (one, other)], rounds, budget)
            ratios.append(mine / its)
        results.append({"size": size, "infer": ratios[0], "train": ratios[1]})
        table.add_row(",".join(map(str, size)), *(f"{r:.2f}" for r in ratios))
    console.print(table)
    return results


def report(ops: list[str], rounds: int, console: Console, budget: float = 0.1) -> dict[str, Any]:
    results = {op: measure(op, rounds, budget) for op in ops}
    table = Table(title=f"Time with an option over that without: float32, (T,B,I,H) = {SIZE}")
    for heading in ("option", *(f"{op} {mode}" for op in ops for mode in ("infer", "train"))):
        table.add_column(heading, justify="left" if heading == "option" else "right")
    for name in OPTIONS:
        found = [results[op].get(name, {}).get(mode) for op in ops for mode in ("infer", "train")]
        table.add_row(name, *("-" if r is None else f"{r:.3f}" for r in found))
    console.print(table)
    return results | {"SLSTM over LSTM": compare("SLSTM", "LSTM", max(1, rounds // 3), budget, console)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--op", nargs="*", default=["LSTM", "GRU"])
    given = parser.parse_args()
    if given.threads:
        fusedrnn.set_num_threads(given.threads)
    report(given.op, given.rounds, Console())
