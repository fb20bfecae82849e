"""What the functions return: plain named tuples of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]] | Sequence[int]  # one for each row of a batch


class Output(NamedTuple):
    """What a GRU or RNN gives: ``y (T, B, H)``, zero past a row's length, and ``h_n (B, H)``, the state after the row's
    last step."""

    y: Array
    h_n: Array


class LSTMOutput(NamedTuple):
    """What an LSTM gives: ``y (T, B, H)``, zero past a row's length, and ``h_n``, ``c_n (B, H)``, the states after the
    row's last step."""

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
    """Gradients of an LSTM, each of its argument's shape; those of biases and peepholes that are None are None."""

    dx: Array
    dh0: Array
    dc0: Array
    dweight_ih: Array
    dweight_hh: Array
    dbias_ih: Array | None
    dbias_hh: Array | None
    dpeephole_i: Array | None = None
    dpeephole_f: Array | None = None
    dpeephole_o: Array | None = None


class IndRNNGradients(NamedTuple):
    """Gradients of an IndRNN, each of its argument's shape; that of a bias that is None is None."""

    dx: Array
    dh0: Array
    dweight_ih: Array
    dweight_hh: Array
    dbias_ih: Array | None


class FGRLSTMOutput(NamedTuple):
    """What an LSTM with full gate recurrence gives: ``y (T, B, H)``, zero past a row's length; and, after the row's
    last step, ``h_n``, ``c_n (B, H)`` and the gates i, f, o side by side, ``gates_n (B, 3*H)``."""

    y: Array
    h_n: Array
    c_n: Array
    gates_n: Array


class FGRLSTMGradients(NamedTuple):
    """Gradients of an LSTM with full gate recurrence, each of its argument's shape; those of biases and peepholes that
    are None are None."""

    dx: Array
    dh0: Array
    dc0: Array
    dgates0: Array
    dweight_ih: Array
    dweight_hh: Array
    dbias_ih: Array | None
    dbias_hh: Array | None
    dweight_gates: Array
    dpeephole_i: Array | None
    dpeephole_f: Array | None
    dpeephole_o: Array | None


class DepthGatedLSTMOutput(NamedTuple):
    """What a depth-gated LSTM gives: ``y (T, B, H)``, zero past a row's length; ``h_n``, ``c_n (B, H)``, the states
    after the row's last step; and c of every step, ``c (T, B, H)``, for the layer above, zero past a row's length."""

    y: Array
    h_n: Array
    c_n: Array
    c: Array


class DepthGatedLSTMGradients(NamedTuple):
    """Gradients of a depth-gated LSTM, each of its argument's shape; None for what was None (states excepted)."""

    dx: Array
    dc_below: Array | None
    dh0: Array
    dc0: Array
    dweight_ih: Array
    dweight_hh: Array
    dbias_ih: Array | None
    dbias_hh: Array | None
    dpeephole_i: Array | None
    dpeephole_f: Array | None
    dpeephole_o: Array | None
    dpeephole_d: Array | None
    dpeephole_below: Array | None


class LayerNormLSTMGradients(NamedTuple):
    """Gradients of a layer-normalised LSTM, each of its argument's shape; those of biases that are None are None."""

    dx: Array
    dh0: Array
    dc0: Array
    dweight_ih: Array
    dweight_hh: Array
    dgain_ih: Array
    dgain_hh: Array
    dbias_ih: Array | None
    dbias_hh: Array | None
    dgain_c: Array
    dbias_c: Array | None


class LayerNormGRUGradients(NamedTuple):
    """Gradients of a layer-normalised GRU, each of its argument's shape; those of biases that are None are None."""

    dx: Array
    dh0: Array
    dweight_ih: Array
    dweight_hh: Array
    dgain_ih: Array
    dgain_hh: Array
    dbias_ih: Array | None
    dbias_hh: Array | None
