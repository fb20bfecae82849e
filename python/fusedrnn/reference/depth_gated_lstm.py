"""The depth-gated LSTM (Yao et al. 2015)::

i = sigmoid(W_i x + U_i h_prev + p_i * c_prev + b_i)
f = sigmoid(W_f x + U_f h_prev + p_f * c_prev + b_f)
d = sigmoid(W_d x + p_d * c_prev + p_below * c_below + b_d)
g = tanh(W_g x + U_g h_prev + b_g)
c = d * c_below + f * c_prev + i * g
o = sigmoid(W_o x + U_o h_prev + p_o * c + b_o)
h = o * tanh(c)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..aliases import Array
from .common import KEEP, Arrays, Drops, States, bias, sigmoid, split, tanh
from .lstm import peep, peep_backward


def step(w: Any, x: Array, states: States, below: Array, drop: Drops = KEEP) -> tuple[States, Arrays]:
    """One step: x (B, I), states h, c (B, H), c_below (B, H). Returns the new states and the saved arrays."""
    h_prev, c_prev = drop.recurrent(states[0]), states[1]
    a_i, a_f, a_g, a_o, a_d = split(x @ w.weight_ih.T + bias(w.bias_ih), 5, axis=1)
    u_i, u_f, u_g, u_o = split(h_prev @ w.weight_hh.T + bias(w.bias_hh), 4, axis=1)
    i = sigmoid(a_i + u_i + peep(w.peephole_i, c_prev))
    f = sigmoid(a_f + u_f + peep(w.peephole_f, c_prev))
    d = sigmoid(a_d + peep(w.peephole_d, c_prev) + peep(w.peephole_below, below))
    g = tanh(a_g + u_g)
    c = d * below + f * c_prev + i * drop.candidate(g)
    o = sigmoid(a_o + u_o + peep(w.peephole_o, c))
    saved = {"x": x, "h_prev": h_prev, "c_prev": c_prev, "below": below}
    return (o * tanh(c), c), saved | {"i": i, "f": f, "g": g, "o": o, "d": d, "c": c}


def step_backward(w: Any, saved: Arrays, dstates: States, drop: Drops = KEEP) -> tuple[Array, States, Arrays]:
    """Gradients of one step, from the gradients of h and c: of x, of the states, and of parameters and c_below."""
    dh, dc = dstates
    i, f, g, o, d = (saved[k] for k in "ifgod")
    c_prev, below, tanh_c = saved["c_prev"], saved["below"], np.tanh(saved["c"])
    da_o = dh * tanh_c * o * (1 - o)
    dc_o, dp_o = peep_backward(w.peephole_o, saved["c"], da_o)
    dc = dc + dh * o * (1 - tanh_c**2) + dc_o
    da_i, da_f = dc * drop.candidate(g) * i * (1 - i), dc * c_prev * f * (1 - f)
    da_g = drop.candidate(dc * i) * (1 - g**2)
    da_d = dc * below * d * (1 - d)
    dc_i, dp_i = peep_backward(w.peephole_i, c_prev, da_i)
    dc_f, dp_f = peep_backward(w.peephole_f, c_prev, da_f)
    dc_d, dp_d = peep_backward(w.peephole_d, c_prev, da_d)
    dbelow, dp_below = peep_backward(w.peephole_below, below, da_d)

    recurrent = np.concatenate([da_i, da_f, da_g, da_o], axis=1)
    dpre = np.concatenate([recurrent, da_d], axis=1)
    dweights = {
        "weight_ih": dpre.T @ saved["x"],
        "weight_hh": recurrent.T @ saved["h_prev"],
        "bias_ih": dpre.sum(axis=0),
        "bias_hh": recurrent.sum(axis=0),
        "peephole_i": dp_i,
        "peephole_f": dp_f,
        "peephole_o": dp_o,
        "peephole_d": dp_d,
        "peephole_below": dp_below,
        "c_below": dc * d + dbelow,
    }
    return dpre @ w.weight_ih, (drop.recurrent(recurrent @ w.weight_hh), dc * f + dc_i + dc_f + dc_d), dweights
