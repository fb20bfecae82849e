"""IndRNN (Li et al. 2018): ``h = f(W x + b + u * h_prev)``, f relu or tanh."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..aliases import Array
from .common import KEEP, Arrays, Drops, States, bias, relu, tanh


def step(w: Any, x: Array, states: States, drop: Drops = KEEP) -> tuple[States, Arrays]:
    """One step: x (B, I), states h (B, H). Returns the new state and the saved arrays."""
    (h_prev,) = states
    a = x @ w.weight_ih.T + bias(w.bias_ih) + w.weight_hh * h_prev
    h = tanh(a) if w.nonlinearity == "tanh" else relu(a)
    return (h,), {"x": x, "h_prev": h_prev, "h": h}


def step_backward(w: Any, saved: Arrays, dstates: States, drop: Drops = KEEP) -> tuple[Array, States, Arrays]:
    """Gradients of one step, from the gradient of h: of x, of h_prev, and of the parameters by name."""
    (dh,) = dstates
    h = saved["h"]
    da = dh * (1 - h**2) if w.nonlinearity == "tanh" else np.where(h <= 0, 0, dh)
    dweights = {
        "weight_ih": da.T @ saved["x"],
        "weight_hh": (da * saved["h_prev"]).sum(axis=0),
        "bias_ih": da.sum(axis=0),
    }
    return da @ w.weight_ih, (da * w.weight_hh,), dweights
