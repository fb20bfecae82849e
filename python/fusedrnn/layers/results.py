"""Results of layers."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

from ..cells.spec import CellSpec

_made: dict[tuple[str, ...], Any] = {}  # the named tuples, by their fields


def _gradients(fields: tuple[str, ...]) -> Any:
    """The named tuple with these fields: one for all threads, also those that first ask at the same time."""
    found = _made.get(fields)
    return _made.setdefault(fields, _make(fields)) if found is None else found


def _make(fields: tuple[str, ...]) -> Any:
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
