"""The layer-normalised GRU (Ba, Kiros & Hinton 2016), reset-after, LN as in `layer_norm`::

u = LN(W x; gain_ih, bias_ih)        split into u_r, u_z, u_n
v = LN(U h_prev; gain_hh, bias_hh)   split into v_r, v_z, v_n
r = sigmoid(u_r + v_r)    z = sigmoid(u_z + v_z)    n = tanh(u_n + r * v_n)
h = (1 - z) * n + z * h_prev
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..aliases import Array
from .common import KEEP, Arrays, Drops, States, sigmoid, split, tanh
from .layer_norm import layer_norm, layer_norm_backward


def step(w: Any, x: Array, states: States, drop: Drops = KEEP) -> tuple[States, Arrays]:
    """One step: x (B, I), states h (B, H). Returns the new state and the saved arrays."""
    (h_prev,), h_in = states, drop.recurrent(states[0])
    raw_u, raw_v = x @ w.weight_ih.T, h_in @ w.weight_hh.T
    u_r, u_z, u_n = split(layer_norm(raw_u, 3, w.epsilon, w.gain_ih, w.bias_ih), 3, axis=1)
    v_r, v_z, v_n = split(layer_norm(raw_v, 3, w.epsilon, w.gain_hh, w.bias_hh), 3, axis=1)
    r, z = sigmoid(u_r + v_r), sigmoid(u_z + v_z)
    n = tanh(u_n + r * v_n)
    saved = {"x": x, "h_prev": h_prev, "h_in": h_in, "u": raw_u, "v": raw_v, "r": r, "z": z, "n": n, "v_n": v_n}
    return ((1 - z) * drop.candidate(n) + z * h_prev,), saved


def step_backward(w: Any, saved: Arrays, dstates: States, drop: Drops = KEEP) -> tuple[Array, States, Arrays]:
    """Gradients of one step, from the gradient of h: of x, of h_prev, and of the parameters by name."""
    (dh,) = dstates
    h_prev, r, z, n = (saved[k] for k in ("h_prev", "r", "z", "n"))
    da_n = drop.candidate(dh * (1 - z)) * (1 - n**2)
    da_z = dh * (h_prev - drop.candidate(n)) * z * (1 - z)
    da_r = da_n * saved["v_n"] * r * (1 - r)
    du_ln, dv_ln = np.concatenate([da_r, da_z, da_n], axis=1), np.concatenate([da_r, da_z, da_n * r], axis=1)
    du, dgain_ih, dbias_ih = layer_norm_backward(saved["u"], 3, w.epsilon, w.gain_ih, du_ln)
    dv, dgain_hh, dbias_hh = layer_norm_backward(saved["v"], 3, w.epsilon, w.gain_hh, dv_ln)
    dweights = {
        "weight_ih": du.T @ saved["x"],
        "weight_hh": dv.T @ saved["h_in"],
        "gain_ih": dgain_ih,
        "gain_hh": dgain_hh,
        "bias_ih": dbias_ih,
        "bias_hh": dbias_hh,
    }
    return du @ w.weight_ih, (drop.recurrent(dv @ w.weight_hh) + dh * z,), dweights
