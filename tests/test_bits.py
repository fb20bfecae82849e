"""Promise 2, the same bits: whatever the threads, the batch, the strides, the ISA, the number of calls."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import fusedrnn
from agreement import assert_same_bits
from cases import BITS_SHAPES, CELLS, DISTINCT, DTYPES, Array, Cell, Problem, Shape, given, grid, make_problem, remade
from fusedrnn import _core

cells = pytest.mark.parametrize("cell", CELLS, ids=str)
dtypes = pytest.mark.parametrize("dtype", DTYPES)
SHAPES = [*BITS_SHAPES, (3, 40, 30, 64), (20, 3, 8, 200), (9, 33, 12, 20), (3, 9, 70, 33)]
cells_and_shapes = pytest.mark.parametrize(("cell", "shape"), grid(SHAPES, BITS_SHAPES[1:3]), ids=str)
variants = pytest.mark.parametrize(
    "variant",
    [{}, {"lengths": True, "reverse": True}, {"lengths": True, "resets": True}],
    ids=["", "lengths reverse", "lengths resets"],
)

# Schedules and threads: all on the best ISA, the last of each on the others.
RUNS = [("2x3", 7), *((schedule, threads) for threads in (2, 7, 3) for schedule in ("rows", "units"))]
FEW_RUNS = [("one", 1), *RUNS[-2:]]


def everything(problem: Problem) -> list[Any]:
    """Inference, training forward, gradients; the first two must agree with each other too."""
    infer, *_ = problem.cell.functions()
    inferred = infer(problem.x, problem.w, *problem.states, **problem.kwargs)
    out, grads = problem.run()
    assert_same_bits(inferred, out, "inference against training")
    return [out, grads]


@cells_and_shapes
@dtypes
@variants
def test_threads_and_isas(
    cell: Cell, shape: Shape, dtype: str, variant: dict[str, bool], rng: np.random.Generator
) -> None:
    problem = make_problem(cell, shape, dtype, rng, **variant)
    _core.set_schedule("one")
    want = everything(problem)
    best = fusedrnn.isa()
    for isa in fusedrnn.available_isas():
        fusedrnn.set_isa(isa)
        assert fusedrnn.isa() == isa
        for schedule, threads in RUNS if isa == best else FEW_RUNS:
            fusedrnn.set_num_threads(threads)
            _core.set_schedule(schedule)
            for a, b in zip(everything(problem), want, strict=True):
                assert_same_bits(a, b, f"{isa}, {threads} threads, {schedule}:")


# Large enough for several threads: with rows for each of them, and with so few that they share the units.
AUTO_SHAPES = {"rows": (40, 64, 40, 72), "units": (40, 2, 40, 264)}
AUTO_PARTS = {"rows": (2, 1, 2), "units": (1, 2, 2)}
# Costs with which they are so on every machine and ISA.
AUTO_COSTS = {
    "rows": {"start": 1.0, "meeting": 1e9},
    "units": {
        "start": 1.0,
        "meeting": 1.0,
        "shared_line": 1e-3,
        "l1_bytes": 1e4,
        "l2_bytes": 1e4,
        "l3_line": 1e3,
        "memory_line": 1e3,
    },
}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU: every schedule has one thread")
@pytest.mark.parametrize(
    ("cell", "schedule"),
    # Units of an IndRNN see only themselves, so that there is no product to share.
    [(cell, schedule) for cell in DISTINCT for schedule in AUTO_SHAPES if (cell.op, schedule) != ("indrnn", "units")],
    ids=str,
)
@dtypes
def test_the_schedule_that_a_size_gets(cell: Cell, schedule: str, dtype: str, rng: np.random.Generator) -> None:
    """Every size gets one, of as many threads as pay; none changes the bits."""
    T, B, _, _ = AUTO_SHAPES[schedule]
    problem = make_problem(cell, AUTO_SHAPES[schedule], dtype, rng, lengths=True)
    fusedrnn.set_num_threads(2)
    _core.set_schedule("one")
    assert problem.w._loaded.schedule(T, B) == (1, 1, 1)
    want = everything(problem)
    _core.set_schedule("auto")
    _core.set_machine(list(AUTO_COSTS[schedule].items()))
    assert problem.w._loaded.schedule(T, B, 2) == AUTO_PARTS[schedule]
    for a, b in zip(everything(problem), want, strict=True):
        assert_same_bits(a, b, schedule)


@pytest.mark.parametrize("cell", [c for c in DISTINCT if c.op in ("rnn", "lstm")][:2], ids=str)
def test_more_rows_than_a_step_of_backward_keeps_near(cell: Cell, rng: np.random.Generator) -> None:
    """Gradients of one thread's rows are taken in slices of k of a fixed size in bytes, but of at least 16: here there
    are several."""
    B = 140_000
    fusedrnn.set_num_threads(1)
    problem = make_problem(cell, (2, B, 1, 40 // cell.gates), "float32", rng)
    grads = problem.run()[1]
    few = type(problem)(**vars(problem))
    few.x, few.dy = problem.x[:, -5:], problem.dy[:, -5:]
    few.states, few.dstates = [s[-5:] for s in problem.states], [d[-5:] for d in problem.dstates]
    want = few.run()[1]
    np.testing.assert_array_equal(grads.dx[:, -5:], want.dx)
    np.testing.assert_array_equal(grads.dh0[-5:], want.dh0)


def copied(problem: Problem, **changes: Any) -> Problem:
    return type(problem)(**(vars(problem) | changes))


@cells
@pytest.mark.parametrize("variant", [{}, {"lengths": True, "reverse": True}], ids=["", "lengths reverse"])
def test_a_reserve_serves_again(cell: Cell, variant: dict[str, bool], rng: np.random.Generator) -> None:
    """Whatever happens to the outputs of forward, and to the gradients of another backward."""
    problem = make_problem(cell, (40, 9, 3, 20), "float32", rng, **variant)
    _, forward, backward, _ = cell.functions()
    _, want = problem.run()
    out, reserve = forward(problem.x, problem.w, *problem.states, **problem.kwargs)
    for a in out:
        a[...] = np.nan
    for _ in range(2):
        gradients = backward(reserve, problem.dy, *problem.dstates)
        assert_same_bits(gradients, want, "again")
        for a in gradients:
            if a is not None:
                a[...] = np.nan


@pytest.mark.parametrize("cell", DISTINCT, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_steps_that_no_row_has_change_nothing(cell: Cell, reverse: bool, rng: np.random.Generator) -> None:
    """Neither in outputs nor in gradients of weights, whose sums are cut by steps."""
    T, more = 60, 500
    problem = make_problem(cell, (T, 11, 3, 20), "float32", rng, lengths=True, reverse=reverse)
    problem.kwargs["lengths"] = np.maximum(problem.kwargs["lengths"] - 3, 0)
    problem.kwargs["lengths"][0] = T
    if cell.below:
        pytest.skip("its further input would have to be padded too")
    padded = copied(
        problem,
        x=np.concatenate([problem.x, np.full((more, *problem.x.shape[1:]), np.nan, "f4")]),
        dy=np.concatenate([problem.dy, np.full((more, *problem.dy.shape[1:]), np.nan, "f4")]),
    )
    (out, gradients), (out_padded, gradients_padded) = problem.run(), padded.run()
    assert_same_bits(out_padded._replace(y=out_padded.y[:T]), out)
    assert_same_bits(gradients_padded._replace(dx=gradients_padded.dx[:T]), gradients)


@pytest.mark.parametrize("cell", DISTINCT, ids=str)
def test_lengths_of_whole_rows_are_none(cell: Cell, rng: np.random.Generator) -> None:
    problem = make_problem(cell, (50, 7, 3, 20), "float32", rng)
    whole = copied(problem, kwargs=problem.kwargs | {"lengths": [50] * 7})
    for a, b in zip(everything(whole), everything(problem), strict=True):
        assert_same_bits(a, b)


def test_the_best_isa_runs_unless_another_is_asked_for() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "FUSEDRNN_ISA"}
    code = "import fusedrnn; print(fusedrnn.isa() == fusedrnn.available_isas()[0])"
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == "True"


def exactly(x: Array, w: Array, b: Array) -> Array:
    """float32(x * w + b), for b in 1..2 and products of less than 1: rounded once, in integers of 2^-96."""
    scale = 96
    sums = [int(math.ldexp(float(p), 48)) * int(math.ldexp(float(q), 48)) for p, q in zip(x, w, strict=True)]
    sums = [s + (int(math.ldexp(float(a), 48)) << scale - 48) for s, a in zip(sums, b, strict=True)]
    ulp = 1 << scale - 23
    near = [(s // ulp, s % ulp) for s in sums]
    up = [n + (2 * rest > ulp or (2 * rest == ulp and n % 2 == 1)) for n, rest in near]
    return np.array([math.ldexp(n, -23) for n in up], "f4")


@pytest.mark.parametrize("isa", fusedrnn.available_isas())
def test_a_multiply_add_rounds_once(isa: str, rng: np.random.Generator) -> None:
    """Near ties, where a sum that was rounded to float64 before would often be rounded to the wrong float32."""
    T, each = 100, 30
    x = rng.uniform(1, 2, T).astype("f4")
    w = (2.0**-24 / np.repeat(x, each).astype("f8") * (1 + 2.0**-23 * rng.integers(-2, 3, T * each))).astype("f4")
    b = (1 + 2.0**-23 * rng.integers(0, 2**23, T * each)).astype("f4")
    weights = fusedrnn.IndRNNWeights(w[:, None], np.zeros_like(w), b)  # relu(x * w + b)
    fusedrnn.set_isa(isa)
    y = fusedrnn.indrnn(x[:, None, None], weights).y[:, 0]
    steps = np.repeat(np.arange(T), each)
    products = x[steps].astype("f8") * w
    assert np.count_nonzero((products != 2.0**-24) & (np.abs(products - 2.0**-24) < 2.0**-50)) > 100
    np.testing.assert_array_equal(y[steps, np.arange(T * each)], exactly(x[steps], w, b))


@pytest.mark.parametrize("isa", ["avx512", "avx2", "neon", "portable"])
def test_the_isa_asked_for_runs(isa: str) -> None:
    """In a process of its own, by the environment; the kernels' own table says which they are."""
    code = "import fusedrnn; print(fusedrnn.isa())"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"FUSEDRNN_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    if isa in fusedrnn.available_isas():
        assert run.stdout.strip() == isa
    else:
        assert run.returncode != 0
        assert "FUSEDRNN_ISA: expected one of" in run.stderr


@cells_and_shapes
@dtypes
@variants
def test_a_row_does_not_depend_on_its_batch(
    cell: Cell, shape: Shape, dtype: str, variant: dict[str, bool], rng: np.random.Generator
) -> None:
    problem = make_problem(cell, shape, dtype, rng, **variant)
    out, grads = problem.run()
    for row in {0, shape[1] // 2, shape[1] - 1}:
        one = slice(row, row + 1)
        out1, grads1 = problem.of_rows(one).run()
        np.testing.assert_array_equal(out1.y, out.y[:, one])
        np.testing.assert_array_equal(grads1.dx, grads.dx[:, one])
        for i in range(cell.states):
            np.testing.assert_array_equal(out1[1 + i], out[1 + i][one])
            np.testing.assert_array_equal(grads1[1 + i], grads[1 + i][one])
        if problem.reset_states:
            np.testing.assert_array_equal(grads1.dreset_h, grads.dreset_h[one])


def misaligned(a: Array) -> Array:
    """A copy of `a` whose data begins one byte past an element boundary."""
    raw = np.empty(a.nbytes + 1, np.uint8)
    copy = raw[1:].view(a.dtype).reshape(a.shape) if a.size else a.copy()
    copy[...] = a
    return copy


def strided(a: Array) -> Array:
    """A copy of `a` that is every second element of a larger array, and runs backwards."""
    big = np.zeros(tuple(2 * n for n in a.shape), a.dtype)
    view = big[tuple(slice(None, None, 2) for _ in a.shape)][::-1]
    view[...] = a
    return view


def shifted(a: Array) -> Array:
    """A copy of `a`, aligned to its elements but to nothing larger."""
    big = np.empty(a.size + 1, a.dtype)[1:].reshape(a.shape)
    big[...] = a
    return big


@cells
@dtypes
@pytest.mark.parametrize("layout", [misaligned, strided, shifted, np.asfortranarray])
def test_layout(cell: Cell, dtype: str, layout: Any, rng: np.random.Generator) -> None:
    problem = make_problem(cell, (4, 5, 7, 19), dtype, rng, lengths=True)
    other = Problem(
        cell,
        remade(cell, problem.w, layout),
        layout(problem.x),
        [layout(s) for s in problem.states],
        {"lengths": layout(problem.kwargs["lengths"]), "reverse": False},
        layout(problem.dy),
        [layout(s) for s in problem.dstates],
    )
    for a, b in zip(everything(other), everything(problem), strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize(("cell", "shape"), grid(BITS_SHAPES, BITS_SHAPES[1:3]), ids=str)
@dtypes
def test_single_steps_give_the_bits_of_one_call(cell: Cell, shape: Shape, dtype: str, rng: np.random.Generator) -> None:
    problem = make_problem(cell, shape, dtype, rng)
    infer, _, _, step = cell.functions()
    want = infer(problem.x, problem.w, *problem.states)
    states: Any = tuple(problem.states)
    half = shape[0] // 2
    for t in range(shape[0]):
        states = step(problem.x[t], problem.w, *states, **cell.numbered(t))
        states = states if cell.states > 1 else (states,)
        np.testing.assert_array_equal(states[0], want.y[t, :, : problem.w.proj_size])
    for a, b in zip(states, want[1:], strict=True):
        np.testing.assert_array_equal(a, b)
    first = infer(problem.x[:half], problem.w, *problem.states)
    second = infer(problem.x[half:], problem.w, *first[1:], **cell.numbered(half))
    np.testing.assert_array_equal(np.concatenate([first.y, second.y]), want.y)


@cells
@dtypes
def test_reverse_is_forward_on_reversed_time(cell: Cell, dtype: str, rng: np.random.Generator) -> None:
    problem = make_problem(cell, (6, 3, 5, 21), dtype, rng)
    infer = cell.functions()[0]
    a = infer(problem.x, problem.w, *problem.states, reverse=True)
    b = infer(problem.x[::-1], problem.w, *problem.states)
    np.testing.assert_array_equal(a.y, b.y[::-1])
    np.testing.assert_array_equal(a.h_n, b.h_n)


# But for sums over units, whose order is that of the units.
@pytest.mark.parametrize("cell", [c for c in CELLS if not (c.normalised or c.projects or c.heads > 1)], ids=str)
@dtypes
def test_a_unit_does_not_depend_on_its_place(cell: Cell, dtype: str, rng: np.random.Generator) -> None:
    """Units are permuted, recurrent matrices excepted, which would change the order of the sums: with zeros in their
    place a unit gives the same bits wherever it falls in a vector or its tail."""
    I, H = 6, 37
    problem = make_problem(cell, (1, 3, I, H), dtype, rng)
    order = rng.permutation(H)

    def permute(a: Array, axis: int) -> Array:
        blocks = np.stack(np.split(a, a.shape[axis] // H, axis))
        return np.concatenate(list(np.take(blocks, order, axis + 1)), axis)

    matrices = {k: a for k, a in given(problem.w).items() if a.ndim == 2 and k != "weight_ih"}
    zeros = {k: np.zeros_like(a) for k, a in matrices.items()}
    infer = cell.functions()[0]
    a = infer(problem.x, remade(cell, problem.w, replaced=zeros), *problem.states)
    x = problem.x.copy()
    if cell.below:
        x[..., I:] = permute(x[..., I:], 2)
    permuted = remade(cell, problem.w, lambda a: permute(a, 0), zeros)
    b = infer(x, permuted, *(permute(s, 1) for s in problem.states))
    np.testing.assert_array_equal(permute(a.y, 2), b.y)


@cells
@dtypes
def test_inputs_are_left_alone(cell: Cell, dtype: str, rng: np.random.Generator) -> None:
    problem = make_problem(cell, (4, 3, 5, 18), dtype, rng, lengths=True)
    inputs = [problem.x, *problem.states, problem.dy, *problem.dstates, problem.kwargs["lengths"]]
    before = [a.copy() for a in inputs]
    for a in inputs:
        a.flags.writeable = False
    everything(problem)
    for a, b in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(a, b)


@cells
def test_weights_are_a_snapshot(cell: Cell, rng: np.random.Generator) -> None:
    problem = make_problem(cell, (2, 3, 4, 5), "float32", rng)
    arrays = {name: np.array(a) for name, a in given(problem.w).items()}
    w = cell.weights(**arrays)
    infer = cell.functions()[0]
    want = infer(problem.x, w)
    for a in arrays.values():
        a[...] = 7
    assert_same_bits(infer(problem.x, w), want)
    for name, a in given(w).items():
        np.testing.assert_array_equal(a, problem.w.arrays()[name])
        with pytest.raises(ValueError, match="read-only"):
            a[0] = 1


def in_blocks(start: float, a: Array, b: Array) -> np.float32:
    """A product in the documented order (docs/bits.md), with every rounding of a fused multiply-add made exactly."""
    total: np.float32 | None = None
    for k in range(0, len(a), 64):
        chain = np.float32(start if k == 0 else 0)
        for u, v in zip(a[k : k + 64], b[k : k + 64], strict=True):
            chain = fused(u, v, chain)
        total = chain if total is None else total + chain
    assert total is not None
    return total


def fused(u: Any, v: Any, w: Any) -> np.float32:
    """u * v + w, rounded once."""
    exact = Fraction(float(u)) * Fraction(float(v)) + Fraction(float(w))
    near = np.float32(float(exact))
    if Fraction(float(exact)) == exact:
        return near
    # Rounded twice: it may be the neighbour of what is wanted.
    candidates = (near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf)))
    distances = [abs(Fraction(float(c)) - exact) for c in candidates]
    assert distances.count(min(distances)) == 1, "a tie"
    return candidates[distances.index(min(distances))]


def test_order_of_products() -> None:
    """By an RNN whose pre-activations are its outputs, as they are positive: W x, to which U h is added."""
    T, I, H = 2, 150, 131
    rng = np.random.default_rng(3)
    w_ih, w_hh = (rng.uniform(0, 1 / 128, (H, n)).astype("float32") for n in (I, H))
    b_ih, b_hh = (rng.uniform(0, 1, H).astype("float32") for _ in range(2))
    x = rng.uniform(0, 1, (T, 1, I)).astype("float32")
    y = fusedrnn.rnn(x, fusedrnn.RNNWeights(w_ih, w_hh, b_ih, b_hh, nonlinearity="relu")).y
    for unit in (0, 15, 64, H - 1):
        h = np.zeros(H, "float32")
        for t in range(T):
            want = in_blocks(b_ih[unit] + b_hh[unit], w_ih[unit], x[t, 0]) + in_blocks(0, w_hh[unit], h)
            assert y[t, 0, unit] == want
            h = y[t, 0]


def test_order_of_weight_gradients() -> None:
    """By an RNN without memory, whose gradients of pre-activations are dy."""
    T, I, H = 200, 3, 18
    rng = np.random.default_rng(4)
    x, dy = (rng.uniform(0, 1, (T, 1, n)).astype("float32") for n in (I, H))
    zeros = np.zeros(H, "float32")
    w_ih, w_hh = rng.uniform(0, 1, (H, I)).astype("float32"), np.zeros((H, H), "float32")
    w = fusedrnn.RNNWeights(w_ih, w_hh, zeros, zeros, nonlinearity="relu")
    _, reserve = fusedrnn.rnn_forward(x, w)
    g = fusedrnn.rnn_backward(reserve, dy)
    for unit, k in ((0, 0), (17, 2)):
        assert g.dweight_ih[unit, k] == in_blocks(0, dy[::-1, 0, unit], x[::-1, 0, k])
    ones = np.ones(T, "float32")
    assert g.dbias_ih is not None
    assert g.dbias_ih[5] == in_blocks(0, dy[::-1, 0, 5], ones)
