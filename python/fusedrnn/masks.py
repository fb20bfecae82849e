"""Regularisation: which kinds a cell has, the masks that a seed gives, and masks that callers give.

A *mask* is a bool array. It is True where a number is dropped, or where zoneout keeps the old one, so that True has the
probability that its option says. What a dropout leaves is divided by 1 - p.

Masks follow from a seed as `layers.numbers` says. A number takes 16 bits, the u-th of a row for its unit u, the lowest
of a word first, and is True if they are below ``round(p * 2**16)``. The row is the row of the batch, and the step is
its time t, so that a mask knows nothing of lengths, of the direction of time or of other rows. Masks of a whole call
have step 0. A mask of weights has a row for each row of the matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np

from . import _core
from .aliases import Bools
from .cells.spec import CellSpec
from .layers.arguments import probability
from .layers.numbers import Words, seed_in_range

Mask = Bools
Masks = Mapping[str, Mask] | None  # by the names of options
Source = int | dict[str, Mask] | None  # where the masks of a call come from: a seed, or arrays


class Regularisation(TypedDict, total=False):
    """Probabilities in 0..1, by default 0; `docs/cells.md` has the equations."""

    zoneout_h: float  # with which a unit of h keeps its old value (Krueger et al. 2017)
    zoneout_c: float  # the same of c
    input_dropout: float  # of units of x, one mask for all steps (Gal & Ghahramani 2016)
    recurrent_dropout: float  # of units of h_prev in products with weight_hh, one mask for all steps
    candidate_dropout: float  # of units of the candidate, g or n (Semeniuta et al. 2016)
    weight_dropout: float  # of elements of weight_hh, one mask for all steps (Merity et al. 2018)


class Kind(NamedTuple):
    """A kind of masks."""

    number: int  # among the kinds of numbers that are drawn with one seed
    axes: tuple[str, ...]  # names of sizes, h for the units of h; none for the shape of the matrix


KINDS = {
    "zoneout_h": Kind(3, ("seq_len", "batch_size", "h")),
    "zoneout_c": Kind(4, ("seq_len", "batch_size", "hidden_size")),
    "input_dropout": Kind(5, ("batch_size", "input_size")),
    "recurrent_dropout": Kind(6, ("batch_size", "h")),
    "candidate_dropout": Kind(7, ("seq_len", "batch_size", "hidden_size")),
    "weight_dropout": Kind(8, ()),
}
NAMES = tuple(KINDS)
ZONEOUT = {"zoneout_h": "h", "zoneout_c": "c"}  # and their states
assert not TYPE_CHECKING or set(NAMES) == set(Regularisation.__annotations__)


# Options.


def _lack(spec: CellSpec[Any, Any], name: str) -> str | None:
    """What the cell would need for an option, if it lacks it."""
    state = ZONEOUT.get(name)
    if state is not None:
        found = next((s for s in spec.states if s.name == state), None)
        if found is None:
            return f"state {state}"
        return None if found.alone else f"state {state} that can stay while others change"
    if name == "candidate_dropout":
        return None if spec.candidate else "candidate"
    if name in ("recurrent_dropout", "weight_dropout"):
        return None if spec.recurrence else "recurrent matrix"
    return None


def probabilities(owner: str, spec: CellSpec[Any, Any], given: Mapping[str, Any]) -> dict[str, float]:
    """The options of this owner that are not 0, as floats.

    Raises:
        ValueError: outside of 0..1; an option that the cell does not have. TypeError: no number; an unknown name.
    """
    found = {}
    for name, value in given.items():
        if name not in KINDS:
            raise TypeError(f"{owner}: unexpected argument {name!r}")
        p = probability(name, value)
        lack = _lack(spec, name)
        if p and lack:
            raise ValueError(f"{name}: expected 0, as {spec.cell!r} has no {lack}, got {value}")
        if p:
            found[name] = p
    return found


def scale_of(p: float) -> float:
    """The factor of what a dropout leaves. Of p = 1, which leaves nothing, 0."""
    return 1 / (1 - p) if p < 1 else 0.0


# Masks from a seed.

HALF = np.uint64(32)
LOW = np.uint64(0xFFFFFFFF)
FACTORS = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
WEYL = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B


def _product(a: np.uint64, b: Words) -> tuple[Words, Words]:
    """The upper and the lower 64 bits of a * b."""
    a1, a0, b1, b0 = a >> HALF, a & LOW, b >> HALF, b & LOW
    first = a1 * b0 + (a0 * b0 >> HALF)
    second = a0 * b1 + (first & LOW)
    return a1 * b1 + (first >> HALF) + (second >> HALF), a * b


def philox(key: int, counter: tuple[Any, Any, Any, Any]) -> list[Words]:
    """The four words of the blocks with these counters, which are numbers or arrays of them: Philox4x64-10 (Salmon et
    al. 2011), many blocks at once."""
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.atleast_1d(np.asarray(c, np.uint64)) for c in counter))
    keys = [key, 0]
    for _ in range(10):
        (high0, low0), (high1, low1) = _product(FACTORS[0], c0), _product(FACTORS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ np.uint64(keys[0]), low1, high0 ^ c3 ^ np.uint64(keys[1]), low0
        keys = [(k + weyl) % 2**64 for k, weyl in zip(keys, WEYL, strict=True)]
    return [c0, c1, c2, c3]


def drawn(
    seed: int, number: int, p: float, step: int, rows: int, units: int, layer: int, direction: int, bits: int = 16
) -> Mask:
    """``(rows, units)``: the masks of this kind at one step, by numbers of so many bits."""
    place, in_block = number << 32 | layer << 1 | direction, 256 // bits
    blocks = np.arange(1, -(-units // in_block) + 1, dtype=np.uint64)
    words = philox(seed, (blocks[None, :], np.arange(rows, dtype=np.uint64)[:, None], step, place))
    numbers = np.stack(words, axis=-1).astype("<u8").view(f"<u{bits // 8}").reshape(rows, len(blocks) * in_block)
    mask: Mask = numbers[:, :units] < round(p * 2**bits)
    return mask


# Masks of a call.


class Sizes(NamedTuple):
    """Of weights, and of a call on them."""

    input_size: int
    hidden_size: int
    proj_size: int
    seq_len: int
    batch_size: int
    num_heads: int = 1


def shape_of(spec: CellSpec[Any, Any], name: str, sizes: Sizes) -> tuple[str, tuple[int, ...]]:
    """The shape of a mask, in words and in numbers."""
    axes = KINDS[name].axes
    if not axes:
        matrix = spec.recurrence
        assert matrix is not None
        shape = matrix.shape(sizes.input_size, sizes.hidden_size, sizes.proj_size, sizes.num_heads)
        return matrix.symbols_of(sizes.num_heads), shape
    axes = tuple(spec.states[0].size if axis == "h" else axis for axis in axes)
    return f"({', '.join(axes)})", tuple(getattr(sizes, axis) for axis in axes)


def of_seed(
    spec: CellSpec[Any, Any], options: Mapping[str, float], sizes: Sizes, seed: int, layer: int = 0, direction: int = 0
) -> dict[str, Mask]:
    """The masks of a call, read-only."""
    masks = {}
    for name, p in options.items():
        shape = shape_of(spec, name, sizes)[1]
        *steps, rows, units = shape
        each = [drawn(seed, KINDS[name].number, p, t, rows, units, layer, direction) for t in range(*(steps or [1]))]
        masks[name] = np.array(each, bool).reshape(shape)
        masks[name].flags.writeable = False
    return masks


def copied(
    spec: CellSpec[Any, Any], options: Mapping[str, float], sizes: Sizes, masks: Mapping[str, Any]
) -> dict[str, Mask]:
    """Copies of a caller's masks, read-only. Raises ValueError or TypeError for other arrays than masks are."""
    return {name: copy_of(name, options[name], *shape_of(spec, name, sizes), mask) for name, mask in masks.items()}


def copy_of(name: str, p: float, symbols: str, shape: tuple[int, ...], mask: Any) -> Mask:
    """The same of one."""
    if not isinstance(mask, np.ndarray):
        raise TypeError(_core.wrong_type(name, "a numpy.ndarray", type(mask).__name__))
    if mask.dtype != bool:
        raise TypeError(_core.wrong_dtype(name, "bool", str(mask.dtype)))
    if mask.shape != shape:
        raise ValueError(_core.wrong_shape(name, symbols, shape, mask.shape))
    if p == 1 and not mask.all():
        raise ValueError(f"{name}: expected True everywhere, as its probability is 1, got False")
    copy = np.array(mask, order="C")
    copy.flags.writeable = False
    return copy


def source_of(options: Mapping[str, float], seed: Any, masks: Any) -> Source:
    """Where the masks of these options come from: a seed, or a dict with a mask for each; None without options, which
    need no seed. Raises ValueError or TypeError for arguments that do not say it."""
    if seed is not None:
        seed = seed_in_range("seed", seed)
    if masks is None:
        if seed is None and options:
            name, p = next(iter(options.items()))
            raise ValueError(f"seed: expected an int, or masks, as there is {name}={p}, got None")
        return seed if options else None
    if not isinstance(masks, Mapping):
        raise TypeError(f"masks: expected a dict, got {type(masks).__name__}")
    if seed is not None:
        raise ValueError(f"masks: expected None beside a seed, got {type(masks).__name__}")
    masks = dict(masks)  # another thread may change it meanwhile
    for name in masks:
        if name not in options:
            raise ValueError(f"masks: expected {_listed(options)}, got one of {name!r}")
    for name, p in options.items():
        if name not in masks:
            raise ValueError(f"masks: expected one of {name!r}, as there is {name}={p}, got none")
    return masks if options else None


def _listed(options: Mapping[str, float]) -> str:
    return f"those of {', '.join(options)}" if options else "none, as nothing is dropped"
