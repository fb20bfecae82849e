"""Promise 1, gradients: the reference against central differences, and the kernels' Jacobian against its adjoint."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fusedrnn
from agreement import DIFFERENCE_TOLERANCE, STEP, named
from cases import FEW_SHAPES, SHAPES, SMALL_SHAPES, Array, Cell, Problem, Shape, grid, make_problem
from fusedrnn.cells.families import SPECS


def names_of(problem: Problem, form: str = "d{}0") -> list[str]:
    """Of the gradients of states."""
    return [form.format(s.name) for s in SPECS[problem.cell.native].states]


def arguments(problem: Problem) -> dict[str, Array]:
    """Everything that there is a gradient of, by the name of that gradient."""
    states = dict(zip(names_of(problem), problem.states, strict=True))
    if problem.reset_states:
        states |= dict(zip(names_of(problem, "dreset_{}"), problem.reset_states, strict=True))
    weights = {f"d{name}": a for name, a in problem.w.arrays().items() if a is not None}
    return {"dx": problem.x} | states | weights


def outputs(problem: Problem, values: dict[str, Array], module: ModuleType) -> Any:
    of_states, of_resets = names_of(problem), names_of(problem, "dreset_{}")
    states = [values[k] for k in of_states]
    w = problem.cell.weights(**{k[1:]: v for k, v in values.items() if k not in ("dx", *of_states, *of_resets)})
    here = replace(problem, kwargs=dict(problem.kwargs))
    if problem.reset_states:
        here.reset_states = [values[k] for k in of_resets]
    return problem.cell.functions(module)[0](values["dx"], w, *states, **here.kwargs)


def loss(problem: Problem, values: dict[str, Array], module: ModuleType) -> float:
    out = outputs(problem, values, module)
    return float(sum(np.vdot(d, o) for d, o in zip([problem.dy, *problem.dstates], out, strict=True)))


@pytest.mark.parametrize(("cell", "shape"), grid(SMALL_SHAPES, SMALL_SHAPES[1:2]), ids=str)
@pytest.mark.parametrize("module", [fusedrnn.reference, fusedrnn], ids=["reference", "kernels"])
@pytest.mark.parametrize("kind", ["full", "lengths", "reverse", "resets", "reverse resets"])
def test_central_differences(cell: Cell, shape: Shape, module: ModuleType, kind: str, rng: np.random.Generator) -> None:
    options = {name: name in kind for name in ("lengths", "reverse", "resets")}
    problem = make_problem(cell, shape, "float64", rng, **options)
    gradients = dict(named(problem.run(module)[1]))
    values = {k: np.array(v) for k, v in arguments(problem).items()}
    for name, value in values.items():
        flat, gradient = value.reshape(-1), gradients[name].reshape(-1)
        for i in range(flat.size):
            kept = flat[i]
            flat[i] = kept + STEP
            up = loss(problem, values, module)
            flat[i] = kept - STEP
            down = loss(problem, values, module)
            flat[i] = kept
            assert abs((up - down) / (2 * STEP) - gradient[i]) < DIFFERENCE_TOLERANCE, f"{name}[{i}]"


@pytest.mark.parametrize(("cell", "shape"), grid([s for s in SHAPES if 0 not in s], FEW_SHAPES[:3]), ids=str)
@pytest.mark.parametrize("kind", ["full", "lengths reverse", "resets", "lengths reverse resets"])
def test_adjoint(cell: Cell, shape: Shape, kind: str, rng: np.random.Generator) -> None:
    """<J u, v> = <u, J^T v>, J u from a difference of the kernels' outputs along u, J^T v from their backward."""
    options = {name: name in kind for name in ("lengths", "reverse", "resets")}
    problem = make_problem(cell, shape, "float64", rng, **options)
    gradients = dict(named(problem.run()[1]))
    values = arguments(problem)
    u = {k: rng.standard_normal(v.shape) for k, v in values.items()}
    norm = np.sqrt(sum(np.vdot(d, d) for d in u.values()))
    ends = [outputs(problem, {k: v + s * STEP / norm * u[k] for k, v in values.items()}, fusedrnn) for s in (1, -1)]
    v = [problem.dy, *problem.dstates]
    left = sum(np.vdot((a - b) / (2 * STEP), d) for a, b, d in zip(*ends, v, strict=True))
    right = sum(np.vdot(u[k] / norm, gradients[k]) for k in values)
    scale = 1 + np.sqrt(sum(np.vdot(d, d) for d in v))
    assert abs(left - right) < DIFFERENCE_TOLERANCE * scale


def test_relu_gradient_at_zero_is_zero() -> None:
    w = fusedrnn.RNNWeights(np.zeros((3, 2)), np.zeros((3, 3)), nonlinearity="relu")
    out, reserve = fusedrnn.rnn_forward(np.ones((1, 1, 2)), w)
    assert not out.y.any()
    assert not fusedrnn.rnn_backward(reserve, np.ones((1, 1, 3))).dweight_ih.any()
