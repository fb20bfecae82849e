"""The arguments of a layer's constructor that differ from cell to cell, read off the specs of its family."""

from __future__ import annotations

import inspect
from typing import Any

from ..cells.spec import CellSpec
from ..masks import NAMES
from ..weights import Weights, one_of
from .arguments import flag


class Options:
    """The options of a family's layers: names, defaults, and the spec that they choose."""

    def __init__(self, weights: type[Weights]) -> None:
        self.weights = weights
        self.specs = tuple(spec for spec in weights._specs if spec.layer_options is not None)
        first = self.specs[0]
        self.choosing: dict[str, Any] = dict(first.layer_options or {})  # and their defaults
        self.valid = {
            name: tuple(dict.fromkeys((spec.layer_options or {})[name] for spec in self.specs))
            for name in self.choosing
        }
        arguments = inspect.signature(weights.__init__).parameters
        self.values = {name: arguments[name].default for name in first.values}  # empty: there is no default
        self.defaults = self.choosing | self.values | dict.fromkeys(NAMES, 0.0)
        self.projects = any(spec.projection for spec in self.specs)

    def parameters(self) -> list[inspect.Parameter]:
        """For the signature of the constructor."""
        return [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
            for name, default in self.defaults.items()
        ]

    def complete(self, layer: str, given: dict[str, Any]) -> dict[str, Any]:
        """The options with their defaults, those of regularisation too. Raises TypeError for unknown and missing
        ones."""
        for name in given:
            if name not in self.defaults:
                raise TypeError(f"{layer}: unexpected argument {name!r}")
        options = self.defaults | given
        for name, value in options.items():
            if value is inspect.Parameter.empty:
                raise TypeError(f"{layer}: missing argument {name!r}")
        return options

    def choose(self, options: dict[str, Any], proj_size: int) -> CellSpec[Any, Any]:
        """The spec of these options, whose flags become bools. Raises ValueError or TypeError for values that no cell
        has."""
        for name, valid in self.valid.items():
            kinds = {type(v) for v in valid}
            if kinds == {bool}:
                options[name] = flag(name, options[name])
            one_of(name, options[name], valid)
        wanted = {name: options[name] for name in self.choosing}
        fitting = [spec for spec in self.specs if spec.layer_options == wanted]
        if not fitting:
            got = ", ".join(f"{name}={value!r}" for name, value in wanted.items())
            raise ValueError(f"{', '.join(wanted)}: expected values that some cell has together, got {got}")
        for spec in fitting:
            if (spec.projection is not None) == (proj_size > 0):
                return spec
        raise ValueError(f"proj_size: expected 0, as cell {fitting[0].cell!r} has no projection, got {proj_size}")
