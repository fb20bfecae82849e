"""What only units with clocks do: they keep still between ticks, count on from `start`, and see no faster clock."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

import fusedrnn
from agreement import assert_agrees, assert_same_bits, run_everywhere
from cases import CELLS, DTYPES, Array, Cell, make_problem
from fusedrnn import _core

PERIODS = (1, 2, 2, 3, 6)
SIZE = 7  # units in a group: most vectors hold units of two clocks

dtypes = pytest.mark.parametrize("dtype", DTYPES)
clocked = pytest.mark.parametrize("cell", [c for c in CELLS if c.clocked], ids=lambda c: c.name)


def weights(dtype: str, rng: np.random.Generator, periods: tuple[int, ...] = PERIODS, size: int = SIZE) -> Any:
    H = size * len(periods)
    mask = fusedrnn.ClockworkRNNWeights.mask(H, periods)
    arrays = [rng.uniform(-0.2, 0.2, shape).astype(dtype) for shape in ((H, 5), (H, H), (H,), (H,))]
    arrays[1] *= mask
    return fusedrnn.ClockworkRNNWeights(*arrays, periods=periods)


@dtypes
def test_units_keep_still_between_ticks(dtype: str, rng: np.random.Generator) -> None:
    w = weights(dtype, rng)
    x, h0 = rng.standard_normal((13, 4, 5)).astype(dtype), rng.standard_normal((4, 35)).astype(dtype)
    y = fusedrnn.clockwork_rnn(x, w, h0, start=1).y
    before = np.concatenate([h0[None], y[:-1]])
    for group, period in enumerate(PERIODS):
        units = slice(group * SIZE, (group + 1) * SIZE)
        for t in range(13):
            same = np.array_equal(y[t, :, units], before[t, :, units])
            assert same == ((t + 1) % period != 0), f"group {group}, step {t + 1}"


@clocked
@dtypes
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_many_clocks_in_a_vector(cell: Cell, dtype: str, reverse: bool, rng: np.random.Generator) -> None:
    """A unit for each clock: against the reference, and the same bits from all ISAs and schedules."""
    H = 19
    cell = replace(cell, weights=partial(cell.weights, periods=range(1, H + 1)))
    problem = make_problem(cell, (24, 3, 5, H), dtype, rng, reverse=reverse)
    problem.kwargs["lengths"] = [24, 7, 20]
    want = problem.as_float64().run(fusedrnn.reference)
    for threads, schedule in ((1, "one"), (3, "units"), (3, "rows")):
        fusedrnn.set_num_threads(threads)
        _core.set_schedule(schedule)
        assert_agrees(problem, run_everywhere(problem), want)


@dtypes
def test_with_one_period_of_1_it_is_the_plain_rnn(dtype: str, rng: np.random.Generator) -> None:
    w = weights(dtype, rng, (1,), 37)
    plain = fusedrnn.RNNWeights(w.weight_ih, w.weight_hh, w.bias_ih, w.bias_hh)
    x = rng.standard_normal((6, 3, 5)).astype(dtype)
    assert_same_bits(fusedrnn.clockwork_rnn(x, w), fusedrnn.rnn(x, plain))


@clocked
@dtypes
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_rows_that_begin_at_different_steps(cell: Cell, dtype: str, reverse: bool, rng: np.random.Generator) -> None:
    """Each row ticks by its own count: as the reference says, and with the bits that it has alone."""
    problem = make_problem(cell, (9, 5, 4, 36), dtype, rng, lengths=True, reverse=reverse)
    start = np.array([0, 7, 2**62, 3, 4])
    problem.kwargs["start"] = start
    out, grads = run_everywhere(problem)
    assert_agrees(problem, (out, grads))
    lengths = problem.kwargs["lengths"]
    for row in range(5):
        one = slice(row, row + 1)
        alone = fusedrnn.clockwork_rnn(
            problem.x[:, one],
            problem.w,
            problem.states[0][one],
            start=int(start[row]),
            lengths=lengths[one],
            reverse=reverse,
        )
        np.testing.assert_array_equal(alone.y, out.y[:, one])


@dtypes
@pytest.mark.parametrize("isa", fusedrnn.available_isas())
def test_a_faster_clock_is_not_seen(dtype: str, isa: str, rng: np.random.Generator) -> None:
    """Neither its NaN by slower units, nor theirs by the gradients of what it kept."""
    fusedrnn.set_isa(isa)
    w = weights(dtype, rng)
    x, h0 = np.zeros((3, 2, 5), dtype), np.zeros((2, 35), dtype)
    clean = fusedrnn.clockwork_rnn(x, w, h0).y
    h0[:, 3] = np.nan  # a unit of the first group
    y = fusedrnn.clockwork_rnn(x, w, h0).y
    assert np.isnan(y[:, :, :SIZE]).all()
    np.testing.assert_array_equal(y[:, :, SIZE:], clean[:, :, SIZE:])

    _, reserve = fusedrnn.clockwork_rnn_forward(x, w)
    dh_n = np.zeros((2, 35), dtype)
    dh_n[:, 30] = np.inf  # of the last group, which ticks in step 0 alone
    grads = fusedrnn.clockwork_rnn_backward(reserve, None, dh_n)
    assert not np.isfinite(grads.dh0[:, 28:]).any()
    assert not grads.dh0[:, :28].any()
    assert not grads.dweight_hh[:28].any()
    assert not grads.dweight_hh[:, :28].any()


@dtypes
def test_gradients_of_weights_that_must_be_zeros_are_zeros(dtype: str, rng: np.random.Generator) -> None:
    w = weights(dtype, rng)
    x = rng.standard_normal((8, 3, 5)).astype(dtype)
    out, reserve = fusedrnn.clockwork_rnn_forward(x, w)
    dweight_hh = fusedrnn.clockwork_rnn_backward(reserve, out.y).dweight_hh
    mask = w.mask(35, PERIODS)
    assert not dweight_hh[~mask].any()
    assert dweight_hh[mask].all()


def expected_mask(periods: list[int], size: int) -> Array:
    return np.array([[p <= q for q in periods for _ in range(size)] for p in periods for _ in range(size)])


@pytest.mark.parametrize("periods", [[1], [1, 1], [1, 2, 2, 8], [3, 5]], ids=str)
def test_the_mask(periods: list[int]) -> None:
    np.testing.assert_array_equal(
        fusedrnn.ClockworkRNNWeights.mask(3 * len(periods), periods), expected_mask(periods, 3)
    )


def test_what_weights_say_of_themselves(rng: np.random.Generator) -> None:
    w = weights("float32", rng)
    assert w.periods == PERIODS
    assert w.nonlinearity == "tanh"
    assert list(w.arrays()) == ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    numpy_periods = fusedrnn.ClockworkRNNWeights(*w.arrays().values(), periods=np.array(PERIODS))
    assert numpy_periods.periods == PERIODS
