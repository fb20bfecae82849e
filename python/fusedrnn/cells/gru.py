"""The GRU in its two forms; `call` says what holds for all cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..aliases import Array, Lengths, Maybe, Resets, States
from ..call import Reserve, backward, forward, infer, step
from ..layers.layer import Layer
from ..weights import Weights, one_of
from .activations import OWN, Activation
from .results import Gradients, Output
from .spec import HEADS, CellSpec, affine

if TYPE_CHECKING:
    from typing import Unpack

    from ..masks import Masks, Regularisation

__all__ = ["GRU", "GRUWeights", "gru", "gru_backward", "gru_cell", "gru_forward"]


RESET_AFTER = CellSpec(
    "gru",
    Output,
    Gradients,
    affine(3),
    "rzn",
    cell="gru_reset_after",
    options={"reset_after": True, "z_weighs": "h_prev"},
    values=(HEADS, *(place for place in OWN if place != "output_activation")),
    candidate="n",
)

BY_OPTIONS = {
    (True, "h_prev"): RESET_AFTER,
    (False, "h_prev"): RESET_AFTER.variant("gru_reset_before", options={"reset_after": False, "z_weighs": "h_prev"}),
    (True, "n"): RESET_AFTER.variant("gru_reset_after_z_new", options={"reset_after": True, "z_weighs": "n"}),
    (False, "n"): RESET_AFTER.variant("gru_reset_before_z_new", options={"reset_after": False, "z_weighs": "n"}),
}
SPECS = tuple(BY_OPTIONS.values())


class GRUWeights(Weights, specs=SPECS):
    """Weights of a GRU, gates stacked ``r, z, n`` as in PyTorch. See `LSTMWeights`, with 3 in place of 4.

    Args:
        weight_ih, weight_hh, bias_ih, bias_hh: as for `LSTMWeights`.
        reset_after: True for ``n = tanh(W_n x + b_Wn + r * (U_n h + b_Un))`` (PyTorch, cuDNN), False for
            ``n = tanh(W_n x + U_n (r * h) + b_n)`` (Cho et al. 2014), where b_n is the sum of the two biases.
        z_weighs: the operand of z: "h_prev" for ``h = (1 - z) * n + z * h_prev`` (PyTorch, cuDNN, Cho et al. 2014),
            "n" for ``h = (1 - z) * h_prev + z * n`` (Chung et al. 2014, and many papers since).
        num_heads: as for `LSTMWeights`.
        gate_activation, candidate_activation: the functions in place of sigmoid in the gates r and z, and of tanh in n:
            as for `LSTMWeights`.

    Raises:
        ValueError: shapes do not fit; an unknown z_weighs; num_heads that does not divide hidden_size; an unknown
            activation.
        TypeError: not arrays, or another dtype; reset_after is no bool; num_heads is no integer; an activation is no
            name.
    """

    reset_after: bool
    z_weighs: str
    gate_activation: Activation
    candidate_activation: Activation

    def __init__(
        self,
        weight_ih: Array,
        weight_hh: Array,
        bias_ih: Maybe = None,
        bias_hh: Maybe = None,
        *,
        reset_after: bool = True,
        z_weighs: str = "h_prev",
        num_heads: int = 1,
        gate_activation: Activation = "sigmoid",
        candidate_activation: Activation = "tanh",
        **regularisation: Unpack[Regularisation],
    ) -> None:
        if not isinstance(reset_after, bool):
            raise TypeError(f"reset_after: expected bool, got {type(reset_after).__name__}")
        one_of("z_weighs", z_weighs, ("h_prev", "n"))
        super().__init__(BY_OPTIONS[reset_after, z_weighs], locals())


class GRU(Layer, weights=GRUWeights):
    """Layers of GRU cells, as `torch.nn.GRU`: see `Layer` for arguments and calls, `GRUWeights` for the cells.

    Args:
        reset_after: whether r acts after the product (PyTorch, cuDNN) or before it (Cho et al. 2014).
        z_weighs: the operand of z, "h_prev" or "n".
        num_heads: see `LSTMWeights`.
        gate_activation, candidate_activation: see `GRUWeights`.
    """


def gru(
    x: Array,
    w: GRUWeights,
    h0: Maybe = None,
    *,
    lengths: Lengths = None,
    reverse: bool = False,
    resets: Resets = None,
    reset_state: States = None,
) -> Output:
    """GRU inference over a sequence (Cho et al. 2014); the weights say which form::

        r, z = sigmoid(W x + U h_prev + b)        h = (1 - z) * n + z * h_prev, or with 1 - z and z exchanged
        n = tanh(W_n x + b_Wn + r * (U_n h_prev + b_Un))     reset_after=True
        n = tanh(W_n x + U_n (r * h_prev) + b_n)             reset_after=False

    Args:
        x: ``(T, B, I)``.
        w: the weights.
        h0: ``(B, H)`` or None for zeros.
        lengths: ``(B,)`` integers in 0..T, or None for T.
        reverse: run backwards in time.
        resets: ``(T, B)`` bool, or None: where a new episode of the row begins: see `call`.
        reset_state: h before the first step of an episode, ``(B, H)``, or ``(H,)`` for all rows; None for zeros.

    Returns:
        ``y (T, B, H)``, zero past a row's length; ``h_n (B, H)``, the state after the row's last step.
    """
    return infer(RESET_AFTER, x, w, (h0,), lengths, reverse, resets, reset_state)


def gru_forward(
    x: Array,
    w: GRUWeights,
    h0: Maybe = None,
    *,
    lengths: Lengths = None,
    reverse: bool = False,
    resets: Resets = None,
    reset_state: States = None,
    seed: int | None = None,
    masks: Masks = None,
) -> tuple[Output, Reserve]:
    """Forward for training: the bits of `gru` in ``y``, zero past a row's length, and in the states after the row's
    last step; and a reserve for `gru_backward`, of ``5*T*B*H`` elements.

    The reserve refers to ``x`` and ``h0``; they must not change before backward. ``y`` may.
    `seed`, `masks`: see `lstm_forward`.
    """
    return forward(RESET_AFTER, x, w, (h0,), lengths, reverse, resets, reset_state, seed=seed, masks=masks)


def gru_backward(reserve: Reserve, dy: Maybe, dh_n: Maybe = None) -> Gradients:
    """Gradients of a loss, from its gradients with respect to the outputs of `gru_forward`. See `lstm_backward`.

    Returns:
        dx, dh0, dweight_ih, dweight_hh, dbias_ih, dbias_hh.
    """
    return backward(RESET_AFTER, reserve, dy, (dh_n,))


def gru_cell(
    x: Array, w: GRUWeights, h: Maybe = None, *, resets: Resets = None, reset_state: States = None, out: Maybe = None
) -> Array:
    """One step of `gru`: ``x (B, I)``, ``h (B, H)`` or None; returns h. See `lstm_cell`."""
    return step(RESET_AFTER, x, w, (h,), out, resets, reset_state)
