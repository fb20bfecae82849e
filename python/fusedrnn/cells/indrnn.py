"""The independently recurrent network; `call` says what holds for all cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..aliases import Array, Lengths, Maybe, Resets, States
from ..call import Reserve, backward, forward, infer, step
from ..layers.layer import Layer
from ..weights import Weights, one_of
from .results import Output
from .spec import CellSpec, Parameter, vectors

if TYPE_CHECKING:
    from typing import Unpack

    from ..masks import Masks, Regularisation

__all__ = ["IndRNN", "IndRNNGradients", "IndRNNWeights", "indrnn", "indrnn_backward", "indrnn_cell", "indrnn_forward"]


class IndRNNGradients(NamedTuple):
    """Gradients of an IndRNN, each of its argument's shape. The gradient of a bias that is None is None."""

    dx: Array
    dh0: Array
    dweight_ih: Array
    dweight_hh: Array
    dbias_ih: Maybe
    dreset_h: Maybe = None


PARAMETERS = (
    Parameter("weight_ih", "weight_ih", required=True),
    *vectors("weight_hh", required=True, initial="unit"),
    Parameter("bias_ih", "bias_ih"),
)

INDRNN = CellSpec(
    "indrnn", Output, IndRNNGradients, PARAMETERS, "h", cell="indrnn_relu", options={"nonlinearity": "relu"}
)
BY_NONLINEARITY = {"relu": INDRNN, "tanh": INDRNN.variant("indrnn_tanh", options={"nonlinearity": "tanh"})}
SPECS = tuple(BY_NONLINEARITY.values())


class IndRNNWeights(Weights, specs=SPECS):
    """Weights of an independently recurrent network (Li et al. 2018, equation 2): ``h = f(W x + u * h_prev + b)``. Each
    unit sees itself alone; units exchange information through weight_ih of the next layer.

    Args:
        weight_ih: ``(hidden_size, input_size)``, float32 or float64.
        weight_hh: u, ``(hidden_size,)``, of the same dtype.
        bias_ih: ``(hidden_size,)`` or None for zeros.
        nonlinearity: "relu" or "tanh".

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
        *,
        nonlinearity: str = "relu",
        **regularisation: Unpack[Regularisation],
    ) -> None:
        one_of("nonlinearity", nonlinearity, BY_NONLINEARITY)
        super().__init__(BY_NONLINEARITY[nonlinearity], locals())


class IndRNN(Layer, weights=IndRNNWeights):
    """Layers of independently recurrent networks: see `Layer` for arguments and calls, `IndRNNWeights` for the cell.
    weight_hh is uniform in 0..1 at first, as the paper starts from memories that last.

    Args:
        nonlinearity: "relu" or "tanh".
    """


def indrnn(
    x: Array,
    w: IndRNNWeights,
    h0: Maybe = None,
    *,
    lengths: Lengths = None,
    reverse: bool = False,
    resets: Resets = None,
    reset_state: States = None,
) -> Output:
    """IndRNN inference over a sequence (Li et al. 2018, equation 2): ``h = f(W x + u * h_prev + b)``, f relu or tanh.

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
    return infer(INDRNN, x, w, (h0,), lengths, reverse, resets, reset_state)


def indrnn_forward(
    x: Array,
    w: IndRNNWeights,
    h0: Maybe = None,
    *,
    lengths: Lengths = None,
    reverse: bool = False,
    resets: Resets = None,
    reset_state: States = None,
    seed: int | None = None,
    masks: Masks = None,
) -> tuple[Output, Reserve]:
    """Forward for training: the bits of `indrnn` in ``y``, zero past a row's length, and in the states after the
    row's last step; and a reserve for `indrnn_backward`, of ``T*B*H`` elements. See `lstm_forward`."""
    return forward(INDRNN, x, w, (h0,), lengths, reverse, resets, reset_state, seed=seed, masks=masks)


def indrnn_backward(reserve: Reserve, dy: Maybe, dh_n: Maybe = None) -> IndRNNGradients:
    """Gradients of a loss, from its gradients with respect to the outputs of `indrnn_forward`. See `lstm_backward`.

    Returns:
        dx, dh0, dweight_ih, dweight_hh, dbias_ih.
    """
    return backward(INDRNN, reserve, dy, (dh_n,))


def indrnn_cell(
    x: Array, w: IndRNNWeights, h: Maybe = None, *, resets: Resets = None, reset_state: States = None, out: Maybe = None
) -> Array:
    """One step of `indrnn`: ``x (B, I)``, ``h (B, H)`` or None; returns h. See `lstm_cell`."""
    return step(INDRNN, x, w, (h,), out, resets, reset_state)
