"""Scenarios about the floating-point environment: calls neither see nor change that of the caller."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

import fusedrnn
from cases import CELLS, DTYPES, Problem, make_problem, remade
from fusedrnn import _core

from .drawn import SCHEDULES
from .known import Known, Rng, results
from .layouts import with_special_values
from .playing import Skipped, until

libm = ctypes.CDLL(None)
# From fenv.h: all exceptions; the modes of rounding.
EXCEPTIONS = {"x86_64": 0x3D, "aarch64": 0x1F}
MODES = {"x86_64": (0, 0x400, 0x800, 0xC00), "aarch64": (0, 0x800000, 0x400000, 0xC00000)}
# Of x86-64's fenv_t: its bytes, where the control word of SSE is, and its bits that make subnormals count as zeros.
ENVIRONMENT_BYTES, CONTROL_AT, FLUSHING = 32, 28, 0x8040


def exceptions() -> int:
    if platform.machine() not in EXCEPTIONS:
        raise Skipped(f"knows the constants of {' and '.join(EXCEPTIONS)} only")
    return EXCEPTIONS[platform.machine()]


COMBINATIONS = len(CELLS) * len(SCHEDULES)


def set_up(rng: Rng, count: int) -> tuple[Problem, str]:
    """A problem, and the schedule that is set: each cell with each schedule in turn."""
    cell, schedule = CELLS[count % len(CELLS)], SCHEDULES[count // len(CELLS) % len(SCHEDULES)]
    _core.set_schedule(schedule)
    fusedrnn.set_num_threads(int(rng.integers(1, 6)))
    small = int(rng.integers(1, 5)), int(rng.integers(1, 9)), 7, int(rng.integers(1, 50))
    return make_problem(cell, small if rng.random() < 0.9 else (6, 5, 20, 130), DTYPES[rng.integers(2)], rng), schedule


def fresh(problem: Problem) -> Problem:
    """With weights that nobody has packed yet."""
    return Problem(**vars(problem) | {"w": remade(problem.cell, problem.w)})


def native_calls(problem: Problem) -> list[tuple[str, Callable[[], object]]]:
    """The four calls on fresh weights, with nothing of Python in between that computes."""
    p, w = problem, fresh(problem).w
    x = p.x[..., : w.input_size]  # the cell's own input, and nothing of the layer below
    states, none = tuple(p.states), (None,) * len(p.states)
    dy, dstates = np.ascontiguousarray(p.dy[..., : w.hidden_size]), tuple(p.dstates)
    native, trained, inputs = w._loaded, fresh(problem).w._loaded, dict[str, Any]()
    _, kept, _ = trained.forward(x, states, None, False, inputs)
    return [
        ("infer", lambda: native.infer(x, states, None, False, inputs)),
        ("forward", lambda: native.forward(x, states, None, False, inputs)),
        ("backward", lambda: trained.backward(kept, dy, dstates, None)),
        ("step", lambda: native.step(x[0], states, none, inputs)),
    ]


def flags_stay(rng: Rng, seconds: float) -> None:
    """No call raises the flag of an exception, or lowers one."""
    everything = exceptions()
    found = set()
    for count in until(seconds, COMBINATIONS):
        problem, schedule = set_up(rng, count)
        before = everything if rng.random() < 0.2 else 0
        for name, call in native_calls(problem):
            libm.feclearexcept(everything)
            libm.feraiseexcept(before)
            call()
            after = libm.fetestexcept(everything)
            if after != before:
                found.add(f"{name} by schedule {schedule}: {before:#x} became {after:#x}")
            libm.feclearexcept(everything)
            _core.isa()
            if libm.fetestexcept(everything) != 0:
                raise AssertionError("Python raises flags by itself: this scenario tests nothing")
    if found:
        raise AssertionError(f"flags of exceptions: {'; '.join(sorted(found))}")


@contextmanager
def rounding(mode: int) -> Iterator[None]:
    if libm.fesetround(mode) != 0:
        raise Skipped(f"there is no rounding mode {mode:#x}")
    try:
        yield
        if libm.fegetround() != mode:
            raise AssertionError(f"the rounding mode is {libm.fegetround():#x} after calls, was {mode:#x}")
    finally:
        libm.fesetround(0)


def control_word() -> int:
    environment = (ctypes.c_uint8 * ENVIRONMENT_BYTES)()
    libm.fegetenv(environment)
    return int.from_bytes(bytes(environment)[CONTROL_AT:], "little")


@contextmanager
def flushing() -> Iterator[None]:
    """Subnormals count as zeros in all of Python, too."""
    environment = (ctypes.c_uint8 * ENVIRONMENT_BYTES)()
    libm.fegetenv(environment)
    word = int.from_bytes(bytes(environment)[CONTROL_AT:], "little") | FLUSHING
    before = bytes(environment)
    environment[CONTROL_AT:] = list(word.to_bytes(4, "little"))
    libm.fesetenv(environment)
    try:
        yield
        if control_word() & FLUSHING != FLUSHING:
            raise AssertionError("subnormals no longer count as zeros after calls, as they did before")
    finally:
        libm.fesetenv((ctypes.c_uint8 * ENVIRONMENT_BYTES)(*before))


def rounding_does_not_matter(rng: Rng, seconds: float) -> None:
    """The same bits however the caller rounds, and whether or not its subnormals count as zeros, packing included."""
    exceptions()
    ways = [partial(rounding, mode) for mode in MODES[platform.machine()]]
    if platform.machine() == "x86_64":
        ways.append(partial(flushing))
    for count in until(seconds, COMBINATIONS):
        problem, _ = set_up(rng, count)
        problem.x = with_special_values(problem.x, rng)
        problem.x[np.isnan(problem.x)] = 1  # what bits a NaN has is not promised
        want, again = results(problem), fresh(problem)
        if any(np.isnan(np.frombuffer(a, problem.x.dtype)).any() for a in want):
            continue
        with ways[rng.integers(len(ways))]():
            got = results(again)
        if got != want:
            raise AssertionError(f"{problem.cell.name} gives other bits in another floating-point environment")
        Known(problem, want).require("after a call in another floating-point environment")


def traps_do_not_spring(rng: Rng, seconds: float) -> None:
    """Callers that trap exceptions, all or some, are not killed by calls on infinities, NaN and huge numbers."""
    everything = exceptions()
    enable = getattr(libm, "feenableexcept", None)
    if enable is None:
        raise Skipped("the C library has no feenableexcept")
    for count in until(seconds, COMBINATIONS):
        problem, schedule = set_up(rng, count)
        traps = everything & int(rng.integers(1, 64)) if count % 2 else everything
        problem.x = with_special_values(problem.x, rng)
        for name, call in native_calls(problem):
            print(
                f"{name} of {problem.cell.name} by schedule {schedule}", flush=True
            )  # the last line of what is killed
            libm.feclearexcept(everything)
            if enable(traps) == -1:
                raise Skipped("this CPU does not trap")
            call()
            trapped = libm.fegetexcept()
            libm.fedisableexcept(everything)
            if trapped != traps:
                raise AssertionError(f"after {name} the exceptions that trap are {trapped:#x}, were {traps:#x}")
