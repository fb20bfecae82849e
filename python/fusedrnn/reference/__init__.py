"""The same functions in plain NumPy, written from the equations: the measure of every kernel, and a place to read how
the cells work. Same names, arguments and results as in `fusedrnn`, and it takes the same weights objects.

Each cell is two functions on one time step, ``step`` and ``step_backward`` (`lstm.py` is the one to read first); the
walk over time, which is the same for all cells, is in `backend.py`. Every function computes in the dtype of the
weights; it is called the reference when that is float64.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..call import Reserve
from ..cells.families import FAMILIES, SPECS
from ..weights import Weights
from .backend import EQUATIONS as EQUATIONS
from .backend import ReferenceWeights

if TYPE_CHECKING:
    from ..cells.clockwork_rnn import *
    from ..cells.depth_gated_lstm import *
    from ..cells.fgr_lstm import *
    from ..cells.gru import *
    from ..cells.indrnn import *
    from ..cells.layer_norm import *
    from ..cells.lstm import *
    from ..cells.rnn import *
    from ..cells.slstm import *


_signature = functools.cache(inspect.signature)


def _on_reference(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with its weights moved to this backend."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        bound = _signature(function).bind(*args, **kwargs)
        w, reserve = bound.arguments.get("w"), bound.arguments.get("reserve")
        if isinstance(w, Weights):
            bound.arguments["w"] = w.on(ReferenceWeights)
        if isinstance(reserve, Reserve) and not isinstance(reserve.weights._loaded, ReferenceWeights):
            raise TypeError("reserve: expected one of fusedrnn.reference, got one of fusedrnn")
        return function(*bound.args, **bound.kwargs)

    run.__module__ = __name__  # where it is found, by pickle too
    return run


EQUATIONS.update(
    (family, import_module(f"{__name__}.{family}")) for family in dict.fromkeys(s.family for s in SPECS.values())
)
FUNCTIONS = {
    name: function
    for module in FAMILIES
    for name, function in vars(module).items()
    if name in module.__all__ and inspect.isfunction(function)
}
globals().update({name: _on_reference(function) for name, function in FUNCTIONS.items()})
__all__ = list(FUNCTIONS)
