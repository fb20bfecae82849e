"""What tests of conversions have in common: random layers, and whether two systems compute the same."""

from __future__ import annotations

from typing import Any

import numpy as np

import fusedrnn
from agreement import assert_arrays_close, roundings_of_layers
from cases import Array

KINDS = ("LSTM", "GRU", "RNN")


def normal(rng: np.random.Generator, *shape: int, dtype: str = "float32") -> Array:
    """Random numbers that are as large as weights, so that no step magnifies what it is given."""
    return (rng.standard_normal(shape) / 4).astype(dtype)


def random_sizes(rng: np.random.Generator) -> dict[str, Any]:
    """The arguments that layers of all systems have."""
    sizes = {name: int(rng.integers(1, most)) for name, most in (("input_size", 7), ("hidden_size", 9))}
    flags = {name: bool(rng.integers(2)) for name in ("bias", "bidirectional", "batch_first")}
    return {**sizes, "num_layers": int(rng.integers(1, 4)), **flags}


def random_layer(rng: np.random.Generator, kind: str, **options: Any) -> Any:
    """A layer of random sizes, whose biases are not small."""
    return getattr(fusedrnn, kind)(rng=rng, **(random_sizes(rng) | options))


def run_layer(layer: Any, x: Array, state: Any = None, **arguments: Any) -> dict[str, Array]:
    """The results of a plain call, by name."""
    return {name: np.asarray(a) for name, a in layer(x, state, **arguments)._asdict().items()}


def assert_same_function(
    got: dict[str, Array], want: dict[str, Array], layer: Any, x: Array, context: str = ""
) -> None:
    """Results of a layer, and of another system: in float64, or in float32, where both have rounded."""
    steps, rows = (x.shape[1], x.shape[0]) if layer.batch_first else x.shape[:2]
    both = 2 if {a.dtype.name for a in want.values()} == {"float32"} else 1
    n = both * roundings_of_layers(layer, steps, rows, gradients=False)
    assert_arrays_close(got, want, str(layer.dtype), n, context, given=[np.ones(1)])


def assert_same_parameters(got: Any, want: Any) -> None:
    """The same class, configuration and bits."""
    assert type(got) is type(want)
    assert got.config() == want.config()
    for name, a in want.state_dict().items():
        assert got.parameters[name].tobytes() == a.tobytes(), name
