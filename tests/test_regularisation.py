"""Zoneout, dropout inside of cells and DropConnect: what they compute, their gradients, and inference. Which masks a
seed gives, and errors: test_masks.py."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fusedrnn
from agreement import DIFFERENCE_TOLERANCE, STEP, assert_arrays_close, assert_close, named, roundings
from cases import CELLS, DISTINCT, SMALL_SHAPES, Array, Cell, Problem, make_problem, options_of, regularised, remade
from fusedrnn.cells.families import SPECS

MODULES = [fusedrnn.reference, fusedrnn]
P = 0.3

modules = pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
cells = pytest.mark.parametrize("cell", CELLS, ids=str)
kinds = pytest.mark.parametrize("kind", ["full", "reverse lengths", "reverse resets"])
SINGLE = [(cell, name) for cell in DISTINCT for name in options_of(cell, P)]
# One unit and one row are too few for masks to differ.
SHAPE = SMALL_SHAPES[1]


def problem_of(cell: Cell, options: dict[str, float], rng: np.random.Generator, kind: str = "full") -> Problem:
    variant = {name: name in kind for name in ("lengths", "reverse", "resets")}
    problem = make_problem(cell, SHAPE, "float64", rng, **variant)
    return regularised(problem, options, rng)


def names_of(cell: Cell, form: str = "{}0") -> list[str]:
    """Of the states."""
    return [form.format(s.name) for s in SPECS[cell.native].states]


def arguments(problem: Problem) -> dict[str, Array]:
    """Everything that there is a gradient of, by its name."""
    weights = {name: a for name, a in problem.w.arrays().items() if a is not None}
    states = dict(zip(names_of(problem.cell), problem.states, strict=True))
    if problem.reset_states:
        states |= dict(zip(names_of(problem.cell, "reset_{}"), problem.reset_states, strict=True))
    return {"x": problem.x} | states | weights


def outputs(problem: Problem, values: dict[str, Array], module: ModuleType) -> Any:
    of_states, of_resets = names_of(problem.cell), names_of(problem.cell, "reset_{}")
    states = [values[k] for k in of_states]
    weights = {k: v for k, v in values.items() if k not in ("x", *of_states, *of_resets)}
    w = remade(problem.cell, problem.w, replaced=weights)
    here = replace(problem, kwargs=dict(problem.kwargs))
    if problem.reset_states:
        here.reset_states = [values[k] for k in of_resets]
    return problem.cell.functions(module)[1](values["x"], w, *states, **here.kwargs)[0]


def check_gradients(problem: Problem, module: ModuleType) -> None:
    """Against central differences, element by element, under the problem's masks."""
    gradients = dict(named(problem.run(module)[1]))
    values = {name: np.array(a) for name, a in arguments(problem).items()}
    weighing = [problem.dy, *problem.dstates]

    def loss() -> float:
        return float(sum(np.vdot(d, o) for d, o in zip(weighing, outputs(problem, values, module), strict=True)))

    for name, a in values.items():
        flat, gradient = a.reshape(-1), gradients[f"d{name}"].reshape(-1)
        for i, kept in enumerate(flat.copy()):
            flat[i] = kept + STEP
            up = loss()
            flat[i] = kept - STEP
            down = loss()
            flat[i] = kept
            assert abs((up - down) / (2 * STEP) - gradient[i]) < DIFFERENCE_TOLERANCE, f"d{name}[{i}]"


@modules
@cells
@kinds
def test_gradients_under_all_options(cell: Cell, kind: str, module: ModuleType, rng: np.random.Generator) -> None:
    check_gradients(problem_of(cell, options_of(cell, P), rng, kind), module)


@modules
@pytest.mark.parametrize(("cell", "name"), SINGLE, ids=str)
def test_gradients_under_one_option(cell: Cell, name: str, module: ModuleType, rng: np.random.Generator) -> None:
    check_gradients(problem_of(cell, {name: P}, rng), module)


# What the options are, said by the same cell without them.


def without(problem: Problem, module: ModuleType, **replaced: Any) -> Any:
    """Forward without options, with other weights or another x."""
    x, none = replaced.pop("x", problem.x), dict.fromkeys(problem.w.regularisation, 0.0)
    w = remade(problem.cell, problem.w, replaced=none | replaced)
    kwargs = {k: v for k, v in problem.kwargs.items() if k not in ("seed", "masks")}
    return problem.cell.functions(module)[1](x, w, *problem.states, **kwargs)[0]


def assert_same(problem: Problem, got: Any, want: Any) -> None:
    """But for rounding: factors of 1 / (1 - p) are multiplied elsewhere."""
    assert_close(got, want, "float64", roundings(problem, gradients=False), given=problem.states)


def dropped(a: Array, mask: Array) -> Array:
    return np.where(mask, 0, a / (1 - P))


@modules
@cells
@kinds
def test_dropout_of_the_input(cell: Cell, kind: str, module: ModuleType, rng: np.random.Generator) -> None:
    problem = problem_of(cell, {"input_dropout": P}, rng, kind)
    x, mask = problem.x.copy(), problem.kwargs["masks"]["input_dropout"]
    x[..., : mask.shape[1]] = dropped(x[..., : mask.shape[1]], mask)
    assert_same(problem, problem.run(module)[0], without(problem, module, x=x))


@modules
@pytest.mark.parametrize("cell", [c for c in CELLS if "recurrent_dropout" in options_of(c, P)], ids=str)
@kinds
def test_dropout_of_h(cell: Cell, kind: str, module: ModuleType, rng: np.random.Generator) -> None:
    """Of a single row, it is as if columns of weight_hh were 0: h stays where no product takes it."""
    problem = problem_of(cell, {}, rng, kind)
    del problem.kwargs["masks"]
    problem = problem.of_rows(slice(1))
    regularised(problem, {"recurrent_dropout": P}, rng)
    weight_hh, mask = problem.w.weight_hh, problem.kwargs["masks"]["recurrent_dropout"]
    size = weight_hh.shape[1]  # of a head, whose columns the rows of its units have
    of_units = np.repeat(mask.reshape(-1, size), size, axis=0)
    columns = dropped(weight_hh, np.resize(of_units, weight_hh.shape))
    assert_same(problem, problem.run(module)[0], without(problem, module, weight_hh=columns))


@modules
@pytest.mark.parametrize("cell", [c for c in CELLS if "weight_dropout" in options_of(c, P)], ids=str)
@kinds
def test_dropout_of_weights(cell: Cell, kind: str, module: ModuleType, rng: np.random.Generator) -> None:
    problem = problem_of(cell, {"weight_dropout": P}, rng, kind)
    weight_hh = dropped(problem.w.weight_hh, problem.kwargs["masks"]["weight_dropout"])
    out, gradients = problem.run(module)
    assert_same(problem, out, without(problem, module, weight_hh=weight_hh))
    assert not gradients.dweight_hh[problem.kwargs["masks"]["weight_dropout"]].any()


def sigmoid(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


def test_dropout_of_the_candidate(rng: np.random.Generator) -> None:
    """Semeniuta et al. 2016: ``c = f * c_prev + i * d(g)``, and ``h = (1 - z) * d(n) + z * h_prev``."""
    lstm, gru = CELLS[0], CELLS[1]
    for cell in (lstm, gru):
        problem = problem_of(cell, {"candidate_dropout": P}, rng)
        w, masks, h, c = problem.w, problem.kwargs["masks"], problem.states[0], problem.states[-1]
        ys: list[Array] = []
        for x in problem.x:
            a = np.split(x @ w.weight_ih.T + w.bias_ih, cell.gates, axis=1)
            u = np.split(h @ w.weight_hh.T + w.bias_hh, cell.gates, axis=1)
            if cell is lstm:
                i, f, o = (sigmoid(a[k] + u[k]) for k in (0, 1, 3))
                c = f * c + i * dropped(np.tanh(a[2] + u[2]), masks["candidate_dropout"][len(ys)])
                h = o * np.tanh(c)
            else:
                r, z = (sigmoid(a[k] + u[k]) for k in (0, 1))
                h = (1 - z) * dropped(np.tanh(a[2] + r * u[2]), masks["candidate_dropout"][len(ys)]) + z * h
            ys.append(h)
        got, n = problem.run(fusedrnn.reference)[0].y, roundings(problem, gradients=False)
        assert_arrays_close({"y": got}, {"y": np.stack(ys)}, "float64", n, given=problem.states)


@modules
@pytest.mark.parametrize("cell", [c for c in CELLS if "c0" in names_of(c) and not c.below], ids=str)
def test_a_dropped_candidate_adds_nothing(cell: Cell, module: ModuleType, rng: np.random.Generator) -> None:
    problem = make_problem(cell, SHAPE, "float64", rng)
    problem.states[1] = np.zeros_like(problem.states[1])
    mask = np.ones((*SHAPE[:2], problem.w.hidden_size), bool)
    problem.w = remade(cell, problem.w, replaced={"candidate_dropout": P})
    problem.kwargs["masks"] = {"candidate_dropout": mask}
    assert not problem.run(module)[0].c_n.any()


@modules
@cells
@kinds
def test_zoneout_keeps_old_values(cell: Cell, kind: str, module: ModuleType, rng: np.random.Generator) -> None:
    """Krueger et al. 2017: step by step, of the states that the step before has left."""
    options = {name: p for name, p in options_of(cell, P).items() if name.startswith("zoneout")}
    problem = problem_of(cell, options, rng, kind)
    T, B, _ = problem.x.shape
    lengths, resets = problem.kwargs.get("lengths", np.full(B, T)), problem.kwargs.get("resets")
    anew = [np.broadcast_to(s, b.shape) for s, b in zip(problem.reset_states, problem.states, strict=False)]
    plain = remade(cell, problem.w, replaced=dict.fromkeys(options, 0.0))
    step, now = cell.functions(module)[3], [s.copy() for s in problem.states]
    out, count = problem.run(module)[0], [0] * B
    y = np.zeros((T, B, now[0].shape[1]))
    for n in range(T):
        for row in range(B):
            if n >= lengths[row]:
                continue
            t = lengths[row] - 1 - n if problem.kwargs["reverse"] else n
            begins = t + 1 if problem.kwargs["reverse"] else t
            if resets is not None and begins < lengths[row] and resets[begins, row]:
                count[row] = 0
                for s, value in zip(now, anew, strict=True):
                    s[row] = value[row]
            before = [s[row : row + 1] for s in now]
            new = step(problem.x[t, row : row + 1], plain, *before, **cell.numbered(count[row]))
            count[row] += 1
            for i, (old, value) in enumerate(zip(before, new if cell.states > 1 else (new,), strict=True)):
                mask = problem.kwargs["masks"].get(names_of(cell, "zoneout_{}")[i])
                now[i][row] = value if mask is None else np.where(mask[t, row], old, value)
            y[t, row] = now[0][row]
    names = ["y", *names_of(cell, "{}_n")]
    of_cell = [out.y[..., : y.shape[2]], *out[1:]]
    got, want = dict(zip(names, of_cell, strict=False)), dict(zip(names, [y, *now], strict=True))
    given = [*problem.states, *anew]
    assert_arrays_close(got, want, "float64", roundings(problem, gradients=False), given=given)


# Inference.


@modules
@cells
def test_inference_is_the_expectation(cell: Cell, module: ModuleType, rng: np.random.Generator) -> None:
    """Of one step over all masks of zoneout, each with its probability. Dropout changes nothing."""
    options = options_of(cell, P)
    problem = make_problem(cell, (1, 1, 2, 3), "float64", rng)
    zoneout = {name: p for name, p in options.items() if name.startswith("zoneout")}
    problem.w = remade(cell, problem.w, replaced=zoneout)
    infer, forward, _, step = cell.functions(module)
    masks = problem.w.masks(1, 1, 0)
    expected = [np.zeros_like(s) for s in problem.states]
    n = sum(m.size for m in masks.values())
    for bits in itertools.product([False, True], repeat=n):
        flat, given = np.array(bits), {}
        for name, m in masks.items():
            given[name], flat = flat[: m.size].reshape(m.shape), flat[m.size :]
        chance = P ** sum(bits) * (1 - P) ** (n - sum(bits))
        out = forward(problem.x, problem.w, *problem.states, masks=given)[0]
        for total, s in zip(expected, out[1 : 1 + cell.states], strict=True):
            total += chance * s
    w = remade(cell, problem.w, replaced=options)
    got = infer(problem.x, w, *problem.states)
    new = step(problem.x[0], w, *problem.states)
    names = names_of(cell, "{}_n")
    ends = dict(zip(names, got[1 : 1 + cell.states], strict=True)), dict(zip(names, expected, strict=True))
    # A sum over all masks rounds once for each.
    assert_arrays_close(*ends, "float64", roundings(problem, gradients=False) + 2**n, given=problem.states)
    for i, s in enumerate(got[1 : 1 + cell.states]):
        np.testing.assert_array_equal(new[i] if cell.states > 1 else new, s)


@modules
@cells
def test_inference_without_zoneout_drops_nothing(cell: Cell, module: ModuleType, rng: np.random.Generator) -> None:
    problem = make_problem(cell, SHAPE, "float64", rng)
    options = {name: p for name, p in options_of(cell, P).items() if not name.startswith("zoneout")}
    w = remade(cell, problem.w, replaced=options)
    infer = cell.functions(module)[0]
    got, want = (infer(problem.x, each, *problem.states) for each in (w, problem.w))
    for (name, a), (_, b) in zip(named(got), named(want), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


# Extremes.


@modules
@cells
def test_a_probability_of_one_drops_all(cell: Cell, module: ModuleType, rng: np.random.Generator) -> None:
    """Zeros, whatever the numbers are, and no NaN; a zoned state stays."""
    problem = make_problem(cell, SHAPE, "float64", rng)
    T, B, _ = problem.x.shape
    problem.w = remade(cell, problem.w, replaced=options_of(cell, 1.0))
    problem.kwargs["masks"] = problem.w.masks(T, B, 5)
    assert all(m.all() for m in problem.kwargs["masks"].values())
    problem.x[..., : problem.w.input_size] = np.inf
    out, gradients = problem.run(module)
    for name, a in [*named(out), *named(gradients)]:
        assert np.isfinite(a).all(), name
    for i, name in enumerate(names_of(cell, "zoneout_{}")):
        if name in problem.kwargs["masks"]:
            np.testing.assert_array_equal(out[1 + i], problem.states[i])
    assert not gradients.dx[..., : problem.w.input_size].any()
    assert not gradients.dweight_ih.any()


@modules
@cells
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_probability_of_nearly_zero_changes_nothing(
    cell: Cell, dtype: str, module: ModuleType, rng: np.random.Generator
) -> None:
    """Less than half of 2**-16, it never drops; masks are needed all the same. The dtype stays."""
    problem = make_problem(cell, SHAPE, dtype, rng)
    want = problem.run(module)
    problem.w = remade(cell, problem.w, replaced=options_of(cell, 2.0**-60))
    problem.kwargs["seed"] = 3
    for got, plain in zip(problem.run(module), want, strict=True):
        for (name, a), (_, b) in zip(named(got), named(plain), strict=True):
            assert a.dtype == dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)
