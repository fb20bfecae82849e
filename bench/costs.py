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


OPTIONS: Options = {"resets": ({}, resets), "resets, with reset_state": ({}, learned_resets)}


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
    found: dict[str, dict[str, float]] = {name: {} for name in OPTIONS}
    for mode in ("infer", "train"):
        plain = calls(op, size, mode, {}, {})
        with_options = [calls(op, size, mode, layer, call(T, B, H, states)) for layer, call in OPTIONS.values()]
        without, *times = medians([plain, *with_options], rounds, budget)
        for name, t in zip(OPTIONS, times, strict=True):
            found[name][mode] = t / without
    return found


def report(ops: list[str], rounds: int, console: Console, budget: float = 0.1) -> dict[str, Any]:
    results = {op: measure(op, rounds, budget) for op in ops}
    table = Table(title=f"Time with an option over that without: float32, (T,B,I,H) = {SIZE}")
    for heading in ("option", *(f"{op} {mode}" for op in ops for mode in ("infer", "train"))):
        table.add_column(heading, justify="left" if heading == "option" else "right")
    for name in OPTIONS:
        table.add_row(name, *(f"{results[op][name][mode]:.3f}" for op in ops for mode in ("infer", "train")))
    console.print(table)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--op", nargs="*", default=["LSTM", "GRU"])
    given = parser.parse_args()
    if given.threads:
        fusedrnn.set_num_threads(given.threads)
    report(given.op, given.rounds, Console())
