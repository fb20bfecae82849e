"""The functional API of the LSTM with full gate recurrence; see `_ops` for what is common to all cells."""

from __future__ import annotations

from typing import Any

from . import _core
from ._core import Reserve
from ._ops import Lengths, extra_gradients, outputs, require_reserve, require_weights
from ._results import Array, FGRLSTMGradients, FGRLSTMOutput
from ._weights import Extra, Weights, required


class FGRLSTMWeights(Weights):
    """Weights of an LSTM with full gate recurrence (Greff et al. 2015, variant FGR): the gates also see the gates of
    the step before, ``i``, ``f`` and ``o`` each through three matrices, beside diagonal peepholes. Gates are stacked
    ``i, f, g, o``.

    Args:
        weight_ih, weight_hh, bias_ih, bias_hh: as for `LSTMWeights`, with ``G = 4``.
        weight_gates: ``(3*hidden_size, 3*hidden_size)``: rows for the gates ``i, f, o``, columns for those of the step
            before, in the same order.
        peephole_i, peephole_f, peephole_o: ``(hidden_size,)`` or None for zeros.

    Raises:
        ValueError: shapes do not fit.
        TypeError: not arrays, or another dtype.
    """

    _names = (*Weights._names, "weight_gates", "peephole_i", "peephole_f", "peephole_o")
    _extras = ("peephole_i", "peephole_f", "peephole_o")

    def __init__(
        self,
        weight_ih: Array,
        weight_hh: Array,
        bias_ih: Array | None = None,
        bias_hh: Array | None = None,
        *,
        weight_gates: Array,
        peephole_i: Array | None = None,
        peephole_f: Array | None = None,
        peephole_o: Array | None = None,
    ) -> None:
        required({"weight_gates": weight_gates})
        vectors = [("peephole_i", 0, peephole_i), ("peephole_f", 0, peephole_f), ("peephole_o", 0, peephole_o)]
        super().__init__(
            "fgr_lstm", weight_ih, weight_hh, bias_ih, bias_hh, vectors, [("weight_gates", 3, weight_gates)]
        )

    @property
    def weight_gates(self) -> Array:
        matrix = self._block(0)
        assert matrix is not None  # the constructor requires it
        return matrix

    peephole_i = Extra()
    peephole_f = Extra()
    peephole_o = Extra()


States = tuple[Array, Array, Array]


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
    """Inference of an LSTM with full gate recurrence (Greff et al. 2015, variant FGR)::

        i = sigmoid(W_i x + U_i h_prev + R_i [i_prev, f_prev, o_prev] + p_i * c_prev + b_i)      f alike
        g = tanh(W_g x + U_g h_prev + b_g)        c = f * c_prev + i * g
        o = sigmoid(W_o x + U_o h_prev + R_o [i_prev, f_prev, o_prev] + p_o * c + b_o)
        h = o * tanh(c)

    Args:
        x: ``(T, B, I)``.
        w: the weights.
        h0, c0: ``(B, H)`` or None for zeros.
        gates0: the gates i, f, o before the first step, side by side: ``(B, 3*H)``, or None for zeros.
        lengths: ``(B,)`` integers in 0..T, or None for T.
        reverse: run backwards in time.

    Returns:
        ``y (T, B, H)``, zero past a row's length; ``h_n``, ``c_n (B, H)`` and ``gates_n (B, 3*H)``, the states after
        the row's last step.
    """
    require_weights(w, FGRLSTMWeights)
    return FGRLSTMOutput(*_core.infer(w, x, (h0, c0, gates0), lengths, reverse, None))


def fgr_lstm_forward(
    x: Array,
    w: FGRLSTMWeights,
    h0: Array | None = None,
    c0: Array | None = None,
    gates0: Array | None = None,
    *,
    lengths: Lengths | None = None,
    reverse: bool = False,
) -> tuple[FGRLSTMOutput, Reserve]:
    """`fgr_lstm`, keeping what `fgr_lstm_backward` needs: the same bits of ``y``, zero past a row's length, and of the
    states after the row's last step; and a reserve of ``8*T*B*H`` elements. See `lstm_forward`."""
    require_weights(w, FGRLSTMWeights)
    *out, reserve = _core.forward(w, x, (h0, c0, gates0), lengths, reverse, None)
    return FGRLSTMOutput(*out), reserve


def fgr_lstm_backward(
    reserve: Reserve,
    dy: Array | None,
    dh_n: Array | None = None,
    dc_n: Array | None = None,
    dgates_n: Array | None = None,
) -> FGRLSTMGradients:
    """Gradients of a loss, given its gradients with respect to what `fgr_lstm_forward` returned. See
    `lstm_backward`."""
    require_reserve(reserve, "fgr_lstm")
    gradients = _core.backward(reserve, dy, (dh_n, dc_n, dgates_n), None)
    named: dict[str, Any] = {"dweight_gates": gradients.pop()} | extra_gradients(reserve, gradients[8:])
    return FGRLSTMGradients(*gradients[:8], **named)


def fgr_lstm_cell(
    x: Array,
    w: FGRLSTMWeights,
    h: Array | None = None,
    c: Array | None = None,
    gates: Array | None = None,
    *,
    out: States | None = None,
) -> States:
    """One step of `fgr_lstm`: ``x (B, I)``, states or None for zeros; returns h, c, gates. See `lstm_cell`."""
    require_weights(w, FGRLSTMWeights)
    result: States = _core.step(w, x, (h, c, gates), outputs(out, "h", "c", "gates"), None)
    return result
