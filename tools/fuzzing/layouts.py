"""Arrays for valid calls: values that are special, and memory that lies unusually."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cases import Array

Rng = np.random.Generator
PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)


def special_values(dtype: str) -> Array:
    info = np.finfo(dtype)
    tiny, huge = info.smallest_normal, info.max
    values = [np.inf, -np.inf, np.nan, tiny, -tiny, tiny / 8, -tiny / 8, info.smallest_subnormal, huge, -huge]
    return np.array([*values, np.sqrt(huge), 1e4, -1e4, 0.0, -0.0], dtype)


def with_special_values(a: Array, rng: Rng) -> Array:
    """A copy of `a`, some or all elements of which are special; or one that is the same along an axis."""
    a = np.array(a)
    if a.size == 0:
        return a
    if rng.random() < 0.2:
        axis = int(rng.integers(a.ndim))
        return np.array(np.broadcast_to(a.take([0], axis), a.shape))
    values = special_values(str(a.dtype))
    if rng.random() < 0.5:
        values = rng.choice(values, 1)  # of one kind, so that not everything ends as NaN
    share = rng.choice([1 / a.size, 0.1, 1.0])
    return np.where(rng.random(a.shape) <= share, rng.choice(values, a.shape), a)


def bits(a: Array) -> str:
    """The dtype of the elements' bits."""
    return f"u{a.dtype.itemsize}"


class Laid(NamedTuple):
    """An array, and all the memory that belongs to it, its surroundings included."""

    array: Array
    memory: Array


def _surroundings(nbytes: int) -> Array:
    """Memory full of NaN."""
    return np.full(nbytes, 0xFF, np.uint8)


def plain(a: Array, rng: Rng) -> Laid:
    copy = np.array(a, order="C")
    return Laid(copy, copy)


def at_an_offset(a: Array, rng: Rng) -> Laid:
    """So many bytes past a multiple of 64: mostly not aligned even to its elements."""
    raw = _surroundings(a.nbytes + 192)
    first = -raw.ctypes.data % 64 + int(rng.integers(64))
    copy = raw[first : first + a.nbytes].view(a.dtype).reshape(a.shape)
    copy[...] = a
    return Laid(copy, raw)


def at_an_element(a: Array, rng: Rng) -> Laid:
    """Aligned to its elements, but to nothing larger."""
    raw = _surroundings(a.nbytes + 9 * a.itemsize)
    first = a.itemsize * int(rng.integers(9))
    copy = raw[first : first + a.nbytes].view(a.dtype).reshape(a.shape)
    copy[...] = a
    return Laid(copy, raw)


def sliced(a: Array, rng: Rng) -> Laid:
    """Every so-many-th element of a larger array, backwards along some axes, its axes in memory in any order."""
    order = rng.permutation(a.ndim)
    steps = [int(n) for n in rng.choice([1, 1, 2, 3, -1, -2], a.ndim)]
    margins = rng.integers(0, 3, a.ndim)
    sizes = [n * abs(step) + 2 * int(m) for n, step, m in zip(a.shape, steps, margins, strict=True)]
    raw = _surroundings(a.itemsize * int(np.prod(sizes)))
    big = raw.view(a.dtype).reshape([sizes[i] for i in order]).transpose(np.argsort(order))
    cut = big[tuple(slice(int(m), int(m) + n * abs(step)) for n, step, m in zip(a.shape, steps, margins, strict=True))]
    view = cut[tuple(slice(None, None, step) for step in steps)]
    view[...] = a
    return Laid(view, raw)


def fortran(a: Array, rng: Rng) -> Laid:
    copy = np.asfortranarray(np.array(a))
    return Laid(copy, copy)


def broadcast(a: Array, rng: Rng) -> Laid:
    """With strides of 0 along the axes along which all is the same; a plain copy where there is none."""
    once = np.array(a)
    for axis in range(a.ndim):
        first = once.take([0], axis) if a.shape[axis] else once
        if np.array_equal(np.broadcast_to(first, once.shape).view(bits(a)), once.view(bits(a))):
            once = first
    return Laid(np.broadcast_to(once, a.shape), once)


def _mapped(size: int) -> tuple[Array, Array]:
    """So many bytes between two pages that nobody may touch: those bytes at their end, and all of the pages between."""
    inner = -(-max(size, 1) // PAGE) * PAGE
    whole = np.frombuffer(mmap.mmap(-1, inner + 2 * PAGE), np.uint8)
    for first in (0, PAGE + inner):
        if _libc.mprotect(ctypes.c_void_p(whole.ctypes.data + first), ctypes.c_size_t(PAGE), 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
    between = whole[PAGE : PAGE + inner]
    return between[inner - size :], between


def guarded(a: Array, rng: Rng) -> Laid:
    """Its last byte is the last one that may be read, or its first byte the first: kernels that go further crash."""
    end, memory = _mapped(a.nbytes)
    memory[...] = 0xFF
    raw = end if rng.random() < 0.7 else memory[: a.nbytes]
    copy = raw.view(a.dtype).reshape(a.shape)
    copy[...] = a
    return Laid(copy, memory)


class Subclass(np.ndarray[Any, Any]):
    """What a library of units or labels would pass."""


def subclassed(a: Array, rng: Rng) -> Laid:
    copy = np.array(a).view(Subclass)
    return Laid(copy, np.asarray(copy))


LAYOUTS: tuple[Callable[[Array, Rng], Laid], ...] = (
    plain,
    at_an_offset,
    at_an_element,
    sliced,
    fortran,
    broadcast,
    guarded,
    subclassed,
)


class Arranger:
    """Lays arrays out at random, some read-only, and holds that nobody changes them or what surrounds them."""

    def __init__(self, rng: Rng) -> None:
        self.rng = rng
        self.memory: list[tuple[str, Array, bytes]] = []

    def __call__(self, a: Array, name: str) -> Array:
        layout = LAYOUTS[int(self.rng.integers(len(LAYOUTS)))]
        laid = layout(a, self.rng)
        if laid.array.flags.writeable and self.rng.random() < 0.3:
            laid.array.flags.writeable = False
        self.memory.append((f"{name}, {layout.__name__}", laid.memory, laid.memory.tobytes()))
        return laid.array

    def changed(self) -> list[str]:
        """The arrays that are not as they were."""
        return [what for what, memory, before in self.memory if memory.tobytes() != before]


def guarded_output(shape: tuple[int, ...], dtype: str, rng: Rng) -> Laid:
    """An array to write to, full of NaN, in the middle of memory that must stay as it is."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw, memory = _mapped(size)
    memory[...] = 0xFF
    return Laid(raw.view(dtype).reshape(shape), memory)
