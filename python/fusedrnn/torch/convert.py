"""torch.nn's recurrent modules made ours, and back, in place."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn
from torch.nn.utils import parametrize

from . import drop_ins, modules
from .cells import Cell
from .frozen import unfreeze
from .layers import Layers
from .module import Recurrent

Model = TypeVar("Model", bound=nn.Module)

OURS: dict[type, type] = {
    theirs: ours[name]
    for table, ours in ((drop_ins.LAYERS, Layers.registry), (drop_ins.CELLS, Cell.registry))
    for name, theirs in table.items()
}
assert modules.MODULES  # which fills the registries
THEIRS = {ours: theirs for theirs, ours in OURS.items()}


def convert(model: Model) -> Model:
    """Makes each nn.RNN, nn.LSTM, nn.GRU and their cells in a model, and the model itself, modules of fusedrnn. The
    objects stay, with parameters, hooks, parametrisations and state dicts; only their classes change, in place. Modules
    of other classes, subclasses of these among them, are left alone.

    Returns:
        The model.

    Raises:
        TypeError: model is no nn.Module.
    """
    return _reclass(model, OURS)


def revert(model: Model) -> Model:
    """The reverse of `convert`: modules that torch.nn has too become its own, so that a pickle of the model needs no
    fusedrnn. Others, of cells that torch.nn does not have, are left alone."""
    for module in unfreeze(model).modules():
        module.__dict__.pop("_fusedrnn", None)
    return _reclass(model, THEIRS)


def _reclass(model: Model, table: dict[type, type]) -> Model:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected an nn.Module, got {type(model).__name__}")
    made: dict[type, type] = {}
    for module in model.modules():
        cls: Any = type(module)
        if isinstance(module, Recurrent) and not module._torch_has_it:
            continue
        if cls in table:
            module.__class__ = table[cls]
        elif parametrize.is_parametrized(module) and cls.__bases__[0] in table:
            # A class of its own, which copies of the module share: they are not converted.
            if cls not in made:
                body = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
                made[cls] = type(cls.__name__, (table[cls.__bases__[0]],), body)
            module.__class__ = made[cls]
    return model
