"""Normalisation, for the layer-normalised cells (Ba, Kiros & Hinton 2016)::

norm(v) = (v - mean(v)) / sqrt(variance(v) + epsilon)        over the units of a row, each gate on its own
y = gain * norm(v) + bias
"""

from __future__ import annotations

from typing import Any

from ..aliases import Array
from .common import library


def normalise(v: Array, gates: int, epsilon: float) -> tuple[Array, Array]:
    """norm(v) of each of the gates side by side, and 1 / sqrt(variance + epsilon)."""
    blocks = v.reshape(len(v), gates, v.shape[1] // gates)
    centred = blocks - blocks.mean(axis=2, keepdims=True)
    scale = 1 / library(v).sqrt((centred**2).mean(axis=2, keepdims=True) + epsilon)
    return (centred * scale).reshape(v.shape), scale


def layer_norm(v: Array, gates: int, epsilon: float, gain: Array, bias: Array | None) -> Array:
    """y."""
    result: Array = gain * normalise(v, gates, epsilon)[0] + (0 if bias is None else bias)
    return result


def layer_norm_backward(v: Array, gates: int, epsilon: float, gain: Array, dy: Array) -> tuple[Array, Any, Any]:
    """Gradients of v, gain and bias, given that of y."""
    norm, scale = normalise(v, gates, epsilon)
    shape = (len(v), gates, v.shape[1] // gates)
    dnorm, blocks = (dy * gain).reshape(shape), norm.reshape(shape)
    mean, along = dnorm.mean(axis=2, keepdims=True), (dnorm * blocks).mean(axis=2, keepdims=True)
    dv = (scale * (dnorm - mean - blocks * along)).reshape(v.shape)
    return dv, (dy * norm).sum(axis=0), dy.sum(axis=0)
