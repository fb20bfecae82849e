"""The simple RNN; `call` says what holds for all cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..aliases import Array, Lengths, Maybe, Resets, States
from ..call import Reserve, backward, forward, infer, step
from ..layers.layer import Layer
from ..weights import Weights, one_of
from .results import Gradients, Output
from .spec import CellSpec, affine

if TYPE_CHECKING:
    from typing import Unpack

    from ..masks import Masks, Regularisation

__all__ = ["RNN", "RNNWeights", "rnn", "rnn_backward", "rnn_cell", "rnn_forward"]


TANH = CellSpec("rnn", Output, Gradients, affine(1), "h", cell="rnn_tanh", options={"nonlinearity": "tanh"})
BY_NONLINEARITY = {"tanh": TANH, "relu": TANH.variant("rnn_relu", options={"nonlinearity": "relu"})}
SPECS = tuple(BY_NONLINEARITY.values())


class RNNWeights(Weights, specs=SPECS):
    """Weights of a simple RNN (Elman 1990). See `LSTMWeights`, with 1 in place of 4.

    Args:
        weight_ih, weight_hh, bias_ih, bias_hh: as for `LSTMWeights`.
        nonlinearity: "tanh" or "relu".

    Raises:
        ValueError: shapes do not fit, or an unknown nonlinearity.
        TypeError: not arrays, or another dtype.
    """

    nonlinearity: str

    def __init__(
        self,
        weight_ih: Array,
        weight_hh: Array,
        bias_ih: Maybe = None,
        bias_hh: Maybe = None,
        *,
        nonlinearity: str = "tanh",
        **regularisation: Unpack[Regularisation],
    ) -> None:
        one_of("nonlinearity", nonlinearity, BY_NONLINEARITY)
        super().__init__(BY_NONLINEARITY[nonlinearity], locals())


class RNN(Layer, weights=RNNWeights):
    """Layers of simple RNN cells, as `torch.nn.RNN`: see `Layer` for arguments and calls, `RNNWeights` for the cell.

    Args:
        nonlinearity: "tanh" or "relu".
    """


def rnn(
    x: Array,
    w: RNNWeights,
    h0: Maybe = None,
    *,
    lengths: Lengths = None,
    reverse: bool = False,
    resets: Resets = None,
    reset_state: States = None,
) -> Output:
    """Simple RNN inference over a sequence (Elman 1990): ``h = f(W x + U h_prev + b)``, f tanh or relu.

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
    return infer(TANH, x, w, (h0,), lengths, reverse, resets, reset_state)


def rnn_forward(
    x: Array,
    w: RNNWeights,
    h0: Maybe = None,
    *,
    lengths: Lengths = None,
    reverse: bool = False,
    resets: Resets = None,
    reset_state: States = None,
    seed: int | None = None,
    masks: Masks = None,
) -> tuple[Output, Reserve]:
    """Forward for training: the bits of `rnn` in ``y``, zero past a row's length, and in the states after the row's
    last step; and a reserve for `rnn_backward`, of ``T*B*H`` elements.

    The reserve refers to ``x`` and ``h0``; they must not change before backward. ``y`` may.
    `seed`, `masks`: see `lstm_forward`.
    """
    return forward(TANH, x, w, (h0,), lengths, reverse, resets, reset_state, seed=seed, masks=masks)


def rnn_backward(reserve: Reserve, dy: Maybe, dh_n: Maybe = None) -> Gradients:
    """Gradients of a loss, from its gradients with respect to the outputs of `rnn_forward`. See `lstm_backward`.

    Returns:
        dx, dh0, dweight_ih, dweight_hh, dbias_ih, dbias_hh.
    """
    return backward(TANH, reserve, dy, (dh_n,))


def rnn_cell(
    x: Array, w: RNNWeights, h: Maybe = None, *, resets: Resets = None, reset_state: States = None, out: Maybe = None
) -> Array:
    """One step of `rnn`: ``x (B, I)``, ``h (B, H)`` or None; returns h. See `lstm_cell`."""
    return step(TANH, x, w, (h,), out, resets, reset_state)
