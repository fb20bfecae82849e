"""The cells, shapes and tolerances of all tests, in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

import fusedrnn

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Cell:
    """A cell under test: which functions, how many gates and states, how weights are made."""

    name: str
    op: str  # "lstm": the functions are lstm, lstm_forward, lstm_backward, lstm_cell
    gates: int
    states: int
    weights: Callable[..., Any]
    reserve_slots: int  # the reserve holds at most so many times T*B*H elements
    gain: float = 1.0  # weights are uniform in +-gain/sqrt(H); relu needs less than 1 to keep states bounded
    kink: bool = False  # the gradient jumps where a pre-activation is 0

    def functions(self, module: ModuleType = fusedrnn) -> tuple[Any, Any, Any, Any]:
        return tuple(getattr(module, self.op + suffix) for suffix in ("", "_forward", "_backward", "_cell"))


CELLS = [
    Cell("lstm", "lstm", 4, 2, fusedrnn.LSTMWeights, 5),
    Cell("gru_reset_after", "gru", 3, 1, fusedrnn.GRUWeights, 4),
    Cell("gru_reset_before", "gru", 3, 1, lambda *a: fusedrnn.GRUWeights(*a, reset_after=False), 4),
    Cell("rnn_tanh", "rnn", 1, 1, fusedrnn.RNNWeights, 1),
    Cell("rnn_relu", "rnn", 1, 1, lambda *a: fusedrnn.RNNWeights(*a, nonlinearity="relu"), 1, 0.25, True),
]
DTYPES = ["float32", "float64"]

# (T, B, I, H): around the vector widths (4, 8, 16), ugly, and zero-sized.
SHAPES = [
    (1, 1, 1, 1),
    (2, 2, 1, 3),
    (50, 1, 3, 7),
    (2, 13, 5, 8),
    (3, 5, 16, 15),
    (50, 2, 2, 16),
    (2, 5, 33, 17),
    (5, 13, 7, 33),
    (1, 13, 65, 65),
    (4, 5, 40, 64),
    (50, 5, 1, 100),
    (7, 29, 20, 50),
    (2, 3, 300, 130),
    (0, 3, 4, 5),
    (3, 0, 4, 5),
    (0, 0, 1, 1),
]
SMALL_SHAPES = [(1, 1, 1, 1), (3, 2, 2, 3), (4, 3, 3, 5)]
BITS_SHAPES = [(3, 1, 5, 33), (4, 5, 17, 40), (3, 13, 3, 65), (5, 7, 9, 16), (2, 3, 20, 150)]


def tolerance(dtype: str, terms: int, steps: int, scale: float) -> float:
    """How far a kernel may be from the reference, which is computed in float64.

    A chain of n multiply-adds errs by at most n * u * sum|products| (Higham 2002, section 3.1), u the unit roundoff;
    an activation errs by 2 ulp = 4u, and a step has at most five of them. Every step adds that once more; the tests'
    weights are small enough that a step does not magnify what it is given. So: (terms + 20) * steps * u * scale, where
    `terms` is the longest chain and `scale` bounds the sums of absolute products.
    """
    u = np.finfo(dtype).eps / 2
    return float((terms + 20) * max(steps, 1) * u * scale)


def lost_to_flushing(dtype: str, terms: int, steps: int) -> float:
    """How far a kernel may be from the reference where all numbers are subnormal or little more.

    An operation whose operands or result count as zeros loses less than twice the smallest normal number (a product's
    other factor is at most 2 here); rounding loses less. A step has at most `terms` + 20 operations on the way to a
    result (see `tolerance`), and does not magnify what it is given.
    """
    return float(2 * (terms + 20) * max(steps, 1) * np.finfo(dtype).smallest_normal)


def make_weights(
    cell: Cell, input_size: int, hidden_size: int, dtype: str, rng: np.random.Generator, *, clear_of_kink: bool = True
) -> Any:
    """Random weights. A cell with a kink gets biases of +-4, which keep its pre-activations on one side: within
    rounding of 0, two right answers may have different gradients."""
    k, g = cell.gain / np.sqrt(hidden_size), cell.gates * hidden_size
    shapes = ((g, input_size), (g, hidden_size), (g,), (g,))
    arrays = [rng.uniform(-k, k, s).astype(dtype) for s in shapes]
    if cell.kink and clear_of_kink:
        arrays[2] += rng.choice([-4, 4], g).astype(dtype)
    return cell.weights(*arrays)


def as_float64(cell: Cell, w: Any) -> Any:
    """The same weights, for the reference to compute in float64."""
    arrays = (w.weight_ih, w.weight_hh, w.bias_ih, w.bias_hh)
    return cell.weights(*(None if a is None else a.astype("float64") for a in arrays))


@dataclass
class Problem:
    """Inputs of one run, and the gradients that backward starts from."""

    cell: Cell
    w: Any
    x: Array
    states: list[Array]
    kwargs: dict[str, Any]
    dy: Array
    dstates: list[Array]

    def as_float64(self) -> Problem:
        def up(a: Array) -> Array:
            return a.astype("float64")

        return Problem(
            self.cell,
            as_float64(self.cell, self.w),
            up(self.x),
            [up(s) for s in self.states],
            self.kwargs,
            up(self.dy),
            [up(s) for s in self.dstates],
        )

    def run(self, module: ModuleType = fusedrnn) -> tuple[Any, Any]:
        """Forward and backward; the outputs and the gradients."""
        _, forward, backward, _ = self.cell.functions(module)
        out, reserve = forward(self.x, self.w, *self.states, **self.kwargs)
        return out, backward(reserve, self.dy, *self.dstates)


def make_problem(
    cell: Cell,
    shape: tuple[int, int, int, int],
    dtype: str,
    rng: np.random.Generator,
    *,
    lengths: bool = False,
    reverse: bool = False,
) -> Problem:
    T, B, I, H = shape

    def normal(*size: int) -> Array:
        return rng.standard_normal(size).astype(dtype)

    kwargs: dict[str, Any] = {"reverse": reverse}
    if lengths:
        kwargs["lengths"] = rng.integers(0, T + 1, B)
    w = make_weights(cell, I, H, dtype, rng)
    states = [normal(B, H) for _ in range(cell.states)]
    return Problem(
        cell, w, normal(T, B, I), states, kwargs, normal(T, B, H), [normal(B, H) for _ in range(cell.states)]
    )


def named(results: Any) -> list[tuple[str, Array]]:
    """The arrays of a result, with their names."""
    return [(name, a) for name, a in zip(results._fields, results, strict=True) if a is not None]


def assert_same_bits(a: Any, b: Any, context: str = "") -> None:
    for (name, x), (_, y) in zip(named(a), named(b), strict=True):
        assert x.dtype == y.dtype, f"{context} {name}"
        assert x.shape == y.shape, f"{context} {name}"
        bits = f"u{x.dtype.itemsize}"
        different = np.flatnonzero(np.ascontiguousarray(x).view(bits) != np.ascontiguousarray(y).view(bits))
        assert different.size == 0, f"{context} {name}: {different.size} of {x.size} elements differ"
