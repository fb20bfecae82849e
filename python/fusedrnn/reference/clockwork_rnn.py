"""The clockwork RNN of Koutnik et al. 2014 (section 3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..aliases import Array
from ..cells.clockwork_rnn import ClockworkRNNWeights
from .common import KEEP, Arrays, Drops, States, concatenate, library
from .rnn import step as rnn_step
from .rnn import step_backward as rnn_step_backward


def step(w: Any, x: Array, states: States, number: Array, drop: Drops = KEEP) -> tuple[States, Arrays]:
    """One step: x (B, I), states h (B, H), number (B,) of each row. Returns the new state and the saved arrays."""
    (h_prev,) = states
    xp, group = library(h_prev), (len(h_prev), w.hidden_size // len(w.periods))
    ticks = concatenate([xp.broadcast_to(number[:, None] % period == 0, group) for period in w.periods], axis=1)
    (h,), saved = rnn_step(w, x, states, drop)
    return (xp.where(ticks, h, h_prev),), saved | {"ticks": ticks}


def step_backward(w: Any, saved: Arrays, dstates: States, drop: Drops = KEEP) -> tuple[Array, States, Arrays]:
    """Gradients of one step, from the gradient of h: of x, of h_prev, and of the parameters by name."""
    (dh,) = dstates
    ticks = saved["ticks"]
    dx, (dh_prev,), dweights = rnn_step_backward(w, saved, (np.where(ticks, dh, 0),), drop)
    dweights["weight_hh"] *= ClockworkRNNWeights.mask(w.hidden_size, w.periods)
    return dx, (np.where(ticks, 0, dh) + dh_prev,), dweights
