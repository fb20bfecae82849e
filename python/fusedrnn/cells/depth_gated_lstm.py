"""The depth-gated LSTM; `call` says what holds for all cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..aliases import Array, Lengths, Maybe, Resets, States
from ..call import Reserve, backward, forward, infer, step
from ..layers.layer import Layer
from ..weights import Weights
from .results import LSTMOutput
from .spec import C, CellSpec, H, affine, vectors

if TYPE_CHECKING:
    from typing import Unpack

    from ..masks import Masks, Regularisation

__all__ = [
    "DepthGatedLSTM",
    "DepthGatedLSTMGradients",
    "DepthGatedLSTMOutput",
    "DepthGatedLSTMWeights",
    "depth_gated_lstm",
    "depth_gated_lstm_backward",
    "depth_gated_lstm_cell",
    "depth_gated_lstm_forward",
]


class DepthGatedLSTMOutput(NamedTuple):
    """Outputs of a depth-gated LSTM: ``y (T, B, H)``, zero past a row's length; ``h_n``, ``c_n (B, H)``, the states
    after the row's last step; and c of every step, ``c (T, B, H)``, for the layer above, zero past a row's length."""

    y: Array
    h_n: Array
    c_n: Array
    c: Array


class DepthGatedLSTMGradients(NamedTuple):
    """Gradients of a depth-gated LSTM, each of its argument's shape. The gradient of an argument that is
    None is None, except the gradients of states."""

    dx: Array
    dc_below: Maybe
    dh0: Array
    dc0: Array
    dweight_ih: Array
    dweight_hh: Array
    dbias_ih: Maybe
    dbias_hh: Maybe
    dpeephole_i: Maybe
    dpeephole_f: Maybe
    dpeephole_o: Maybe
    dpeephole_d: Maybe
    dpeephole_below: Maybe
    dreset_h: Maybe = None
    dreset_c: Maybe = None


PEEPHOLES = ("peephole_i", "peephole_f", "peephole_o", "peephole_d", "peephole_below")
DEPTH_GATED_LSTM = CellSpec(
    "depth_gated_lstm",
    DepthGatedLSTMOutput,
    DepthGatedLSTMGradients,
    (*affine(5, 4), *vectors(*PEEPHOLES)),
    "ifgod",
    (H, C),
    below="c_below",
    above="c",
    layer_output=LSTMOutput,
    candidate="g",
)
SPECS = (DEPTH_GATED_LSTM,)


class DepthGatedLSTMWeights(Weights, specs=SPECS):
    """Weights of a depth-gated LSTM (Yao et al. 2015): an LSTM with a fifth gate, d, through which c of the layer below
    enters. Gates are stacked ``i, f, g, o, d`` in weight_ih and bias_ih; d sees no h, so weight_hh and bias_hh have
    four.

    Args:
        weight_ih: ``(5*hidden_size, input_size)``, float32 or float64.
        weight_hh: ``(4*hidden_size, hidden_size)``, of the same dtype, like all others.
        bias_ih: ``(5*hidden_size,)`` or None for zeros.
        bias_hh: ``(4*hidden_size,)`` or None for zeros.
        peephole_i, peephole_f, peephole_o: diagonal peepholes, ``(hidden_size,)`` or None for zeros.
        peephole_d: w_cd, the peephole from c_prev to d, ``(hidden_size,)`` or None for zeros.
        peephole_below: w_ld, the peephole from c_below to d, ``(hidden_size,)`` or None for zeros.

    Raises:
        ValueError: shapes do not fit.
        TypeError: not arrays, or another dtype.
    """

    peephole_i: Maybe
    peephole_f: Maybe
    peephole_o: Maybe
    peephole_d: Maybe
    peephole_below: Maybe

    def __init__(
        self,
        weight_ih: Array,
        weight_hh: Array,
        bias_ih: Maybe = None,
        bias_hh: Maybe = None,
        *,
        peephole_i: Maybe = None,
        peephole_f: Maybe = None,
        peephole_o: Maybe = None,
        peephole_d: Maybe = None,
        peephole_below: Maybe = None,
        **regularisation: Unpack[Regularisation],
    ) -> None:
        super().__init__(DEPTH_GATED_LSTM, locals())


class DepthGatedLSTM(Layer, weights=DepthGatedLSTMWeights):
    """Layers of depth-gated LSTM cells: see `Layer` for arguments and calls, `DepthGatedLSTMWeights` for the cell. Each
    layer reads c of the layer below in the same direction; the lowest layer has none, so its gate d and its
    peephole_below have no effect."""


def depth_gated_lstm(
    x: Array,
    w: DepthGatedLSTMWeights,
    c_below: Maybe = None,
    h0: Maybe = None,
    c0: Maybe = None,
    *,
    lengths: Lengths = None,
    reverse: bool = False,
    resets: Resets = None,
    reset_state: States = None,
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
        resets: ``(T, B)`` bool, or None: where a new episode of the row begins: see `call`.
        reset_state: the state before the first step of an episode: a tuple ``(h, c)``, each like the initial one, or
            without B for all rows; None for zeros.

    Returns:
        ``y``, ``c (T, B, H)``, zero past a row's length; ``h_n``, ``c_n (B, H)``, the states after the row's last step.
    """
    return infer(DEPTH_GATED_LSTM, x, w, (h0, c0), lengths, reverse, resets, reset_state, c_below=c_below)


def depth_gated_lstm_forward(
    x: Array,
    w: DepthGatedLSTMWeights,
    c_below: Maybe = None,
    h0: Maybe = None,
    c0: Maybe = None,
    *,
    lengths: Lengths = None,
    reverse: bool = False,
    resets: Resets = None,
    reset_state: States = None,
    seed: int | None = None,
    masks: Masks = None,
) -> tuple[DepthGatedLSTMOutput, Reserve]:
    """Forward for training: the bits of `depth_gated_lstm` in ``y``, zero past a row's length, and in the states
    after the row's last step; and a reserve for `depth_gated_lstm_backward`, of ``7*T*B*H`` elements. It refers to
    ``c_below`` too. See `lstm_forward`."""
    return forward(
        DEPTH_GATED_LSTM, x, w, (h0, c0), lengths, reverse, resets, reset_state, c_below=c_below, seed=seed, masks=masks
    )


def depth_gated_lstm_backward(
    reserve: Reserve, dy: Maybe, dh_n: Maybe = None, dc_n: Maybe = None, dc: Maybe = None
) -> DepthGatedLSTMGradients:
    """Gradients of a loss, from its gradients with respect to the outputs of `depth_gated_lstm_forward`. dc is the
    gradient of c of every step: the dc_below of the layer above. See `lstm_backward`."""
    return backward(DEPTH_GATED_LSTM, reserve, dy, (dh_n, dc_n), dc)


def depth_gated_lstm_cell(
    x: Array,
    w: DepthGatedLSTMWeights,
    c_below: Maybe = None,
    h: Maybe = None,
    c: Maybe = None,
    *,
    resets: Resets = None,
    reset_state: States = None,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """One step of `depth_gated_lstm`: ``x (B, I)``, the others ``(B, H)`` or None; returns h, c. See `lstm_cell`."""
    return step(DEPTH_GATED_LSTM, x, w, (h, c), out, resets, reset_state, c_below=c_below)
