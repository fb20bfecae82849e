"""torch.nn's own recurrent modules: their classes, the cells that they are, and the operators that they call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence as PackedSequence
from torch.nn.utils.rnn import pack_padded_sequence as pack_padded_sequence
from torch.nn.utils.rnn import pad_packed_sequence as pad_packed_sequence

OPERATORS: dict[str, Any] = {  # by the names of cells
    "lstm": torch.lstm,
    "lstm_projected": torch.lstm,
    "gru_reset_after": torch.gru,
    "rnn_tanh": torch.rnn_tanh,
    "rnn_relu": torch.rnn_relu,
}
MODES = {"LSTM": "lstm", "GRU": "gru_reset_after", "RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu"}  # of nn.RNNBase
LAYERS: dict[str, type[nn.RNNBase]] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}  # by the names of our layers
CELLS: dict[str, type[nn.RNNCellBase]] = {"LSTM": nn.LSTMCell, "GRU": nn.GRUCell, "RNN": nn.RNNCell}
NONLINEARITIES = {mode[4:].lower(): cell for mode, cell in MODES.items() if mode.startswith("RNN_")}  # of nn.RNNCell
OPTIONS = {"RNN": ("nonlinearity",)}  # of cells, that these modules have too
NO_STEPS = "Expected sequence length to be larger than 0 in RNN"  # PyTorch's words


def cell_of_layers(module: nn.RNNBase) -> str | None:
    """The cell of a module of torch.nn; None if it is none that PyTorch knows."""
    cell = MODES.get(module.mode)
    return f"{cell}_projected" if module.proj_size else cell


def cell_of_cell(family: str, module: nn.RNNCellBase) -> str | None:
    """The same of a cell's module."""
    if family != "RNN":
        return MODES[family]
    return NONLINEARITIES.get(module.nonlinearity)


def operator_of(cell: str, x: Tensor) -> Any:
    """PyTorch's operator of a cell, if there is one that can be differentiated any number of times: oneDNN's LSTM,
    which it takes in float32 on the CPU, has no second derivative."""
    operator = OPERATORS.get(cell)
    return None if operator is torch.lstm and x.is_cpu and x.dtype is torch.float32 else operator
