"""GRU (Cho et al. 2014), gates r (reset), z (update), n (new), in its two forms::

r = sigmoid(W_r x + b_Wr + U_r h_prev + b_Ur)
z = sigmoid(W_z x + b_Wz + U_z h_prev + b_Uz)
reset_after    n = tanh(W_n x + b_Wn + r * (U_n h_prev + b_Un))       PyTorch, cuDNN
else           n = tanh(W_n x + b_Wn + U_n (r * h_prev) + b_Un)       Cho et al.
h = (1 - z) * n + z * h_prev                                          z_weighs="h_prev"
h = (1 - z) * h_prev + z * n                                          z_weighs="n"

With heads, each U is block-diagonal: see `common.recurrent`. Other activations may be chosen for the gates r and z, and
for the candidate n: see `activations`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..aliases import Array
from .activations import activated, slope
from .common import KEEP, Arrays, Drops, States, recurrent, recurrent_backward, split


def _bias(b: Array | None, hidden_size: int) -> list[Any]:
    return [0, 0, 0] if b is None else split(b, 3)


def step(w: Any, x: Array, states: States, drop: Drops = KEEP) -> tuple[States, Arrays]:
    """One step: x (B, I), states h (B, H). Returns the new state and the saved arrays."""
    (h_prev,), h_in = states, drop.recurrent(states[0])
    W_r, W_z, W_n = split(w.weight_ih, 3)
    U_r, U_z, U_n = split(w.weight_hh, 3)
    b_Wr, b_Wz, b_Wn = _bias(w.bias_ih, w.hidden_size)
    b_Ur, b_Uz, b_Un = _bias(w.bias_hh, w.hidden_size)

    r = activated(w.gate_activation, x @ W_r.T + b_Wr + recurrent(U_r, h_in) + b_Ur)
    z = activated(w.gate_activation, x @ W_z.T + b_Wz + recurrent(U_z, h_in) + b_Uz)
    if w.reset_after:
        q = recurrent(U_n, h_in) + b_Un
        n = activated(w.candidate_activation, x @ W_n.T + b_Wn + r * q)
    else:
        q = r * h_in
        n = activated(w.candidate_activation, x @ W_n.T + b_Wn + recurrent(U_n, q) + b_Un)
    m = drop.candidate(n)
    h = (1 - z) * m + z * h_prev if w.z_weighs == "h_prev" else (1 - z) * h_prev + z * m
    return (h,), {"x": x, "h_prev": h_prev, "h_in": h_in, "r": r, "z": z, "n": n, "q": q}


def step_backward(w: Any, saved: Arrays, dstates: States, drop: Drops = KEEP) -> tuple[Array, States, Arrays]:
    """Gradients of one step, from the gradient of h: of x, of h_prev, and of the parameters by name."""
    (dh,) = dstates
    x, h_prev, h_in, r, z, n, q = (saved[k] for k in ("x", "h_prev", "h_in", "r", "z", "n", "q"))
    m = drop.candidate(n)
    U_r, U_z, U_n = np.split(w.weight_hh, 3)

    if w.z_weighs == "h_prev":
        dn, dz, dh_blend = drop.candidate(dh * (1 - z)), dh * (h_prev - m), dh * z
    else:
        dn, dz, dh_blend = drop.candidate(dh * z), dh * (m - h_prev), dh * (1 - z)
    da_n = dn * slope(w.candidate_activation, n)
    da_z = dz * slope(w.gate_activation, z)
    dq: Array
    if w.reset_after:
        dr, dq = da_n * q, da_n * r
        (dU_n, dh_in), db_Un = recurrent_backward(U_n, h_in, dq), dq.sum(axis=0)
    else:
        dU_n, dq = recurrent_backward(U_n, q, da_n)
        dr = dq * h_in
        dh_in, db_Un = dq * r, da_n.sum(axis=0)
    da_r = dr * slope(w.gate_activation, r)
    (dU_r, dh_r), (dU_z, dh_z) = recurrent_backward(U_r, h_in, da_r), recurrent_backward(U_z, h_in, da_z)
    dh_prev = dh_blend + drop.recurrent(dh_in + dh_r + dh_z)

    da = np.concatenate([da_r, da_z, da_n], axis=1)
    dweights = {
        "weight_ih": da.T @ x,
        "weight_hh": np.concatenate([dU_r, dU_z, dU_n]),
        "bias_ih": da.sum(axis=0),
        "bias_hh": np.concatenate([da_r.sum(axis=0), da_z.sum(axis=0), db_Un]),
    }
    return da @ w.weight_ih, (dh_prev,), dweights
