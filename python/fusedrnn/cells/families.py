"""All families of cells, and the specs of all cells by name."""

from __future__ import annotations

from typing import Any

from . import clockwork_rnn, depth_gated_lstm, fgr_lstm, gru, indrnn, layer_norm, lstm, rnn
from .spec import CellSpec

FAMILIES = (lstm, gru, rnn, indrnn, clockwork_rnn, fgr_lstm, depth_gated_lstm, layer_norm)

SPECS: dict[str, CellSpec[Any, Any]] = {spec.cell: spec for family in FAMILIES for spec in family.SPECS}
