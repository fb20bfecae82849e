"""The functional API: one native call each.

Common to all: float32 or float64, the dtype of the weights; strided inputs are accepted, and copied if they must be;
inputs are never modified; ``h0``, ``c0`` default to zeros. ``lengths (B,)``, a sequence or array of integers, makes
row ``b`` stop after ``lengths[b]`` steps: ``y`` is zero past them, ``h_n`` is the state after the last of them (the
initial state for a length of 0), and steps past them have no part in any gradient. ``reverse=True`` runs from each
row's last step to its first.

With weights that were made from CUDA arrays, all other arrays are CUDA arrays of the same library, device and dtype
(float32, bfloat16 or float16), and so are the results; see `fusedrnn.cuda`.

All raise ValueError for shapes and values, TypeError for what is no array, or has another dtype.
"""

from __future__ import annotations

from typing import Any

from . import _core
from ._core import Reserve
from ._results import Array, Gradients, Integers, LSTMGradients, LSTMOutput, Output
from ._weights import GRUWeights, LSTMWeights, RNNWeights, Weights

Lengths = Integers


def require_weights(w: Weights, kind: type[Weights]) -> None:
    if not isinstance(w, kind):
        raise TypeError(f"w: expected {kind.__name__}, got {type(w).__name__}")


def require_reserve(reserve: Reserve, cell: str) -> None:
    if not isinstance(reserve, Reserve):
        raise TypeError(f"reserve: expected a Reserve, as {cell}_forward returns it, got {type(reserve).__name__}")
    if not reserve.cell.startswith(cell):
        raise TypeError(f"reserve: expected one of {cell}_forward, got one of cell {reserve.cell!r}")


def extra_gradients(reserve: Reserve, gradients: list[Any]) -> dict[str, Any]:
    """Those of a cell's weights beyond the common ones, by name."""
    if not gradients:
        return {}
    w: Weights = reserve.weights
    return {f"d{name}": gradient for name, gradient in zip(w._extras, gradients, strict=True)}


def outputs(out: Any, *names: str) -> tuple[Array | None, ...]:
    """What a step with several states may write to: a tuple of their arrays; None for each if there is no `out`."""
    if out is None:
        return (None,) * len(names)
    if not (isinstance(out, tuple) and len(out) == len(names)):
        count = {2: "two", 3: "three"}[len(names)]
        raise TypeError(f"out: expected a tuple ({', '.join(names)}) of {count} arrays, got {type(out).__name__}")
    return out


def lstm(
    x: Array,
    w: LSTMWeights,
    h0: Array | None = None,
    c0: Array | None = None,
    *,
    lengths: Lengths | None = None,
    reverse: bool = False,
) -> LSTMOutput:
    """LSTM inference over a sequence (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000)::

        i, f, o = sigmoid(W x + U h_prev + b)     g = tanh(W_g x + U_g h_prev + b_g)
        c = f * c_prev + i * g                    h = o * tanh(c)

    The weights say which variant, and which peepholes: see `LSTMWeights`.

    Args:
        x: ``(T, B, I)``.
        w: the weights.
        h0, c0: ``(B, H)`` or None for zeros.
        lengths: ``(B,)`` integers in 0..T, or None for T.
        reverse: run backwards in time.

    Returns:
        ``y (T, B, H)``, zero past a row's length; ``h_n``, ``c_n (B, H)``, the states after the row's last step.
    """
    require_weights(w, LSTMWeights)
    return LSTMOutput(*_core.infer(w, x, (h0, c0), lengths, reverse, None))


def lstm_forward(
    x: Array,
    w: LSTMWeights,
    h0: Array | None = None,
    c0: Array | None = None,
    *,
    lengths: Lengths | None = None,
    reverse: bool = False,
) -> tuple[LSTMOutput, Reserve]:
    """`lstm`, keeping what `lstm_backward` needs: the same bits of ``y``, zero past a row's length, and of the states
    after the row's last step; and a reserve of ``(G+1)*T*B*H`` elements, G the number of gates.

    The reserve refers to ``x``, ``h0``, ``c0`` and ``y``; they must not change before backward.
    """
    require_weights(w, LSTMWeights)
    *out, reserve = _core.forward(w, x, (h0, c0), lengths, reverse, None)
    return LSTMOutput(*out), reserve


def lstm_backward(
    reserve: Reserve, dy: Array | None, dh_n: Array | None = None, dc_n: Array | None = None
) -> LSTMGradients:
    """Gradients of a loss, given its gradients with respect to what `lstm_forward` returned.

    Args:
        reserve: from `lstm_forward`. It is used up: its memory is turned into gradients, and a second use raises
            ValueError.
        dy: ``(T, B, H)`` or None for zeros; not read past a row's length.
        dh_n, dc_n: ``(B, H)`` or None for zeros.

    Returns:
        dx, dh0, dc0, dweight_ih, dweight_hh, dbias_ih, dbias_hh, dpeephole_i, dpeephole_f, dpeephole_o.
    """
    require_reserve(reserve, "lstm")
    gradients = _core.backward(reserve, dy, (dh_n, dc_n), None)
    return LSTMGradients(*gradients[:7], **extra_gradients(reserve, gradients[7:]))


def lstm_cell(
    x: Array, w: LSTMWeights, h: Array | None = None, c: Array | None = None, *, out: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """One step of `lstm`: T of them give the bits of one call over T steps.

    Args:
        x: ``(B, I)``.
        w: the weights.
        h, c: the states, ``(B, H)`` or None for zeros.
        out: two C-contiguous arrays ``(B, H)`` to write h and c to, which overlap none of the inputs; nothing is
            allocated then. A stream takes turns with two pairs.

    Returns:
        h, c, each ``(B, H)``.
    """
    require_weights(w, LSTMWeights)
    result: tuple[Array, Array] = _core.step(w, x, (h, c), outputs(out, "h", "c"), None)
    return result


def gru(
    x: Array, w: GRUWeights, h0: Array | None = None, *, lengths: Lengths | None = None, reverse: bool = False
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

    Returns:
        ``y (T, B, H)``, zero past a row's length; ``h_n (B, H)``, the state after the row's last step.
    """
    require_weights(w, GRUWeights)
    return Output(*_core.infer(w, x, (h0,), lengths, reverse, None))


def gru_forward(
    x: Array, w: GRUWeights, h0: Array | None = None, *, lengths: Lengths | None = None, reverse: bool = False
) -> tuple[Output, Reserve]:
    """`gru`, keeping what `gru_backward` needs: the same bits of ``y``, zero past a row's length, and of the states
    after the row's last step; and a reserve of ``4*T*B*H`` elements.

    The reserve refers to ``x``, ``h0`` and ``y``; they must not change before backward.
    """
    require_weights(w, GRUWeights)
    *out, reserve = _core.forward(w, x, (h0,), lengths, reverse, None)
    return Output(*out), reserve


def gru_backward(reserve: Reserve, dy: Array | None, dh_n: Array | None = None) -> Gradients:
    """Gradients of a loss, given its gradients with respect to what `gru_forward` returned. See `lstm_backward`.

    Returns:
        dx, dh0, dweight_ih, dweight_hh, dbias_ih, dbias_hh.
    """
    require_reserve(reserve, "gru")
    return Gradients(*_core.backward(reserve, dy, (dh_n,), None))


def gru_cell(x: Array, w: GRUWeights, h: Array | None = None, *, out: Array | None = None) -> Array:
    """One step of `gru`: ``x (B, I)``, ``h (B, H)`` or None; returns h. See `lstm_cell`."""
    require_weights(w, GRUWeights)
    result: Array = _core.step(w, x, (h,), (out,), None)
    return result


def rnn(
    x: Array, w: RNNWeights, h0: Array | None = None, *, lengths: Lengths | None = None, reverse: bool = False
) -> Output:
    """Simple RNN inference over a sequence (Elman 1990): ``h = f(W x + U h_prev + b)``, f tanh or relu.

    Args:
        x: ``(T, B, I)``.
        w: the weights.
        h0: ``(B, H)`` or None for zeros.
        lengths: ``(B,)`` integers in 0..T, or None for T.
        reverse: run backwards in time.

    Returns:
        ``y (T, B, H)``, zero past a row's length; ``h_n (B, H)``, the state after the row's last step.
    """
    require_weights(w, RNNWeights)
    return Output(*_core.infer(w, x, (h0,), lengths, reverse, None))


def rnn_forward(
    x: Array, w: RNNWeights, h0: Array | None = None, *, lengths: Lengths | None = None, reverse: bool = False
) -> tuple[Output, Reserve]:
    """`rnn`, keeping what `rnn_backward` needs: the same bits of ``y``, zero past a row's length, and of the states
    after the row's last step; and a reserve of ``T*B*H`` elements.

    The reserve refers to ``x``, ``h0`` and ``y``; they must not change before backward.
    """
    require_weights(w, RNNWeights)
    *out, reserve = _core.forward(w, x, (h0,), lengths, reverse, None)
    return Output(*out), reserve


def rnn_backward(reserve: Reserve, dy: Array | None, dh_n: Array | None = None) -> Gradients:
    """Gradients of a loss, given its gradients with respect to what `rnn_forward` returned. See `lstm_backward`.

    Returns:
        dx, dh0, dweight_ih, dweight_hh, dbias_ih, dbias_hh.
    """
    require_reserve(reserve, "rnn")
    return Gradients(*_core.backward(reserve, dy, (dh_n,), None))


def rnn_cell(x: Array, w: RNNWeights, h: Array | None = None, *, out: Array | None = None) -> Array:
    """One step of `rnn`: ``x (B, I)``, ``h (B, H)`` or None; returns h. See `lstm_cell`."""
    require_weights(w, RNNWeights)
    result: Array = _core.step(w, x, (h,), (out,), None)
    return result
