"""The logistic function."""

from __future__ import annotations

import numpy as np

from .._results import Array


def sigmoid(a: Array) -> Array:
    """``1 / (1 + exp(-a))``, without overflow for any a."""
    t = np.exp(-np.abs(a))
    result: Array = np.where(np.signbit(a), t, 1) / (1 + t)
    return result
