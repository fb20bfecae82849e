"""The stepwise driver of the CUDA backend without a GPU: every cell, with the bits of the CPU, on the emulated GPU of
test_cuda.py. What a real GPU must still show is in test_cuda_gpu.py."""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fakegpu
import fusedrnn
from agreement import assert_same_bits, named
from cases import CELLS, DTYPES, Cell, Problem, make_problem, options_of, regularised, remade
from cuda_cases import CASES, KNOWN, ONE_OF_EACH, Arrays, compare_by_norm, problem_of, run, same_bits
from fusedrnn.backends import step_calls

FAKE = Arrays()
OTHERS = [c for c in CELLS if c not in KNOWN]  # that the persistent kernels do not run
# Another cell of each kind of step: several phases, products of other rows than h, sums over units, heads, and so on.
FEW = [
    c
    for c in CELLS
    if c.name
    in (
        "gru_reset_after",
        "indrnn_tanh",
        "clockwork_rnn_tanh",
        "lstm_matrix_peephole",
        "fgr_lstm",
        "depth_gated_lstm",
        "slstm",
        "layer_norm_lstm",
        "lstm_projected",
        "gru_reset_before_heads",
        "lstm_peephole_activations",
    )
]


@pytest.fixture(autouse=True)
def _products() -> Iterator[None]:
    yield
    fusedrnn.cuda.set_float32_products("float32")


def assert_bits_of_cpu(problem: Problem, dtype: str) -> None:
    for got, want in zip(run(problem, same_bits(dtype), FAKE), problem.run(), strict=True):
        assert_same_bits(got, want)


def test_few_cells_are_there() -> None:
    assert len(FEW) == 11


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_bits_of_the_cpu(cell: Cell, dtype: str, case: str, roomy: ctypes.CDLL, rng: np.random.Generator) -> None:
    assert_bits_of_cpu(problem_of(cell, (5, 4, 3, 9), dtype, case, rng), dtype)


@pytest.mark.parametrize(
    "shape",
    [
        (3, 9, 70, 66),  # several tiles of rows and columns, blocks of k
        (131, 5, 2, 3),  # several chunks, and stretches, of steps
        (2, 1030, 1, 2),  # several stretches of one chunk
        (1, 1, 1, 1),
        (0, 2, 3, 4),
        (3, 0, 2, 5),
    ],
    ids=str,
)
@pytest.mark.parametrize("case", ["plain", "reverse lengths resets masks"])
@pytest.mark.parametrize("cell", FEW, ids=str)
def test_the_order_of_sums(
    cell: Cell, shape: tuple[int, int, int, int], case: str, roomy: ctypes.CDLL, rng: np.random.Generator
) -> None:
    assert_bits_of_cpu(problem_of(cell, shape, "float32", case, rng), "float32")


@pytest.mark.parametrize("cell", FEW, ids=str)
def test_thread_blocks_of_any_size(cell: Cell, gpu: ctypes.CDLL, rng: np.random.Generator) -> None:
    """As many warps as shared memory has room for."""
    assert_bits_of_cpu(problem_of(cell, (3, 5, 70, 20), "float32", "lengths", rng), "float32")


@pytest.mark.parametrize("cell", FEW, ids=str)
def test_thread_blocks_of_full_size(
    cell: Cell, roomy: ctypes.CDLL, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a real GPU."""
    monkeypatch.setenv("FAKE_CUDA_THREADS", "256")
    path = fusedrnn.cuda.paths()[0]
    monkeypatch.setenv("FUSEDRNN_CUDA_DRIVER", f"{os.path.dirname(path.decode())}/./{os.path.basename(path.decode())}")
    assert_bits_of_cpu(problem_of(cell, (3, 20, 600, 20), "float32", "lengths", rng), "float32")


@pytest.mark.parametrize("cell", FEW, ids=str)
def test_in_whatever_order_threads_run(cell: Cell, roomy: ctypes.CDLL, rng: np.random.Generator) -> None:
    problem = problem_of(cell, (4, 9, 3, 20), "float32", "lengths", rng)
    for seed in range(3):
        roomy.fake_cuda_seed(seed + 10)
        assert_bits_of_cpu(problem, "float32")


@pytest.mark.parametrize("cell", FEW, ids=str)
@pytest.mark.parametrize("case", ["lengths", "reverse lengths"])
def test_parts_of_a_sequence(
    cell: Cell, case: str, roomy: ctypes.CDLL, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = problem_of(cell, (7, 3, 2, 6), "float32", case, rng)
    monkeypatch.setattr(step_calls, "PRE_BYTES", 2 * 3 * cell.gates * 6 * 4)  # two steps
    assert_bits_of_cpu(problem, "float32")


@pytest.mark.parametrize("format", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", ["reverse lengths", "resets"])
@pytest.mark.parametrize("cell", OTHERS, ids=str)
def test_formats(cell: Cell, case: str, format: str, roomy: ctypes.CDLL, rng: np.random.Generator) -> None:
    compare_by_norm(problem_of(cell, (5, 13, 7, 33), "float32", case, rng), format, FAKE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", FEW, ids=str)
def test_masks_from_a_seed(cell: Cell, dtype: str, roomy: ctypes.CDLL, rng: np.random.Generator) -> None:
    problem = regularised(make_problem(cell, (4, 3, 5, 20), dtype, rng), options_of(cell, 0.3), rng)
    del problem.kwargs["masks"]
    problem.kwargs["seed"] = 2**63 + 5
    want, want_grads = problem.run()
    fusedrnn.cuda.set_float32_products("same_bits")
    infer, forward, backward, _ = cell.functions(fusedrnn)
    w = FAKE.weights(problem, dtype)
    x, dy = FAKE.make(problem.x, dtype), FAKE.make(problem.dy, dtype)
    states, dstates = ([FAKE.make(a, dtype) for a in given] for given in (problem.states, problem.dstates))
    out, reserve = forward(x, w, *states, **problem.kwargs)
    assert reserve.seed == 2**63 + 5
    assert_same_bits(FAKE.back(out), want)
    assert_same_bits(FAKE.back(backward(reserve, dy, *dstates)), want_grads)
    expected = cell.functions()[0](problem.x, problem.w, *problem.states, reverse=False)  # of inference
    assert_same_bits(FAKE.back(infer(x, w, *states, reverse=False)), expected)


@pytest.mark.parametrize("cell", ONE_OF_EACH, ids=str)
@pytest.mark.parametrize("case", ["resets", "reverse lengths resets"])
def test_episodes_of_weights_for_the_persistent_kernels(
    cell: Cell, case: str, roomy: ctypes.CDLL, rng: np.random.Generator
) -> None:
    """Such calls run step by step, whatever runs others."""
    problem = problem_of(cell, (5, 4, 3, 9), "float32", case, rng)
    for got, want in zip(run(problem, "float32", FAKE), problem.run(), strict=True):
        assert_same_bits(got, want)
    compare_by_norm(problem, "bfloat16", FAKE)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_single_steps(cell: Cell, roomy: ctypes.CDLL, rng: np.random.Generator) -> None:
    problem = make_problem(cell, (3, 4, 5, 11), "float32", rng, resets=True)
    fusedrnn.cuda.set_float32_products("same_bits")
    resets, before = problem.kwargs["resets"], problem.reset_states
    of_cpu, step = cell.functions()[3], cell.functions(fusedrnn)[3]
    w, given = FAKE.weights(problem, "float32"), [FAKE.make(s, "float32") for s in before]
    states, want = tuple(FAKE.make(s, "float32") for s in problem.states), tuple(problem.states)

    def as_tuple(found: Any) -> tuple[Any, ...]:
        return found if isinstance(found, tuple) else (found,)

    def as_given(found: list[Any]) -> Any:
        return tuple(found) if len(found) > 1 else found[0]

    for t in range(3):
        out = tuple(fakegpu.asarray(np.full(s.shape, np.nan, "float32")) for s in want)
        options = {"resets": FAKE.make(resets[t], "bool"), "reset_state": as_given(given), "out": as_given(list(out))}
        number = cell.numbered(t)
        x = FAKE.make(problem.x[t], "float32")
        states = as_tuple(step(x, w, *states, **options, **number))
        assert all(a is b for a, b in zip(states, out, strict=True))
        options = {"resets": resets[t], "reset_state": as_given(before)}
        want = as_tuple(of_cpu(problem.x[t], problem.w, *want, **options, **number))
        for a, b in zip(states, want, strict=True):
            np.testing.assert_array_equal(a.data, b)


@pytest.mark.parametrize("how", [copy.copy, lambda w: pickle.loads(pickle.dumps(w))], ids=["copied", "pickled"])
@pytest.mark.parametrize("cell", FEW, ids=str)
def test_weights_can_be_copied(cell: Cell, how: Any, roomy: ctypes.CDLL, rng: np.random.Generator) -> None:
    problem = make_problem(cell, (3, 2, 3, 6), "float32", rng)
    fusedrnn.cuda.set_float32_products("same_bits")
    w = how(FAKE.weights(problem, "float32"))
    fusedrnn.cuda.set_float32_products("float32")
    assert w._loaded.format == "same_bits"
    states = [FAKE.make(s, "float32") for s in problem.states]
    out = cell.functions(fusedrnn)[0](FAKE.make(problem.x, "float32"), w, *states)
    assert_same_bits(FAKE.back(out), problem.run()[0])


def test_the_choice_of_kernels(roomy: ctypes.CDLL) -> None:
    def kind(dtype: str = "float32", **options: Any) -> str:
        weights = (fakegpu.asarray(np.zeros(shape), dtype) for shape in ((8, 3), (8, 2 // options.get("num_heads", 1))))
        return type(fusedrnn.LSTMWeights(*weights, **options)._loaded).__name__

    assert kind() == kind("bfloat16") == kind("float16") == "CudaWeights"
    assert kind("float64") == "CudaSteps"
    assert kind(num_heads=2) == kind(gate_activation="relu") == kind(zoneout_h=0.1) == "CudaSteps"
    fusedrnn.cuda.set_float32_products("tf32")
    assert kind() == "CudaWeights"
    fusedrnn.cuda.set_float32_products("same_bits")
    assert kind() == "CudaSteps"
    assert kind("bfloat16") == "CudaWeights"


@pytest.mark.parametrize("cell", FEW, ids=str)
def test_weights_and_reserves_serve_other_streams(cell: Cell, roomy: ctypes.CDLL, rng: np.random.Generator) -> None:
    problem = problem_of(cell, (3, 2, 3, 6), "float32", "lengths masks", rng)
    want, want_grads = run(problem, "same_bits", FAKE)
    fusedrnn.cuda.set_float32_products("same_bits")
    _, forward, backward, _ = cell.functions(fusedrnn)
    w = FAKE.weights(problem, "float32")
    first, second = (fakegpu.Stream(handle) for handle in (10, 11))
    with fakegpu.on_stream(first):
        given = [FAKE.make(a, "float32") for a in (problem.x, *problem.states)]
        out, reserve = forward(given[0], w, *given[1:], **problem.kwargs)
        assert_same_bits(FAKE.back(out), want)
    for stream in (second, first):
        with fakegpu.on_stream(stream):
            given = [FAKE.make(a, "float32") for a in (problem.dy, *problem.dstates)]
            assert_same_bits(FAKE.back(backward(reserve, *given)), want_grads)


def test_arrays_of_another_gpu(driver: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    class Second(Arrays):
        def make(self, a: Any, dtype: str) -> Any:
            return fakegpu.asarray(a, dtype, device=1)

    monkeypatch.setitem(fakegpu.MACHINES, "pair", fakegpu.MACHINES["roomy"])
    monkeypatch.setenv("FAKE_CUDA_DEVICES", "2")
    with fakegpu.installed(driver, "pair"):
        for cell in FEW:
            if cell.below:
                continue  # whose sequences the test itself would cut in two, on the current GPU
            problem = problem_of(cell, (3, 2, 3, 6), "float32", "lengths resets masks", rng)
            for got, want in zip(run(problem, "same_bits", Second()), problem.run(), strict=True):
                assert_same_bits(got, want)


def test_nothing_past_a_length_is_read(roomy: ctypes.CDLL, rng: np.random.Generator) -> None:
    for cell in FEW:
        for reverse in (False, True):
            problem = make_problem(cell, (6, 4, 3, 10), "float32", rng, reverse=reverse)
            problem.kwargs["lengths"] = np.array([6, 0, 2, 5])
            want = run(problem, "same_bits", FAKE)
            past = np.arange(6)[:, None] >= problem.kwargs["lengths"]
            problem.x[past] = np.nan
            problem.dy[past] = np.nan
            for a, b in zip(want, run(problem, "same_bits", FAKE), strict=True):
                assert_same_bits(a, b)


@pytest.mark.parametrize("periods", [[1, 1, 1], [3, 4, 9], [2, 2, 5], [7]], ids=str)
@pytest.mark.parametrize("case", ["plain", "reverse lengths resets masks"])
def test_clocks(periods: list[int], case: str, roomy: ctypes.CDLL, rng: np.random.Generator) -> None:
    """Of one period, of steps in which no clock ticks, and from any number on."""
    cell = next(c for c in CELLS if c.name == "clockwork_rnn_tanh")
    cell = dataclasses.replace(cell, weights=partial(cell.weights, periods=periods))
    problem = problem_of(cell, (90, 5, 3, 9), "float32", case, rng)
    problem.kwargs["start"] = np.array([0, 1, 2, 2**40, 5])
    assert_bits_of_cpu(problem, "float32")


def test_bad_arguments(roomy: ctypes.CDLL, rng: np.random.Generator) -> None:
    def zeros(*shape: int, dtype: str = "float64") -> Any:
        return fakegpu.asarray(np.zeros(shape), dtype)

    w, x = fusedrnn.LSTMWeights(zeros(8, 3), zeros(8, 2)), zeros(4, 2, 3)
    with pytest.raises(TypeError, match="h0: expected dtype float64, got float32"):
        fusedrnn.lstm(x, w, zeros(2, 2, dtype="float32"))
    with pytest.raises(TypeError, match="resets: expected a CUDA array of fakegpu, got ndarray"):
        fusedrnn.lstm(x, w, resets=np.zeros((4, 2), bool))
    with pytest.raises(ValueError, match="resets: expected an array on device 0, got one on device 1"):
        fusedrnn.lstm(x, w, resets=fakegpu.asarray(np.zeros((4, 2)), "bool", device=1))
    with pytest.raises(TypeError, match="resets: expected dtype bool, got float64"):
        fusedrnn.lstm(x, w, resets=zeros(4, 2))
    with pytest.raises(ValueError, match=r"resets: expected shape \(batch_size,\) = \(2,\), got \(4, 2\)"):
        fusedrnn.lstm_cell(x[0], w, resets=zeros(4, 2, dtype="bool"))
    with pytest.raises(TypeError, match="weight_ih: expected dtype float32 or float64 or .*, got int64"):
        fusedrnn.LSTMWeights(zeros(8, 3, dtype="int64"), zeros(8, 2, dtype="int64"))
    with pytest.raises(ValueError, match="periods: expected as many as there are groups of equal size"):
        fusedrnn.ClockworkRNNWeights(zeros(4, 3), zeros(4, 4), periods=[1, 2, 3])
    out, reserve = fusedrnn.lstm_forward(x, w)
    assert reserve.nbytes == 4 * 2 * (5 + 1) * 2 * 8
    with pytest.raises(ValueError, match="dc: expected None for cell 'lstm', got Array"):
        w._loaded.backward(reserve._kept, None, (None, None), zeros(4, 2, 2))
    with pytest.raises(ValueError, match=r"dy: expected shape .* = \(4, 2, 2\), got \(4, 2, 3\)"):
        fusedrnn.lstm_backward(reserve, x)
    grads = fusedrnn.lstm_backward(reserve, out.y)
    assert all(a is None or a.shape for _, a in named(grads))
    layer_norm = fusedrnn.LayerNormGRUWeights(
        zeros(6, 3), zeros(6, 2), gain_ih=zeros(6), gain_hh=zeros(6), recurrent_dropout=0.5
    )
    with pytest.raises(ValueError, match="seed: expected an int, or masks"):
        fusedrnn.layer_norm_gru_forward(x, layer_norm)


@pytest.mark.parametrize("cell", ONE_OF_EACH, ids=str)
def test_episodes_on_another_stream(cell: Cell, roomy: ctypes.CDLL, rng: np.random.Generator) -> None:
    """Weights that were made on one stream are made anew for such calls on another; and not kept if they are a
    graph's."""
    problem = problem_of(cell, (3, 2, 3, 6), "float32", "resets", rng)
    infer, w = cell.functions(fusedrnn)[0], FAKE.weights(problem, "float32")
    for stream in (fakegpu.Stream(10, capturing=True), fakegpu.Stream(11), fakegpu.Stream(12)):
        with fakegpu.on_stream(stream):
            x, states = FAKE.make(problem.x, "float32"), [FAKE.make(s, "float32") for s in problem.states]
            out = infer(x, w, *states, resets=FAKE.make(problem.kwargs["resets"], "bool"))
        assert w._loaded._steps is None or not stream.capturing
        want = cell.functions()[0](problem.x, problem.w, *problem.states, resets=problem.kwargs["resets"])
        assert_same_bits(FAKE.back(out), want)


def test_parameters_that_are_none(roomy: ctypes.CDLL, rng: np.random.Generator) -> None:
    """Biases and peepholes that nobody gave have no gradients, and count as zeros."""
    fusedrnn.cuda.set_float32_products("same_bits")
    for cell in (c for c in CELLS if not c.below):
        problem = make_problem(cell, (3, 2, 3, 6), "float32", rng)
        none = {name: None for name in cell.shapes(3, 6) if name not in cell.required}
        problem.w = remade(cell, problem.w, replaced=none)
        assert_bits_of_cpu(problem, "float32")


def test_arrays_end_at_a_page_that_nobody_may_touch() -> None:
    """So that the tests above see a kernel that goes beyond one."""
    read = "import ctypes, fakegpu, numpy as np; a = fakegpu.new((3, 5), np.dtype('float64')); n = {}; "
    read += "ctypes.string_at(a.ctypes.data + n, 1)"
    for n, status in ((119, 0), (128, -signal.SIGSEGV)):
        command = [sys.executable, "-c", read.format(n)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        assert subprocess.run(command, env=environment, check=False).returncode == status
