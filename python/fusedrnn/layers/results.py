"""Results of layers."""

from __future__ import annotations

import functools
from collections import namedtuple
from typing import Any

from ..cells.spec import CellSpec


@functools.cache
def _gradients(fields: tuple[str, ...]) -> Any:
    """The named tuple with these fields; each is made once."""
    base: Any = namedtuple("LayerGradients", fields)  # type: ignore[misc]

    class LayerGradients(base):
        """Gradients of a layer: `dx` and those of initial states, each of its argument's shape; `parameters`, a dict
        of the gradients of parameters by the names of the parameters; and, where `reset_state` was given, those of
        the states before episodes, None for each that was None."""

        __slots__ = ()

        def __reduce__(self) -> tuple[Any, ...]:
            return _remade, (fields, tuple(self))

    return LayerGradients


def _remade(fields: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return _gradients(fields)(*values)


def gradients_of(spec: CellSpec[Any, Any], of_reset_state: bool) -> Any:
    """The named tuple of gradients of a layer of this cell."""
    names = [s.name for s in spec.states]
    more = (f"dreset_{name}" for name in names if of_reset_state)
    return _gradients(("dx", *(f"d{name}0" for name in names), "parameters", *more))
