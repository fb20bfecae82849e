"""The activations of an LSTM or GRU, and their slopes as functions of their values y. hard_sigmoid is
``clip(alpha * a + beta, 0, 1)``, softsign ``a / (1 + |a|)``; kinks have slope 0."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..aliases import Array
from ..cells.activations import HARD_SIGMOID, Activation
from .common import library, relu, sigmoid, tanh


def _softsign(a: Array) -> Array:
    size = abs(a)
    most = np.finfo(a.dtype).max if library(a) is np else library(a).finfo(a.dtype).max
    size = size.clip(None, most)  # +-1 at +-inf
    return library(a).copysign(size / (1 + size), a)  # type: ignore[no-any-return]


VALUES: dict[str, Any] = {"sigmoid": sigmoid, "tanh": tanh, "relu": relu, "softsign": _softsign, "linear": lambda a: a}
SLOPES: dict[str, Any] = {
    "sigmoid": lambda y: y * (1 - y),
    "tanh": lambda y: 1 - y**2,
    "relu": lambda y: (y > 0) * np.ones_like(y),
    "softsign": lambda y: (1 - np.abs(y)) ** 2,
    "linear": np.ones_like,
}


def activated(activation: Activation, a: Array) -> Array:
    if isinstance(activation, str):
        return VALUES[activation](a)  # type: ignore[no-any-return]
    name, alpha, beta = activation
    assert name == HARD_SIGMOID
    return (alpha * a + beta).clip(0, 1)


def slope(activation: Activation, y: Array) -> Array:
    if isinstance(activation, str):
        return SLOPES[activation](y)  # type: ignore[no-any-return]
    _, alpha, _ = activation
    return np.where((y > 0) & (y < 1), np.asarray(alpha, y.dtype), np.zeros_like(y))
