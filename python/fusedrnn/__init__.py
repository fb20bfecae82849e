"""Fused recurrent cells for NumPy arrays: LSTM, GRU, the simple RNN and their variants, forward and backward.

Shapes: ``x (seq_len, batch_size, input_size)``, ``y (seq_len, batch_size, hidden_size)``, states
``(batch_size, hidden_size)``. Parameters are PyTorch's: ``weight_ih (G*hidden_size, input_size)``,
``weight_hh (G*hidden_size, hidden_size)``, biases ``(G*hidden_size,)``, gates stacked ``i, f, g, o`` for LSTM and
``r, z, n`` for GRU. All float32, or all float64. On NVIDIA GPUs: see `fusedrnn.cuda`.
"""

import sys as _sys
from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from . import _core as _core  # before NumPy, so that it says what cannot be: where this is a subinterpreter
from ._version import __version__
from .config import (
    available_isas,
    get_num_threads,
    get_thread_source,
    isa,
    release_memory,
    set_isa,
    set_num_threads,
    set_thread_source,
    show_config,
)

if "threadpoolctl" in _sys.modules:
    _import_module(".threadpools", __name__)  # registers the pool

if _TYPE_CHECKING:
    from . import convert, cuda, reference
    from .call import Reserve
    from .cells.clockwork_rnn import *
    from .cells.depth_gated_lstm import *
    from .cells.fgr_lstm import *
    from .cells.gru import *
    from .cells.indrnn import *
    from .cells.layer_norm import *
    from .cells.lstm import *
    from .cells.results import *
    from .cells.rnn import *
    from .cells.slstm import *
    from .layers.files import load
    from .layers.layer import Layer
    from .layers.packed import Packed
    from .layers.stream import Stream
    from .layers.tape import Tape
    from .weights import Weights

_MODULES = ("convert", "cuda", "reference", "torch")  # load when they are first touched, as the modules below do
_NAMES = {  # of each module
    ".call": "Reserve",
    ".weights": "Weights",
    ".layers.layer": "Layer",
    ".layers.packed": "Packed",
    ".layers.stream": "Stream",
    ".layers.tape": "Tape",
    ".layers.files": "load",
    ".cells.results": "Gradients LSTMOutput Output",
    ".cells.lstm": "LSTM LSTMGradients LSTMWeights lstm lstm_backward lstm_cell lstm_forward",
    ".cells.gru": "GRU GRUWeights gru gru_backward gru_cell gru_forward",
    ".cells.rnn": "RNN RNNWeights rnn rnn_backward rnn_cell rnn_forward",
    ".cells.indrnn": "IndRNN IndRNNGradients IndRNNWeights indrnn indrnn_backward indrnn_cell indrnn_forward",
    ".cells.clockwork_rnn": (
        "ClockworkRNN ClockworkRNNWeights clockwork_rnn clockwork_rnn_backward clockwork_rnn_cell clockwork_rnn_forward"
    ),
    ".cells.fgr_lstm": (
        "FGRLSTM FGRLSTMGradients FGRLSTMOutput FGRLSTMWeights fgr_lstm fgr_lstm_backward fgr_lstm_cell "
        "fgr_lstm_forward"
    ),
    ".cells.depth_gated_lstm": (
        "DepthGatedLSTM DepthGatedLSTMGradients DepthGatedLSTMOutput DepthGatedLSTMWeights depth_gated_lstm "
        "depth_gated_lstm_backward depth_gated_lstm_cell depth_gated_lstm_forward"
    ),
    ".cells.slstm": "SLSTM SLSTMGradients SLSTMOutput SLSTMWeights slstm slstm_backward slstm_cell slstm_forward",
    ".cells.layer_norm": (
        "LayerNormGRU LayerNormGRUGradients LayerNormGRUWeights LayerNormLSTM LayerNormLSTMGradients "
        "LayerNormLSTMWeights layer_norm_gru layer_norm_gru_backward layer_norm_gru_cell "
        "layer_norm_gru_forward layer_norm_lstm layer_norm_lstm_backward layer_norm_lstm_cell "
        "layer_norm_lstm_forward"
    ),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "Layer",
    "Packed",
    "Reserve",
    "Stream",
    "Tape",
    "Weights",
    "__version__",
    "available_isas",
    "convert",
    "cuda",
    "get_num_threads",
    "get_thread_source",
    "isa",
    "load",
    "reference",
    "release_memory",
    "set_isa",
    "set_num_threads",
    "set_thread_source",
    "show_config",
]
__all__ += [name for name in _HOMES if name not in __all__]


if not _TYPE_CHECKING:

    def __getattr__(name: str) -> _Any:
        if name in _MODULES:
            return _import_module(f".{name}", __name__)
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(_import_module(_HOMES[name], __name__), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
