"""Promise 1, the same function: every op against `fusedrnn.reference` in float64."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fusedrnn
from agreement import assert_agrees, assert_close, named, roundings, run_everywhere
from cases import CELLS, DISTINCT, DTYPES, FEW_SHAPES, SHAPES, Cell, Shape, grid, make_problem, make_weights, remade
from fusedrnn.cells.families import SPECS

cells = pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.name)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


@pytest.mark.parametrize(("cell", "shape"), grid(SHAPES, FEW_SHAPES), ids=str)
@dtypes
@pytest.mark.parametrize("lengths", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_training(cell: Cell, shape: Shape, dtype: str, lengths: bool, reverse: bool, rng: np.random.Generator) -> None:
    problem = make_problem(cell, shape, dtype, rng, lengths=lengths, reverse=reverse)
    assert_agrees(problem, run_everywhere(problem))


BLOCKS = [(6, 70, 20, 24), (12, 40, 130, 10), (3, 4, 600, 260)]


@pytest.mark.parametrize(("cell", "shape"), grid(BLOCKS, BLOCKS[:1]), ids=str)
@dtypes
def test_more_rows_and_columns_than_one_block(cell: Cell, shape: Shape, dtype: str, rng: np.random.Generator) -> None:
    problem = make_problem(cell, shape, dtype, rng)
    assert_agrees(problem, run_everywhere(problem))


@pytest.mark.parametrize("cell", DISTINCT, ids=str)
@dtypes
def test_sources_beyond_one_block_of_backward(cell: Cell, dtype: str, rng: np.random.Generator) -> None:
    fusedrnn.set_num_threads(1)
    problem = make_problem(cell, (2, 230, 4, 200), dtype, rng)
    assert_agrees(problem, problem.run())


@pytest.mark.parametrize("cell", [c for c in CELLS if c.kink], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_relu_on_both_sides_of_its_kink(cell: Cell, shape: Shape, rng: np.random.Generator) -> None:
    """In float64 alone, where no pre-activation comes near enough to 0 for rounding to matter."""
    problem = make_problem(cell, shape, "float64", rng)
    problem.w = make_weights(cell, shape[2], shape[3], "float64", rng, clear_of_kink=False)
    assert_agrees(problem, run_everywhere(problem))


@pytest.mark.parametrize("cell", DISTINCT, ids=str)
@pytest.mark.parametrize("kind", ["outputs", "gradients"])
def test_one_part_in_a_thousand_is_noticed(cell: Cell, kind: str, rng: np.random.Generator) -> None:
    """Of any array of a float32 result, at the shape whose bound is the widest."""
    problem = make_problem(cell, max(SHAPES, key=lambda shape: shape[0] * shape[3]), "float32", rng)
    i = ["outputs", "gradients"].index(kind)
    got, want = problem.run()[i], problem.as_float64().run(fusedrnn.reference)[i]
    n = roundings(problem, gradients=kind == "gradients")
    assert_close(got, want, "float32", n)
    for name, a in named(got):
        with pytest.raises(AssertionError, match=name):
            assert_close(got._replace(**{name: a * np.float32(1.001)}), want, "float32", n)


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
        out, grads = run_everywhere(problem)
        assert all((getattr(grads, f"d{name}") is None) == (name in missing) for name in cell.shapes(5, 9))
        assert_agrees(problem, (out, grads))


@cells
@dtypes
@pytest.mark.parametrize("module", [fusedrnn, fusedrnn.reference], ids=["kernels", "reference"])
def test_defaults_are_empty_states(cell: Cell, dtype: str, module: ModuleType, rng: np.random.Generator) -> None:
    problem = make_problem(cell, (5, 3, 4, 10), dtype, rng)
    infer, forward, backward, step = cell.functions(module)
    zeros = [np.zeros_like(s) for s in problem.states]
    empty = [np.full_like(a, s.empty) for s, a in zip(SPECS[cell.native].states, zeros, strict=True)]
    for a, b in zip(infer(problem.x, problem.w), infer(problem.x, problem.w, *empty), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(step(problem.x[0], problem.w), step(problem.x[0], problem.w, *empty), strict=True):
        np.testing.assert_array_equal(a, b)
    _, reserve = forward(problem.x, problem.w)
    got = backward(reserve, None)
    assert all(not a.any() for _, a in named(got))
    _, reserve = forward(problem.x, problem.w, *empty)
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
    dy = problem.dy.copy()
    for row, n in enumerate(lengths):
        dy[n:, row] = np.nan
    problem.x, problem.dy, problem.kwargs["lengths"] = x, dy, lengths
    out, grads = run_everywhere(problem)
    for name, a in [*named(out), *named(grads)]:
        assert np.isfinite(a).all(), name
    for i, state in enumerate(problem.states):
        np.testing.assert_array_equal(out[1 + i][0], state[0])
        np.testing.assert_array_equal(grads[1 + i][0], problem.dstates[i][0])
    for row, n in enumerate(lengths):
        assert not out.y[n:, row].any()
        assert not grads.dx[n:, row].any()
        if n > 0:
            np.testing.assert_array_equal(out.h_n[row], out.y[n - 1, row, : problem.w.proj_size])


@cells
@dtypes
def test_nan_and_inf_go_through(cell: Cell, dtype: str, rng: np.random.Generator) -> None:
    problem = make_problem(cell, (3, 3, 4, 20), dtype, rng)
    problem.states = [np.clip(s, -1, 1) for s in problem.states]
    clean = cell.functions()[0](problem.x, problem.w, *problem.states).y
    problem.x = problem.x.copy()
    problem.x[1, 0, 2] = np.nan
    problem.x[1, 1, 2] = np.inf
    y = run_everywhere(problem)[0].y
    always = 20 // len(problem.w.periods) if cell.clocked else 20  # units whose clocks tick in every step
    assert np.isnan(y[1:, 0, :always]).all()
    np.testing.assert_array_equal(y[0], clean[0])
    np.testing.assert_array_equal(y[:, 2], clean[:, 2])
    if cell.bounded:
        assert (np.abs(y[1, 1]) <= 1).all()


@cells
@dtypes
@pytest.mark.parametrize("module", [fusedrnn, fusedrnn.reference], ids=["kernels", "reference"])
def test_cell_with_out(cell: Cell, dtype: str, module: ModuleType, rng: np.random.Generator) -> None:
    """One step gives the last states of a sequence of one step, in new arrays or in those of the caller."""
    problem = make_problem(cell, (1, 5, 6, 19), dtype, rng)
    step = cell.functions(module)[3]
    new = step(problem.x[0], problem.w, *problem.states)
    out: Any = tuple(np.full_like(s, np.nan) for s in problem.states)
    got = step(problem.x[0], problem.w, *problem.states, out=out if cell.states > 1 else out[0])
    new, got = (new, got) if cell.states > 1 else ((new,), (got,))
    assert all(a is b for a, b in zip(got, out, strict=True))
    for a, b, c in zip(got, new, problem.run(module)[0][1 : 1 + cell.states], strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_the_epsilon_of_a_normalisation(rng: np.random.Generator) -> None:
    """The default one, in float64 and over one step: each of two normalisations on the way may magnify an error by
    1 / sqrt(epsilon), and their gradients by as much again."""
    for cell in (c for c in CELLS if c.normalised):
        problem = make_problem(cell, (1, 3, 5, 20), "float64", rng)
        given_arrays = problem.w.arrays()
        problem.w = cell.weights.func(**given_arrays)  # type: ignore[attr-defined]
        assert problem.w.epsilon == 1e-5
        magnified = 1e-5**-0.5  # by each of two normalisations, and by their gradients once more
        n = roundings(problem, gradients=True) * magnified**4
        for got, want in zip(problem.run(), problem.run(fusedrnn.reference), strict=True):
            assert_close(got, want, "float64", n)


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
    parts = (cell.reserve_slots * 7 * 3 * 18, 7 * 3 * cell.proj_size(18))
    assert reserve.nbytes == sum(-(-n * problem.x.itemsize // 64) * 64 for n in parts)  # parts begin at whole lines
    assert reserve.dtype == dtype
    assert repr(reserve).startswith(f"<fusedrnn.Reserve of {cell.native}, seq_len=7, batch_size=3, hidden_size=18")
