"""The first values of a layer's parameters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..aliases import Array
from ..cells.spec import CellSpec, Parameter
from .numbers import INITIAL, normal, uniform, words


def initial(
    spec: CellSpec[Any, Any],
    parameter: Parameter,
    shape: tuple[int, ...],
    hidden_size: int,
    seed: int,
    place: dict[str, int],
    *,
    orthogonal: bool,
    forget_bias: float | None,
) -> Array:
    """The values in float64. `place` has the layer and the direction; the row of their numbers (`numbers`) is the
    parameter's place in the spec."""
    row = spec.parameters.index(parameter)
    if parameter.is_bias and forget_bias is not None:
        value = _uniform(parameter, shape, hidden_size, seed, row, place)
        first = spec.gates.index("f") * hidden_size
        value[first : first + hidden_size] = forget_bias if parameter.role == "bias_ih" else 0
        return value
    if orthogonal and parameter is spec.recurrence:
        return _orthogonal(shape, seed, row, place)
    return _uniform(parameter, shape, hidden_size, seed, row, place)


def _uniform(
    parameter: Parameter, shape: tuple[int, ...], hidden_size: int, seed: int, row: int, place: dict[str, int]
) -> Array:
    """PyTorch's: uniform in +-1/sqrt(hidden_size), element after element; or what the spec says."""
    if parameter.initial in ("zeros", "ones"):
        return np.full(shape, float(parameter.initial == "ones"))
    numbers = uniform(words(seed, INITIAL, math.prod(shape), row=row, **place)).reshape(shape)
    return numbers if parameter.initial == "unit" else (2 * numbers - 1) / math.sqrt(hidden_size)


def _orthogonal(shape: tuple[int, ...], seed: int, row: int, place: dict[str, int]) -> Array:
    """A matrix with orthonormal columns, uniformly distributed (Saxe et al. 2014): Q of the QR decomposition of normal
    numbers, with signs that make the diagonal of R positive (Mezzadri 2007)."""
    q, r = np.linalg.qr(normal(words(seed, INITIAL, 2 * math.prod(shape), row=row, **place)).reshape(shape))
    result: Array = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return result
