"""How sequences and states of a call lie: batched or not, time first or batch first. Native layers take ``(T, B, .)``
and ``(num_layers*num_directions, B, .)``, and check what is not checked here."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import numpy as np

from .. import _core
from ..aliases import Array
from ..cells.spec import CellSpec
from .packed import Packed


class Form(NamedTuple):
    """The form of a call's arrays, and its sizes."""

    batched: bool
    batch_first: bool
    seq_len: int
    batch_size: int
    batch_sizes: None = None  # those of packed sequences

    @property
    def symbols(self) -> str:
        return "seq_len" if not self.batched else "batch_size, seq_len" if self.batch_first else "seq_len, batch_size"

    @property
    def sizes(self) -> tuple[int, ...]:
        T, B = self.seq_len, self.batch_size
        return (T,) if not self.batched else (B, T) if self.batch_first else (T, B)

    def take(self, name: str, width_symbol: str, width: int, a: Any) -> Any:
        """A sequence as ``(T, B, width)``; None for None."""
        if a is None:
            return None
        if not isinstance(a, np.ndarray):
            raise TypeError(_core.wrong_type(name, "a numpy.ndarray", type(a).__name__))
        if a.shape != (*self.sizes, width):
            expected = f"({self.symbols}, {width_symbol})"
            raise ValueError(_core.wrong_shape(name, expected, (*self.sizes, width), a.shape))
        return a[:, None] if not self.batched else a.swapaxes(0, 1) if self.batch_first else a

    def give(self, a: Array) -> Array:
        """A sequence ``(T, B, .)`` as the caller has it."""
        return a[:, 0] if not self.batched else a.swapaxes(0, 1) if self.batch_first else a

    def take_state(self, spec: CellSpec[Any, Any], name: str, state: Any) -> tuple[Any, ...]:
        """A state, or a gradient of one: an array, or a tuple of arrays where the cell has several states; None, or a
        None among them, for zeros."""
        count = len(spec.states)
        if state is None:
            return (None,) * count
        if count == 1:
            states = (state,)
        elif isinstance(state, (tuple, list)) and len(state) == count:
            states = tuple(state)
        else:
            names = ", ".join(s.name for s in spec.states)
            got = f"one of {len(state)}" if isinstance(state, (tuple, list)) else type(state).__name__
            raise TypeError(f"{name}: expected a tuple ({names}), got {got}")
        return states if self.batched else tuple(self._row(name, s) for s in states)

    @staticmethod
    def _row(name: str, state: Any) -> Any:
        if not isinstance(state, np.ndarray):
            return state
        if state.ndim != 2:
            raise ValueError(_core.wrong_rank(name, "(num_layers*num_directions, units)", 2, state.shape))
        return state[:, None]

    def give_state(self, a: Array) -> Array:
        return a if self.batched else a[:, 0]

    def take_resets(self, resets: Any) -> Any:
        """Bools as ``(T, B)``; None for None. The native layers check all but the form."""
        if not isinstance(resets, np.ndarray):
            return resets
        if resets.shape != self.sizes:
            raise ValueError(_core.wrong_shape("resets", _as_shape(self.symbols), self.sizes, resets.shape))
        return resets[:, None] if not self.batched else resets.T if self.batch_first else resets

    def take_reset_state(self, spec: CellSpec[Any, Any], state: Any) -> tuple[Any, ...] | None:
        """Of one row, each state has the shape that others have for all rows."""
        return None if state is None else self._replace(batched=True).take_state(spec, "reset_state", state)


class PackedForm:
    """The form of a call's packed sequences, and its sizes."""

    batched = True

    def __init__(self, x: Packed) -> None:
        self.x, self.batch_sizes, self.seq_len, self.batch_size = x, x.batch_sizes, x.seq_len, x.batch_size

    def take(self, name: str, width_symbol: str, width: int, a: Any) -> Any:
        """The data of packed sequences with the same rows; None for None."""
        if a is None:
            return None
        if not isinstance(a, Packed):
            raise TypeError(_core.wrong_type(name, "a fusedrnn.Packed, as x is", type(a).__name__))
        if not np.array_equal(a.batch_sizes, self.batch_sizes):
            raise ValueError(f"{name}: expected the batch_sizes of x, got others")
        mine, its = self.x.sorted_indices, a.sorted_indices
        if mine is not None and its is not None and not np.array_equal(mine, its):
            raise ValueError(f"{name}: expected the sorted_indices of x, got others")
        if a.data.shape != (len(self.x.data), width):
            expected = f"(sum(batch_sizes), {width_symbol})"
            raise ValueError(_core.wrong_shape(name, expected, (len(self.x.data), width), a.data.shape))
        return a.data

    def give(self, a: Array) -> Packed:
        return self.x.with_data(a)

    def take_state(self, spec: CellSpec[Any, Any], name: str, state: Any) -> tuple[Any, ...]:
        return Form(True, False, self.seq_len, self.batch_size).take_state(spec, name, state)

    def give_state(self, a: Array) -> Array:
        return a

    def take_resets(self, resets: Any) -> Any:
        return resets

    def take_reset_state(self, spec: CellSpec[Any, Any], state: Any) -> tuple[Any, ...] | None:
        return None if state is None else self.take_state(spec, "reset_state", state)


def _as_shape(symbols: str) -> str:
    return f"({symbols})" if "," in symbols else f"({symbols},)"


def form_of(x: Any, input_size: int, batch_first: bool) -> Form | PackedForm:
    """The form of a call with this x. Raises TypeError or ValueError if it is no sequence of inputs."""
    if isinstance(x, Packed):
        return PackedForm(x)
    if not isinstance(x, np.ndarray):
        raise TypeError(_core.wrong_type("x", "a numpy.ndarray or a fusedrnn.Packed", type(x).__name__))
    if x.ndim not in (2, 3):
        symbols = "batch_size, seq_len" if batch_first else "seq_len, batch_size"
        raise ValueError(
            f"x: expected 3 dimensions ({symbols}, input_size), or 2 (seq_len, input_size), got shape {x.shape}"
        )
    if x.ndim == 2:
        return Form(False, batch_first, x.shape[0], 1)
    T, B = x.shape[1::-1] if batch_first else x.shape[:2]
    return Form(True, batch_first, T, B)


def whole(name: str, value: Any, least: int, most: int) -> int:
    """An integer in this range."""
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected int, got {type(value).__name__}")
    try:
        n = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected int, got {type(value).__name__}") from None
    if not least <= n <= most:
        raise ValueError(f"{name}: expected an integer in {least}..{most}, got {n}")
    return n


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected bool, got {type(value).__name__}")
    return bool(value)


def number(name: str, value: Any) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected a number, got an integer that no float can hold") from None


def probability(name: str, value: Any) -> float:
    p = number(name, value)
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: expected a number in 0..1, got {value}")
    return p


def dtype_of(dtype: Any) -> np.dtype[Any]:
    """float32 or float64."""
    try:
        known: np.dtype[Any] = np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError):
        raise TypeError(f"dtype: expected float32 or float64, got {dtype!r}") from None
    if known not in (np.dtype("float32"), np.dtype("float64")) or dtype is None:
        raise TypeError(f"dtype: expected float32 or float64, got {dtype!r}")
    return known
