"""What the functions return: plain named tuples of arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]


class Output(NamedTuple):
    """What a GRU or RNN gives: ``y (T, B, H)`` and the last state ``h_n (B, H)``."""

    y: Array
    h_n: Array


class LSTMOutput(NamedTuple):
    """What an LSTM gives: ``y (T, B, H)`` and the last states ``h_n``, ``c_n (B, H)``."""

    y: Array
    h_n: Array
    c_n: Array


class Gradients(NamedTuple):
    """Gradients of a GRU or RNN, each of its argument's shape; those of biases that are None are None."""

    dx: Array
    dh0: Array
    dweight_ih: Array
    dweight_hh: Array
    dbias_ih: Array | None
    dbias_hh: Array | None


class LSTMGradients(NamedTuple):
    """Gradients of an LSTM, each of its argument's shape; those of biases that are None are None."""

    dx: Array
    dh0: Array
    dc0: Array
    dweight_ih: Array
    dweight_hh: Array
    dbias_ih: Array | None
    dbias_hh: Array | None
