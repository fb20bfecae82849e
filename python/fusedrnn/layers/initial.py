"""The first values of a layer's parameters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..aliases import Array
from ..cells.spec import Parameter
from ..weights import one_of
from .arguments import number
from .config import Config, name_of
from .numbers import INITIAL, normal, uniform, words


class Initial:
    """The first values of all parameters of a layer: PyTorch's, or with these options."""

    def __init__(self, config: Config, forget_bias: Any, recurrent_init: Any) -> None:
        """Raises ValueError or TypeError for options that the cell does not have."""
        spec = self.spec = config.spec
        self.config = config
        one_of("recurrent_init", recurrent_init, ("uniform", "orthogonal"))
        self.orthogonal = recurrent_init == "orthogonal"
        if self.orthogonal and (spec.recurrence is None or spec.mask is not None):
            raise ValueError(f"recurrent_init: expected 'uniform' for cell {spec.cell!r}, got {recurrent_init!r}")
        self.forget_bias = None if forget_bias is None else number("forget_bias", forget_bias)
        if self.forget_bias is not None:
            if not abs(self.forget_bias) <= float(np.finfo(config.dtype).max):
                raise ValueError(f"forget_bias: expected a finite number of {config.dtype}, got {forget_bias}")
            if "f" not in spec.gates or not config.bias:
                lacks = "are no biases" if "f" in spec.gates else "is no gate f"
                raise ValueError(f"forget_bias: expected None, as there {lacks}, got {forget_bias}")

    def arrays(self, seed: int) -> dict[str, Array]:
        config = self.config
        return {
            name_of(p.name, layer, d): np.array(self._values(p, layer, d, seed), config.dtype, order="C")
            for layer, d in config.places
            for p in config.parameters
        }

    def _values(self, p: Parameter, layer: int, direction: int, seed: int) -> Array:
        """In float64. The row of the numbers (`numbers`) is the parameter's place in the spec."""
        spec, config, shape = self.spec, self.config, self.config.shape(p, layer)
        row, place = spec.parameters.index(p), {"layer": layer, "direction": direction}
        if self.orthogonal and p is spec.recurrence:
            return _orthogonal(shape, config.num_heads, seed, row, place)
        value = _uniform(p, shape, config.hidden_size, seed, row, place)
        if spec.mask is not None and p is spec.recurrence:
            value = value * spec.mask(config.hidden_size, config.options)
        if self.forget_bias is not None and p.is_bias and p.gates > (gate := spec.gates.index("f")):
            is_first = p is next(other for other in spec.parameters if other.is_bias)
            H = config.hidden_size
            value[gate * H : (gate + 1) * H] = self.forget_bias if is_first else 0
        return value


def _uniform(
    parameter: Parameter, shape: tuple[int, ...], hidden_size: int, seed: int, row: int, place: dict[str, int]
) -> Array:
    """PyTorch's: uniform in +-1/sqrt(hidden_size), element after element; or what the spec says."""
    if parameter.initial in ("zeros", "ones"):
        return np.full(shape, float(parameter.initial == "ones"))
    numbers = uniform(words(seed, INITIAL, math.prod(shape), row=row, **place)).reshape(shape)
    return numbers if parameter.initial == "unit" else (2 * numbers - 1) / math.sqrt(hidden_size)


def _orthogonal(shape: tuple[int, ...], heads: int, seed: int, row: int, place: dict[str, int]) -> Array:
    """A matrix whose columns, in the rows of each head, are orthonormal, uniformly distributed (Saxe et al. 2014): Q of
    the QR decomposition of normal numbers, with signs that make the diagonal of R positive (Mezzadri 2007)."""
    rows, columns = shape
    numbers = normal(words(seed, INITIAL, 2 * math.prod(shape), row=row, **place))
    result = np.empty((heads, rows // heads, columns))
    for head, values in enumerate(numbers.reshape(result.shape)):
        q, r = np.linalg.qr(values)
        result[head] = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
    if heads == 1:
        return result.reshape(shape)
    return result.reshape(heads, -1, columns, columns).swapaxes(0, 1).reshape(shape)  # gates first
