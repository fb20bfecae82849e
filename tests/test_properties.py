"""Property-based tests: any small problem, chosen by hypothesis."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import fusedrnn
from agreement import assert_agrees, assert_same_bits
from cases import CELLS, DTYPES, Cell, make_problem

shapes = st.tuples(st.integers(0, 9), st.integers(0, 20), st.integers(1, 40), st.integers(1, 70))
problems = st.tuples(
    st.sampled_from(CELLS), shapes, st.sampled_from(DTYPES), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1)
)


def build(spec: tuple[Cell, Any, str, bool, bool, int]) -> Any:
    cell, shape, dtype, lengths, reverse, seed = spec
    return make_problem(cell, shape, dtype, np.random.default_rng(seed), lengths=lengths, reverse=reverse)


@given(problems)
@settings(max_examples=150, deadline=None)
def test_the_same_function(spec: tuple[Cell, Any, str, bool, bool, int]) -> None:
    problem = build(spec)
    assert_agrees(problem, problem.run())


@given(problems, st.integers(1, 5), st.sampled_from(fusedrnn.available_isas()))
@settings(max_examples=150, deadline=None)
def test_the_same_bits(spec: tuple[Cell, Any, str, bool, bool, int], threads: int, isa: str) -> None:
    problem = build(spec)
    before = fusedrnn.get_num_threads(), fusedrnn.isa()
    want = problem.run()
    try:
        fusedrnn.set_num_threads(threads)
        fusedrnn.set_isa(isa)
        got = problem.run()
    finally:
        fusedrnn.set_num_threads(before[0])
        fusedrnn.set_isa(before[1])
    for a, b in zip(got, want, strict=True):
        assert_same_bits(a, b)


@given(problems, st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_a_sequence_may_be_cut_anywhere(spec: tuple[Cell, Any, str, bool, bool, int], where: float) -> None:
    problem = build((*spec[:3], False, False, spec[5]))
    infer = problem.cell.functions()[0]
    cut = round(where * spec[1][0])
    whole = infer(problem.x, problem.w, *problem.states)
    first = infer(problem.x[:cut], problem.w, *problem.states)
    second = infer(problem.x[cut:], problem.w, *first[1:], **problem.cell.numbered(cut))
    np.testing.assert_array_equal(np.concatenate([first.y, second.y]), whole.y)
    for a, b in zip(second[1:], whole[1:], strict=True):
        np.testing.assert_array_equal(a, b)


@given(problems)
@settings(max_examples=100, deadline=None)
def test_lengths_are_shorter_sequences(spec: tuple[Cell, Any, str, bool, bool, int]) -> None:
    """A row with a length gives the bits of that row alone, cut to its length."""
    problem = build((*spec[:3], True, *spec[4:]))
    infer = problem.cell.functions()[0]
    reverse = problem.kwargs["reverse"]
    batch = infer(problem.x, problem.w, *problem.states, **problem.kwargs)
    for row, n in enumerate(problem.kwargs["lengths"]):
        one = slice(row, row + 1)
        alone = infer(problem.x[:n, one], problem.w, *(s[one] for s in problem.states), reverse=reverse)
        np.testing.assert_array_equal(alone.y, batch.y[:n, one])
        for a, b in zip(alone[1:], batch[1:], strict=True):
            np.testing.assert_array_equal(a, b[one])
