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

from . import cuda
from ._version import __version__
from .call import Reserve
from .cells import results as _results
from .cells.clockwork_rnn import *
from .cells.depth_gated_lstm import *
from .cells.families import FAMILIES as _FAMILIES
from .cells.fgr_lstm import *
from .cells.gru import *
from .cells.indrnn import *
from .cells.layer_norm import *
from .cells.lstm import *
from .cells.results import *
from .cells.rnn import *
from .cells.slstm import *
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
from .layers.layer import Layer
from .layers.packed import Packed
from .layers.stream import Stream
from .layers.tape import Tape
from .weights import Weights

if "threadpoolctl" in _sys.modules:
    _import_module(".threadpools", __name__)  # registers the pool

if _TYPE_CHECKING:
    from . import convert, reference
    from .layers.files import load

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
__all__ += [name for module in (*_FAMILIES, _results) for name in module.__all__]


def __getattr__(name: str) -> _Any:
    if name in ("convert", "reference"):  # which most programs never need
        return _import_module(f".{name}", __name__)
    if name == "load":
        return _import_module(".layers.files", __name__).load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "convert", "load", "reference"})
