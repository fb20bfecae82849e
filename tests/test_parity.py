"""Promise 1, the same function: every op against `fusedrnn.reference` in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusedrnn
from cases import CELLS, DTYPES, SHAPES, Cell, Problem, make_problem, make_weights, named, remade, tolerance

cells = pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.name)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def absolute_sums(problem: Problem) -> float:
    """A bound of the sums of absolute products in a pre-activation or state, states bounded by the largest there is."""
    out = problem.run()[0]
    x = float(np.abs(problem.x).max(initial=0))
    state = max(float(np.abs(a).max(initial=0)) for a in [*out, *problem.states])
    total = state
    for name, a in problem.w.arrays().items():
        if a is not None:
            rows = np.abs(a).sum(1) if a.ndim == 2 else np.abs(a)
            total += float(rows.max()) * {"weight_ih": x, "bias_ih": 1, "bias_hh": 1}.get(name, state)
    return total


def compare(problem: Problem, dtype: str) -> None:
    check(problem, dtype, *problem.run())


def check(problem: Problem, dtype: str, out: Any, grads: Any) -> None:
    """That these results of a problem are within the bounds of the reference's."""
    T, B, _ = problem.x.shape
    I, H, G = problem.w.input_size, problem.w.hidden_size, problem.cell.gates
    want_out, want_grads = problem.as_float64().run(fusedrnn.reference)
    chain = sum(shape[1] for shape in problem.cell.shapes(I, H).values() if len(shape) == 2)  # at most
    bound = tolerance(dtype, chain, T, max(1.0, absolute_sums(problem)))
    for (name, a), (_, b) in zip(named(out), named(want_out), strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=bound, err_msg=name)
    # A gradient sums over gates and units, and those of weights over steps and rows as well.
    largest = max(1.0, *(float(np.abs(b).max(initial=0)) for _, b in named(want_grads)))
    bound = tolerance(dtype, G * H + chain + T * B, T, largest)
    for (name, a), (_, b) in zip(named(grads), named(want_grads), strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=bound, err_msg=name)


@cells
@dtypes
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("lengths", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_training(
    cell: Cell, dtype: str, shape: tuple[int, int, int, int], lengths: bool, reverse: bool, rng: np.random.Generator
) -> None:
    compare(make_problem(cell, shape, dtype, rng, lengths=lengths, reverse=reverse), dtype)


@cells
@dtypes
@pytest.mark.parametrize("shape", [(6, 70, 20, 24), (12, 40, 130, 10), (3, 4, 600, 260)], ids=str)
def test_more_rows_and_columns_than_one_block(
    cell: Cell, dtype: str, shape: tuple[int, int, int, int], rng: np.random.Generator
) -> None:
    compare(make_problem(cell, shape, dtype, rng), dtype)


@cells
@dtypes
def test_sources_beyond_one_block_of_backward(cell: Cell, dtype: str, rng: np.random.Generator) -> None:
    fusedrnn.set_num_threads(1)
    compare(make_problem(cell, (2, 230, 4, 200), dtype, rng), dtype)


@pytest.mark.parametrize("cell", [c for c in CELLS if c.kink], ids=lambda c: c.name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_relu_on_both_sides_of_its_kink(cell: Cell, shape: tuple[int, int, int, int], rng: np.random.Generator) -> None:
    """In float64 alone, where no pre-activation comes near enough to 0 for rounding to matter."""
    problem = make_problem(cell, shape, "float64", rng)
    problem.w = make_weights(cell, shape[2], shape[3], "float64", rng, clear_of_kink=False)
    compare(problem, "float64")


@cells
@dtypes
def test_without_optional_weights(cell: Cell, dtype: str, rng: np.random.Generator) -> None:
    """Each of them missing, and all."""
    problem = make_problem(cell, (4, 3, 5, 9), dtype, rng)
    whole = problem.w
    optional = [name for name in cell.shapes(5, 9) if name not in cell.required]
    for missing in [*([name] for name in optional), optional]:
        problem.w = remade(cell, whole, replaced=dict.fromkeys(missing))
        assert [name for name, a in problem.w.arrays().items() if name in optional and a is None] == missing
        out, grads = problem.run()
        want_out, want_grads = problem.as_float64().run(fusedrnn.reference)
        assert all((getattr(grads, f"d{name}") is None) == (name in missing) for name in cell.shapes(5, 9))
        bound = tolerance(dtype, 60, 4, 20)
        for got, want in ((out, want_out), (grads, want_grads)):
            for (name, a), (_, b) in zip(named(got), named(want), strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=bound, err_msg=f"{name} without {missing}")


@cells
@dtypes
def test_defaults_are_zeros(cell: Cell, dtype: str, rng: np.random.Generator) -> None:
    problem = make_problem(cell, (5, 3, 4, 10), dtype, rng)
    infer, forward, backward, step = cell.functions()
    zeros = [np.zeros_like(s) for s in problem.states]
    for a, b in zip(infer(problem.x, problem.w), infer(problem.x, problem.w, *zeros), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(step(problem.x[0], problem.w), step(problem.x[0], problem.w, *zeros), strict=True):
        np.testing.assert_array_equal(a, b)
    _, reserve = forward(problem.x, problem.w)
    got = backward(reserve, None)
    assert all(not a.any() for _, a in named(got))
    _, reserve = forward(problem.x, problem.w, *zeros)
    a = backward(reserve, problem.dy)
    _, reserve = forward(problem.x, problem.w)
    b = backward(reserve, problem.dy, *zeros)
    for (name, p), (_, q) in zip(named(a), named(b), strict=True):
        np.testing.assert_array_equal(p, q, err_msg=name)


@cells
@dtypes
def test_lengths(cell: Cell, dtype: str, rng: np.random.Generator) -> None:
    """y is zero past a row's length, the last state is that of its last step, padding may hold anything."""
    problem = make_problem(cell, (6, 4, 3, 11), dtype, rng)
    lengths = np.array([0, 6, 1, 4])
    x = problem.x.copy()
    for row, n in enumerate(lengths):
        x[n:, row] = np.nan
    _, forward, backward, _ = cell.functions()
    dy = problem.dy.copy()
    for row, n in enumerate(lengths):
        dy[n:, row] = np.nan
    out, reserve = forward(x, problem.w, *problem.states, lengths=lengths)
    grads = backward(reserve, dy, *problem.dstates)
    for name, a in [*named(out), *named(grads)]:
        assert np.isfinite(a).all(), name
    for i, state in enumerate(problem.states):
        np.testing.assert_array_equal(out[1 + i][0], state[0])
        np.testing.assert_array_equal(grads[1 + i][0], problem.dstates[i][0])
    for row, n in enumerate(lengths):
        assert not out.y[n:, row].any()
        assert not grads.dx[n:, row].any()
        if n > 0:
            np.testing.assert_array_equal(out.h_n[row], out.y[n - 1, row, :11])


@cells
@dtypes
def test_nan_and_inf_go_through(cell: Cell, dtype: str, rng: np.random.Generator) -> None:
    problem = make_problem(cell, (3, 3, 4, 20), dtype, rng)
    infer = cell.functions()[0]
    clean = infer(problem.x, problem.w).y
    x = problem.x.copy()
    x[1, 0, 2] = np.nan
    x[1, 1, 2] = np.inf
    y = infer(x, problem.w).y
    always = 20 // len(problem.w.periods) if cell.clocked else 20  # units whose clocks tick in every step
    assert np.isnan(y[1:, 0, :always]).all()
    np.testing.assert_array_equal(y[0], clean[0])
    np.testing.assert_array_equal(y[:, 2], clean[:, 2])
    if cell.bounded:
        assert (np.abs(y[1, 1]) <= 1).all()


@cells
@dtypes
def test_cell_with_out(cell: Cell, dtype: str, rng: np.random.Generator) -> None:
    problem = make_problem(cell, (1, 5, 6, 19), dtype, rng)
    step = cell.functions()[3]
    want = step(problem.x[0], problem.w, *problem.states)
    out: Any = tuple(np.full_like(s, np.nan) for s in problem.states)
    got = step(problem.x[0], problem.w, *problem.states, out=out if cell.states > 1 else out[0])
    got, want = (got, want) if cell.states > 1 else ((got,), (want,))
    assert all(a is b for a, b in zip(got, out, strict=True))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    reference = cell.functions(fusedrnn.reference)[3](
        problem.x[0].astype("f8"), problem.as_float64().w, *(s.astype("f8") for s in problem.states)
    )
    reference = reference if cell.states > 1 else (reference,)
    for a, b in zip(got, reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance(dtype, 60, 1, 20))


def test_the_epsilon_of_a_normalisation(rng: np.random.Generator) -> None:
    """The default one, in float64 and over one step: each of two normalisations on the way may magnify an error by
    1 / sqrt(epsilon), and their gradients by as much again."""
    for cell in (c for c in CELLS if c.normalised):
        problem = make_problem(cell, (1, 3, 5, 20), "float64", rng)
        given_arrays = problem.w.arrays()
        problem.w = cell.weights.func(**given_arrays)  # type: ignore[attr-defined]
        assert problem.w.epsilon == 1e-5
        bound = tolerance("float64", 100, 1, 100) / 1e-5
        for got, want in zip(problem.run(), problem.run(fusedrnn.reference), strict=True):
            for (name, a), (_, b) in zip(named(got), named(want), strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=bound, err_msg=name)


@dtypes
def test_the_lowest_depth_gated_layer(dtype: str, rng: np.random.Generator) -> None:
    """Without a layer below it is as if that were zeros, and there is no gradient of it."""
    cell = next(c for c in CELLS if c.below)
    w = make_weights(cell, 5, 9, dtype, rng)
    x, zeros = rng.standard_normal((4, 3, 5)).astype(dtype), np.zeros((4, 3, 9), dtype)
    results = []
    for below in (None, zeros):
        out, reserve = fusedrnn.depth_gated_lstm_forward(x, w, below)
        grads = fusedrnn.depth_gated_lstm_backward(reserve, out.y, dc=out.c)
        assert (grads.dc_below is None) == (below is None)
        step = fusedrnn.depth_gated_lstm_cell(x[0], w, None if below is None else below[0])
        pairs = [*named(out), *(pair for pair in named(grads) if pair[0] != "dc_below")]
        results.append([*pairs, ("h", step[0]), ("c", step[1])])
    for (name, a), (_, b) in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


@cells
@dtypes
def test_reserve_size(cell: Cell, dtype: str, rng: np.random.Generator) -> None:
    problem = make_problem(cell, (7, 3, 2, 18), dtype, rng)
    _, reserve = cell.functions()[1](problem.x, problem.w)
    assert reserve.nbytes == cell.reserve_slots * 7 * 3 * 18 * problem.x.itemsize
    assert reserve.dtype == dtype
    assert repr(reserve).startswith(f"<fusedrnn.Reserve of {cell.name}, seq_len=7, batch_size=3, hidden_size=18")
