"""Fused recurrent cells for NumPy arrays: LSTM, GRU, the simple RNN and their variants, forward and backward.

Shapes: ``x (seq_len, batch_size, input_size)``, ``y (seq_len, batch_size, hidden_size)``, states
``(batch_size, hidden_size)``. Parameters are PyTorch's: ``weight_ih (G*hidden_size, input_size)``,
``weight_hh (G*hidden_size, hidden_size)``, biases ``(G*hidden_size,)``, gates stacked ``i, f, g, o`` for LSTM and
``r, z, n`` for GRU. All float32, or all float64. On NVIDIA GPUs: see `fusedrnn.cuda`.
"""

from . import cuda, reference
from ._clockwork_rnn import (
    ClockworkRNNWeights,
    clockwork_rnn,
    clockwork_rnn_backward,
    clockwork_rnn_cell,
    clockwork_rnn_forward,
)
from ._config import available_isas, get_num_threads, isa, release_memory, set_isa, set_num_threads, show_config
from ._core import Reserve
from ._depth_gated_lstm import (
    DepthGatedLSTMWeights,
    depth_gated_lstm,
    depth_gated_lstm_backward,
    depth_gated_lstm_cell,
    depth_gated_lstm_forward,
)
from ._fgr_lstm import FGRLSTMWeights, fgr_lstm, fgr_lstm_backward, fgr_lstm_cell, fgr_lstm_forward
from ._indrnn import IndRNNWeights, indrnn, indrnn_backward, indrnn_cell, indrnn_forward
from ._layer_norm import (
    LayerNormGRUWeights,
    LayerNormLSTMWeights,
    layer_norm_gru,
    layer_norm_gru_backward,
    layer_norm_gru_cell,
    layer_norm_gru_forward,
    layer_norm_lstm,
    layer_norm_lstm_backward,
    layer_norm_lstm_cell,
    layer_norm_lstm_forward,
)
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
from ._results import (
    DepthGatedLSTMGradients,
    DepthGatedLSTMOutput,
    FGRLSTMGradients,
    FGRLSTMOutput,
    Gradients,
    IndRNNGradients,
    LayerNormGRUGradients,
    LayerNormLSTMGradients,
    LSTMGradients,
    LSTMOutput,
    Output,
)
from ._version import __version__
from ._weights import GRUWeights, LSTMWeights, RNNWeights, Weights

__all__ = [
    "ClockworkRNNWeights",
    "DepthGatedLSTMGradients",
    "DepthGatedLSTMOutput",
    "DepthGatedLSTMWeights",
    "FGRLSTMGradients",
    "FGRLSTMOutput",
    "FGRLSTMWeights",
    "GRUWeights",
    "Gradients",
    "IndRNNGradients",
    "IndRNNWeights",
    "LSTMGradients",
    "LSTMOutput",
    "LSTMWeights",
    "LayerNormGRUGradients",
    "LayerNormGRUWeights",
    "LayerNormLSTMGradients",
    "LayerNormLSTMWeights",
    "Output",
    "RNNWeights",
    "Reserve",
    "Weights",
    "__version__",
    "available_isas",
    "clockwork_rnn",
    "clockwork_rnn_backward",
    "clockwork_rnn_cell",
    "clockwork_rnn_forward",
    "cuda",
    "depth_gated_lstm",
    "depth_gated_lstm_backward",
    "depth_gated_lstm_cell",
    "depth_gated_lstm_forward",
    "fgr_lstm",
    "fgr_lstm_backward",
    "fgr_lstm_cell",
    "fgr_lstm_forward",
    "get_num_threads",
    "gru",
    "gru_backward",
    "gru_cell",
    "gru_forward",
    "indrnn",
    "indrnn_backward",
    "indrnn_cell",
    "indrnn_forward",
    "isa",
    "layer_norm_gru",
    "layer_norm_gru_backward",
    "layer_norm_gru_cell",
    "layer_norm_gru_forward",
    "layer_norm_lstm",
    "layer_norm_lstm_backward",
    "layer_norm_lstm_cell",
    "layer_norm_lstm_forward",
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
