"""All families of cells, the specs of all cells by name, and the classes of all layers by name."""

from __future__ import annotations

from typing import Any

from ..layers.layer import LAYERS
from . import clockwork_rnn, depth_gated_lstm, fgr_lstm, gru, indrnn, layer_norm, lstm, rnn, slstm
from .spec import CellSpec

__all__ = ["FAMILIES", "LAYERS", "SPECS"]

FAMILIES = (lstm, gru, rnn, indrnn, clockwork_rnn, fgr_lstm, depth_gated_lstm, slstm, layer_norm)

SPECS: dict[str, CellSpec[Any, Any]] = {spec.cell: spec for family in FAMILIES for spec in family.SPECS}
