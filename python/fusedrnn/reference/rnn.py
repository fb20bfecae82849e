"""The simple recurrent network (Elman 1990): ``h = f(W x + b_W + U h_prev + b_U)``, f tanh or relu."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..aliases import Array
from .common import KEEP, Arrays, Drops, States, bias, relu, tanh


def step(w: Any, x: Array, states: States, drop: Drops = KEEP) -> tuple[States, Arrays]:
    """One step: x (B, I), states h (B, H). Returns the new state and the saved arrays."""
    h_prev = drop.recurrent(states[0])
    a = x @ w.weight_ih.T + bias(w.bias_ih) + h_prev @ w.weight_hh.T + bias(w.bias_hh)
    h = tanh(a) if w.nonlinearity == "tanh" else relu(a)
    return (h,), {"x": x, "h_prev": h_prev, "h": h}


def step_backward(w: Any, saved: Arrays, dstates: States, drop: Drops = KEEP) -> tuple[Array, States, Arrays]:
    """Gradients of one step, from the gradient of h: of x, of h_prev, and of the parameters by name."""
    (dh,) = dstates
    h = saved["h"]
    da = dh * (1 - h**2) if w.nonlinearity == "tanh" else np.where(h <= 0, 0, dh)
    dweights = {
        "weight_ih": da.T @ saved["x"],
        "weight_hh": da.T @ saved["h_prev"],
        "bias_ih": da.sum(axis=0),
        "bias_hh": da.sum(axis=0),
    }
    return da @ w.weight_ih, (drop.recurrent(da @ w.weight_hh),), dweights
