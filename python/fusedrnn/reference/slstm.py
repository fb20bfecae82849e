"""The sLSTM (Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory", section 2.2, equations 8 to 17), with the
paper's z as g::

    a = W x + b_W + U h_prev + b_U        split into a_i, a_f, a_g, a_o
    log_i = a_i      log_f = log(sigmoid(a_f)) or a_f      g = tanh(a_g)      o = sigmoid(a_o)
    m = max(log_f + m_prev, log_i)
    i = exp(log_i - m)      f = exp(log_f + m_prev - m)
    c = f * c_prev + i * g      n = f * n_prev + i      h = o * c / n

a_i counts as the nearest finite number where it is infinite, and so does what is +inf among a_f, m_prev and their sum,
so that no difference is one of infinities.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..aliases import Array
from .common import KEEP, Arrays, Drops, States, bias, library, recurrent, recurrent_backward, sigmoid, split, tanh


def log_sigmoid(a: Array) -> Array:
    if library(a) is not np:
        return library(a).nn.functional.logsigmoid(a)  # type: ignore[no-any-return]
    result: Array = np.minimum(a, 0) - np.log1p(np.exp(-np.abs(a)))
    return result


def at_most_finite(a: Array) -> Array:
    return library(a).clip(a, None, library(a).finfo(a.dtype).max)  # type: ignore[no-any-return]


def at_least_finite(a: Array) -> Array:
    return library(a).clip(a, library(a).finfo(a.dtype).min, None)  # type: ignore[no-any-return]


def step(w: Any, x: Array, states: States, drop: Drops = KEEP) -> tuple[States, Arrays]:
    """One step: x (B, I), states h, c, n, m (B, H). Returns the new states and the saved arrays."""
    h_prev, (c_prev, n_prev, m_prev) = drop.recurrent(states[0]), states[1:]
    pre = x @ w.weight_ih.T + bias(w.bias_ih) + recurrent(w.weight_hh, h_prev) + bias(w.bias_hh)
    a_i, a_f, a_g, a_o = split(pre, 4, axis=1)
    log_i = at_least_finite(at_most_finite(a_i))
    log_f = at_most_finite(a_f) if w.forget_gate == "exp" else log_sigmoid(a_f)
    g, o = tanh(a_g), sigmoid(a_o)

    kept = at_most_finite(log_f + at_most_finite(m_prev))
    m = library(a_i).where(kept > log_i, kept, log_i)
    i, f = library(a_i).exp(log_i - m), library(a_i).exp(kept - m)
    c = f * c_prev + i * drop.candidate(g)
    n = f * n_prev + i
    h = o * c / n
    saved = {"x": x, "h_prev": h_prev, "c_prev": c_prev, "n_prev": n_prev, "a_f": a_f, "g": g, "o": o}
    return (h, c, n, m), saved | {"i": i, "f": f, "c": c, "n": n, "keeps": kept > log_i}


def step_backward(w: Any, saved: Arrays, dstates: States, drop: Drops = KEEP) -> tuple[Array, States, Arrays]:
    """Gradients of one step, from the gradients of h, c, n and m: of x, of the states before, and of parameters by
    name."""
    dh, dc, dn, dm = dstates
    i, f, g, o = saved["i"], saved["f"], saved["g"], saved["o"]
    c, n, c_prev, n_prev = saved["c"], saved["n"], saved["c_prev"], saved["n_prev"]
    da_o = dh * c / n * o * (1 - o)
    dc = dc + dh * o / n
    dn = dn - dh * o * c / n**2

    da_g = drop.candidate(dc * i) * (1 - g**2)
    dlog_i, dkept = (dc * drop.candidate(g) + dn) * i, (dc * c_prev + dn * n_prev) * f  # where m stays
    dm = dm - dlog_i - dkept
    dlog_i, dkept = dlog_i + np.where(saved["keeps"], 0, dm), dkept + np.where(saved["keeps"], dm, 0)
    da_f = dkept if w.forget_gate == "exp" else dkept * sigmoid(-saved["a_f"])

    dpre = np.concatenate([dlog_i, da_f, da_g, da_o], axis=1)
    dweight_hh, dh_prev = recurrent_backward(w.weight_hh, saved["h_prev"], dpre)
    dweights = {
        "weight_ih": dpre.T @ saved["x"],
        "weight_hh": dweight_hh,
        "bias_ih": dpre.sum(axis=0),
        "bias_hh": dpre.sum(axis=0),
    }
    return dpre @ w.weight_ih, (drop.recurrent(dh_prev), dc * f, dn * f, dkept), dweights
