"""Results of functions of several cells: named tuples of arrays."""

from __future__ import annotations

from typing import NamedTuple

from ..aliases import Array, Maybe

__all__ = ["Gradients", "LSTMOutput", "Output"]


class Output(NamedTuple):
    """Outputs of a GRU or RNN: ``y (T, B, H)``, zero past a row's length, and ``h_n (B, H)``, the state after the row's
    last step."""

    y: Array
    h_n: Array


class LSTMOutput(NamedTuple):
    """Outputs of an LSTM: ``y (T, B, H)``, zero past a row's length, and ``h_n``, ``c_n (B, H)``, the states after the
    row's last step."""

    y: Array
    h_n: Array
    c_n: Array


class Gradients(NamedTuple):
    """Gradients of a GRU or RNN, each of its argument's shape. The gradient of a bias that is None is None."""

    dx: Array
    dh0: Array
    dweight_ih: Array
    dweight_hh: Array
    dbias_ih: Maybe
    dbias_hh: Maybe
    dreset_h: Maybe = None
