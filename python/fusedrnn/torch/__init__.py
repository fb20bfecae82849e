"""Recurrent modules for PyTorch: `torch.nn.LSTM`, `GRU`, `RNN` and their cells by the kernels of fusedrnn, and a module
for each further cell. Needs PyTorch 2.4 or later: `pip install 'fusedrnn[torch]'`.

    import fusedrnn.torch as frt

    frt.convert(model)                          # in place: the recurrent modules of a model
    rnn = frt.LSTM(40, 256, num_layers=3)       # or one import changed
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import required as required  # first: it raises ImportError without PyTorch, or with one that is too old
from .convert import convert, revert
from .frozen import freeze, unfreeze
from .modules import MODULES
from .routing import FallbackError, FallbackWarning, Routes, reset_routes, routes, set_fallback

for _module in MODULES.values():
    _module.__module__ = __name__  # where it is found, by pickle too
globals().update(MODULES)

__all__ = [
    "FallbackError",
    "FallbackWarning",
    "Routes",
    "convert",
    "freeze",
    "reset_routes",
    "revert",
    "routes",
    "set_fallback",
    "unfreeze",
    *MODULES,
]

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
