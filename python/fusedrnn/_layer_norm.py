"""The functional API of the layer-normalised LSTM and GRU; see `_ops` for what is common to all cells."""

from __future__ import annotations

import numpy as np

from . import _core
from ._core import Reserve
from ._ops import Lengths, outputs, require_reserve, require_weights
from ._results import Array, LayerNormGRUGradients, LayerNormLSTMGradients, LSTMOutput, Output
from ._weights import Extra, Weights, required


class _LayerNormWeights(Weights):
    """What the layer-normalised cells share: every weight but the matrices is a vector of the native cell."""

    _gates = 0
    _common = ("gain_ih", "gain_hh", "bias_ih", "bias_hh")

    def __init__(
        self, cell: str, weight_ih: Array, weight_hh: Array, vectors: dict[str, Array | None], epsilon: float
    ) -> None:
        required({name: vector for name, vector in vectors.items() if name.startswith("gain")})
        if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)):
            raise TypeError(f"epsilon: expected float, got {type(epsilon).__name__}")
        if not 0 < epsilon < float("inf"):
            raise ValueError(f"epsilon: expected a positive number, got {epsilon}")
        self._epsilon = float(epsilon)
        named = [(name, self._gates if name in self._common else 1, vector) for name, vector in vectors.items()]
        super().__init__(cell, weight_ih, weight_hh, None, None, named, [], self._epsilon)
        least = float(np.finfo(self.dtype).smallest_normal)
        if self._epsilon < least:
            raise ValueError(f"epsilon: expected at least {least:.4g}, the smallest normal {self.dtype}, got {epsilon}")

    @property
    def epsilon(self) -> float:
        return self._epsilon

    bias_ih = Extra()
    bias_hh = Extra()
    gain_ih = Extra()
    gain_hh = Extra()


class LayerNormLSTMWeights(_LayerNormWeights):
    """Weights of a layer-normalised LSTM (Ba, Kiros & Hinton 2016, equations 20 to 22). Each gate's ``W x`` and ``U h``
    are normalised on their own, over the units, and so is c before its tanh.

    Args:
        weight_ih: ``(4*hidden_size, input_size)``, float32 or float64; gates stacked ``i, f, g, o``.
        weight_hh: ``(4*hidden_size, hidden_size)``, of the same dtype, like all others.
        bias_ih, bias_hh: ``(4*hidden_size,)`` or None for zeros; added after the normalisation.
        gain_ih, gain_hh: ``(4*hidden_size,)``: what the normalised ``W x`` and ``U h`` are multiplied by.
        gain_c: ``(hidden_size,)``: the same for c.
        bias_c: ``(hidden_size,)`` or None for zeros.
        epsilon: added to each variance.

    Raises:
        ValueError: shapes do not fit; epsilon is not positive.
        TypeError: not arrays, or another dtype; a gain is missing; epsilon is no number.
    """

    _gates = 4
    _extras = (*_LayerNormWeights._common, "gain_c", "bias_c")
    _names = ("weight_ih", "weight_hh", *_extras)

    def __init__(
        self,
        weight_ih: Array,
        weight_hh: Array,
        bias_ih: Array | None = None,
        bias_hh: Array | None = None,
        *,
        gain_ih: Array,
        gain_hh: Array,
        gain_c: Array,
        bias_c: Array | None = None,
        epsilon: float = 1e-5,
    ) -> None:
        vectors = {"gain_ih": gain_ih, "gain_hh": gain_hh, "bias_ih": bias_ih, "bias_hh": bias_hh}
        super().__init__(
            "layer_norm_lstm", weight_ih, weight_hh, vectors | {"gain_c": gain_c, "bias_c": bias_c}, epsilon
        )

    gain_c = Extra()
    bias_c = Extra()


class LayerNormGRUWeights(_LayerNormWeights):
    """Weights of a layer-normalised GRU (Ba, Kiros & Hinton 2016), reset-after. Each gate's ``W x`` and ``U h`` are
    normalised on their own, over the units.

    Args:
        weight_ih: ``(3*hidden_size, input_size)``, float32 or float64; gates stacked ``r, z, n``.
        weight_hh: ``(3*hidden_size, hidden_size)``, of the same dtype, like all others.
        bias_ih, bias_hh: ``(3*hidden_size,)`` or None for zeros; added after the normalisation.
        gain_ih, gain_hh: ``(3*hidden_size,)``: what the normalised ``W x`` and ``U h`` are multiplied by.
        epsilon: added to each variance.

    Raises:
        ValueError: shapes do not fit; epsilon is not positive.
        TypeError: not arrays, or another dtype; a gain is missing; epsilon is no number.
    """

    _gates = 3
    _extras = _LayerNormWeights._common
    _names = ("weight_ih", "weight_hh", *_extras)

    def __init__(
        self,
        weight_ih: Array,
        weight_hh: Array,
        bias_ih: Array | None = None,
        bias_hh: Array | None = None,
        *,
        gain_ih: Array,
        gain_hh: Array,
        epsilon: float = 1e-5,
    ) -> None:
        vectors = {"gain_ih": gain_ih, "gain_hh": gain_hh, "bias_ih": bias_ih, "bias_hh": bias_hh}
        super().__init__("layer_norm_gru", weight_ih, weight_hh, vectors, epsilon)


def layer_norm_lstm(
    x: Array,
    w: LayerNormLSTMWeights,
    h0: Array | None = None,
    c0: Array | None = None,
    *,
    lengths: Lengths | None = None,
    reverse: bool = False,
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

    Returns:
        ``y (T, B, H)``, zero past a row's length; ``h_n``, ``c_n (B, H)``, the states after the row's last step.
    """
    require_weights(w, LayerNormLSTMWeights)
    return LSTMOutput(*_core.infer(w, x, (h0, c0), lengths, reverse, None))


def layer_norm_lstm_forward(
    x: Array,
    w: LayerNormLSTMWeights,
    h0: Array | None = None,
    c0: Array | None = None,
    *,
    lengths: Lengths | None = None,
    reverse: bool = False,
) -> tuple[LSTMOutput, Reserve]:
    """`layer_norm_lstm`, keeping what `layer_norm_lstm_backward` needs: the same bits of ``y``, zero past a row's
    length, and of the states after the row's last step; and a reserve of ``23*T*B*H`` elements. See `lstm_forward`."""
    require_weights(w, LayerNormLSTMWeights)
    *out, reserve = _core.forward(w, x, (h0, c0), lengths, reverse, None)
    return LSTMOutput(*out), reserve


def layer_norm_lstm_backward(
    reserve: Reserve, dy: Array | None, dh_n: Array | None = None, dc_n: Array | None = None
) -> LayerNormLSTMGradients:
    """Gradients of a loss, given its gradients with respect to what `layer_norm_lstm_forward` returned. See
    `lstm_backward`."""
    require_reserve(reserve, "layer_norm_lstm")
    gradients = _core.backward(reserve, dy, (dh_n, dc_n), None)
    return LayerNormLSTMGradients(*gradients[:5], *gradients[7:])


def layer_norm_lstm_cell(
    x: Array,
    w: LayerNormLSTMWeights,
    h: Array | None = None,
    c: Array | None = None,
    *,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """One step of `layer_norm_lstm`: ``x (B, I)``, states or None for zeros; returns h, c. See `lstm_cell`."""
    require_weights(w, LayerNormLSTMWeights)
    result: tuple[Array, Array] = _core.step(w, x, (h, c), outputs(out, "h", "c"), None)
    return result


def layer_norm_gru(
    x: Array, w: LayerNormGRUWeights, h0: Array | None = None, *, lengths: Lengths | None = None, reverse: bool = False
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

    Returns:
        ``y (T, B, H)``, zero past a row's length; ``h_n (B, H)``, the state after the row's last step.
    """
    require_weights(w, LayerNormGRUWeights)
    return Output(*_core.infer(w, x, (h0,), lengths, reverse, None))


def layer_norm_gru_forward(
    x: Array, w: LayerNormGRUWeights, h0: Array | None = None, *, lengths: Lengths | None = None, reverse: bool = False
) -> tuple[Output, Reserve]:
    """`layer_norm_gru`, keeping what `layer_norm_gru_backward` needs: the same bits of ``y``, zero past a row's length,
    and of the states after the row's last step; and a reserve of ``16*T*B*H`` elements. See `lstm_forward`."""
    require_weights(w, LayerNormGRUWeights)
    *out, reserve = _core.forward(w, x, (h0,), lengths, reverse, None)
    return Output(*out), reserve


def layer_norm_gru_backward(reserve: Reserve, dy: Array | None, dh_n: Array | None = None) -> LayerNormGRUGradients:
    """Gradients of a loss, given its gradients with respect to what `layer_norm_gru_forward` returned. See
    `lstm_backward`."""
    require_reserve(reserve, "layer_norm_gru")
    gradients = _core.backward(reserve, dy, (dh_n,), None)
    return LayerNormGRUGradients(*gradients[:4], *gradients[6:])


def layer_norm_gru_cell(x: Array, w: LayerNormGRUWeights, h: Array | None = None, *, out: Array | None = None) -> Array:
    """One step of `layer_norm_gru`: ``x (B, I)``, ``h (B, H)`` or None; returns h. See `lstm_cell`."""
    require_weights(w, LayerNormGRUWeights)
    result: Array = _core.step(w, x, (h,), (out,), None)
    return result
