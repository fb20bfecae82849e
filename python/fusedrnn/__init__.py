"""Fused recurrent cells for NumPy arrays: LSTM, GRU and the simple RNN, forward and backward, on the CPU.

Shapes: ``x (seq_len, batch_size, input_size)``, ``y (seq_len, batch_size, hidden_size)``, states
``(batch_size, hidden_size)``. Parameters are PyTorch's: ``weight_ih (G*hidden_size, input_size)``,
``weight_hh (G*hidden_size, hidden_size)``, biases ``(G*hidden_size,)``, gates stacked ``i, f, g, o`` for LSTM and
``r, z, n`` for GRU. All float32, or all float64.
"""

from . import reference
from ._config import available_isas, get_num_threads, isa, release_memory, set_isa, set_num_threads, show_config
from ._core import Reserve
from ._ops import (
    gru,
    gru_backward,
    gru_cell,
    gru_forward,
    lstm,
    lstm_backward,
    lstm_cell,
    lstm_forward,
    rnn,
    rnn_backward,
    rnn_cell,
    rnn_forward,
)
from ._results import Gradients, LSTMGradients, LSTMOutput, Output
from ._version import __version__
from ._weights import GRUWeights, LSTMWeights, RNNWeights

__all__ = [
    "GRUWeights",
    "Gradients",
    "LSTMGradients",
    "LSTMOutput",
    "LSTMWeights",
    "Output",
    "RNNWeights",
    "Reserve",
    "__version__",
    "available_isas",
    "get_num_threads",
    "gru",
    "gru_backward",
    "gru_cell",
    "gru_forward",
    "isa",
    "lstm",
    "lstm_backward",
    "lstm_cell",
    "lstm_forward",
    "reference",
    "release_memory",
    "rnn",
    "rnn_backward",
    "rnn_cell",
    "rnn_forward",
    "set_isa",
    "set_num_threads",
    "show_config",
]
