"""Random numbers that follow from a seed alone, under every version of NumPy: raw words of a counter-based generator,
Philox4x64-10 (Salmon et al. 2011), which is NumPy's `Philox`.

The words with the key `seed` and the counter ``(1, row, step, place)``, ``(2, row, step, place)``, ..., four words
each, are ``numpy.random.Philox(key=seed, counter=[0, row, step, place]).random_raw(n)``, where ``place`` is ``kind <<
32 | layer << 1 | direction``. Each use below says what its row and step are. A kind of number is drawn once from a
seed.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np

from ..aliases import Array

SEEDS, INITIAL = 0, 1  # kinds; csrc/dropout.hpp has 2, dropout between layers, and masks.py has the others

Words = np.ndarray[Any, np.dtype[np.uint64]]


def words(
    seed: int, kind: int, count: int, *, layer: int = 0, direction: int = 0, row: int = 0, step: int = 0
) -> Words:
    place = kind << 32 | layer << 1 | direction
    generator = np.random.Philox(key=seed, counter=[0, row, step, place])
    return np.asarray(generator.random_raw(count), np.uint64)


def uniform(raw: Words) -> Array:
    """The upper 53 bits as a float64 in [0, 1)."""
    return (raw >> np.uint64(11)) * 2.0**-53


def normal(raw: Words) -> Array:
    """Standard normal numbers, one for each two words (Box & Muller 1958). NumPy's functions are not the same to the
    last bit everywhere."""
    first, second = np.split(uniform(raw), 2)
    result: Array = np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * second)
    return result


def seed_of(rng: Any) -> int:
    """The seed that an argument `rng` stands for: an integer of 64 bits, or one drawn from a generator of NumPy, or
    from the system for None."""
    if rng is None:
        return int.from_bytes(os.urandom(8), "little")
    if isinstance(rng, np.random.Generator):
        return int.from_bytes(rng.bytes(8), "little")
    return seed_in_range("rng", rng, "int, numpy.random.Generator or None")


def seed_in_range(name: str, seed: Any, expected: str = "int") -> int:
    if isinstance(seed, (bool, np.bool_)) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"{name}: expected {expected}, got {type(seed).__name__}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"{name}: expected an integer in 0..2**64-1, got {seed}")
    return int(seed)


def seed_of_call(seed: int, call: int) -> int:
    """The seed of the masks of a layer's call number `call`: one word, with the number as row."""
    return int(words(seed, SEEDS, 1, row=call)[0])


class Calls:
    """The numbers of a layer's calls: each is taken once, by whichever thread, unless it is given back."""

    def __init__(self, first: int = 0) -> None:
        self._next = itertools.count(first)
        self._given_back: list[int] = []

    def take(self) -> int:
        try:
            return self._given_back.pop()
        except IndexError:
            return next(self._next)

    def give_back(self, call: int) -> None:
        """That of a call which failed: the next one takes it."""
        self._given_back.append(call)
