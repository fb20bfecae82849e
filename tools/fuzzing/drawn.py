"""Draws valid calls: a cell, shapes, values, how arrays lie, settings; and the ways to make them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import fusedrnn
from cases import CELLS, DTYPES, Array, Cell, given
from fusedrnn import _core

from .layouts import Arranger, Rng, with_special_values

SCHEDULES = ("auto", "one", "rows", "units", "wave", "2x3")
MOST_STEPS = 2**62  # of clocks: see `start` in the docstrings of clocked cells


@dataclass(frozen=True)
class Settings:
    isa: str
    threads: int
    schedule: str


@contextmanager
def settings(s: Settings) -> Iterator[None]:
    before = fusedrnn.isa(), fusedrnn.get_num_threads()
    fusedrnn.set_isa(s.isa)
    fusedrnn.set_num_threads(s.threads)
    _core.set_schedule(s.schedule)
    try:
        yield
    finally:
        fusedrnn.set_isa(before[0])
        fusedrnn.set_num_threads(before[1])
        _core.set_schedule("auto")


def draw_settings(rng: Rng) -> Settings:
    isas = fusedrnn.available_isas()
    return Settings(isas[rng.integers(len(isas))], int(rng.integers(1, 9)), SCHEDULES[rng.integers(len(SCHEDULES))])


@dataclass(frozen=True)
class Inputs:
    """What a run is given. `below` is c of the layer below, `dc` the gradient of c, for cells that have them."""

    w: Any
    x: Array
    below: Array | None
    states: tuple[Array | None, ...]
    lengths: Array | None
    reverse: bool
    start: Any
    dy: Array | None
    dc: Array | None
    dstates: tuple[Array | None, ...]


class Package:
    """The calls of the package. Cells that read c of the layer below get it beside x: see `cases.side_by_side`."""

    def __init__(self, cell: Cell) -> None:
        self.functions = cell.functions()
        self.clocked = cell.clocked

    def _numbered(self, start: Any) -> dict[str, Any]:
        return {"start": start} if self.clocked else {}

    def infer(self, i: Inputs) -> list[Array]:
        options = self._numbered(i.start)
        return list(self.functions[0](i.x, i.w, *i.states, lengths=i.lengths, reverse=i.reverse, **options))

    def forward(self, i: Inputs) -> tuple[list[Array], Any]:
        options = self._numbered(i.start)
        out, reserve = self.functions[1](i.x, i.w, *i.states, lengths=i.lengths, reverse=i.reverse, **options)
        return list(out), reserve

    def backward(self, i: Inputs, reserve: Any) -> list[Array | None]:
        return list(self.functions[2](reserve, i.dy, *i.dstates))

    def step(self, i: Inputs, t: int, states: tuple[Array | None, ...], start: Any, out: Any) -> tuple[Array, ...]:
        if out is not None and len(out) == 1:
            (out,) = out
        new = self.functions[3](i.x[t], i.w, *states, out=out, **self._numbered(start))
        return new if isinstance(new, tuple) else (new,)


class Native:
    """The methods of the native layer's weights, which are alike for all cells."""

    def _inputs(self, below: Array | None, start: Any) -> dict[str, Any]:
        """All there are, for every cell: None stands for an input that it does not have."""
        return {"c_below": below, "start": start}

    def infer(self, i: Inputs) -> list[Array]:
        results = i.w._loaded.infer(i.x, i.states, i.lengths, i.reverse, self._inputs(i.below, i.start))
        return list(results.values())

    def forward(self, i: Inputs) -> tuple[list[Array], Any]:
        inputs = self._inputs(i.below, i.start)
        results, kept, nbytes = i.w._loaded.forward(i.x, i.states, i.lengths, i.reverse, inputs)
        if nbytes != kept[0].nbytes:
            raise AssertionError(f"forward says that it keeps {nbytes} bytes, and keeps {kept[0].nbytes}")
        return list(results.values()), (i.w, kept)

    def backward(self, i: Inputs, reserve: Any) -> list[Array | None]:
        w, kept = reserve
        return list(w._loaded.backward(kept, i.dy, i.dstates, i.dc).values())

    def step(self, i: Inputs, t: int, states: tuple[Array | None, ...], start: Any, out: Any) -> tuple[Array, ...]:
        inputs = self._inputs(None if i.below is None else i.below[t], start)
        new: tuple[Array, ...] = i.w._loaded.step(i.x[t], states, out or (None,) * len(states), inputs)
        return new


Calls = Package | Native


@dataclass
class Case:
    """A valid call, its arrays laid out plainly; `arrays` and `options` make the weights."""

    cell: Cell
    dtype: str
    shape: tuple[int, int, int, int]
    calls: Calls
    inputs: Inputs
    options: dict[str, Any]
    arrays: dict[str, Array]
    settings: Settings

    def describe(self) -> str:
        T, B, I, H = self.shape
        i, s = self.inputs, self.settings
        start = "" if i.start is None else f", start {np.array(i.start).ravel()[:3]}"
        lengths = "" if i.lengths is None else ", lengths"
        return (
            f"{self.cell.name} {self.dtype} T={T} B={B} I={I} H={H} by {type(self.calls).__name__.lower()}{lengths}"
            f"{', reverse' if i.reverse else ''}{start}; {s.isa}, {s.threads} threads, schedule {s.schedule}"
        )


def log_uniform(rng: Rng, least: int, most: int) -> int:
    return int(np.exp(rng.uniform(np.log(least), np.log(most + 1))))


def draw_shape(rng: Rng, cell: Cell) -> tuple[int, int, int, int]:
    """Mostly small, now and then large enough for schedules with several threads; 0 steps or rows in every tenth."""
    T, B, I, H = (log_uniform(rng, 1, most) for most in (60, 60, 300, 300))
    most_work = 10 ** rng.uniform(4, 6.3) if rng.random() < 0.9 else 3e7
    while T * B * cell.gates * H * (I + H) > most_work:
        n = max(T, B, I, H)
        T, B, I, H = (-(-m // 2) if m == n else m for m in (T, B, I, H))
    if rng.random() < 0.1:
        T, B = ((0, B), (T, 0), (0, 0), (0, 500 * B), (30 * T, 0))[rng.integers(5)]
    return T, B, I, cell.hidden_size(H)


def draw_weights(rng: Rng, cell: Cell, dtype: str, input_size: int, hidden_size: int, special: float) -> Any:
    """The arrays, some of those that need not be given left out; and the options."""
    k = cell.gain / np.sqrt(hidden_size)
    arrays = {name: rng.uniform(-k, k, s).astype(dtype) for name, s in cell.shapes(input_size, hidden_size).items()}
    kept = {name: a for name, a in arrays.items() if name in cell.required or rng.random() < 0.7}
    options = {"epsilon": float(10 ** rng.uniform(-6, 1))} if cell.normalised else {}
    return {name: with_special_values(a, rng) if rng.random() < special else a for name, a in kept.items()}, options


def draw_start(rng: Rng, cell: Cell, seq_len: int, batch: int) -> Any:
    if not cell.clocked:
        return None
    if rng.random() < 0.1:
        return MOST_STEPS - seq_len
    most = 10 ** int(rng.integers(0, 19))
    return int(rng.integers(most)) if rng.random() < 0.5 else rng.integers(0, most, batch)


def draw_lengths(rng: Rng, seq_len: int, batch: int) -> Array | None:
    if rng.random() < 0.5:
        return None
    least, most = ((0, seq_len), (0, 0), (seq_len, seq_len), (0, min(1, seq_len)))[rng.integers(4)]
    return rng.integers(least, most + 1, batch)


def draw_case(rng: Rng) -> Case:
    cell, dtype = CELLS[rng.integers(len(CELLS))], DTYPES[rng.integers(len(DTYPES))]
    T, B, I, H = shape = draw_shape(rng, cell)
    special = 0.0 if rng.random() < 0.5 else 0.3
    calls: Calls = Native() if rng.random() < 0.5 else Package(cell)
    apart = isinstance(calls, Native) or not cell.below  # else x and c_below, y and c lie side by side

    def normal(*size: int) -> Array:
        a = rng.standard_normal(size).astype(dtype)
        return with_special_values(a, rng) if rng.random() < special else a

    def maybe(*size: int, share: float = 0.7) -> Array | None:
        return normal(*size) if rng.random() < share else None

    arrays, options = draw_weights(rng, cell, dtype, I, H, special)
    inputs = Inputs(
        w=cell.weights(**arrays, **options),
        x=normal(T, B, I if apart else I + H),
        below=maybe(T, B, H) if apart and cell.below else None,
        states=tuple(maybe(B, size) for size in cell.state_sizes(H)),
        lengths=draw_lengths(rng, T, B),
        reverse=bool(rng.random() < 0.5),
        start=draw_start(rng, cell, T, B),
        dy=maybe(T, B, cell.proj_size(H) if apart else 2 * H),
        dc=maybe(T, B, H) if apart and cell.below else None,
        dstates=tuple(maybe(B, size) for size in cell.state_sizes(H)),
    )
    return Case(cell, dtype, shape, calls, inputs, options, given(inputs.w), draw_settings(rng))


def arranged(case: Case, arranger: Arranger) -> Inputs:
    """The same inputs, laid out anew, and weights that were made from arrays laid out anew."""
    i = case.inputs

    def lay(a: Array | None, name: str) -> Any:
        return None if a is None else arranger(a, name)

    return replace(
        i,
        w=case.cell.weights(**{name: arranger(a, name) for name, a in case.arrays.items()}, **case.options),
        x=lay(i.x, "x"),
        below=lay(i.below, "c_below"),
        states=tuple(lay(s, f"state {n}") for n, s in enumerate(i.states)),
        lengths=lay(i.lengths, "lengths"),
        start=lay(i.start, "start") if isinstance(i.start, np.ndarray) else i.start,
        dy=lay(i.dy, "dy"),
        dc=lay(i.dc, "dc"),
        dstates=tuple(lay(s, f"gradient of state {n}") for n, s in enumerate(i.dstates)),
    )


def row_of(i: Inputs, row: int, steps: int | None) -> Inputs:
    """A row alone; cut to so many steps, in place of its length, if they are given."""
    one, cut = slice(row, row + 1), slice(steps)

    def sequence(a: Array | None) -> Any:
        return None if a is None else a[cut, one]

    def state(a: Any) -> Any:
        return a[one] if isinstance(a, np.ndarray) else a

    return replace(
        i,
        x=sequence(i.x),
        below=sequence(i.below),
        states=tuple(state(s) for s in i.states),
        lengths=state(i.lengths) if steps is None else None,
        start=state(i.start),
        dy=sequence(i.dy),
        dc=sequence(i.dc),
        dstates=tuple(state(s) for s in i.dstates),
    )
