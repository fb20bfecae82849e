"""The functional API of IndRNN; see `_ops` for what is common to all cells."""

from __future__ import annotations

from . import _core
from ._core import Reserve
from ._ops import Lengths, require_reserve, require_weights
from ._results import Array, IndRNNGradients, Output
from ._weights import Weights, one_of, required


class IndRNNWeights(Weights):
    """Weights of an independently recurrent network (Li et al. 2018, equation 2): ``h = f(W x + u * h_prev + b)``. Each
    unit sees itself alone; what units tell each other goes through the next layer's weight_ih.

    Args:
        weight_ih: ``(hidden_size, input_size)``, float32 or float64.
        weight_hh: u, ``(hidden_size,)``, of the same dtype.
        bias_ih: ``(hidden_size,)`` or None for zeros.
        nonlinearity: "relu" or "tanh".

    Raises:
        ValueError: shapes do not fit, or an unknown nonlinearity.
        TypeError: not arrays, or another dtype.
    """

    _names = ("weight_ih", "weight_hh", "bias_ih")
    _extras = ("weight_hh",)

    def __init__(
        self, weight_ih: Array, weight_hh: Array, bias_ih: Array | None = None, *, nonlinearity: str = "relu"
    ) -> None:
        one_of("nonlinearity", nonlinearity, ("relu", "tanh"))
        required({"weight_hh": weight_hh})
        super().__init__(f"indrnn_{nonlinearity}", weight_ih, None, bias_ih, None, [("weight_hh", 0, weight_hh)])

    @property
    def weight_hh(self) -> Array:
        u = self._vector(0)
        assert u is not None  # the constructor requires it
        return u

    @property
    def nonlinearity(self) -> str:
        return self.cell.removeprefix("indrnn_")


def indrnn(
    x: Array, w: IndRNNWeights, h0: Array | None = None, *, lengths: Lengths | None = None, reverse: bool = False
) -> Output:
    """IndRNN inference over a sequence (Li et al. 2018, equation 2): ``h = f(W x + u * h_prev + b)``, f relu or tanh.

    Args:
        x: ``(T, B, I)``.
        w: the weights.
        h0: ``(B, H)`` or None for zeros.
        lengths: ``(B,)`` integers in 0..T, or None for T.
        reverse: run backwards in time.

    Returns:
        ``y (T, B, H)``, zero past a row's length; ``h_n (B, H)``, the state after the row's last step.
    """
    require_weights(w, IndRNNWeights)
    return Output(*_core.infer(w, x, (h0,), lengths, reverse, None))


def indrnn_forward(
    x: Array, w: IndRNNWeights, h0: Array | None = None, *, lengths: Lengths | None = None, reverse: bool = False
) -> tuple[Output, Reserve]:
    """`indrnn`, keeping what `indrnn_backward` needs: the same bits of ``y``, zero past a row's length, and of the
    states after the row's last step; and a reserve of ``T*B*H`` elements. See `lstm_forward`."""
    require_weights(w, IndRNNWeights)
    *out, reserve = _core.forward(w, x, (h0,), lengths, reverse, None)
    return Output(*out), reserve


def indrnn_backward(reserve: Reserve, dy: Array | None, dh_n: Array | None = None) -> IndRNNGradients:
    """Gradients of a loss, given its gradients with respect to what `indrnn_forward` returned. See `lstm_backward`.

    Returns:
        dx, dh0, dweight_ih, dweight_hh, dbias_ih.
    """
    require_reserve(reserve, "indrnn")
    dx, dh0, dweight_ih, _, dbias_ih, _, dweight_hh = _core.backward(reserve, dy, (dh_n,), None)
    return IndRNNGradients(dx, dh0, dweight_ih, dweight_hh, dbias_ih)


def indrnn_cell(x: Array, w: IndRNNWeights, h: Array | None = None, *, out: Array | None = None) -> Array:
    """One step of `indrnn`: ``x (B, I)``, ``h (B, H)`` or None; returns h. See `lstm_cell`."""
    require_weights(w, IndRNNWeights)
    result: Array = _core.step(w, x, (h,), (out,), None)
    return result
