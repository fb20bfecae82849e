"""Shared by the equations of all cells: types of arguments, functions, biases that may be missing.

The equations of forward run on NumPy's arrays and, for autograd, on PyTorch's tensors: their functions have the same
names, but for those below."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np

from ..aliases import Array

States = tuple[Array, ...]
Arrays = dict[str, Array]  # by name: saved by a step for backward, or gradients of parameters


def library(a: Any) -> Any:
    """The module whose functions take a: numpy, or torch for its tensors."""
    return np if isinstance(a, np.ndarray) else sys.modules["torch"]


class Drop(NamedTuple):
    """Dropout under a mask, True where a number becomes 0; without a mask, nothing. The map is linear: the gradient of
    what goes in is `Drop` of the gradient of what comes out."""

    mask: Array | None = None
    scale: float = 1.0  # of what stays

    def __call__(self, v: Any) -> Any:
        return v if self.mask is None else library(v).where(self.mask, 0, v) * self.scale


class Drops(NamedTuple):
    """Dropout inside of a step: of h_prev, where weight_hh multiplies it, and of the candidate."""

    recurrent: Drop = Drop()
    candidate: Drop = Drop()


KEEP = Drops()


def sigmoid(a: Array) -> Array:
    """``1 / (1 + exp(-a))``, without overflow for any a."""
    if library(a) is not np:
        return library(a).sigmoid(a)  # type: ignore[no-any-return]
    t = np.exp(-np.abs(a))
    result: Array = np.where(np.signbit(a), t, 1) / (1 + t)
    return result


def tanh(a: Array) -> Array:
    return library(a).tanh(a)  # type: ignore[no-any-return]


def relu(a: Array) -> Array:
    return np.maximum(a, 0) if library(a) is np else library(a).relu(a)


def split(a: Array, parts: int, axis: int = 0) -> list[Array]:
    """Parts of equal size."""
    return list(np.split(a, parts, axis) if library(a) is np else library(a).chunk(a, parts, axis))


def concatenate(parts: list[Array], axis: int) -> Array:
    return library(parts[0]).concatenate(parts, axis)  # type: ignore[no-any-return]


def blocks(U: Array, h: Array) -> tuple[Array, Array]:
    """U (G*H, H/n) as (G, n, H/n, H/n), and h (B, H) as (B, n, H/n): gates, heads, and the units of a head. Each head
    has a block of each gate."""
    size = U.shape[1]
    n = h.shape[1] // size
    return U.reshape(-1, n, size, size), h.reshape(-1, n, size)


def recurrent(U: Array, h: Array) -> Array:
    """``h U^T``, where a row of U has the columns of its own head: of all units, if there is one head."""
    if U.shape[1] == h.shape[1]:
        return h @ U.T
    block, of_head = blocks(U, h)
    product = library(h).einsum("gnuk,bnk->bgnu", block, of_head)
    return product.reshape(len(h), U.shape[0])  # type: ignore[no-any-return]


def recurrent_backward(U: Array, h: Array, d: Array) -> tuple[Array, Array]:
    """Gradients of U and of h, from that of `recurrent`, d (B, G*H)."""
    if U.shape[1] == h.shape[1]:
        return d.T @ h, d @ U
    block, of_head = blocks(U, h)
    of_gates = d.reshape(len(h), *block.shape[:3])
    dU = np.einsum("bgnu,bnk->gnuk", of_gates, of_head).reshape(U.shape)
    dh = np.einsum("bgnu,gnuk->bnk", of_gates, block).reshape(h.shape)
    return dU, dh


def bias(b: Array | None) -> Any:
    """b, or zero if there is none."""
    return 0 if b is None else b
