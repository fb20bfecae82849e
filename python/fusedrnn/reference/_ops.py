"""The functional API of `fusedrnn`, on the reference's cells."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from .._clockwork_rnn import ClockworkRNNWeights, Start
from .._depth_gated_lstm import DepthGatedLSTMWeights
from .._fgr_lstm import FGRLSTMWeights
from .._indrnn import IndRNNWeights
from .._layer_norm import LayerNormGRUWeights, LayerNormLSTMWeights
from .._results import (
    Array,
    DepthGatedLSTMGradients,
    DepthGatedLSTMOutput,
    FGRLSTMGradients,
    FGRLSTMOutput,
    Gradients,
    IndRNNGradients,
    Integers,
    LayerNormGRUGradients,
    LayerNormLSTMGradients,
    LSTMGradients,
    LSTMOutput,
    Output,
)
from .._weights import GRUWeights, LSTMWeights, RNNWeights
from . import clockwork_rnn as _clockwork_rnn
from . import depth_gated_lstm as _depth_gated_lstm
from . import fgr_lstm as _fgr_lstm
from . import gru as _gru
from . import indrnn as _indrnn
from . import layer_norm_gru as _layer_norm_gru
from . import layer_norm_lstm as _layer_norm_lstm
from . import lstm as _lstm
from . import rnn as _rnn
from ._sequence import Cell, Tape, backward, forward

Lengths = Integers

# A module that has the functions of Cell is one.
_LSTM, _GRU, _RNN = cast(Cell, _lstm), cast(Cell, _gru), cast(Cell, _rnn)
_INDRNN, _FGR_LSTM = cast(Cell, _indrnn), cast(Cell, _fgr_lstm)
_CLOCKWORK_RNN = cast(Cell, _clockwork_rnn)
_DEPTH_GATED_LSTM = cast(Cell, _depth_gated_lstm)
_LAYER_NORM_LSTM, _LAYER_NORM_GRU = cast(Cell, _layer_norm_lstm), cast(Cell, _layer_norm_gru)


def _gradients(tape: Tape, total: dict[str, Array]) -> dict[str, Any]:
    """By the names of the results' fields; None for weights that are None."""
    return {f"d{name}": total.get(name) for name in tape.w.arrays()}


def _one_state(
    cell: Cell, w: Any, x: Array, h0: Array | None, lengths: Lengths | None, reverse: bool
) -> tuple[Output, Tape]:
    y, (h_n,), tape = forward(cell, w, x, (h0,), lengths, reverse)
    return Output(y, h_n), tape


def _one_state_backward(cell: Cell, reserve: Tape, dy: Array | None, dh_n: Array | None) -> Gradients:
    dx, (dh0,), total = backward(cell, reserve, dy, (dh_n,))
    return Gradients(dx, dh0, **_gradients(reserve, total))


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
    return LSTMGradients(dx, dh0, dc0, **_gradients(reserve, total))


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


def indrnn_forward(
    x: Array, w: IndRNNWeights, h0: Array | None = None, *, lengths: Lengths | None = None, reverse: bool = False
) -> tuple[Output, Tape]:
    return _one_state(_INDRNN, w, x, h0, lengths, reverse)


def indrnn(
    x: Array, w: IndRNNWeights, h0: Array | None = None, *, lengths: Lengths | None = None, reverse: bool = False
) -> Output:
    return indrnn_forward(x, w, h0, lengths=lengths, reverse=reverse)[0]


def indrnn_backward(reserve: Tape, dy: Array | None, dh_n: Array | None = None) -> IndRNNGradients:
    dx, (dh0,), total = backward(_INDRNN, reserve, dy, (dh_n,))
    return IndRNNGradients(dx, dh0, **_gradients(reserve, total))


def indrnn_cell(x: Array, w: IndRNNWeights, h: Array | None = None, *, out: Array | None = None) -> Array:
    return _one_state_cell(indrnn(x[None], w, h), out)


def clockwork_rnn_forward(
    x: Array,
    w: ClockworkRNNWeights,
    h0: Array | None = None,
    *,
    start: Start = 0,
    lengths: Lengths | None = None,
    reverse: bool = False,
) -> tuple[Output, Tape]:
    t = np.arange(len(x))[:, None]
    ends = np.full(x.shape[1], len(x)) if lengths is None else np.asarray(lengths, np.int64)
    numbers = (ends - 1 - t if reverse else t + np.zeros_like(ends)) + np.asarray(start, np.int64)
    y, (h_n,), tape = forward(_CLOCKWORK_RNN, w, x, (h0,), lengths, reverse, numbers)
    return Output(y, h_n), tape


def clockwork_rnn(
    x: Array,
    w: ClockworkRNNWeights,
    h0: Array | None = None,
    *,
    start: Start = 0,
    lengths: Lengths | None = None,
    reverse: bool = False,
) -> Output:
    return clockwork_rnn_forward(x, w, h0, start=start, lengths=lengths, reverse=reverse)[0]


def clockwork_rnn_backward(reserve: Tape, dy: Array | None, dh_n: Array | None = None) -> Gradients:
    return _one_state_backward(_CLOCKWORK_RNN, reserve, dy, dh_n)


def clockwork_rnn_cell(
    x: Array, w: ClockworkRNNWeights, h: Array | None = None, *, start: Start = 0, out: Array | None = None
) -> Array:
    return _one_state_cell(clockwork_rnn(x[None], w, h, start=start), out)


def fgr_lstm_forward(
    x: Array,
    w: FGRLSTMWeights,
    h0: Array | None = None,
    c0: Array | None = None,
    gates0: Array | None = None,
    *,
    lengths: Lengths | None = None,
    reverse: bool = False,
) -> tuple[FGRLSTMOutput, Tape]:
    y, (h_n, c_n, gates_n), tape = forward(_FGR_LSTM, w, x, (h0, c0, gates0), lengths, reverse)
    return FGRLSTMOutput(y, h_n, c_n, gates_n), tape


def fgr_lstm(
    x: Array,
    w: FGRLSTMWeights,
    h0: Array | None = None,
    c0: Array | None = None,
    gates0: Array | None = None,
    *,
    lengths: Lengths | None = None,
    reverse: bool = False,
) -> FGRLSTMOutput:
    return fgr_lstm_forward(x, w, h0, c0, gates0, lengths=lengths, reverse=reverse)[0]


def fgr_lstm_backward(
    reserve: Tape,
    dy: Array | None,
    dh_n: Array | None = None,
    dc_n: Array | None = None,
    dgates_n: Array | None = None,
) -> FGRLSTMGradients:
    dx, (dh0, dc0, dgates0), total = backward(_FGR_LSTM, reserve, dy, (dh_n, dc_n, dgates_n))
    return FGRLSTMGradients(dx, dh0, dc0, dgates0, **_gradients(reserve, total))


def fgr_lstm_cell(
    x: Array,
    w: FGRLSTMWeights,
    h: Array | None = None,
    c: Array | None = None,
    gates: Array | None = None,
    *,
    out: tuple[Array, Array, Array] | None = None,
) -> tuple[Array, Array, Array]:
    result = fgr_lstm(x[None], w, h, c, gates)
    if out is None:
        return result.h_n, result.c_n, result.gates_n
    out[0][...], out[1][...], out[2][...] = result.h_n, result.c_n, result.gates_n
    return out


def depth_gated_lstm_forward(
    x: Array,
    w: DepthGatedLSTMWeights,
    c_below: Array | None = None,
    h0: Array | None = None,
    c0: Array | None = None,
    *,
    lengths: Lengths | None = None,
    reverse: bool = False,
) -> tuple[DepthGatedLSTMOutput, Tape]:
    below = np.zeros((*x.shape[:2], w.hidden_size), w.dtype) if c_below is None else c_below
    y, (h_n, c_n), tape = forward(_DEPTH_GATED_LSTM, w, x, (h0, c0), lengths, reverse, below)
    tape.below_given = c_below is not None
    c = np.zeros_like(y)
    for step in tape.steps:
        c[step.t, step.rows] = step.saved["c"]
    return DepthGatedLSTMOutput(y, h_n, c_n, c), tape


def depth_gated_lstm(
    x: Array,
    w: DepthGatedLSTMWeights,
    c_below: Array | None = None,
    h0: Array | None = None,
    c0: Array | None = None,
    *,
    lengths: Lengths | None = None,
    reverse: bool = False,
) -> DepthGatedLSTMOutput:
    return depth_gated_lstm_forward(x, w, c_below, h0, c0, lengths=lengths, reverse=reverse)[0]


def depth_gated_lstm_backward(
    reserve: Tape,
    dy: Array | None,
    dh_n: Array | None = None,
    dc_n: Array | None = None,
    dc: Array | None = None,
) -> DepthGatedLSTMGradients:
    dx, (dh0, dc0), total = backward(_DEPTH_GATED_LSTM, reserve, dy, (dh_n, dc_n), dc)
    dc_below = total["c_below"] if reserve.below_given else None
    return DepthGatedLSTMGradients(dx, dc_below, dh0, dc0, **_gradients(reserve, total))


def depth_gated_lstm_cell(
    x: Array,
    w: DepthGatedLSTMWeights,
    c_below: Array | None = None,
    h: Array | None = None,
    c: Array | None = None,
    *,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    result = depth_gated_lstm(x[None], w, None if c_below is None else c_below[None], h, c)
    if out is None:
        return result.h_n, result.c_n
    out[0][...], out[1][...] = result.h_n, result.c_n
    return out


def layer_norm_lstm_forward(
    x: Array,
    w: LayerNormLSTMWeights,
    h0: Array | None = None,
    c0: Array | None = None,
    *,
    lengths: Lengths | None = None,
    reverse: bool = False,
) -> tuple[LSTMOutput, Tape]:
    y, (h_n, c_n), tape = forward(_LAYER_NORM_LSTM, w, x, (h0, c0), lengths, reverse)
    return LSTMOutput(y, h_n, c_n), tape


def layer_norm_lstm(
    x: Array,
    w: LayerNormLSTMWeights,
    h0: Array | None = None,
    c0: Array | None = None,
    *,
    lengths: Lengths | None = None,
    reverse: bool = False,
) -> LSTMOutput:
    return layer_norm_lstm_forward(x, w, h0, c0, lengths=lengths, reverse=reverse)[0]


def layer_norm_lstm_backward(
    reserve: Tape, dy: Array | None, dh_n: Array | None = None, dc_n: Array | None = None
) -> LayerNormLSTMGradients:
    dx, (dh0, dc0), total = backward(_LAYER_NORM_LSTM, reserve, dy, (dh_n, dc_n))
    return LayerNormLSTMGradients(dx, dh0, dc0, **_gradients(reserve, total))


def layer_norm_lstm_cell(
    x: Array,
    w: LayerNormLSTMWeights,
    h: Array | None = None,
    c: Array | None = None,
    *,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    result = layer_norm_lstm(x[None], w, h, c)
    if out is None:
        return result.h_n, result.c_n
    out[0][...], out[1][...] = result.h_n, result.c_n
    return out


def layer_norm_gru_forward(
    x: Array, w: LayerNormGRUWeights, h0: Array | None = None, *, lengths: Lengths | None = None, reverse: bool = False
) -> tuple[Output, Tape]:
    return _one_state(_LAYER_NORM_GRU, w, x, h0, lengths, reverse)


def layer_norm_gru(
    x: Array, w: LayerNormGRUWeights, h0: Array | None = None, *, lengths: Lengths | None = None, reverse: bool = False
) -> Output:
    return layer_norm_gru_forward(x, w, h0, lengths=lengths, reverse=reverse)[0]


def layer_norm_gru_backward(reserve: Tape, dy: Array | None, dh_n: Array | None = None) -> LayerNormGRUGradients:
    dx, (dh0,), total = backward(_LAYER_NORM_GRU, reserve, dy, (dh_n,))
    return LayerNormGRUGradients(dx, dh0, **_gradients(reserve, total))


def layer_norm_gru_cell(x: Array, w: LayerNormGRUWeights, h: Array | None = None, *, out: Array | None = None) -> Array:
    return _one_state_cell(layer_norm_gru(x[None], w, h), out)
