"""Results of layers."""

from __future__ import annotations

import functools
from collections import namedtuple
from typing import Any

from ..cells.spec import CellSpec


@functools.cache
def _gradients(fields: tuple[str, ...]) -> Any:
    kind: Any = namedtuple("LayerGradients", fields)
    kind.__doc__ = (
        "Gradients of a layer: `dx` and those of initial states, each of its argument's shape, and `parameters`, a dict "
        "of the gradients of parameters by the names of the parameters."
    )
    kind.__module__ = __name__
    kind.__reduce__ = lambda self: (_remade, (fields, tuple(self)))
    return kind


def _remade(fields: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return _gradients(fields)(*values)


def gradients_of(spec: CellSpec[Any, Any]) -> Any:
    """The named tuple of gradients of a layer of this cell."""
    return _gradients(("dx", *(f"d{s.name}0" for s in spec.states), "parameters"))
