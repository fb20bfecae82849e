"""Packed sequences: rows of different lengths without padding."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _core
from ..aliases import Array

Integers = np.ndarray[Any, np.dtype[np.int64]]


class Packed:
    """Sequences of a batch without padding, as PyTorch's ``PackedSequence``: the live rows of step 0, those of step 1,
    ... Rows are sorted by falling length, so that the rows which are live at a step are the first ones.

    Args:
        data: ``(sum(batch_sizes), units)``.
        batch_sizes: ``(T,)`` integers: how many rows are live at each step; positive, and never more than before.
        sorted_indices: ``(B,)`` integers: which row of the caller's batch each row is; None if the order is the
            caller's.

    Raises:
        ValueError: sizes that do not fit. TypeError: data that is no array, sizes that are no integers.
    """

    __slots__ = ("_batch_sizes", "_data", "_sorted_indices")

    def __init__(self, data: Array, batch_sizes: Any, sorted_indices: Any = None) -> None:
        if not isinstance(data, np.ndarray):
            raise TypeError(_core.wrong_type("data", "a numpy.ndarray", type(data).__name__))
        sizes = _core.read_batch_sizes(batch_sizes)
        if data.ndim < 1 or data.shape[0] != sizes.sum():
            raise ValueError(f"data: expected sum(batch_sizes) = {sizes.sum()} rows, got shape {data.shape}")
        self._data, self._batch_sizes, self._sorted_indices = data, sizes, None
        if sorted_indices is not None:
            self._sorted_indices = _read_only(_read_order(sorted_indices, self.batch_size))
        _read_only(sizes)

    @classmethod
    def from_padded(cls, x: Array, lengths: Any, batch_first: bool = False) -> Packed:
        """Packs ``x (T, B, units)``, or ``(B, T, units)`` with `batch_first`, of rows that have ``lengths (B,)`` steps,
        in 1..T; sorts the rows, those of the same length in their order."""
        if not isinstance(x, np.ndarray):
            raise TypeError(_core.wrong_type("x", "a numpy.ndarray", type(x).__name__))
        if x.ndim < 2:
            raise ValueError(f"x: expected 2 dimensions or more (seq_len, batch_size, ...), got shape {x.shape}")
        x = x.swapaxes(0, 1) if batch_first else x
        seq_len, batch_size = x.shape[:2]
        given = _core.read_lengths(lengths, batch_size, seq_len)
        if batch_size == 0 or given.min() < 1:
            got = f"{given.min()} at index {given.argmin()}" if batch_size else "a batch without rows"
            raise ValueError(f"lengths: expected values in 1..seq_len = 1..{seq_len}, got {got}")
        order = np.argsort(-given, kind="stable")
        live = np.arange(given.max())[:, None] < given[order][None, :]
        return cls(x[: len(live), order][live], live.sum(axis=1), order)

    @property
    def data(self) -> Array:
        return self._data

    @property
    def batch_sizes(self) -> Integers:
        """``(T,)``, read-only."""
        return self._batch_sizes

    @property
    def sorted_indices(self) -> Integers | None:
        """``(B,)``, read-only; None if the order is the caller's."""
        return self._sorted_indices

    @property
    def seq_len(self) -> int:
        return len(self._batch_sizes)

    @property
    def batch_size(self) -> int:
        return int(self._batch_sizes[0])

    @property
    def lengths(self) -> Integers:
        """``(B,)``: of the rows, in their order here."""
        steps: Integers = (self._batch_sizes[:, None] > np.arange(self.batch_size)[None, :]).sum(axis=0)
        return steps

    def to_padded(self, batch_first: bool = False) -> Array:
        """``(T, B, units)``, or ``(B, T, units)``: rows in the caller's order, zeros past their lengths."""
        live = np.arange(self.batch_size)[None, :] < self._batch_sizes[:, None]
        x = np.zeros((*live.shape, *self._data.shape[1:]), self._data.dtype)
        x[live] = self._data
        if self._sorted_indices is not None:
            x = x[:, np.argsort(self._sorted_indices)]
        return x.swapaxes(0, 1) if batch_first else x

    def with_data(self, data: Array) -> Packed:
        """Other data of the same rows and steps."""
        other = object.__new__(Packed)
        other._data, other._batch_sizes, other._sorted_indices = data, self._batch_sizes, self._sorted_indices
        return other

    def __repr__(self) -> str:
        sizes = f"seq_len={self.seq_len}, batch_size={self.batch_size}"
        return f"<fusedrnn.Packed, {sizes}, data {self._data.shape} {self._data.dtype}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Packed, (self._data, self._batch_sizes, self._sorted_indices)


def _read_order(order: Any, batch_size: int) -> Integers:
    given = np.array(order)
    if given.dtype.kind not in "iu":
        raise TypeError(_core.wrong_type("sorted_indices", "integers", str(given.dtype)))
    if given.shape != (batch_size,):
        raise ValueError(f"sorted_indices: expected shape ({batch_size},), got {given.shape}")
    if not np.array_equal(np.sort(given), np.arange(batch_size)):
        raise ValueError(f"sorted_indices: expected each of 0..{batch_size - 1} once, got {given}")
    return given.astype(np.int64)


def _read_only(a: Integers) -> Integers:
    a.flags.writeable = False
    return a
