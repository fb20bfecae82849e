"""The LSTM with full gate recurrence; `call` says what holds for all cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..aliases import Array, Lengths, Maybe, Resets, States
from ..call import Reserve, backward, forward, infer, step
from ..layers.layer import Layer
from ..weights import Weights
from .spec import C, CellSpec, H, Parameter, StateSpec, affine, vectors

if TYPE_CHECKING:
    from typing import Unpack

    from ..masks import Masks, Regularisation

__all__ = [
    "FGRLSTM",
    "FGRLSTMGradients",
    "FGRLSTMOutput",
    "FGRLSTMWeights",
    "fgr_lstm",
    "fgr_lstm_backward",
    "fgr_lstm_cell",
    "fgr_lstm_forward",
]


class FGRLSTMOutput(NamedTuple):
    """Outputs of an LSTM with full gate recurrence: ``y (T, B, H)``, zero past a row's length; and, after the row's
    last step, ``h_n``, ``c_n (B, H)`` and the gates i, f, o side by side, ``gates_n (B, 3*H)``."""

    y: Array
    h_n: Array
    c_n: Array
    gates_n: Array


class FGRLSTMGradients(NamedTuple):
    """Gradients of an LSTM with full gate recurrence, each of its argument's shape. The gradient
    of a bias or peephole that is None is None."""

    dx: Array
    dh0: Array
    dc0: Array
    dgates0: Array
    dweight_ih: Array
    dweight_hh: Array
    dbias_ih: Maybe
    dbias_hh: Maybe
    dweight_gates: Array
    dpeephole_i: Maybe
    dpeephole_f: Maybe
    dpeephole_o: Maybe
    dreset_h: Maybe = None
    dreset_c: Maybe = None
    dreset_gates: Maybe = None


PARAMETERS = (
    *affine(4),
    Parameter("weight_gates", "matrix", gates=3, depth=3, required=True),
    *vectors("peephole_i", "peephole_f", "peephole_o"),
)
FGR_LSTM = CellSpec(
    "fgr_lstm", FGRLSTMOutput, FGRLSTMGradients, PARAMETERS, "ifgo", (H, C, StateSpec("gates", 3)), candidate="g"
)
SPECS = (FGR_LSTM,)


class FGRLSTMWeights(Weights, specs=SPECS):
    """Weights of an LSTM with full gate recurrence (Greff et al. 2015, variant FGR): the gates also see the gates of
    the step before, ``i``, ``f`` and ``o`` each through three matrices, beside diagonal peepholes. Gates are stacked
    ``i, f, g, o``.

    Args:
        weight_ih, weight_hh, bias_ih, bias_hh: as for `LSTMWeights`, with ``G = 4``.
        weight_gates: ``(3*hidden_size, 3*hidden_size)``: rows for the gates ``i, f, o``, columns for the same gates
            of the step before.
        peephole_i, peephole_f, peephole_o: ``(hidden_size,)`` or None for zeros.

    Raises:
        ValueError: shapes do not fit.
        TypeError: not arrays, or another dtype.
    """

    weight_gates: Array
    peephole_i: Maybe
    peephole_f: Maybe
    peephole_o: Maybe

    def __init__(
        self,
        weight_ih: Array,
        weight_hh: Array,
        bias_ih: Maybe = None,
        bias_hh: Maybe = None,
        *,
        weight_gates: Array,
        peephole_i: Maybe = None,
        peephole_f: Maybe = None,
        peephole_o: Maybe = None,
        **regularisation: Unpack[Regularisation],
    ) -> None:
        super().__init__(FGR_LSTM, locals())


class FGRLSTM(Layer, weights=FGRLSTMWeights):
    """Layers of LSTM cells with full gate recurrence: see `Layer` for arguments and calls, `FGRLSTMWeights` for the
    cell. Its state is ``(h0, c0, gates0)``."""


def fgr_lstm(
    x: Array,
    w: FGRLSTMWeights,
    h0: Maybe = None,
    c0: Maybe = None,
    gates0: Maybe = None,
    *,
    lengths: Lengths = None,
    reverse: bool = False,
    resets: Resets = None,
    reset_state: States = None,
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
        resets: ``(T, B)`` bool, or None: where a new episode of the row begins: see `call`.
        reset_state: the state before the first step of an episode: ``(h, c, gates)``, each like the initial one, or
            without B for all rows; None for zeros.

    Returns:
        ``y (T, B, H)``, zero past a row's length; ``h_n``, ``c_n (B, H)`` and ``gates_n (B, 3*H)``, the states after
        the row's last step.
    """
    return infer(FGR_LSTM, x, w, (h0, c0, gates0), lengths, reverse, resets, reset_state)


def fgr_lstm_forward(
    x: Array,
    w: FGRLSTMWeights,
    h0: Maybe = None,
    c0: Maybe = None,
    gates0: Maybe = None,
    *,
    lengths: Lengths = None,
    reverse: bool = False,
    resets: Resets = None,
    reset_state: States = None,
    seed: int | None = None,
    masks: Masks = None,
) -> tuple[FGRLSTMOutput, Reserve]:
    """Forward for training: the bits of `fgr_lstm` in ``y``, zero past a row's length, and in the states after the
    row's last step; and a reserve for `fgr_lstm_backward`, of ``6*T*B*H`` elements. See `lstm_forward`."""
    return forward(FGR_LSTM, x, w, (h0, c0, gates0), lengths, reverse, resets, reset_state, seed=seed, masks=masks)


def fgr_lstm_backward(
    reserve: Reserve, dy: Maybe, dh_n: Maybe = None, dc_n: Maybe = None, dgates_n: Maybe = None
) -> FGRLSTMGradients:
    """Gradients of a loss, from its gradients with respect to the outputs of `fgr_lstm_forward`. See
    `lstm_backward`."""
    return backward(FGR_LSTM, reserve, dy, (dh_n, dc_n, dgates_n))


def fgr_lstm_cell(
    x: Array,
    w: FGRLSTMWeights,
    h: Maybe = None,
    c: Maybe = None,
    gates: Maybe = None,
    *,
    resets: Resets = None,
    reset_state: States = None,
    out: tuple[Array, Array, Array] | None = None,
) -> tuple[Array, Array, Array]:
    """One step of `fgr_lstm`: ``x (B, I)``, states or None for zeros; returns h, c, gates. See `lstm_cell`."""
    return step(FGR_LSTM, x, w, (h, c, gates), out, resets, reset_state)
