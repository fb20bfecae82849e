"""Layers from arrays of other systems, arrays of layers for them, and what all conversions have in common."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..aliases import Array
from ..cells.families import LAYERS
from ..layers.config import name_of
from ..layers.layer import Layer
from .tables import SUFFIXES, Kind

Makers = Mapping[str, Callable[[], Any]]  # of layers, by name


def need(module: str, extra: str) -> Any:
    """The module. Raises ImportError that says which extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise ImportError(f"this conversion needs {module}: pip install 'fusedrnn[{extra}]'") from e


def file_of(path: Any, function: str) -> Path:
    """The path of a file. Raises OSError if it cannot be read; ValueError if its suffix is another system's."""
    file = Path(path)
    reader = SUFFIXES.get(file.suffix.lower(), function)
    if reader != function:
        raise ValueError(f"path: expected a file for {function}, got {file.name!r}: use {reader}")
    file.open("rb").close()
    return file


def as_array(name: str, value: Any, ndim: int | None = None) -> Array:
    """An array or tensor of floats as an array of float32, or float64 if it has that. Raises TypeError for other types,
    ValueError for another number of dimensions."""
    if hasattr(value, "detach"):  # a tensor of PyTorch, of which NumPy does not know all dtypes
        value = value.detach().cpu()
        value = value.float().numpy() if value.element_size() < 4 and value.is_floating_point() else value.numpy()
    a = np.asarray(value)
    if a.dtype.name not in ("float64", "float32", "float16", "bfloat16"):
        raise TypeError(f"{name}: expected float32, float64, float16 or bfloat16, got {a.dtype}")
    if ndim is not None and a.ndim != ndim:
        raise ValueError(f"{name}: expected {ndim} dimensions, got shape {a.shape}")
    return a.astype("float64" if a.dtype == "float64" else "float32", copy=False)


def layer_of(kind: Kind, weights: Sequence[Mapping[str, Array]], *, bidirectional: bool = False, **options: Any) -> Any:
    """A layer from the parameters of each layer and direction, by their names in the spec, in the order of PyTorch;
    they are copied. Float64 if one of them is."""
    directions, first = 1 + bidirectional, weights[0]
    dtype = np.result_type(*(a for arrays in weights for a in arrays.values()))
    arrays = {
        name_of(name, i // directions, i % directions): a.astype(dtype, copy=False)
        for i, of_place in enumerate(weights)
        for name, a in of_place.items()
    }
    projection = first.get("weight_hr")
    sizes = {
        "input_size": first["weight_ih"].shape[1],
        "hidden_size": (first["weight_hh"] if projection is None else projection).shape[1],
        "num_layers": len(weights) // directions,
    }
    if projection is not None:
        sizes["proj_size"] = projection.shape[0]
    given = {"bias": "bias_ih" in first, "bidirectional": bidirectional, "dtype": str(dtype)}
    return LAYERS[kind.layer]._of(arrays, **sizes, **given, **options)


def arrays_of(layer: Layer, at: int, direction: int) -> dict[str, Array]:
    """Copies of the parameters of a layer and direction, of a cell whose z weighs h_prev: where it weighs n, the rows
    of z are negated, as ``1 - sigmoid(a) = sigmoid(-a)``."""
    arrays = {name: a.copy() for name, a in layer._arrays_of(at, direction).items()}
    if layer.options.get("z_weighs") == "n":
        z, H = layer.spec.gates.index("z"), layer.hidden_size
        for a in arrays.values():
            np.negative(a[z * H : (z + 1) * H], out=a[z * H : (z + 1) * H])
    return arrays


def chosen(found: Makers, name: str | None, source: str) -> Any:
    """The layer of this name, or all by name. Raises ValueError for no such name, or where there is no layer."""
    if not found:
        raise ValueError(f"source: expected {source} with a recurrent layer, got none in it")
    if name is not None:
        if name not in found:
            raise ValueError(f"name: expected one of {', '.join(map(repr, found))}, got {name!r}")
        return found[name]()
    layers = {}
    for each, make in found.items():
        try:
            layers[each] = make()
        except TypeError as e:
            raise TypeError(f"{each}: {e}") from e
        except ValueError as e:
            raise ValueError(f"{each}: {e}") from e
    return layers
