"""The LSTM with full gate recurrence (Greff et al. 2015, variant FGR)::

q = R [i_prev, f_prev, o_prev]        split into q_i, q_f, q_o
i = sigmoid(W_i x + U_i h_prev + q_i + p_i * c_prev + b_i)
f = sigmoid(W_f x + U_f h_prev + q_f + p_f * c_prev + b_f)
g = tanh(W_g x + U_g h_prev + b_g)
c = f * c_prev + i * g
o = sigmoid(W_o x + U_o h_prev + q_o + p_o * c + b_o)
h = o * tanh(c)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..aliases import Array
from .common import KEEP, Arrays, Drops, States, bias, concatenate, sigmoid, split, tanh
from .lstm import peep, peep_backward


def step(w: Any, x: Array, states: States, drop: Drops = KEEP) -> tuple[States, Arrays]:
    """One step: x (B, I), states h, c (B, H), gates (B, 3*H). Returns the new states and the saved arrays."""
    h_prev, c_prev, gates_prev = drop.recurrent(states[0]), *states[1:]
    pre = x @ w.weight_ih.T + bias(w.bias_ih) + h_prev @ w.weight_hh.T + bias(w.bias_hh)
    a_i, a_f, a_g, a_o = split(pre, 4, axis=1)
    q_i, q_f, q_o = split(gates_prev @ w.weight_gates.T, 3, axis=1)
    i = sigmoid(a_i + q_i + peep(w.peephole_i, c_prev))
    f = sigmoid(a_f + q_f + peep(w.peephole_f, c_prev))
    g = tanh(a_g)
    c = f * c_prev + i * drop.candidate(g)
    o = sigmoid(a_o + q_o + peep(w.peephole_o, c))
    saved = {"x": x, "h_prev": h_prev, "c_prev": c_prev, "gates_prev": gates_prev}
    saved |= {"i": i, "f": f, "g": g, "o": o, "c": c}
    return (o * tanh(c), c, concatenate([i, f, o], axis=1)), saved


def step_backward(w: Any, saved: Arrays, dstates: States, drop: Drops = KEEP) -> tuple[Array, States, Arrays]:
    """Gradients of one step, from the gradients of the new states: of x, of the states, and of parameters by name."""
    dh, dc, dgates = dstates
    i, f, g, o = saved["i"], saved["f"], saved["g"], saved["o"]
    c_prev, tanh_c = saved["c_prev"], np.tanh(saved["c"])
    di, df, do = np.split(dgates, 3, axis=1)
    da_o = (do + dh * tanh_c) * o * (1 - o)
    dc_peep, dp_o = peep_backward(w.peephole_o, saved["c"], da_o)
    dc = dc + dh * o * (1 - tanh_c**2) + dc_peep
    da_i, da_f, da_g = (
        (di + dc * drop.candidate(g)) * i * (1 - i),
        (df + dc * c_prev) * f * (1 - f),
        drop.candidate(dc * i) * (1 - g**2),
    )
    dc_peep_i, dp_i = peep_backward(w.peephole_i, c_prev, da_i)
    dc_peep_f, dp_f = peep_backward(w.peephole_f, c_prev, da_f)

    dpre, dq = np.concatenate([da_i, da_f, da_g, da_o], axis=1), np.concatenate([da_i, da_f, da_o], axis=1)
    dweights = {
        "weight_ih": dpre.T @ saved["x"],
        "weight_hh": dpre.T @ saved["h_prev"],
        "bias_ih": dpre.sum(axis=0),
        "bias_hh": dpre.sum(axis=0),
        "weight_gates": dq.T @ saved["gates_prev"],
        "peephole_i": dp_i,
        "peephole_f": dp_f,
        "peephole_o": dp_o,
    }
    before = (drop.recurrent(dpre @ w.weight_hh), dc * f + dc_peep_i + dc_peep_f, dq @ w.weight_gates)
    return dpre @ w.weight_ih, before, dweights
