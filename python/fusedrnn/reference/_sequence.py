"""The walk over time, the same for every cell.

A cell is a module with ``step(w, x, states)`` and ``step_backward(w, saved, dstates)``. Rows of a batch know nothing of
each other, so each step takes the rows that are still within their length, and leaves the others as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .._core import Weights
from .._results import Array

States = tuple[Array, ...]


class Cell(Protocol):
    def step(self, w: Any, x: Array, states: States) -> tuple[States, dict[str, Array]]: ...
    def step_backward(
        self, w: Any, saved: dict[str, Array], dstates: States
    ) -> tuple[Array, States, dict[str, Array]]: ...


@dataclass
class Step:
    """What one step of forward leaves for backward."""

    t: int
    rows: npt.NDArray[np.intp]
    saved: dict[str, Array]


@dataclass
class Tape:
    """What forward leaves for backward: the reference's reserve."""

    w: Weights
    x: Array
    steps: list[Step]


def forward(
    cell: Cell,
    w: Weights,
    x: Array,
    states: tuple[Array | None, ...],
    lengths: npt.NDArray[np.int64] | None,
    reverse: bool,
) -> tuple[Array, States, Tape]:
    seq_len, batch_size, _ = x.shape
    shape = (batch_size, w.hidden_size)
    now = [np.zeros(shape, w.dtype) if s is None else np.array(s) for s in states]
    if lengths is None:
        lengths = np.full(batch_size, seq_len)
    y = np.zeros((seq_len, *shape), w.dtype)
    tape = Tape(w, x, [])
    for t in reversed(range(seq_len)) if reverse else range(seq_len):
        rows = np.flatnonzero(t < lengths)
        new, saved = cell.step(w, x[t, rows], tuple(s[rows] for s in now))
        for state, value in zip(now, new, strict=True):
            state[rows] = value
        y[t, rows] = new[0]
        tape.steps.append(Step(t, rows, saved))
    return y, tuple(now), tape


def backward(
    cell: Cell, tape: Tape, dy: Array | None, dstates_n: tuple[Array | None, ...]
) -> tuple[Array, States, dict[str, Array]]:
    w, x = tape.w, tape.x
    shape = (x.shape[1], w.hidden_size)
    dstates = [np.zeros(shape, w.dtype) if d is None else np.array(d) for d in dstates_n]
    dx = np.zeros(x.shape, w.dtype)
    bias = np.zeros(len(w.weight_ih), w.dtype)
    total = {"weight_ih": np.zeros(w.weight_ih.shape, w.dtype), "weight_hh": np.zeros(w.weight_hh.shape, w.dtype)}
    total |= {"bias_ih": bias, "bias_hh": bias.copy()}
    for step in reversed(tape.steps):
        rows = step.rows
        if dy is not None:
            dstates[0][rows] += dy[step.t, rows]
        dx[step.t, rows], new, dweights = cell.step_backward(w, step.saved, tuple(d[rows] for d in dstates))
        for state, value in zip(dstates, new, strict=True):
            state[rows] = value
        for name, value in dweights.items():
            total[name] += value
    return dx, tuple(dstates), total
