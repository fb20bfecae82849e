"""Recurrent modules for PyTorch: `torch.nn.LSTM`, `GRU`, `RNN` and their cells by the kernels of fusedrnn, and a module
for each further cell. Needs PyTorch 2.4 or later: `pip install 'fusedrnn[torch]'`.

    import fusedrnn.torch as frt

    frt.convert(model)                          # in place: the recurrent modules of a model
    rnn = frt.LSTM(40, 256, num_layers=3)       # or one import changed
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

_LEAST = (2, 4)

try:
    import torch as _torch
except ImportError as e:
    raise ImportError("fusedrnn.torch needs PyTorch: pip install 'fusedrnn[torch]'") from e
if tuple(int(part) for part in _torch.__version__.split(".")[:2]) < _LEAST:
    raise ImportError(f"fusedrnn.torch needs PyTorch {'.'.join(map(str, _LEAST))} or later, got {_torch.__version__}")

from . import cells as _cells
from . import layers as _layers
from .convert import convert, revert
from .frozen import freeze, unfreeze
from .routes import FallbackError, FallbackWarning, Routes, reset_routes, routes, set_fallback

_modules = {cls.__name__: cls for cls in (*_layers.CLASSES.values(), *_cells.CLASSES.values())}
for _module in _modules.values():
    _module.__module__ = __name__  # where it is found, by pickle too
globals().update(_modules)

__all__ = [  # noqa: PLE0604
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
    *_modules,
]

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
