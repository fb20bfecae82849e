"""What a layer is, but for the values of its parameters: sizes, options, and the cell that they choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _core
from ..cells.spec import HEADS, CellSpec, Parameter
from ..masks import NAMES, probabilities
from .arguments import dtype_of, flag, whole
from .options import Options

MOST_UNITS = 2**31 - 1


@dataclass(frozen=True)
class Config:
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    bidirectional: bool
    proj_size: int
    dtype: np.dtype[Any]
    options: dict[str, Any]  # of the cell
    spec: CellSpec[Any, Any]
    regularisation: dict[str, float]  # the probabilities that are not 0, by name

    @property
    def num_directions(self) -> int:
        return 1 + self.bidirectional

    @property
    def output_size(self) -> int:
        """The numbers of a step of a row of y."""
        return self.num_directions * (self.proj_size or self.hidden_size)

    @property
    def num_heads(self) -> int:
        return int(self.options.get(HEADS, 1))

    @property
    def places(self) -> list[tuple[int, int]]:
        """Layers and directions, in the order of states."""
        return [(layer, d) for layer in range(self.num_layers) for d in range(self.num_directions)]

    @property
    def parameters(self) -> list[Parameter]:
        """Of each layer and direction."""
        return [p for p in self.spec.parameters if self.bias or not p.is_bias]

    def shape(self, p: Parameter, layer: int) -> tuple[int, ...]:
        input_size = self.output_size if layer else self.input_size
        return p.shape(input_size, self.hidden_size, self.proj_size or None, self.num_heads)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all parameters, by their names in the layer."""
        return {name_of(p.name, layer, d): self.shape(p, layer) for layer, d in self.places for p in self.parameters}


def name_of(parameter: str, layer: int, direction: int) -> str:
    """PyTorch's name."""
    return f"{parameter}_l{layer}{'_reverse' if direction else ''}"


def config_of(
    layer: str,
    family: Options,
    input_size: Any,
    hidden_size: Any,
    num_layers: Any = 1,
    *,
    bias: Any = True,
    batch_first: Any = False,
    bidirectional: Any = False,
    proj_size: Any = 0,
    dtype: Any = "float32",
    **options: Any,
) -> Config:
    """From the arguments of a layer of this name, checked."""
    H = whole("hidden_size", hidden_size, 1, MOST_UNITS)
    P = whole("proj_size", proj_size, 0, H - 1)
    complete = family.complete(layer, options)
    regularisation = {name: complete.pop(name) for name in NAMES}
    spec = family.choose(complete, P)
    complete |= spec.checked_values(complete, H)
    return Config(
        whole("input_size", input_size, 1, MOST_UNITS),
        H,
        whole("num_layers", num_layers, 1, _core.MOST_LAYERS),
        flag("bias", bias),
        flag("batch_first", batch_first),
        flag("bidirectional", bidirectional),
        P,
        dtype_of(dtype),
        complete,
        spec,
        probabilities(layer, spec, regularisation),
    )
