"""The activations that users may choose for the gates of an LSTM or GRU."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

Activation = str | tuple[str, float, float]  # a name; or "hard_sigmoid" with its alpha and beta

HARD_SIGMOID = "hard_sigmoid"
NAMES = ("sigmoid", "tanh", HARD_SIGMOID, "relu", "softsign", "linear")
ALPHA, BETA = 0.2, 0.5  # of a hard_sigmoid without numbers: ONNX's, and Keras 2's

# By their places in a cell, and those of its equations.
OWN = {"gate_activation": "sigmoid", "candidate_activation": "tanh", "output_activation": "tanh"}


def checked(place: str, value: Any) -> Activation:
    """The activation, hard_sigmoid with its numbers, as floats.

    Raises:
        ValueError: an unknown name; numbers of another activation, or that are not finite. TypeError: no name.
    """
    name, numbers = value, None
    if isinstance(value, (tuple, list)) and len(value) == 3:
        name, *numbers = value
    if not isinstance(name, str):
        raise TypeError(f"{place}: expected a name, or (name, alpha, beta), got {type(value).__name__}")
    if name not in NAMES:
        raise ValueError(f"{place}: expected one of {', '.join(map(repr, NAMES))}, got {name!r}")
    if name != HARD_SIGMOID:
        if numbers is not None:
            raise ValueError(f"{place}: expected {name!r} without numbers, got {value!r}")
        return name
    alpha, beta = (ALPHA, BETA) if numbers is None else numbers
    if not all(isinstance(n, Real) and not isinstance(n, bool) and math.isfinite(n) for n in (alpha, beta)):
        raise ValueError(f"{place}: expected finite numbers alpha and beta, got {value!r}")
    return HARD_SIGMOID, float(alpha), float(beta)
