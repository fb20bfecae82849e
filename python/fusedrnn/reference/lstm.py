"""LSTM (Hochreiter & Schmidhuber 1997; forget gate: Gers, Schmidhuber & Cummins 2000).

Forward, with a the pre-activations::

    a = W x + b_W + U h_prev + b_U        split into a_i, a_f, a_g, a_o
    i = sigmoid(a_i)    f = sigmoid(a_f)    g = tanh(a_g)    o = sigmoid(a_o)
    c = f * c_prev + i * g
    h = o * tanh(c)

Backward is the chain rule, read from the bottom up; dh and dc come from the loss and from the step after. The
derivative of sigmoid is s * (1 - s), that of tanh is 1 - t^2.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._results import Array
from .._weights import LSTMWeights
from ._activations import sigmoid

States = tuple[Array, ...]


def _bias(b: Array | None) -> Any:
    return 0 if b is None else b


def step(w: LSTMWeights, x: Array, states: States) -> tuple[States, dict[str, Array]]:
    """One step: x (B, I), states h, c (B, H). Returns the new states and what backward needs."""
    h_prev, c_prev = states
    a = x @ w.weight_ih.T + _bias(w.bias_ih) + h_prev @ w.weight_hh.T + _bias(w.bias_hh)
    a_i, a_f, a_g, a_o = np.split(a, 4, axis=1)
    i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
    c = f * c_prev + i * g
    h = o * np.tanh(c)
    return (h, c), {"x": x, "h_prev": h_prev, "c_prev": c_prev, "i": i, "f": f, "g": g, "o": o, "c": c}


def step_backward(w: LSTMWeights, saved: dict[str, Array], dstates: States) -> tuple[Array, States, dict[str, Array]]:
    """Gradients of one step, given those of h and c. Returns dx, those of h_prev and c_prev, those of the weights."""
    dh, dc = dstates
    i, f, g, o = saved["i"], saved["f"], saved["g"], saved["o"]
    tanh_c = np.tanh(saved["c"])
    do = dh * tanh_c
    dc = dc + dh * o * (1 - tanh_c**2)
    df, dc_prev = dc * saved["c_prev"], dc * f
    di, dg = dc * g, dc * i
    da = np.concatenate([di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)], axis=1)
    dweights = {
        "weight_ih": da.T @ saved["x"],
        "weight_hh": da.T @ saved["h_prev"],
        "bias_ih": da.sum(axis=0),
        "bias_hh": da.sum(axis=0),
    }
    return da @ w.weight_ih, (da @ w.weight_hh, dc_prev), dweights
