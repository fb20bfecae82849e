"""The CUDA backend without a GPU: the kernels' own source and the native launcher on an emulated GPU (tests/cuda),
under an array library made for tests (fakegpu.py). What a real GPU must still show is in test_cuda_gpu.py."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fakegpu
import fusedrnn
from agreement import assert_same_bits, named
from cases import CELLS, FEW_SHAPES, SHAPES, Cell, grid, make_problem
from cuda_cases import (
    FORMATS,
    KNOWN,
    ONE_OF_EACH,
    Arrays,
    TensorsOnCpu,
    TorchArrays,
    compare_by_norm,
    compare_exactly,
    rounded,
    run,
)
from fusedrnn import _core
from fusedrnn.backends import arrays
from fusedrnn.backends import cuda as cuda_backend

FAKE = Arrays()
FEW = [shape for shape in FEW_SHAPES if shape[0] < 50]  # steps that are emulated take their time


@pytest.fixture(autouse=True)
def _products() -> Iterator[None]:
    yield
    fusedrnn.cuda.set_float32_products("float32")


@pytest.mark.parametrize(("cell", "shape"), [p for p in grid(SHAPES, FEW) if p[0] in KNOWN], ids=str)
@pytest.mark.parametrize("case", ["forward", "reverse with lengths"])
def test_float32(
    cell: Cell, shape: tuple[int, int, int, int], case: str, roomy: ctypes.CDLL, rng: np.random.Generator
) -> None:
    options = {"lengths": True, "reverse": True} if case != "forward" else {}
    compare_exactly(make_problem(cell, shape, "float32", rng, **options), FAKE)


@pytest.mark.parametrize("cell", ONE_OF_EACH, ids=lambda c: c.name)
@pytest.mark.parametrize("shape", [(4, 5, 40, 64), (3, 70, 3, 50), (2, 37, 3, 130), (5, 3, 2, 33)], ids=str)
@pytest.mark.parametrize("lengths", [False, True], ids=["full", "lengths"])
def test_float32_however_it_is_cut_up(
    cell: Cell, shape: tuple[int, int, int, int], lengths: bool, gpu: ctypes.CDLL, rng: np.random.Generator
) -> None:
    compare_exactly(make_problem(cell, shape, "float32", rng, lengths=lengths, reverse=not lengths), FAKE)


@pytest.mark.parametrize("format", FORMATS[1:])
@pytest.mark.parametrize("cell", ONE_OF_EACH, ids=lambda c: c.name)
@pytest.mark.parametrize("shape", [(2, 13, 5, 8), (5, 13, 7, 33), (3, 70, 3, 50), (20, 3, 2, 130)], ids=str)
def test_formats(
    cell: Cell, shape: tuple[int, int, int, int], format: str, gpu: ctypes.CDLL, rng: np.random.Generator
) -> None:
    compare_by_norm(
        make_problem(cell, shape, "float32", rng, lengths=shape[0] == 5, reverse=shape[0] == 3), format, FAKE
    )


def test_cells_that_run_here_are_those_that_the_kernels_have() -> None:
    known = {c.name for c in CELLS if c.native == c.name and _core.describe_cell(c.weights(**zeros(c)).cell)["cuda"]}
    assert known == {c.name for c in KNOWN}


def zeros(cell: Cell) -> dict[str, Any]:
    return {name: np.zeros(shape, "float32") for name, shape in cell.shapes(2, 8).items()}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru_reset_after", "gru_reset_before", "indrnn_relu"])
def test_plans_for_a_large_gpu(cell: str, format: str, driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of an H200, on which nothing runs here: all units and rows have a block, blocks that wait for each other fit
    on the GPU together, and so do the weights of a few rows if they are no more than its shared memory."""
    multiprocessors, shared = 132, 232448
    monkeypatch.setitem(fakegpu.MACHINES, "large", (multiprocessors, shared))
    monkeypatch.setenv("FAKE_CUDA_THREADS", "256")
    with fakegpu.installed(driver, "large"):
        for H in (1, 8, 100, 128, 256, 512, 650, 768, 1024, 2048, 4096):
            kernels = _core.make_cuda_cell(*fusedrnn.cuda.paths(), 0, cell, format, H)
            for B in (0, 1, 7, 16, 64, 256, 512, 10_000):
                for backward in (False, True):
                    plan = _core.make_cuda_run(kernels, backward, 10, B, 0, 0).plan
                    assert plan["groups"] * plan["octets_per_group"] * 8 >= H
                    assert plan["unit_blocks"] * plan["groups_per_block"] >= plan["groups"]
                    assert (plan["unit_blocks"] - 1) * plan["groups_per_block"] < plan["groups"]
                    assert plan["batch_groups"] * plan["rows_per_group"] >= B
                    alone = plan["unit_blocks"] == 1 or plan["chunks"] == [0]
                    assert alone or plan["unit_blocks"] * plan["batch_groups"] <= multiprocessors
                    assert plan["shared_bytes"] <= shared
                    assert plan["warps"] == 8
                    assert plan["warps"] % plan["splits"] == 0
                    assert all(0 <= r <= c for r, c in zip(plan["resident"], plan["chunks"], strict=True))
                    # In backward, a group of one octet takes the room of two.
                    fits = H * H * _core.describe_cell(cell)["gates"] * (4 if "32" in format else 2) < 14 << 20
                    assert plan["resident"] == plan["chunks"] or not fits or B > 8, (H, B, backward, plan)


def test_sizes_that_kernels_cannot_count(roomy: ctypes.CDLL) -> None:
    kernels = _core.make_cuda_cell(*fusedrnn.cuda.paths(), 0, "lstm", "float32", 64)
    most = (2**31 - 1) // (4 * 5 * 64 + 64) // 2
    assert _core.make_cuda_run(kernels, False, 2**31 - 2, most, 0, 0).plan["rows_per_group"] >= 8
    for T, B in ((3, most + 1), (3, 1 << 40), (2**31 - 1, 2), (1 << 40, 2)):
        with pytest.raises(ValueError, match=f"batch_size up to {most} for hidden_size 64, got {T} and {B}"):
            _core.make_cuda_run(kernels, False, T, B, 0, 0)
    with pytest.raises(RuntimeError, match="expected octets_per_group and groups_per_block of some plan, got 64 and 1"):
        _core.make_cuda_run(kernels, False, 3, 2, 64, 1)


@pytest.mark.parametrize("cell", ONE_OF_EACH, ids=lambda c: c.name)
@pytest.mark.parametrize("format", FORMATS)
def test_the_same_bits_in_whatever_order_threads_run(
    cell: Cell, format: str, gpu: ctypes.CDLL, rng: np.random.Generator
) -> None:
    problem = rounded(make_problem(cell, (4, 19, 3, 70), "float32", rng, lengths=True), format)
    first = run(problem, format, FAKE)
    for seed in range(3):
        gpu.fake_cuda_seed(seed + 10)
        for a, b in zip(first, run(problem, format, FAKE), strict=True):
            assert_same_bits(a, b)


@pytest.mark.parametrize("cell", ONE_OF_EACH, ids=lambda c: c.name)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_sequence_in_several_launches_has_the_same_bits(
    cell: Cell, reverse: bool, roomy: ctypes.CDLL, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = make_problem(cell, (7, 5, 3, 20), "float32", rng, lengths=True, reverse=reverse)
    whole = run(problem, "float32", FAKE)
    monkeypatch.setattr(cuda_backend, "PRE_BYTES", 2 * 5 * cell.gates * 20 * 4)  # two steps
    before = roomy.fake_cuda_launches(False)
    parts = run(problem, "float32", FAKE)
    packing = 2 * len(_core.describe_cell(problem.w.cell)["products"])
    assert roomy.fake_cuda_launches(False) - before == packing + 4 + 4 + 1  # training, inference, backward
    for a, b in zip(whole, parts, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("cell", KNOWN, ids=lambda c: c.name)
def test_single_steps_are_a_sequence(cell: Cell, roomy: ctypes.CDLL, rng: np.random.Generator) -> None:
    problem = make_problem(cell, (4, 3, 5, 11), "float32", rng)
    infer, _, _, step = cell.functions(fusedrnn)
    w = FAKE.weights(problem, "float32")
    states: tuple[Any, ...] = tuple(FAKE.make(s, "float32") for s in problem.states)
    x = FAKE.make(problem.x, "float32")
    want = infer(x, w, *states)
    for t in range(4):
        out = tuple(fakegpu.asarray(np.full((3, 11), np.nan, "float32")) for _ in states)
        states = step(x[t], w, *states, out=out if len(out) > 1 else out[0])
        states = states if isinstance(states, tuple) else (states,)
        assert all(a is b for a, b in zip(states, out, strict=True))
        np.testing.assert_array_equal(states[0].data, want.y.data[t])
    again = step(x[3], w, *states)
    assert isinstance(again, tuple) == (len(states) > 1)


def test_nothing_past_a_length_is_read(roomy: ctypes.CDLL, rng: np.random.Generator) -> None:
    for cell in ONE_OF_EACH:
        for reverse in (False, True):
            problem = make_problem(cell, (6, 4, 3, 10), "float32", rng, reverse=reverse)
            problem.kwargs["lengths"] = np.array([6, 0, 2, 5])
            want = run(problem, "float32", FAKE)
            past = np.arange(6)[:, None] >= problem.kwargs["lengths"]
            problem.x[past] = np.nan
            problem.dy[past] = np.nan
            for a, b in zip(want, run(problem, "float32", FAKE), strict=True):
                assert_same_bits(a, b)


@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_on_the_gpu_are_not_looked_at(reverse: bool, roomy: ctypes.CDLL, rng: np.random.Generator) -> None:
    """Those beyond the sequence count as its end, in all that is computed."""
    problem = make_problem(KNOWN[0], (3, 4, 2, 5), "float32", rng, reverse=reverse)
    problem.kwargs["lengths"] = np.array([3, 0, 2, 3])
    want = run(problem, "float32", FAKE)
    problem.kwargs["lengths"] = fakegpu.asarray(np.array([3, -7, 2, 1 << 40]))
    for a, b in zip(want, run(problem, "float32", FAKE), strict=True):
        assert_same_bits(a, b)


def test_work_runs_on_the_callers_stream(roomy: ctypes.CDLL, rng: np.random.Generator) -> None:
    roomy.fake_cuda_last_stream.restype = ctypes.c_void_p
    run(make_problem(KNOWN[0], (3, 2, 2, 5), "float32", rng), "float32", FAKE)
    assert roomy.fake_cuda_last_stream() == fakegpu.STREAM
    assert roomy.fake_cuda_contexts() == 0


@pytest.mark.parametrize("cell", ONE_OF_EACH, ids=lambda c: c.name)
@pytest.mark.parametrize("how", ["stream by stream", "in a graph"])
def test_weights_and_reserves_serve_other_streams(
    cell: Cell, how: str, roomy: ctypes.CDLL, rng: np.random.Generator
) -> None:
    """Each call on a stream of its own, which has made its arguments: it waits for what other calls have left, and
    what they have left waits for it."""
    problem = make_problem(cell, (4, 3, 5, 11), "float32", rng, lengths=True)
    infer, forward, backward, step = cell.functions(fusedrnn)
    want, want_grads = run(problem, "float32", FAKE)
    w = FAKE.weights(problem, "float32")
    fakegpu.lent.clear()
    streams = [fakegpu.Stream(handle, capturing=how == "in a graph") for handle in range(10, 14)]

    def on(stream: fakegpu.Stream, call: Any, *given: Any) -> Any:
        with fakegpu.on_stream(stream):
            made = [FAKE.make(a, "float32") for a in given]
            return call(*made)

    arguments = problem.x, *problem.states
    out = on(streams[0], lambda x, *s: infer(x, w, *s, **problem.kwargs), *arguments)
    assert_same_bits(FAKE.back(out), want)
    used = {fakegpu.Library(None).pointer(a) for a in w._loaded.buffers.arrays}
    assert len(used) > len(w._loaded.packed) > 0
    assert {a for stream, a in fakegpu.lent if stream is streams[0]} == (used if how == "stream by stream" else set())
    for forward_stream in (streams[1], streams[3]):  # the first of which packs for backward
        out, reserve = on(forward_stream, lambda x, *s: forward(x, w, *s, **problem.kwargs), *arguments)
        assert_same_bits(FAKE.back(out), want)
    for stream in streams[3:1:-1]:
        grads = on(stream, lambda dy, *ds: backward(reserve, dy, *ds), problem.dy, *problem.dstates)
        assert_same_bits(FAKE.back(grads), want_grads)
    reserved = [a for stream, a in fakegpu.lent if stream is streams[2]]
    assert len(set(reserved)) > len(used) + 2 or how == "in a graph"
    on(streams[3], lambda x, *s: step(x, w, *s), problem.x[0], *problem.states)


def test_the_stream_that_made_the_weights_asks_nothing(roomy: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = lstm_weights(), zeros_on(4, 2, 3)

    def fails(*_: Any) -> Any:
        raise AssertionError

    fusedrnn.lstm_forward(x, w)  # packs for backward
    for name in ("capturing", "record", "wait", "lend"):
        monkeypatch.setattr(fakegpu.Library, name, fails)
    fusedrnn.lstm(x, w)
    fusedrnn.lstm_cell(x[0], w)


class FakeStream:
    """A stream of PyTorch's or CuPy's modules, which logs what it is asked."""

    def __init__(self, log: list[Any], handle: int) -> None:
        self.log, self.cuda_stream, self.ptr = log, handle, handle

    def is_capturing(self) -> bool:
        return False

    def record(self, event: Any) -> Any:
        return self.record_event()

    def record_event(self) -> Any:
        self.log.append(("record", self.ptr))
        return self.ptr

    def wait_event(self, event: Any) -> None:
        self.log.append(("wait", self.ptr, event))


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_what_libraries_are_asked_for_other_streams(library: str) -> None:
    """Memory is safe until work on another stream ends: PyTorch is told; in CuPy, the stream that made it waits."""
    log: list[Any] = []
    streams = {handle: FakeStream(log, handle) for handle in (1, 2, 3)}
    current = [streams[1]]
    cuda = SimpleNamespace(
        current_stream=lambda device: current[0],
        get_current_stream=lambda device: current[0],
        is_current_stream_capturing=lambda: False,
        device=lambda device: nullcontext(),
        Device=lambda device: nullcontext(),
        Event=lambda disable_timing: None,
    )
    tensor = SimpleNamespace(record_stream=lambda stream: log.append(("keep for", stream.ptr)))
    buffers = arrays.Buffers(arrays.LIBRARIES[library](SimpleNamespace(cuda=cuda)), 0, [tensor, None])
    for handle in (1, 2, 3, 2):
        current[0] = streams[handle]
        with buffers.used():
            log.append(("work", handle))
    del buffers
    keep: Any = {"torch": lambda n: ("keep for", n), "cupy": lambda n: ("record", n)}[library]
    want: list[Any] = [("record", 1), ("work", 1)]
    for handle in (2, 3, 2):
        want += [("wait", handle, 1), ("work", handle), keep(handle)]
    assert log == want + ([("wait", 1, 2), ("wait", 1, 3)] if library == "cupy" else [])


@pytest.mark.parametrize("cell", ONE_OF_EACH, ids=lambda c: c.name)
def test_arrays_of_another_gpu_than_the_current_one(
    cell: Cell, driver: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Second(Arrays):
        def make(self, a: Any, dtype: str) -> Any:
            return fakegpu.asarray(a, dtype, device=1)

    monkeypatch.setitem(fakegpu.MACHINES, "pair", fakegpu.MACHINES["roomy"])
    monkeypatch.setenv("FAKE_CUDA_DEVICES", "2")
    with fakegpu.installed(driver, "pair"):
        for reverse in (False, True):
            problem = make_problem(cell, (4, 3, 5, 11), "float32", rng, lengths=True, reverse=reverse)
            out, grads = run(problem, "float32", FAKE)
            for want, got in zip((out, grads), run(problem, "float32", Second()), strict=True):
                assert_same_bits(got, want)
        w, x = Second().weights(problem, "float32"), Second().make(problem.x, "float32")
        _, forward, backward, step = cell.functions(fusedrnn)
        results, reserve = forward(x, w)
        h = step(Second().make(problem.x[0], "float32"), w)
        made: list[tuple[str, Any]] = (
            named(results) + named(backward(reserve, results.y)) + [("h", h[0] if isinstance(h, tuple) else h)]
        )
        assert {a.device for _, a in made} == {1}


def test_weights_are_a_snapshot(roomy: ctypes.CDLL, rng: np.random.Generator) -> None:
    arrays = [fakegpu.asarray(rng.standard_normal(s).astype("float32")) for s in ((8, 3), (8, 2), (8,), (8,))]
    w = fusedrnn.LSTMWeights(*arrays)
    x = fakegpu.asarray(rng.standard_normal((4, 3, 3)).astype("float32"))
    before = fusedrnn.lstm(x, w).y.data
    for a in arrays:
        a.data[...] = np.nan
    np.testing.assert_array_equal(before, fusedrnn.lstm(x, w).y.data)
    assert w.hidden_size == 2
    assert w.weight_hh.shape == (8, 2)
    assert w.dtype == "float32"
    assert w.peephole_i is None


def lstm_weights(**replaced: Any) -> fusedrnn.LSTMWeights:
    arrays = {"weight_ih": (8, 3), "weight_hh": (8, 2), "bias_ih": (8,), "bias_hh": (8,)}
    return fusedrnn.LSTMWeights(**({n: fakegpu.asarray(np.zeros(s, "float32")) for n, s in arrays.items()} | replaced))


def zeros_on(*shape: int, dtype: str = "float32", device: int = 0) -> Any:
    return fakegpu.asarray(np.zeros(shape), dtype, device)


def test_what_does_not_fit_is_refused(roomy: ctypes.CDLL) -> None:
    w, x = lstm_weights(), zeros_on(4, 2, 3)
    plain = np.zeros((4, 2, 3), "float32")
    with pytest.raises(ValueError, match="h0: expected an array on device 0, got one on device 1"):
        fusedrnn.lstm(x, w, zeros_on(2, 2, device=1))
    with pytest.raises(ValueError, match="weight_hh: expected an array on device 0"):
        lstm_weights(weight_hh=zeros_on(8, 2, device=1))
    with pytest.raises(TypeError, match="x: expected a CUDA array of fakegpu, got ndarray"):
        fusedrnn.lstm(plain, w)
    with pytest.raises(TypeError, match=r"x: expected a numpy.ndarray, got Array"):
        fusedrnn.lstm(x, fusedrnn.LSTMWeights(*(np.zeros(s, "float32") for s in ((8, 3), (8, 2)))))
    with pytest.raises(TypeError, match="c0: expected dtype float32, got float16"):
        fusedrnn.lstm(x, w, None, zeros_on(2, 2, dtype="float16"))
    with pytest.raises(ValueError, match=r"c0: expected shape \(batch_size, hidden_size\) = \(2, 2\), got \(2, 3\)"):
        fusedrnn.lstm(x, w, None, zeros_on(2, 3))
    with pytest.raises(ValueError, match=r"x: expected shape .* = \(4, 2, 3\), got \(4, 2, 5\)"):
        fusedrnn.lstm(zeros_on(4, 2, 5), w)
    with pytest.raises(ValueError, match=r"x: expected 3 dimensions .*, got shape \(4, 3\)"):
        fusedrnn.lstm(zeros_on(4, 3), w)
    with pytest.raises(TypeError, match="weight_hh: expected a CUDA array of fakegpu, got NoneType"):
        lstm_weights(weight_hh=None)
    with pytest.raises(ValueError, match=r"weight_ih: expected shape \(4\*hidden_size, input_size\)"):
        lstm_weights(weight_ih=zeros_on(7, 3))
    with pytest.raises(ValueError, match=r"lengths: expected values in 0..seq_len = 0..4"):
        fusedrnn.lstm(x, w, lengths=np.array([4, 5]))
    with pytest.raises(TypeError, match="lengths: expected integers, got dtype float32"):
        fusedrnn.lstm(x, w, lengths=np.array([4, 4], "float32"))
    with pytest.raises(TypeError, match="lengths: expected integers, got dtype float32"):
        fusedrnn.lstm(x, w, lengths=zeros_on(2))
    with pytest.raises(ValueError, match="lengths: expected an array on device 0, got one on device 1"):
        fusedrnn.lstm(x, w, lengths=zeros_on(2, dtype="int64", device=1))
    with pytest.raises(ValueError, match=r"x: expected shape \(batch_size, input_size\) = \(4, 3\), got \(4, 5\)"):
        fusedrnn.lstm_cell(zeros_on(4, 5), w)
    with pytest.raises(ValueError, match=r"x: expected 2 dimensions \(batch_size, input_size\), got shape \(4,\)"):
        fusedrnn.lstm_cell(zeros_on(4), w)
    with pytest.raises(TypeError, match="x: expected a CUDA array of fakegpu, got list"):
        fusedrnn.lstm_cell([1.0], w)  # type: ignore[arg-type]
    for cell in ("layer_norm_gru", "depth_gated_lstm", "fgr_lstm", "clockwork_rnn_tanh", "lstm_matrix_peephole"):
        with pytest.raises(ValueError, match=f"CUDA: no kernel runs cell '{cell}'"):
            _core.make_cuda_cell(*fusedrnn.cuda.paths(), 0, cell, "float32", 8)
    with pytest.raises(ValueError, match="format: expected one of float32, tf32, bfloat16, float16, got 'int8'"):
        _core.make_cuda_cell(*fusedrnn.cuda.paths(), 0, "lstm", "int8", 8)
    with pytest.raises(ValueError, match="precision: expected one of 'float32', 'tf32', 'same_bits', got 'fast'"):
        fusedrnn.cuda.set_float32_products("fast")


def test_no_argument_is_ignored(roomy: ctypes.CDLL) -> None:
    """By the backend itself, whatever the functions above it pass on."""
    w, x = lstm_weights()._loaded, zeros_on(4, 2, 3)
    states = (None, None)
    with pytest.raises(ValueError, match="is (longer|shorter) than argument"):
        w.infer(x, (None, None, None), None, False, {})
    with pytest.raises(ValueError, match="c_below: expected None for cell 'lstm', got Array"):
        w.infer(x, states, None, False, {"c_below": zeros_on(4, 2, 2)})
    with pytest.raises(ValueError, match="start: expected None for cell 'lstm', got int"):
        w.forward(x, states, None, False, {"start": 3})
    with pytest.raises(ValueError, match="is (longer|shorter) than argument"):
        w.step(x[0], states, (None,), {})
    _, kept, _ = w.forward(x, states, None, False, {})
    with pytest.raises(ValueError, match="is (longer|shorter) than argument"):
        w.backward(kept, None, (None,), None)
    with pytest.raises(ValueError, match="dc: expected None for cell 'lstm', got Array"):
        w.backward(kept, None, states, zeros_on(4, 2, 2))


def test_a_reserve_serves_again(roomy: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """Whatever happens to y, and to the backward before."""
    x, dy = (Arrays().make(rng.standard_normal((4, 2, n)), "float32") for n in (3, 2))
    weights = [Arrays().make(rng.standard_normal(shape), "float32") for shape in ((8, 3), (8, 2))]
    out, reserve = fusedrnn.lstm_forward(x, fusedrnn.LSTMWeights(*weights))
    assert reserve.nbytes == 4 * 2 * (5 + 1) * 2 * 4
    want = fusedrnn.lstm_backward(reserve, dy)
    out.y[...] = fakegpu.asarray(np.zeros(out.y.shape), "float32")

    def fails(*_: Any) -> Any:
        raise MemoryError

    with pytest.raises(ValueError, match=r"dy: expected shape .* = \(4, 2, 2\), got \(4, 2, 3\)"):
        fusedrnn.lstm_backward(reserve, zeros_on(4, 2, 3))
    for owner, name in ((fakegpu.Array, "__matmul__"), (fakegpu.Library, "empty")):  # after the kernel, and before
        with monkeypatch.context() as m:
            m.setattr(owner, name, fails)
            with pytest.raises(MemoryError):
                fusedrnn.lstm_backward(reserve, dy)
    assert_same_bits(Arrays().back(fusedrnn.lstm_backward(reserve, dy)), Arrays().back(want))


@pytest.mark.parametrize("kind", [list, np.array, lambda v: np.array(v, "u1"), lambda v: fakegpu.asarray(v, "int32")])
def test_lengths_are_integers_of_any_type(kind: Any, roomy: ctypes.CDLL, rng: np.random.Generator) -> None:
    w, x = lstm_weights(), fakegpu.asarray(rng.standard_normal((4, 2, 3)), "float32")
    want = fusedrnn.lstm(x, w, lengths=np.array([3, 1])).y.data
    np.testing.assert_array_equal(fusedrnn.lstm(x, w, lengths=kind([3, 1])).y.data, want)


def test_a_batch_without_rows_takes_no_time(roomy: ctypes.CDLL) -> None:
    x, before = zeros_on(1 << 40, 0, 3), roomy.fake_cuda_launches(False)
    out, reserve = fusedrnn.lstm_forward(x, lstm_weights())
    grads = fusedrnn.lstm_backward(reserve, out.y)
    assert grads.dx.shape == x.shape
    assert not np.any(grads.dweight_ih.data)
    assert roomy.fake_cuda_launches(False) - before == 2  # of packing


def test_arrays_of_an_unknown_library_are_refused() -> None:
    with pytest.raises(TypeError, match=r"expected CUDA arrays of torch or cupy \(which make theirs by from_dlpack\)"):
        lstm_weights()


@pytest.fixture
def cpu_tensors(roomy: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's tensors on the CPU stand for those on a GPU: all of the adapter but streams."""
    pytest.importorskip("torch")
    monkeypatch.setitem(arrays.LIBRARIES, "torch", TensorsOnCpu)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("cell", ONE_OF_EACH, ids=lambda c: c.name)
@pytest.mark.parametrize("reverse", [False, True])
def test_tensors_of_pytorch(
    cell: Cell,
    format: str,
    reverse: bool,
    cpu_tensors: None,
    rng: np.random.Generator,
) -> None:
    problem = make_problem(cell, (5, 13, 7, 33), "float32", rng, lengths=True, reverse=reverse)
    arrays = TorchArrays("cpu")
    if format == "float32":
        compare_exactly(problem, arrays)
    else:
        compare_by_norm(problem, format, arrays)
    x = arrays.make(problem.x, "float32").requires_grad_()
    out = cell.functions(fusedrnn)[0](x, arrays.weights(problem, "float32"))
    assert not out.y.requires_grad


@pytest.mark.parametrize("format", ["float32", "float16"])
@pytest.mark.parametrize("cell", ONE_OF_EACH, ids=lambda c: c.name)
def test_autocast_changes_nothing(cell: Cell, format: str, cpu_tensors: None, rng: np.random.Generator) -> None:
    import torch

    problem = rounded(make_problem(cell, (5, 3, 7, 11), "float32", rng, lengths=True), format)
    tensors = TorchArrays("cpu")
    want = run(problem, format, tensors)
    x, states = (tensors.make(a, format) for a in (problem.x[0], np.array(problem.states)))
    step, w = cell.functions(fusedrnn)[3], tensors.weights(problem, format)
    want_step = step(x, w, *states)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ w.weight_ih.T).dtype == torch.bfloat16  # that is what autocast does
        got, got_step = run(problem, format, tensors), step(x, w, *states)
        assert torch.is_autocast_enabled("cpu")
    for a, b in zip(want, got, strict=True):
        assert_same_bits(a, b)
    for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in (want_step, got_step)), strict=True):
        assert torch.equal(a, b)
        assert a.dtype == b.dtype


def test_tensors_that_require_gradients_make_no_graph(cpu_tensors: None, rng: np.random.Generator) -> None:
    import torch

    def given(*shape: int) -> Any:
        return torch.tensor(rng.standard_normal(shape), dtype=torch.float32, requires_grad=True)

    w = fusedrnn.GRUWeights(*(given(*shape) for shape in ((15, 3), (15, 5), (15,), (15,))))
    out, reserve = fusedrnn.gru_forward(given(4, 2, 3), w, given(2, 5))
    results: list[Any] = [
        *out,
        *fusedrnn.gru_backward(reserve, given(4, 2, 5), given(2, 5)),
        fusedrnn.gru_cell(given(2, 3), w),
    ]
    assert all(a.grad_fn is None and not a.requires_grad for a in results if a is not None)


def test_a_product_of_another_dtype_is_refused(
    roomy: ctypes.CDLL, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels take its address, and could not tell."""
    w, x = lstm_weights(), fakegpu.asarray(rng.standard_normal((4, 2, 3)), "float32")
    out, reserve = fusedrnn.lstm_forward(x, w)
    fusedrnn.lstm_backward(reserve, out.y)
    multiply = fakegpu.Array.__matmul__
    calls: list[Any] = [lambda: fusedrnn.lstm(x, w), lambda: fusedrnn.lstm_backward(reserve, out.y)]
    for at, call in ((0, calls[0]), (0, calls[1]), (1, calls[1]), (2, calls[1])):  # dx, then each weight's gradient
        made: list[Any] = []

        def product(a: Any, b: Any, at: int = at, made: list[Any] = made) -> Any:
            made.append(multiply(a, b))
            return made[-1].astype("float16") if len(made) == at + 1 else made[-1]

        with monkeypatch.context() as m, pytest.raises(RuntimeError, match="of dtype float32 came as float16: fakegpu"):
            m.setattr(fakegpu.Array, "__matmul__", product)
            call()
