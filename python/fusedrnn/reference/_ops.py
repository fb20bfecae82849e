"""The functional API of `fusedrnn`, on the reference's cells."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt

from .._core import Weights
from .._results import Array, Gradients, LSTMGradients, LSTMOutput, Output
from .._weights import GRUWeights, LSTMWeights, RNNWeights
from . import gru as _gru
from . import lstm as _lstm
from . import rnn as _rnn
from ._sequence import Cell, Tape, backward, forward

Lengths = npt.NDArray[np.int64]

# A module that has the functions of Cell is one.
_LSTM, _GRU, _RNN = cast(Cell, _lstm), cast(Cell, _gru), cast(Cell, _rnn)


def _gradients(w: Weights, total: dict[str, Array]) -> tuple[Any, ...]:
    return (
        total["weight_ih"],
        total["weight_hh"],
        None if w.bias_ih is None else total["bias_ih"],
        None if w.bias_hh is None else total["bias_hh"],
    )


def _one_state(
    cell: Cell, w: Weights, x: Array, h0: Array | None, lengths: Lengths | None, reverse: bool
) -> tuple[Output, Tape]:
    y, (h_n,), tape = forward(cell, w, x, (h0,), lengths, reverse)
    return Output(y, h_n), tape


def _one_state_backward(cell: Cell, reserve: Tape, dy: Array | None, dh_n: Array | None) -> Gradients:
    dx, (dh0,), total = backward(cell, reserve, dy, (dh_n,))
    return Gradients(dx, dh0, *_gradients(reserve.w, total))


def lstm_forward(
    x: Array,
    w: LSTMWeights,
    h0: Array | None = None,
    c0: Array | None = None,
    *,
    lengths: Lengths | None = None,
    reverse: bool = False,
) -> tuple[LSTMOutput, Tape]:
    y, (h_n, c_n), tape = forward(_LSTM, w, x, (h0, c0), lengths, reverse)
    return LSTMOutput(y, h_n, c_n), tape


def lstm(
    x: Array,
    w: LSTMWeights,
    h0: Array | None = None,
    c0: Array | None = None,
    *,
    lengths: Lengths | None = None,
    reverse: bool = False,
) -> LSTMOutput:
    return lstm_forward(x, w, h0, c0, lengths=lengths, reverse=reverse)[0]


def lstm_backward(
    reserve: Tape, dy: Array | None, dh_n: Array | None = None, dc_n: Array | None = None
) -> LSTMGradients:
    dx, (dh0, dc0), total = backward(_LSTM, reserve, dy, (dh_n, dc_n))
    return LSTMGradients(dx, dh0, dc0, *_gradients(reserve.w, total))


def lstm_cell(
    x: Array, w: LSTMWeights, h: Array | None = None, c: Array | None = None, *, out: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    result = lstm(x[None], w, h, c)
    if out is None:
        return result.h_n, result.c_n
    out[0][...], out[1][...] = result.h_n, result.c_n
    return out


def _one_state_cell(result: Output, out: Array | None) -> Array:
    if out is None:
        return result.h_n
    out[...] = result.h_n
    return out


def gru_forward(
    x: Array, w: GRUWeights, h0: Array | None = None, *, lengths: Lengths | None = None, reverse: bool = False
) -> tuple[Output, Tape]:
    return _one_state(_GRU, w, x, h0, lengths, reverse)


def gru(
    x: Array, w: GRUWeights, h0: Array | None = None, *, lengths: Lengths | None = None, reverse: bool = False
) -> Output:
    return gru_forward(x, w, h0, lengths=lengths, reverse=reverse)[0]


def gru_backward(reserve: Tape, dy: Array | None, dh_n: Array | None = None) -> Gradients:
    return _one_state_backward(_GRU, reserve, dy, dh_n)


def gru_cell(x: Array, w: GRUWeights, h: Array | None = None, *, out: Array | None = None) -> Array:
    return _one_state_cell(gru(x[None], w, h), out)


def rnn_forward(
    x: Array, w: RNNWeights, h0: Array | None = None, *, lengths: Lengths | None = None, reverse: bool = False
) -> tuple[Output, Tape]:
    return _one_state(_RNN, w, x, h0, lengths, reverse)


def rnn(
    x: Array, w: RNNWeights, h0: Array | None = None, *, lengths: Lengths | None = None, reverse: bool = False
) -> Output:
    return rnn_forward(x, w, h0, lengths=lengths, reverse=reverse)[0]


def rnn_backward(reserve: Tape, dy: Array | None, dh_n: Array | None = None) -> Gradients:
    return _one_state_backward(_RNN, reserve, dy, dh_n)


def rnn_cell(x: Array, w: RNNWeights, h: Array | None = None, *, out: Array | None = None) -> Array:
    return _one_state_cell(rnn(x[None], w, h), out)
