"""All families of cells, and the specs of all cells by name."""

from __future__ import annotations

from . import clockwork_rnn, depth_gated_lstm, fgr_lstm, gru, indrnn, layer_norm, lstm, rnn, slstm
from .spec import KNOWN as SPECS

__all__ = ["FAMILIES", "SPECS"]

FAMILIES = (lstm, gru, rnn, indrnn, clockwork_rnn, fgr_lstm, depth_gated_lstm, slstm, layer_norm)

SPECS.update((spec.cell, spec) for family in FAMILIES for spec in family.SPECS)
