"""The layer-normalised LSTM and GRU; `call` says what holds for all cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..aliases import Array, Lengths, Maybe, Resets, States
from ..call import Reserve, backward, forward, infer, step
from ..layers.layer import Layer
from ..weights import Weights
from .results import LSTMOutput, Output
from .spec import C, CellSpec, H, Parameter, vectors

if TYPE_CHECKING:
    from typing import Unpack

    from ..masks import Masks, Regularisation

__all__ = [
    "LayerNormGRU",
    "LayerNormGRUGradients",
    "LayerNormGRUWeights",
    "LayerNormLSTM",
    "LayerNormLSTMGradients",
    "LayerNormLSTMWeights",
    "layer_norm_gru",
    "layer_norm_gru_backward",
    "layer_norm_gru_cell",
    "layer_norm_gru_forward",
    "layer_norm_lstm",
    "layer_norm_lstm_backward",
    "layer_norm_lstm_cell",
    "layer_norm_lstm_forward",
]


class LayerNormLSTMGradients(NamedTuple):
    """Gradients of a layer-normalised LSTM, each of its argument's shape. The gradient of a bias
    that is None is None."""

    dx: Array
    dh0: Array
    dc0: Array
    dweight_ih: Array
    dweight_hh: Array
    dgain_ih: Array
    dgain_hh: Array
    dbias_ih: Maybe
    dbias_hh: Maybe
    dgain_c: Array
    dbias_c: Maybe
    dreset_h: Maybe = None
    dreset_c: Maybe = None


class LayerNormGRUGradients(NamedTuple):
    """Gradients of a layer-normalised GRU, each of its argument's shape. The gradient of a bias
    that is None is None."""

    dx: Array
    dh0: Array
    dweight_ih: Array
    dweight_hh: Array
    dgain_ih: Array
    dgain_hh: Array
    dbias_ih: Maybe
    dbias_hh: Maybe
    dreset_h: Maybe = None


def _normalised(gates: int) -> tuple[Parameter, ...]:
    """Every weight but the matrices is a vector of the native cell."""
    return (
        Parameter("weight_ih", "weight_ih", gates, required=True),
        Parameter("weight_hh", "matrix", gates, required=True),
        *vectors("gain_ih", "gain_hh", gates=gates, required=True, initial="ones"),
        *vectors("bias_ih", "bias_hh", gates=gates, bias=True, initial="zeros"),
    )


LAYER_NORM_LSTM = CellSpec(
    "layer_norm_lstm",
    LSTMOutput,
    LayerNormLSTMGradients,
    (
        *_normalised(4),
        *vectors("gain_c", required=True, initial="ones"),
        *vectors("bias_c", bias=True, initial="zeros"),
    ),
    "ifgo",
    (H, C),
    values=("epsilon",),
    candidate="g",
)
LAYER_NORM_GRU = CellSpec(
    "layer_norm_gru", Output, LayerNormGRUGradients, _normalised(3), "rzn", values=("epsilon",), candidate="n"
)


SPECS = (LAYER_NORM_LSTM, LAYER_NORM_GRU)


class _LayerNormWeights(Weights):
    """Weights of both layer-normalised cells."""

    epsilon: float
    gain_ih: Array
    gain_hh: Array

    def __init__(self, spec: CellSpec[Any, Any], arguments: dict[str, Any]) -> None:
        epsilon = arguments["epsilon"]
        dtype = str(getattr(arguments["weight_ih"], "dtype", None)).rpartition(".")[2]  # of any library
        if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)):
            raise TypeError(f"epsilon: expected float, got {type(epsilon).__name__}")
        if not 0 < epsilon < float("inf"):
            raise ValueError(f"epsilon: expected a positive number, got {epsilon}")
        if dtype in ("float32", "float64") and epsilon < (least := float(np.finfo(dtype).smallest_normal)):
            raise ValueError(f"epsilon: expected at least {least:.4g}, the smallest normal {dtype}, got {epsilon}")
        super().__init__(spec, arguments | {"epsilon": float(epsilon)})


class LayerNormLSTMWeights(_LayerNormWeights, specs=(LAYER_NORM_LSTM,)):
    """Weights of a layer-normalised LSTM (Ba, Kiros & Hinton 2016, equations 20 to 22). Each gate's ``W x`` and ``U h``
    are normalised on their own, over the units, and so is c before its tanh.

    Args:
        weight_ih: ``(4*hidden_size, input_size)``, float32 or float64; gates stacked ``i, f, g, o``.
        weight_hh: ``(4*hidden_size, hidden_size)``, of the same dtype, like all others.
        bias_ih, bias_hh: ``(4*hidden_size,)`` or None for zeros; added after the normalisation.
        gain_ih, gain_hh: ``(4*hidden_size,)``: the factors of the normalised ``W x`` and ``U h``.
        gain_c: ``(hidden_size,)``: the factor of the normalised c.
        bias_c: ``(hidden_size,)`` or None for zeros.
        epsilon: added to each variance.

    Raises:
        ValueError: shapes do not fit; epsilon is not positive.
        TypeError: not arrays, or another dtype; a gain is missing; epsilon is no number.
    """

    gain_c: Array
    bias_c: Maybe

    def __init__(
        self,
        weight_ih: Array,
        weight_hh: Array,
        bias_ih: Maybe = None,
        bias_hh: Maybe = None,
        *,
        gain_ih: Array,
        gain_hh: Array,
        gain_c: Array,
        bias_c: Maybe = None,
        epsilon: float = 1e-5,
        **regularisation: Unpack[Regularisation],
    ) -> None:
        super().__init__(LAYER_NORM_LSTM, locals())


class LayerNormGRUWeights(_LayerNormWeights, specs=(LAYER_NORM_GRU,)):
    """Weights of a layer-normalised GRU (Ba, Kiros & Hinton 2016), reset-after. Each gate's ``W x`` and ``U h`` are
    normalised on their own, over the units.

    Args:
        weight_ih: ``(3*hidden_size, input_size)``, float32 or float64; gates stacked ``r, z, n``.
        weight_hh: ``(3*hidden_size, hidden_size)``, of the same dtype, like all others.
        bias_ih, bias_hh: ``(3*hidden_size,)`` or None for zeros; added after the normalisation.
        gain_ih, gain_hh: ``(3*hidden_size,)``: the factors of the normalised ``W x`` and ``U h``.
        epsilon: added to each variance.

    Raises:
        ValueError: shapes do not fit; epsilon is not positive.
        TypeError: not arrays, or another dtype; a gain is missing; epsilon is no number.
    """

    def __init__(
        self,
        weight_ih: Array,
        weight_hh: Array,
        bias_ih: Maybe = None,
        bias_hh: Maybe = None,
        *,
        gain_ih: Array,
        gain_hh: Array,
        epsilon: float = 1e-5,
        **regularisation: Unpack[Regularisation],
    ) -> None:
        super().__init__(LAYER_NORM_GRU, locals())


class LayerNormLSTM(Layer, weights=LayerNormLSTMWeights):
    """Layers of layer-normalised LSTM cells: see `Layer` for arguments and calls, `LayerNormLSTMWeights` for the cell.
    Gains are ones and biases zeros at first.

    Args:
        epsilon: added to each variance.
    """


def layer_norm_lstm(
    x: Array,
    w: LayerNormLSTMWeights,
    h0: Maybe = None,
    c0: Maybe = None,
    *,
    lengths: Lengths = None,
    reverse: bool = False,
    resets: Resets = None,
    reset_state: States = None,
) -> LSTMOutput:
    """Inference of a layer-normalised LSTM (Ba, Kiros & Hinton 2016, equations 20 to 22)::

        a = gain_ih * norm(W x) + bias_ih + gain_hh * norm(U h_prev) + bias_hh        norm for each gate on its own
        i, f, o = sigmoid(a)        g = tanh(a_g)        c = f * c_prev + i * g
        h = o * tanh(gain_c * norm(c) + bias_c)

    with ``norm(v) = (v - mean(v)) / sqrt(variance(v) + epsilon)`` over the H units of a row.

    Args:
        x: ``(T, B, I)``.
        w: the weights.
        h0, c0: ``(B, H)`` or None for zeros.
        lengths: ``(B,)`` integers in 0..T, or None for T.
        reverse: run backwards in time.
        resets: ``(T, B)`` bool, or None: where a new episode of the row begins: see `call`.
        reset_state: the state before the first step of an episode: a tuple ``(h, c)``, each like the initial one, or
            without B for all rows; None for zeros.

    Returns:
        ``y (T, B, H)``, zero past a row's length; ``h_n``, ``c_n (B, H)``, the states after the row's last step.
    """
    return infer(LAYER_NORM_LSTM, x, w, (h0, c0), lengths, reverse, resets, reset_state)


def layer_norm_lstm_forward(
    x: Array,
    w: LayerNormLSTMWeights,
    h0: Maybe = None,
    c0: Maybe = None,
    *,
    lengths: Lengths = None,
    reverse: bool = False,
    resets: Resets = None,
    reset_state: States = None,
    seed: int | None = None,
    masks: Masks = None,
) -> tuple[LSTMOutput, Reserve]:
    """Forward for training: the bits of `layer_norm_lstm` in ``y``, zero past a row's length, and in the states
    after the row's last step; and a reserve for `layer_norm_lstm_backward`, of ``15*T*B*H`` elements. See
    `lstm_forward`."""
    return forward(LAYER_NORM_LSTM, x, w, (h0, c0), lengths, reverse, resets, reset_state, seed=seed, masks=masks)


def layer_norm_lstm_backward(
    reserve: Reserve, dy: Maybe, dh_n: Maybe = None, dc_n: Maybe = None
) -> LayerNormLSTMGradients:
    """Gradients of a loss, from its gradients with respect to the outputs of `layer_norm_lstm_forward`. See
    `lstm_backward`."""
    return backward(LAYER_NORM_LSTM, reserve, dy, (dh_n, dc_n))


def layer_norm_lstm_cell(
    x: Array,
    w: LayerNormLSTMWeights,
    h: Maybe = None,
    c: Maybe = None,
    *,
    resets: Resets = None,
    reset_state: States = None,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """One step of `layer_norm_lstm`: ``x (B, I)``, states or None for zeros; returns h, c. See `lstm_cell`."""
    return step(LAYER_NORM_LSTM, x, w, (h, c), out, resets, reset_state)


class LayerNormGRU(Layer, weights=LayerNormGRUWeights):
    """Layers of layer-normalised GRU cells: see `Layer` for arguments and calls, `LayerNormGRUWeights` for the cell.
    Gains are ones and biases zeros at first.

    Args:
        epsilon: added to each variance.
    """


def layer_norm_gru(
    x: Array,
    w: LayerNormGRUWeights,
    h0: Maybe = None,
    *,
    lengths: Lengths = None,
    reverse: bool = False,
    resets: Resets = None,
    reset_state: States = None,
) -> Output:
    """Inference of a layer-normalised GRU (Ba, Kiros & Hinton 2016), reset-after::

        u = gain_ih * norm(W x) + bias_ih        v = gain_hh * norm(U h_prev) + bias_hh        norm for each gate alone
        r, z = sigmoid(u + v)        n = tanh(u_n + r * v_n)        h = (1 - z) * n + z * h_prev

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
    return infer(LAYER_NORM_GRU, x, w, (h0,), lengths, reverse, resets, reset_state)


def layer_norm_gru_forward(
    x: Array,
    w: LayerNormGRUWeights,
    h0: Maybe = None,
    *,
    lengths: Lengths = None,
    reverse: bool = False,
    resets: Resets = None,
    reset_state: States = None,
    seed: int | None = None,
    masks: Masks = None,
) -> tuple[Output, Reserve]:
    """Forward for training: the bits of `layer_norm_gru` in ``y``, zero past a row's length, and in the states
    after the row's last step; and a reserve for `layer_norm_gru_backward`, of ``11*T*B*H`` elements. See
    `lstm_forward`."""
    return forward(LAYER_NORM_GRU, x, w, (h0,), lengths, reverse, resets, reset_state, seed=seed, masks=masks)


def layer_norm_gru_backward(reserve: Reserve, dy: Maybe, dh_n: Maybe = None) -> LayerNormGRUGradients:
    """Gradients of a loss, from its gradients with respect to the outputs of `layer_norm_gru_forward`. See
    `lstm_backward`."""
    return backward(LAYER_NORM_GRU, reserve, dy, (dh_n,))


def layer_norm_gru_cell(
    x: Array,
    w: LayerNormGRUWeights,
    h: Maybe = None,
    *,
    resets: Resets = None,
    reset_state: States = None,
    out: Maybe = None,
) -> Array:
    """One step of `layer_norm_gru`: ``x (B, I)``, ``h (B, H)`` or None; returns h. See `lstm_cell`."""
    return step(LAYER_NORM_GRU, x, w, (h,), out, resets, reset_state)
