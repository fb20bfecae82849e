"""Promises that are not kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from .layouts import bits


class Wrong(Exception):
    """A promise that is not kept."""


def require_same(got: list[Any], want: list[Any], context: str) -> None:
    """The same bits, but for the bits of NaN, which are not promised."""
    for n, (a, b) in enumerate(zip(got, want, strict=True)):
        if (a is None) != (b is None):
            raise Wrong(f"{context}: result {n} is None in one of them")
        if a is None:
            continue
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise Wrong(f"{context}: result {n} has shape {a.shape} {a.dtype} and {b.shape} {b.dtype}")
        ours, theirs = (np.ascontiguousarray(v).view(bits(v)) for v in (a, b))
        different = (ours != theirs) & ~(np.isnan(a) & np.isnan(b))
        if different.any():
            where = tuple(int(k) for k in np.argwhere(different)[0])
            count = np.count_nonzero(different)
            raise Wrong(f"{context}: result {n} differs in {count} of {a.size} elements, as {where}: {a[where]!r}")
