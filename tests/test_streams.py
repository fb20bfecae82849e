"""Streams: the bits of calls over sequences, their state, their memory, what they refuse."""

from __future__ import annotations

import copy
import os
import threading
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest

import fusedrnn
from cases import Array, Cell
from fusedrnn import _core
from stacks import STACKED, make_layer

T, B, I, H = 9, 3, 4, 12


def states_of(stream: fusedrnn.Stream) -> tuple[Array, ...]:
    return stream.state if isinstance(stream.state, tuple) else (stream.state,)


@pytest.mark.parametrize("cell", STACKED, ids=str)
@pytest.mark.parametrize("num_layers", [1, 3])
def test_steps_have_the_bits_of_a_call(cell: Cell, num_layers: int, rng: np.random.Generator) -> None:
    layer = make_layer(cell, I, H, num_layers, dropout=0.5 if num_layers > 1 else 0, rng=1)
    x = rng.standard_normal((T, B, I)).astype("float32")
    want = layer(x)
    stream, out = layer.stream(B), np.empty((B, layer.output_size), "float32")
    for t in range(T):
        if t % 2:
            assert stream.step(x[t], out=out) is out
            y = out
        else:
            y = stream.step(x[t])
        assert y.tobytes() == want.y[t].tobytes(), t
    for a, b in zip(states_of(stream), want[1:], strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("schedule", ["one", "units", "rows"])
def test_schedules_change_no_bit(threads: int, schedule: str, rng: np.random.Generator) -> None:
    layer = fusedrnn.LSTM(20, 50, 2, proj_size=30, dtype="float64", rng=2)
    x = rng.standard_normal((T, 5, 20))
    want, before = layer(x).y, fusedrnn.get_num_threads()
    try:
        fusedrnn.set_num_threads(threads)
        _core.set_schedule(schedule)
        stream = layer.stream(5)
        assert all(stream.step(x[t]).tobytes() == want[t].tobytes() for t in range(T))
    finally:
        fusedrnn.set_num_threads(before)
        _core.set_schedule("auto")


def test_clocks_go_on_and_start_anew(rng: np.random.Generator) -> None:
    layer = fusedrnn.ClockworkRNN(I, H, 2, periods=(1, 2, 5), rng=3)
    x = rng.standard_normal((T, B, I)).astype("float32")
    stream, want = layer.stream(B), layer(x).y
    for t in range(4):
        stream.step(x[t])
    twin = stream.clone()
    for t in range(4, T):
        assert stream.step(x[t]).tobytes() == twin.step(x[t]).tobytes() == want[t].tobytes()
    late = layer.stream(B, start=4)
    late.state = layer(x[:4]).h_n
    assert late.step(x[4]).tobytes() == want[4].tobytes()
    stream.reset([1])
    y = stream.step(x[0])
    assert y[1].tobytes() == want[0, 1].tobytes()
    assert y[0].tobytes() != want[0, 0].tobytes()


@pytest.mark.quick
def test_state(rng: np.random.Generator) -> None:
    layer = fusedrnn.LSTM(I, H, 2, rng=4)
    x = rng.standard_normal((T, B, I)).astype("float32")
    state = tuple(rng.standard_normal((2, B, H)).astype("float32") for _ in range(2))
    stream, want = layer.stream(B), layer(x, state)
    stream.state = state
    assert stream.step(x[0]).tobytes() == want.y[0].tobytes()
    taken = stream.state
    taken[0][...] = 9  # a copy
    assert stream.step(x[1]).tobytes() == want.y[1].tobytes()
    stream.state = None
    assert stream.step(x[0]).tobytes() == layer(x).y[0].tobytes()
    stream.state = (state[0], None)
    assert stream.step(x[0]).tobytes() == layer(x, (state[0], None)).y[0].tobytes()
    stream.reset()
    assert not any(a.any() for a in states_of(stream))


@pytest.mark.parametrize("rows", [1, [1], (1,), np.array([1]), np.array([False, True, False]), [1, 1]], ids=str)
def test_rows_are_reset(rows: Any, rng: np.random.Generator) -> None:
    stream = fusedrnn.GRU(I, H, 2, rng=5).stream(B)
    stream.step(rng.standard_normal((B, I)).astype("float32"))
    before = stream.state
    stream.reset(rows)
    assert not stream.state[:, 1].any()
    np.testing.assert_array_equal(stream.state[:, ::2], before[:, ::2])
    stream.reset([])
    np.testing.assert_array_equal(stream.state[:, ::2], before[:, ::2])


def test_a_stream_is_a_snapshot_of_the_weights(rng: np.random.Generator) -> None:
    layer = fusedrnn.GRU(I, H, 2, rng=6)
    x = rng.standard_normal((T, B, I)).astype("float32")
    want = layer(x).y
    stream = layer.stream(B)
    layer.parameters["weight_ih_l0"][...] *= 2
    assert stream.step(x[0]).tobytes() == want[0].tobytes()
    stream.refresh()
    changed = layer(x[1:2], stream.state).y[0]
    assert stream.step(x[1]).tobytes() == changed.tobytes() != want[1].tobytes()


def test_clones_part(rng: np.random.Generator) -> None:
    layer = fusedrnn.LSTM(I, H, rng=7)
    x = rng.standard_normal((T, 1, I)).astype("float32")
    want, stream = layer(x).y, layer.stream()
    stream.step(x[0])
    layer.parameters["bias_ih_l0"][...] = 3  # which neither sees
    twin = stream.clone()
    stream.step(x[5])
    assert twin.step(x[1]).tobytes() == want[1].tobytes()


def test_one_row_without_a_batch(rng: np.random.Generator) -> None:
    layer = fusedrnn.LSTM(I, H, 2, proj_size=5, rng=8)
    x = rng.standard_normal((T, I)).astype("float32")
    want, stream = layer(x).y, layer.stream()
    assert stream.step(x[0]).shape == (5,)
    out = np.empty(5, "float32")
    for t in range(1, T):
        assert stream.step(x[t], out).tobytes() == want[t].tobytes()


@pytest.mark.parametrize(
    "layer", [fusedrnn.GRU(I, H, 2, rng=9), fusedrnn.LSTM(600, 600, rng=9)], ids=["small", "large"]
)
def test_a_step_with_out_allocates_nothing(layer: fusedrnn.Layer, rng: np.random.Generator) -> None:
    stream = layer.stream(B)
    x, out = rng.standard_normal((B, layer.input_size)).astype("float32"), np.empty((B, layer.hidden_size), "float32")
    for _ in range(3):
        stream.step(x, out)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(20):
            stream.step(x, out)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The loop's own integers; an array would have its head, of 100 bytes and more, and its numbers.
    assert now - before < 100
    assert peak - before < 500


def test_no_time_is_burnt_between_steps(rng: np.random.Generator) -> None:
    stream = fusedrnn.GRU(256, 256, 2, rng=10).stream()
    x = rng.standard_normal((1, 256)).astype("float32")
    stream.step(x)
    time.sleep(0.01)  # until the threads have parked
    start = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - start < 0.03


def test_a_stream_runs_one_step_at_a_time(rng: np.random.Generator) -> None:
    layer = fusedrnn.LSTM(512, 512, 2, rng=11)
    stream, x = layer.stream(64), rng.standard_normal((64, 512)).astype("float32")
    refused, wrong = [], []

    def work() -> None:
        for _ in range(30):
            try:
                stream.step(x)
            except RuntimeError as e:
                refused.append(str(e))
            except Exception as e:
                wrong.append(e)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert set(refused) == {"stream: expected one call at a time, got one during another"}
    stream.reset()  # it goes on
    assert stream.step(x).tobytes() == layer(x[None]).y[0].tobytes()


ERRORS: dict[str, tuple[Any, type[Exception], str]] = {
    "x rank": (lambda s, x: s.step(x[0]), ValueError, "x: expected shape (batch_size, input_size) = (3, 4), got (4,)"),
    "x rows": (
        lambda s, x: s.step(x[:2]),
        ValueError,
        "x: expected shape (batch_size, input_size) = (3, 4), got (2, 4)",
    ),
    "x dtype": (lambda s, x: s.step(x.astype("f8")), TypeError, "x: expected dtype float32, got float64"),
    "x type": (lambda s, x: s.step([1]), TypeError, "x: expected a numpy.ndarray, got list"),
    "out": (
        lambda s, x: s.step(x, np.empty((3, 4), "f4")),
        ValueError,
        "out: expected shape (batch_size, hidden_size) = (3, 12), got (3, 4)",
    ),
    "strided": (
        lambda s, x: s.step(x, np.empty((3, 24), "f4")[:, ::2]),
        ValueError,
        "out: expected a C-contiguous array, got a strided one",
    ),
    "state": (
        lambda s, x: setattr(s, "state", np.zeros((1, 3, 12), "f4")),
        ValueError,
        "h: expected shape (num_layers*num_directions, batch_size, hidden_size) = (2, 3, 12), got (1, 3, 12)",
    ),
    "states": (lambda s, x: setattr(s, "state", (1, 2)), TypeError, "h: expected a numpy.ndarray, got tuple"),
    "rows": (lambda s, x: s.reset([3]), ValueError, "rows: expected an integer in 0..2, got 3"),
    "negative": (lambda s, x: s.reset([-1]), ValueError, "rows: expected an integer in 0..2, got -1"),
    "huge row": (
        lambda s, x: s.reset([2**63]),
        ValueError,
        "rows: expected an integer in 0..2, got 9223372036854775808",
    ),
    "rows dtype": (lambda s, x: s.reset([0.5]), TypeError, "rows: expected integers, got dtype float64"),
    "mask": (lambda s, x: s.reset([True]), ValueError, "rows: expected shape (batch_size,) = (3,), got (1,)"),
    "lengths": (lambda s, x: s.step(x, lengths=[1]), TypeError, "unexpected keyword argument 'lengths'"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_bad_arguments_leave_the_state_alone(name: str, rng: np.random.Generator) -> None:
    attempt, error, text = ERRORS[name]
    stream, x = fusedrnn.GRU(I, H, 2, rng=12).stream(B), rng.standard_normal((B, I)).astype("float32")
    stream.step(x)
    before = stream.state
    with pytest.raises(error) as raised:
        attempt(stream, x)
    assert text in str(raised.value)
    np.testing.assert_array_equal(stream.state, before)


def test_streams_that_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="stream: expected a layer of one direction"):
        fusedrnn.GRU(I, H, bidirectional=True).stream()
    for size, error in ((0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="batch_size: expected"):
            fusedrnn.GRU(I, H).stream(size)  # type: ignore[arg-type]
    stream = fusedrnn.GRU(I, H).stream()
    assert repr(stream) == "<fusedrnn.Stream of GRU(4, 12), batch_size=1>"
    with pytest.raises(TypeError, match="use `clone`"):
        copy.copy(stream)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_stream_goes_on_in_the_child_of_a_fork(rng: np.random.Generator) -> None:
    """Forked while another thread is in a step."""
    layer = fusedrnn.LSTM(512, 512, 2, rng=13)
    stream, x = layer.stream(64), rng.standard_normal((64, 512)).astype("float32")
    ends = threading.Event()

    def work() -> None:
        while not ends.is_set():
            stream.step(x)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(5):
            time.sleep(0.01)
            if (child := os.fork()) == 0:
                stream.reset()
                os._exit(stream.step(x).tobytes() != layer(x[None]).y[0].tobytes())
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        ends.set()
        thread.join()
