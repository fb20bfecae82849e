"""Subnormal numbers count as zeros inside kernels, on every ISA alike; the caller's floating-point environment neither
matters nor changes."""

from __future__ import annotations

import ctypes
import gc
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

import fusedrnn
from agreement import assert_same_bits, lost_to_flushing, named, run_everywhere
from cases import CELLS, DTYPES, Cell, Problem, make_problem, remade
from fusedrnn import _core

cells = pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.name)
dtypes = pytest.mark.parametrize("dtype", DTYPES)
SHAPE = (6, 5, 7, 19)

# Rounding upward, and the flags of all exceptions.
FE_UPWARD, FE_FLAGS = {"x86_64": (0x800, 0x3D), "aarch64": (0x400000, 0x1F)}.get(platform.machine(), (0, 0))
libm = ctypes.CDLL(None)


def tiny_problem(cell: Cell, dtype: str, rng: np.random.Generator) -> Problem:
    """Every input and every gradient that is given is subnormal, and there are no biases."""
    problem = make_problem(cell, SHAPE, dtype, rng)
    biases = [name for name in problem.w.arrays() if name.startswith("bias")]
    problem.w = remade(cell, problem.w, replaced=dict.fromkeys(biases))
    scale = np.finfo(dtype).smallest_normal / 16
    for a in (problem.x, problem.dy, *problem.states, *problem.dstates):
        a *= scale
    return problem


@cells
@dtypes
def test_subnormals_count_as_zeros_on_every_isa(cell: Cell, dtype: str, rng: np.random.Generator) -> None:
    problem = tiny_problem(cell, dtype, rng)
    smallest = np.finfo(dtype).smallest_normal
    got = run_everywhere(problem)
    for name, a in [*named(got[0]), *[(n, a) for n, a in named(got[1]) if n.startswith(("dx", "dw", "dh", "dc"))]]:
        assert not ((a != 0) & (np.abs(a) < smallest)).any(), name


# But for cells whose states include gates, which are no small numbers.
@pytest.mark.parametrize("cell", [c for c in CELLS if c.states < 3], ids=lambda c: c.name)
@dtypes
def test_what_is_lost_is_below_the_tolerance(cell: Cell, dtype: str, rng: np.random.Generator) -> None:
    problem = tiny_problem(cell, dtype, rng)
    bound = lost_to_flushing(problem)
    want = problem.as_float64().run(fusedrnn.reference)
    for a, b in zip(problem.run(), want, strict=True):
        for (name, x), (_, y) in zip(named(a), named(b), strict=True):
            assert np.abs(x - y).max() <= bound, name


def test_states_that_decay_end_at_zero() -> None:
    """Without inputs and with gates half open, an LSTM's c halves in every step, down to nothing."""
    H, T = 8, 300
    zeros = np.zeros((4 * H, H), "float32")
    out = fusedrnn.lstm(
        np.zeros((T, 1, H), "float32"), fusedrnn.LSTMWeights(zeros, zeros), None, np.ones((1, H), "float32")
    )
    assert out.y[0, 0, 0] > 0.1
    assert not out.c_n.any()


@contextmanager
def rounding(mode: int) -> Iterator[None]:
    before = libm.fegetround()
    assert libm.fesetround(mode) == 0
    try:
        yield
    finally:
        libm.fesetround(before)


@pytest.mark.skipif(not FE_UPWARD, reason="knows the constants of x86-64 and aarch64 only")
@cells
@dtypes
@pytest.mark.parametrize("schedule", ["auto", "one", "rows", "units"])
def test_the_callers_environment_neither_matters_nor_changes(
    cell: Cell, dtype: str, schedule: str, rng: np.random.Generator
) -> None:
    problem = make_problem(cell, SHAPE, dtype, rng)
    problem.x[0] *= np.finfo(dtype).smallest_normal  # its products underflow
    fusedrnn.set_num_threads(3)
    _core.set_schedule(schedule)
    want = problem.run()
    with rounding(FE_UPWARD):
        problem.w = remade(cell, problem.w)  # to be packed under the other rounding
        gc.disable()  # its callbacks may compute, hypothesis's does
        libm.feclearexcept(FE_FLAGS)
        got = problem.run()
        flags, mode = libm.fetestexcept(FE_FLAGS), libm.fegetround()
        gc.enable()
    assert mode == FE_UPWARD
    assert flags == 0
    for a, b in zip(got, want, strict=True):
        assert_same_bits(a, b)
