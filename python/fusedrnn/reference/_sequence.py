"""The walk over time, the same for every cell.

A cell is a module with ``step(w, x, states)``, with one step of any further sequence that it reads after those, and
``step_backward(w, saved, dstates)``. Rows of a batch know nothing of each other, so each step takes the rows that are
still within their length, and leaves the others as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .._results import Array, Integers
from .._weights import Weights

States = tuple[Array, ...]


class Cell(Protocol):
    def step(self, w: Any, x: Array, states: States, *sequences: Array) -> tuple[States, dict[str, Array]]: ...
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

    w: Any
    x: Array
    steps: list[Step]
    below_given: bool = False


def _states(w: Weights, batch_size: int, given: tuple[Array | None, ...]) -> list[Array]:
    """Copies, or zeros; the third state, if there is one, is three gates side by side."""
    shapes = [(batch_size, width * w.hidden_size) for width in (1, 1, 3)]
    return [np.zeros(shape, w.dtype) if s is None else np.array(s) for s, shape in zip(given, shapes, strict=False)]


def forward(
    cell: Cell,
    w: Any,
    x: Array,
    states: tuple[Array | None, ...],
    lengths: Integers | None,
    reverse: bool,
    *sequences: npt.NDArray[Any],
) -> tuple[Array, States, Tape]:
    seq_len, batch_size, _ = x.shape
    now = _states(w, batch_size, states)
    ends = np.full(batch_size, seq_len) if lengths is None else np.asarray(lengths)
    y = np.zeros((seq_len, batch_size, w.hidden_size), w.dtype)
    tape = Tape(w, x, [])
    for t in reversed(range(seq_len)) if reverse else range(seq_len):
        rows = np.flatnonzero(t < ends)
        new, saved = cell.step(w, x[t, rows], tuple(s[rows] for s in now), *(s[t, rows] for s in sequences))
        for state, value in zip(now, new, strict=True):
            state[rows] = value
        y[t, rows] = new[0]
        tape.steps.append(Step(t, rows, saved))
    return y, tuple(now), tape


def backward(
    cell: Cell, tape: Tape, dy: Array | None, dstates_n: tuple[Array | None, ...], dc: Array | None = None
) -> tuple[Array, States, dict[str, Array]]:
    """dx, the gradients of the initial states, and of all else by name: weights, and c_below of cells that read it."""
    w, x = tape.w, tape.x
    dstates = _states(w, x.shape[1], dstates_n)
    dx = np.zeros(x.shape, w.dtype)
    total = {name: np.zeros_like(a) for name, a in w.arrays().items() if a is not None}
    total["c_below"] = np.zeros((*x.shape[:2], w.hidden_size), w.dtype)
    for step in reversed(tape.steps):
        rows = step.rows
        if dy is not None:
            dstates[0][rows] += dy[step.t, rows]
        if dc is not None:
            dstates[1][rows] += dc[step.t, rows]
        dx[step.t, rows], new, dweights = cell.step_backward(w, step.saved, tuple(d[rows] for d in dstates))
        for state, value in zip(dstates, new, strict=True):
            state[rows] = value
        total["c_below"][step.t, rows] = dweights.pop("c_below", 0)
        for name in total.keys() & dweights.keys():
            total[name] += dweights[name]
    return dx, tuple(dstates), total
