"""The functional API of the depth-gated LSTM; see `_ops` for what is common to all cells."""

from __future__ import annotations

from . import _core
from ._core import Reserve
from ._ops import Lengths, extra_gradients, outputs, require_reserve, require_weights
from ._results import Array, DepthGatedLSTMGradients, DepthGatedLSTMOutput
from ._weights import Extra, Weights


class DepthGatedLSTMWeights(Weights):
    """Weights of a depth-gated LSTM (Yao et al. 2015): an LSTM with a fifth gate, d, through which c of the layer below
    enters. Gates are stacked ``i, f, g, o, d`` in weight_ih and bias_ih; d sees no h, so weight_hh and bias_hh have
    four.

    Args:
        weight_ih: ``(5*hidden_size, input_size)``, float32 or float64.
        weight_hh: ``(4*hidden_size, hidden_size)``, of the same dtype, like all others.
        bias_ih: ``(5*hidden_size,)`` or None for zeros.
        bias_hh: ``(4*hidden_size,)`` or None for zeros.
        peephole_i, peephole_f, peephole_o: diagonal peepholes, ``(hidden_size,)`` or None for zeros.
        peephole_d: w_cd, what d sees of c_prev, ``(hidden_size,)`` or None for zeros.
        peephole_below: w_ld, what d sees of c_below, ``(hidden_size,)`` or None for zeros.

    Raises:
        ValueError: shapes do not fit.
        TypeError: not arrays, or another dtype.
    """

    _extras = ("peephole_i", "peephole_f", "peephole_o", "peephole_d", "peephole_below")
    _names = (*Weights._names, *_extras)

    def __init__(
        self,
        weight_ih: Array,
        weight_hh: Array,
        bias_ih: Array | None = None,
        bias_hh: Array | None = None,
        *,
        peephole_i: Array | None = None,
        peephole_f: Array | None = None,
        peephole_o: Array | None = None,
        peephole_d: Array | None = None,
        peephole_below: Array | None = None,
    ) -> None:
        given = (peephole_i, peephole_f, peephole_o, peephole_d, peephole_below)
        vectors = [(name, 0, vector) for name, vector in zip(self._extras, given, strict=True)]
        super().__init__("depth_gated_lstm", weight_ih, weight_hh, bias_ih, bias_hh, vectors)

    @property
    def gates(self) -> str:
        """The gates in the order in which they are stacked."""
        return "ifgod"

    peephole_i = Extra()
    peephole_f = Extra()
    peephole_o = Extra()
    peephole_d = Extra()
    peephole_below = Extra()


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
    """Inference of a depth-gated LSTM (Yao et al. 2015, equations 3 to 8)::

        i = sigmoid(W_i x + U_i h_prev + p_i * c_prev + b_i)      f alike
        d = sigmoid(W_d x + p_d * c_prev + p_below * c_below + b_d)
        g = tanh(W_g x + U_g h_prev + b_g)        c = d * c_below + f * c_prev + i * g
        o = sigmoid(W_o x + U_o h_prev + p_o * c + b_o)      h = o * tanh(c)

    Args:
        x: ``(T, B, I)``: y of the layer below.
        w: the weights.
        c_below: ``(T, B, H)``: c of the layer below, whose hidden size is the same; None for the lowest layer.
        h0, c0: ``(B, H)`` or None for zeros.
        lengths: ``(B,)`` integers in 0..T, or None for T.
        reverse: run backwards in time.

    Returns:
        ``y``, ``c (T, B, H)``, zero past a row's length; ``h_n``, ``c_n (B, H)``, the states after the row's last step.
    """
    require_weights(w, DepthGatedLSTMWeights)
    return DepthGatedLSTMOutput(*_core.infer(w, x, (h0, c0), lengths, reverse, c_below))


def depth_gated_lstm_forward(
    x: Array,
    w: DepthGatedLSTMWeights,
    c_below: Array | None = None,
    h0: Array | None = None,
    c0: Array | None = None,
    *,
    lengths: Lengths | None = None,
    reverse: bool = False,
) -> tuple[DepthGatedLSTMOutput, Reserve]:
    """`depth_gated_lstm`, keeping what `depth_gated_lstm_backward` needs: the same bits of ``y``, zero past a row's
    length, and of the states after the row's last step; and a reserve of ``6*T*B*H`` elements. It refers to ``c_below``
    too. See `lstm_forward`."""
    require_weights(w, DepthGatedLSTMWeights)
    *out, reserve = _core.forward(w, x, (h0, c0), lengths, reverse, c_below)
    return DepthGatedLSTMOutput(*out), reserve


def depth_gated_lstm_backward(
    reserve: Reserve,
    dy: Array | None,
    dh_n: Array | None = None,
    dc_n: Array | None = None,
    dc: Array | None = None,
) -> DepthGatedLSTMGradients:
    """Gradients of a loss, given its gradients with respect to what `depth_gated_lstm_forward` returned; dc, that of c
    of every step, is dc_below of the layer above. See `lstm_backward`."""
    require_reserve(reserve, "depth_gated_lstm")
    dx, *gradients, dc_below = _core.backward(reserve, dy, (dh_n, dc_n), dc)
    return DepthGatedLSTMGradients(dx, dc_below, *gradients[:6], **extra_gradients(reserve, gradients[6:]))


def depth_gated_lstm_cell(
    x: Array,
    w: DepthGatedLSTMWeights,
    c_below: Array | None = None,
    h: Array | None = None,
    c: Array | None = None,
    *,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """One step of `depth_gated_lstm`: ``x (B, I)``, the others ``(B, H)`` or None; returns h, c. See `lstm_cell`."""
    require_weights(w, DepthGatedLSTMWeights)
    result: tuple[Array, Array] = _core.step(w, x, (h, c), outputs(out, "h", "c"), c_below)
    return result
