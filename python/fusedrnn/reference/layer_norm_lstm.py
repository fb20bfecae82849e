"""The layer-normalised LSTM (Ba, Kiros & Hinton 2016, equations 20 to 22), LN as in `layer_norm`::

a = LN(W x; gain_ih, bias_ih) + LN(U h_prev; gain_hh, bias_hh)        split into a_i, a_f, a_g, a_o
i = sigmoid(a_i)    f = sigmoid(a_f)    g = tanh(a_g)    o = sigmoid(a_o)
c = f * c_prev + i * g
h = o * tanh(LN(c; gain_c, bias_c))
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..aliases import Array
from .common import KEEP, Arrays, Drops, States, sigmoid, split, tanh
from .layer_norm import layer_norm, layer_norm_backward


def step(w: Any, x: Array, states: States, drop: Drops = KEEP) -> tuple[States, Arrays]:
    """One step: x (B, I), states h, c (B, H). Returns the new states and the saved arrays."""
    h_prev, c_prev = drop.recurrent(states[0]), states[1]
    u, v = x @ w.weight_ih.T, h_prev @ w.weight_hh.T
    a = layer_norm(u, 4, w.epsilon, w.gain_ih, w.bias_ih) + layer_norm(v, 4, w.epsilon, w.gain_hh, w.bias_hh)
    a_i, a_f, a_g, a_o = split(a, 4, axis=1)
    i, f, g, o = sigmoid(a_i), sigmoid(a_f), tanh(a_g), sigmoid(a_o)
    c = f * c_prev + i * drop.candidate(g)
    squashed = tanh(layer_norm(c, 1, w.epsilon, w.gain_c, w.bias_c))
    saved = {"x": x, "h_prev": h_prev, "c_prev": c_prev, "u": u, "v": v, "squashed": squashed}
    return (o * squashed, c), saved | {"i": i, "f": f, "g": g, "o": o, "c": c}


def step_backward(w: Any, saved: Arrays, dstates: States, drop: Drops = KEEP) -> tuple[Array, States, Arrays]:
    """Gradients of one step, from the gradients of h and c: of x, of h_prev and c_prev, and of parameters by name."""
    dh, dc = dstates
    i, f, g, o, squashed = (saved[k] for k in ("i", "f", "g", "o", "squashed"))
    dnormalised = dh * o * (1 - squashed**2)
    dc_norm, dgain_c, dbias_c = layer_norm_backward(saved["c"], 1, w.epsilon, w.gain_c, dnormalised)
    dc = dc + dc_norm
    da_i, da_f = dc * drop.candidate(g) * i * (1 - i), dc * saved["c_prev"] * f * (1 - f)
    da_g = drop.candidate(dc * i) * (1 - g**2)
    da = np.concatenate([da_i, da_f, da_g, dh * squashed * o * (1 - o)], axis=1)
    du, dgain_ih, dbias_ih = layer_norm_backward(saved["u"], 4, w.epsilon, w.gain_ih, da)
    dv, dgain_hh, dbias_hh = layer_norm_backward(saved["v"], 4, w.epsilon, w.gain_hh, da)
    dweights = {
        "weight_ih": du.T @ saved["x"],
        "weight_hh": dv.T @ saved["h_prev"],
        "gain_ih": dgain_ih,
        "gain_hh": dgain_hh,
        "bias_ih": dbias_ih,
        "bias_hh": dbias_hh,
        "gain_c": dgain_c,
        "bias_c": dbias_c,
    }
    return du @ w.weight_ih, (drop.recurrent(dv @ w.weight_hh), dc * f), dweights
