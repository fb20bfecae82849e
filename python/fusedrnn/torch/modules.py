"""The public classes: torch.nn's six, and a module for each further family of cells, made from the specs."""

from __future__ import annotations

from torch import nn

from ..cells.families import LAYERS
from .cells import Cell
from .layers import Layers


class RNN(Layers, nn.RNN, family="RNN"):
    """`torch.nn.RNN` by the kernels of fusedrnn. `forward` takes `lengths` too."""


class LSTM(Layers, nn.LSTM, family="LSTM"):
    """`torch.nn.LSTM` by the kernels of fusedrnn, and further cells: see `fusedrnn.LSTM` for `variant` and `peepholes`.
    `forward` takes `lengths` too."""


class GRU(Layers, nn.GRU, family="GRU"):
    """`torch.nn.GRU` by the kernels of fusedrnn, and further cells: see `fusedrnn.GRU` for `reset_after` and
    `z_weighs`. `forward` takes `lengths` too."""


class RNNCell(Cell, nn.RNNCell, family="RNN"):
    """`torch.nn.RNNCell` by the kernels of fusedrnn."""


class LSTMCell(Cell, nn.LSTMCell, family="LSTM"):
    """`torch.nn.LSTMCell` by the kernels of fusedrnn, and further cells: see `fusedrnn.LSTM` for `variant` and
    `peepholes`, and a `proj_size`."""


class GRUCell(Cell, nn.GRUCell, family="GRU"):
    """`torch.nn.GRUCell` by the kernels of fusedrnn, and further cells: see `fusedrnn.GRU` for `reset_after` and
    `z_weighs`."""


def _make(family: str) -> None:
    """The modules of a family that torch.nn does not have: its layers; and its cell, if it needs no layer below."""
    of = f"the cell of `fusedrnn.{family}`, which says its options; calls are those of `torch.nn"
    body = {"__doc__": f"Layers of {of}.GRU`.", "__module__": __name__}
    type(family, (Layers, nn.RNNBase), body, family=family)
    if not any(spec.below for spec in LAYERS[family]._options.specs):
        body = {"__doc__": f"One step of {of}.GRUCell`.", "__module__": __name__}
        type(f"{family}Cell", (Cell, nn.RNNCellBase), body, family=family)


for _family in LAYERS.keys() - Layers.registry.keys():
    _make(_family)

MODULES = {cls.__name__: cls for cls in (*Layers.registry.values(), *Cell.registry.values())}
