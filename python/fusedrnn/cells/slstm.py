"""The sLSTM; `call` says what holds for all cells."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from ..aliases import Array, Lengths, Maybe, Resets, States
from ..call import Reserve, backward, forward, infer, step
from ..layers.layer import Layer
from ..weights import Weights, one_of
from .spec import HEADS, CellSpec, H, StateSpec, affine

if TYPE_CHECKING:
    from typing import Unpack

    from ..masks import Masks, Regularisation

__all__ = [
    "SLSTM",
    "SLSTMGradients",
    "SLSTMOutput",
    "SLSTMWeights",
    "slstm",
    "slstm_backward",
    "slstm_cell",
    "slstm_forward",
]


class SLSTMOutput(NamedTuple):
    """Outputs of an sLSTM: ``y (T, B, H)``, zero past a row's length; and ``h_n``, ``c_n``, ``n_n``, ``m_n (B, H)``,
    the states after the row's last step."""

    y: Array
    h_n: Array
    c_n: Array
    n_n: Array
    m_n: Array


class SLSTMGradients(NamedTuple):
    """Gradients of an sLSTM, each of its argument's shape. The gradient of a bias that is None is None."""

    dx: Array
    dh0: Array
    dc0: Array
    dn0: Array
    dm0: Array
    dweight_ih: Array
    dweight_hh: Array
    dbias_ih: Maybe
    dbias_hh: Maybe
    dreset_h: Maybe = None
    dreset_c: Maybe = None
    dreset_n: Maybe = None
    dreset_m: Maybe = None


SIGMOID = CellSpec(
    "slstm",
    SLSTMOutput,
    SLSTMGradients,
    affine(4),
    "ifgo",
    (H, StateSpec("c", alone=False), StateSpec("n"), StateSpec("m", empty=-math.inf)),
    options={"forget_gate": "sigmoid"},
    values=(HEADS,),
    candidate="g",
)
BY_FORGET_GATE = {"sigmoid": SIGMOID, "exp": SIGMOID.variant("slstm_exp", options={"forget_gate": "exp"})}
SPECS = tuple(BY_FORGET_GATE.values())


class SLSTMWeights(Weights, specs=SPECS):
    """Weights of an sLSTM (Beck et al. 2024), gates stacked ``i, f, g, o``; the paper's z is g.

    Args:
        weight_ih, weight_hh, bias_ih, bias_hh: as for `LSTMWeights`, with ``G = 4``.
        forget_gate: "sigmoid" for ``f = sigmoid(a_f)``, or "exp" for ``f = exp(a_f)``.
        num_heads: as for `LSTMWeights`.

    There is no zoneout_c: c means nothing without n and m of the same step.

    Raises:
        ValueError: shapes do not fit, or an unknown forget gate; num_heads that does not divide hidden_size.
        TypeError: not arrays, or another dtype; num_heads is no integer.
    """

    forget_gate: str

    def __init__(
        self,
        weight_ih: Array,
        weight_hh: Array,
        bias_ih: Maybe = None,
        bias_hh: Maybe = None,
        *,
        forget_gate: str = "sigmoid",
        num_heads: int = 1,
        **regularisation: Unpack[Regularisation],
    ) -> None:
        one_of("forget_gate", forget_gate, BY_FORGET_GATE)
        super().__init__(BY_FORGET_GATE[forget_gate], locals())


class SLSTM(Layer, weights=SLSTMWeights):
    """Layers of sLSTM cells: see `Layer` for arguments and calls, `SLSTMWeights` for the cell. Its state is ``(h0, c0,
    n0, m0)``.

    Args:
        forget_gate: "sigmoid" or "exp".
        num_heads: see `LSTMWeights`.
    """


def slstm(
    x: Array,
    w: SLSTMWeights,
    h0: Maybe = None,
    c0: Maybe = None,
    n0: Maybe = None,
    m0: Maybe = None,
    *,
    lengths: Lengths = None,
    reverse: bool = False,
    resets: Resets = None,
    reset_state: States = None,
) -> SLSTMOutput:
    """Inference of an sLSTM over a sequence (Beck et al. 2024, section 2.2, with one head)::

        i = exp(a_i)     f = sigmoid(a_f) or exp(a_f)     g = tanh(a_g)     o = sigmoid(a_o)
        c = f * c_prev + i * g     n = f * n_prev + i     h = o * c / n

    with ``a = W x + U h_prev + b``. What c and n are is ``exp(m)`` times what the states c and n have, so that nothing
    overflows::

        m = max(log f + m_prev, a_i)
        c = exp(log f + m_prev - m) * c_prev + exp(a_i - m) * g
        n = exp(log f + m_prev - m) * n_prev + exp(a_i - m)

    Args:
        x: ``(T, B, I)``.
        w: the weights.
        h0, c0, n0, m0: ``(B, H)``, or None for the empty state: zeros, and -inf for m0.
        lengths: ``(B,)`` integers in 0..T, or None for T.
        reverse: run backwards in time.
        resets: ``(T, B)`` bool, or None: where a new episode of the row begins: see `call`.
        reset_state: the state before the first step of an episode: ``(h, c, n, m)``, each like the initial one, or
            without B for all rows; None for empty ones.

    Returns:
        ``y (T, B, H)``, zero past a row's length; ``h_n``, ``c_n``, ``n_n``, ``m_n (B, H)``, the states after the row's
        last step.
    """
    return infer(SIGMOID, x, w, (h0, c0, n0, m0), lengths, reverse, resets, reset_state)


def slstm_forward(
    x: Array,
    w: SLSTMWeights,
    h0: Maybe = None,
    c0: Maybe = None,
    n0: Maybe = None,
    m0: Maybe = None,
    *,
    lengths: Lengths = None,
    reverse: bool = False,
    resets: Resets = None,
    reset_state: States = None,
    seed: int | None = None,
    masks: Masks = None,
) -> tuple[SLSTMOutput, Reserve]:
    """Forward for training: the bits of `slstm` in ``y``, zero past a row's length, and in the states after the row's
    last step; and a reserve for `slstm_backward`, of ``7*T*B*H`` elements, or ``6*T*B*H`` where the forget gate is exp.
    `seed`, `masks`: see `lstm_forward`."""
    return forward(SIGMOID, x, w, (h0, c0, n0, m0), lengths, reverse, resets, reset_state, seed=seed, masks=masks)


def slstm_backward(
    reserve: Reserve, dy: Maybe, dh_n: Maybe = None, dc_n: Maybe = None, dn_n: Maybe = None, dm_n: Maybe = None
) -> SLSTMGradients:
    """Gradients of a loss, from its gradients with respect to the outputs of `slstm_forward`. Where both sides of max
    are equal, the gradient of m goes to a_i. See `lstm_backward`."""
    return backward(SIGMOID, reserve, dy, (dh_n, dc_n, dn_n, dm_n))


def slstm_cell(
    x: Array,
    w: SLSTMWeights,
    h: Maybe = None,
    c: Maybe = None,
    n: Maybe = None,
    m: Maybe = None,
    *,
    resets: Resets = None,
    reset_state: States = None,
    out: tuple[Array, Array, Array, Array] | None = None,
) -> tuple[Array, Array, Array, Array]:
    """One step of `slstm`: ``x (B, I)``, states or None for the empty one; returns h, c, n, m. See `lstm_cell`."""
    return step(SIGMOID, x, w, (h, c, n, m), out, resets, reset_state)
