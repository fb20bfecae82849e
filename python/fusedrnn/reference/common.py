"""Shared by the equations of all cells: types of arguments, the logistic function, biases that may be missing."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..aliases import Array

States = tuple[Array, ...]
Arrays = dict[str, Array]  # by name: saved by a step for backward, or gradients of parameters


def sigmoid(a: Array) -> Array:
    """``1 / (1 + exp(-a))``, without overflow for any a."""
    t = np.exp(-np.abs(a))
    result: Array = np.where(np.signbit(a), t, 1) / (1 + t)
    return result


def bias(b: Array | None) -> Any:
    """b, or zero if there is none."""
    return 0 if b is None else b
