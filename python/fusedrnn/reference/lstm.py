"""LSTM (Hochreiter & Schmidhuber 1997; forget gate: Gers, Schmidhuber & Cummins 2000).

Forward, with a the pre-activations::

    a = W x + b_W + U h_prev + b_U        split into a_i, a_f, a_g, a_o
    i = sigmoid(a_i)    f = sigmoid(a_f)    g = tanh(a_g)    o = sigmoid(a_o)
    c = f * c_prev + i * g
    h = o * tanh(c)

Variants (Greff et al. 2015) leave a gate out, which then counts as 1, or a tanh, or take 1 - f for i ("coupled").
Peepholes add to pre-activations, before the sigmoid: p_i * c_prev to a_i, p_f * c_prev to a_f, p_o * c to a_o (Gers &
Schmidhuber 2000), or the same as products with full matrices. A projection (Sak et al. 2014) makes h of o * tanh(c) by
a product with W_hr. With heads, U is block-diagonal: see `common.recurrent`. Other activations may be chosen for the
gates i, f and o, for the candidate g, and for c in h: see `activations`.

Backward is the chain rule, read from the bottom up; dh and dc come from the loss and from the step after. The
derivative of sigmoid is s * (1 - s), that of tanh is 1 - t^2.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..aliases import Array
from .activations import activated, slope
from .common import KEEP, Arrays, Drops, States, bias, library, recurrent, recurrent_backward, split


def peep(p: Array | None, c: Array) -> Any:
    """The term of a peephole, diagonal or full or none, in a pre-activation."""
    if p is None:
        return 0
    return p * c if p.ndim == 1 else c @ p.T


def peep_backward(p: Array | None, c: Array, da: Array) -> tuple[Any, Any]:
    """Gradients of a peephole's c and weights, given that of the pre-activation."""
    if p is None:
        return 0, 0
    return (da * p, (da * c).sum(axis=0)) if p.ndim == 1 else (da @ p, da.T @ c)


def step(w: Any, x: Array, states: States, drop: Drops = KEEP) -> tuple[States, Arrays]:
    """One step: x (B, I), states h, c (B, H). Returns the new states and the saved arrays."""
    h_prev, c_prev = drop.recurrent(states[0]), states[1]
    pre = x @ w.weight_ih.T + bias(w.bias_ih) + recurrent(w.weight_hh, h_prev) + bias(w.bias_hh)
    a = dict(zip(w.gates, split(pre, len(w.gates), axis=1), strict=True))
    one = library(c_prev).ones_like(c_prev)

    f = activated(w.gate_activation, a["f"] + peep(w.peephole_f, c_prev)) if "f" in a else one
    coupled = 1 - f if w.variant == "coupled" else one
    i = activated(w.gate_activation, a["i"] + peep(w.peephole_i, c_prev)) if "i" in a else coupled
    g = a["g"] if w.variant == "no_input_activation" else activated(w.candidate_activation, a["g"])
    c = f * c_prev + i * drop.candidate(g)
    o = activated(w.gate_activation, a["o"] + peep(w.peephole_o, c)) if "o" in a else one
    m = o * (c if w.variant == "no_output_activation" else activated(w.output_activation, c))
    h = m if w.weight_hr is None else m @ w.weight_hr.T
    return (h, c), {"x": x, "h_prev": h_prev, "c_prev": c_prev, "i": i, "f": f, "g": g, "o": o, "c": c}


def step_backward(w: Any, saved: Arrays, dstates: States, drop: Drops = KEEP) -> tuple[Array, States, Arrays]:
    """Gradients of one step, from the gradients of h and c: of x, of h_prev and c_prev, and of parameters by name."""
    dh, dc = dstates
    i, f, g, o = saved["i"], saved["f"], saved["g"], saved["o"]
    c, c_prev = saved["c"], saved["c_prev"]
    squashed = c if w.variant == "no_output_activation" else activated(w.output_activation, c)
    slope_c = 1 if w.variant == "no_output_activation" else slope(w.output_activation, squashed)
    da = {}
    dw_hr: Any = 0
    if w.weight_hr is not None:
        dw_hr = dh.T @ (o * squashed)
        dh = dh @ w.weight_hr

    da["o"] = dh * squashed * slope(w.gate_activation, o)
    dc_peep, dp_o = peep_backward(w.peephole_o, c, da["o"])
    dc = dc + dh * o * slope_c + dc_peep

    di, df, dg = dc * drop.candidate(g), dc * c_prev, drop.candidate(dc * i)
    if w.variant == "coupled":
        df = df - di
    da["i"], da["f"] = di * slope(w.gate_activation, i), df * slope(w.gate_activation, f)
    da["g"] = dg if w.variant == "no_input_activation" else dg * slope(w.candidate_activation, g)
    dc_peep_i, dp_i = peep_backward(w.peephole_i, c_prev, da["i"])
    dc_peep_f, dp_f = peep_backward(w.peephole_f, c_prev, da["f"])
    dc_prev = dc * f + dc_peep_i + dc_peep_f

    dpre = np.concatenate([da[gate] for gate in w.gates], axis=1)
    dw_hh, dh_prev = recurrent_backward(w.weight_hh, saved["h_prev"], dpre)
    dweights = {
        "weight_ih": dpre.T @ saved["x"],
        "weight_hh": dw_hh,
        "bias_ih": dpre.sum(axis=0),
        "bias_hh": dpre.sum(axis=0),
        "peephole_i": dp_i,
        "peephole_f": dp_f,
        "peephole_o": dp_o,
        "weight_hr": dw_hr,
    }
    return dpre @ w.weight_ih, (drop.recurrent(dh_prev), dc_prev), dweights
