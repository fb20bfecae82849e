"""Activations of gates: the names of systems, and the options of layers that stand for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..cells.activations import ALPHA, BETA, HARD_SIGMOID, NAMES, OWN, Activation
from .tables import ONE_GATE, ONNX_DEFAULTS, Kind

HARD_OF_KERAS = {"2": (0.2, 0.5), "3": (1 / 6, 0.5)}  # by the first number of the version
ONNX = {"Sigmoid": "sigmoid", "Tanh": "tanh", "Relu": "relu", "Softsign": "softsign", "HardSigmoid": HARD_SIGMOID}
ONNX_NUMBERS = {  # how many of activation_alpha and activation_beta each takes, of all that ONNX has
    "hardsigmoid": (1, 1),
    "affine": (1, 1),
    "scaledtanh": (1, 1),
    "leakyrelu": (1, 0),
    "thresholdedrelu": (1, 0),
    "elu": (1, 0),
}


def options_of(kind: Kind, activations: Sequence[Activation]) -> dict[str, Any]:
    """The options of a layer, without defaults, from the activations of gates, candidate and output, as far as the kind
    has them: of a cell of one gate its `nonlinearity`. Raises ValueError for one that no cell has."""
    if kind is ONE_GATE:
        (given,) = activations
        if given not in ("tanh", "relu"):
            raise ValueError(
                f"activation: expected 'tanh' or 'relu', as no cell of one gate has another, got {given!r}"
            )
        return {"nonlinearity": given}
    named = zip(OWN, activations, strict=False)
    return {option: given for option, given in named if given != OWN[option]}


def activations_of(kind: Kind, layer: Any) -> list[Activation]:
    """The reverse of `options_of`."""
    if kind is ONE_GATE:
        return [layer.options["nonlinearity"]]
    return [layer.options[option] for option in OWN if option in layer.options]


def check_coupled(gate: Activation) -> None:
    """Coupled gates of ONNX are i and ``1 - i``, here f and ``1 - f``. Raises ValueError for an activation of gates
    that does not turn one into the other: ``1 - f(a) = f(-a)``."""
    if gate != "sigmoid" and not (gate[0] == HARD_SIGMOID and gate[2] == 0.5):
        raise ValueError(
            "gate_activation: expected sigmoid, or hard_sigmoid with beta 0.5, of coupled gates, as 1 - i has to be "
            f"the same of the negated i, got {gate!r}"
        )


def from_keras_name(name: Any, version: str) -> Activation:
    """Raises ValueError for an activation that no cell has, and for hard_sigmoid of an unknown version of Keras."""
    if isinstance(name, dict):  # as files of Keras 3 have functions
        name = name.get("config")
    name = "linear" if name is None else name
    if name == HARD_SIGMOID:
        if (major := version.split(".")[0]) not in HARD_OF_KERAS:
            raise ValueError(
                f"activation: expected a version of Keras that says what {HARD_SIGMOID!r} is (0.2x+0.5 in 2, x/6+0.5 "
                f"in 3), got {version or 'none'}"
            )
        return HARD_SIGMOID, *HARD_OF_KERAS[major]
    if name not in NAMES:
        raise ValueError(f"activation: expected one of {', '.join(NAMES)}, as no cell has others, got {name!r}")
    return str(name)


def to_keras_name(activation: Activation) -> str:
    """The reverse for Keras 3. Raises ValueError for a hard_sigmoid with numbers that it lacks."""
    if isinstance(activation, str):
        return activation
    if activation[1:] != HARD_OF_KERAS["3"]:
        raise ValueError(
            f"activation: expected {HARD_SIGMOID!r} with alpha 1/6 and beta 0.5, as Keras 3, got {activation}"
        )
    return HARD_SIGMOID


def from_onnx_lists(kind: Kind, directions: int, names: Any, alpha: Any, beta: Any) -> list[Activation]:
    """From the attributes activations, activation_alpha and activation_beta of a node, which are consumed in the order
    of the activations that take such numbers. Raises ValueError for activations that no cell has, or that differ
    between directions."""
    defaults = ONNX_DEFAULTS[kind.layer]
    names = list(names) if names else list(defaults) * directions
    if len(names) != len(defaults) * directions:
        raise ValueError(f"activations: expected {len(defaults) * directions}, got {len(names)}")
    alphas, betas = iter(alpha or ()), iter(beta or ())
    found = [_from_onnx_name(name, alphas, betas) for name in names]
    each = [found[i : i + len(defaults)] for i in range(0, len(found), len(defaults))]
    if each[0] != each[-1]:
        raise ValueError(f"activations: expected the same in both directions, as layers have, got {each}")
    return each[0]


def _from_onnx_name(name: str, alphas: Any, betas: Any) -> Activation:
    takes = ONNX_NUMBERS.get(name.lower(), (0, 0))
    alpha = next(alphas, None) if takes[0] else None
    beta = next(betas, None) if takes[1] else None
    by_name = {theirs.lower(): ours for theirs, ours in ONNX.items()}  # ONNX Runtime takes any case
    if (ours := by_name.get(name.lower())) is None:
        if name.lower() == "affine" and (alpha, beta) == (1, 0):
            return "linear"
        raise ValueError(f"activations: expected one of {', '.join(ONNX)}, as no cell has others, got {name!r}")
    if ours != HARD_SIGMOID:
        return ours
    return HARD_SIGMOID, _shortest(alpha, ALPHA), _shortest(beta, BETA)


def _shortest(number: float | None, default: float) -> float:
    """A float32 number of a file as the shortest decimal that is rounded to it: 0.2 rather than 0.20000000298."""
    return default if number is None else float(str(np.float32(number)))


def to_onnx_attributes(activations: Sequence[Activation], directions: int) -> dict[str, Any]:
    """The reverse: the three attributes, for all directions."""
    names, alpha, beta = [], [], []
    theirs = {ours: name for name, ours in ONNX.items()} | {"linear": "Affine"}
    for a in [*activations] * directions:
        name, *numbers = (a,) if isinstance(a, str) else a
        names.append(theirs[name])
        numbers = [1.0, 0.0] if name == "linear" else numbers
        alpha += numbers[:1]
        beta += numbers[1:]
    found: dict[str, Any] = {"activations": names, "activation_alpha": alpha, "activation_beta": beta}
    return {name: values for name, values in found.items() if values}
