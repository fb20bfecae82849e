"""Promises 4 and 5, nothing hidden and safe: what bad calls get, from the package and from the raw native layer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusedrnn
from agreement import named
from arguments import B, Bad, H, I, T, array, clockwork_weights, lstm_weights
from cases import CELLS, Cell, make_problem
from fusedrnn import _core
from fusedrnn.backends import native_cell

f32 = np.float32
huge = np.lib.stride_tricks.as_strided(array(1, 1, I), (1 << 30, 1 << 28, I), (0, 0, 4))
BAD_CALLS: list[Bad] = [
    ({"x": array(T, I)}, ValueError, "x: expected 3 dimensions (seq_len, batch_size, input_size), got shape (4, 5)"),
    (
        {"x": array(T, B, I + 1)},
        ValueError,
        "x: expected shape (seq_len, batch_size, input_size) = (4, 3, 5), got (4, 3, 6)",
    ),
    ({"x": array(T, B, I, dtype=float)}, TypeError, "x: expected dtype float32, got float64"),
    ({"x": array(T, B, I, dtype=int)}, TypeError, "x: expected dtype float32, got int64"),
    ({"x": array(T, B, I, dtype="f2")}, TypeError, "x: expected dtype float32, got float16"),
    ({"x": array(T, B, I, dtype=complex)}, TypeError, "x: expected dtype float32, got complex128"),
    ({"x": array(T, B, I, dtype=object)}, TypeError, "x: expected dtype float32, got object"),
    ({"x": array(T, B, I, dtype=">f4")}, TypeError, "x: expected dtype float32, got >f4"),
    ({"x": array(T, B, I).tolist()}, TypeError, "x: expected a numpy.ndarray, got list"),
    ({"x": None}, TypeError, "x: expected a numpy.ndarray, got NoneType"),
    ({"x": huge}, ValueError, "needs more bytes than 64 bits can count"),
    ({"h0": array(B, H + 1)}, ValueError, "h0: expected shape (batch_size, hidden_size) = (3, 6), got (3, 7)"),
    ({"h0": array(1, B, H)}, ValueError, "h0: expected shape (batch_size, hidden_size) = (3, 6), got (1, 3, 6)"),
    ({"c0": array(B + 1, H)}, ValueError, "c0: expected shape (batch_size, hidden_size) = (3, 6), got (4, 6)"),
    ({"c0": array(B, H, dtype=float)}, TypeError, "c0: expected dtype float32, got float64"),
    ({"h0": 0}, TypeError, "h0: expected a numpy.ndarray, got int"),
    ({"lengths": np.array([1, 2])}, ValueError, "lengths: expected shape (batch_size,) = (3,), got (2,)"),
    (
        {"lengths": np.array([1, 5, 2])},
        ValueError,
        "lengths: expected values in 0..seq_len = 0..4, got 5 at index 1",
    ),
    ({"lengths": np.array([1, 2, -1])}, ValueError, "got -1 at index 2"),
    ({"lengths": np.array([1, 2, -1], np.int8)}, ValueError, "got -1 at index 2"),
    ({"lengths": np.array([2**64 - 1, 2, 1], np.uint64)}, ValueError, "got 18446744073709551615 at index 0"),
    ({"lengths": [1, 2**70, 3]}, ValueError, "0..seq_len = 0..4, got 1180591620717411303424 at index 1"),
    ({"lengths": [1, -(2**70), 3]}, ValueError, "0..seq_len = 0..4, got -1180591620717411303424 at index 1"),
    ({"lengths": [1, 2]}, ValueError, "lengths: expected shape (batch_size,) = (3,), got (2,)"),
    ({"lengths": np.array(3)}, ValueError, "lengths: expected shape (batch_size,) = (3,), got ()"),
    ({"lengths": np.array([1.0, 2, 3])}, TypeError, "lengths: expected integers, got dtype float64"),
    ({"lengths": np.array([True, False, True])}, TypeError, "lengths: expected integers, got dtype bool"),
    ({"lengths": [1, 2.0, 3]}, TypeError, "lengths: expected integers, got float at index 1"),
    ({"lengths": [1, 2, True]}, TypeError, "lengths: expected integers, got bool at index 2"),
    ({"lengths": "123"}, TypeError, "lengths: expected integers, got str at index 0"),
    ({"lengths": [[1], [2], [3]]}, TypeError, "lengths: expected integers, got list at index 0"),
    ({"lengths": 3}, TypeError, "lengths: expected a sequence or numpy.ndarray of integers, got int"),
    ({"lengths": {1, 2, 3}}, TypeError, "lengths: expected a sequence or numpy.ndarray of integers, got set"),
    ({"reverse": 1}, TypeError, "reverse: expected bool, got int"),
]


@pytest.mark.parametrize("layer", ["package", "native"])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize(("change", "error", "text"), BAD_CALLS)
def test_calls(change: dict[str, Any], error: type[Exception], text: str, training: bool, layer: str) -> None:
    a: dict[str, Any] = {"x": array(T, B, I), "h0": None, "c0": None, "lengths": None, "reverse": False} | change
    with pytest.raises(error) as raised:
        if layer == "native":
            w = lstm_weights()._loaded
            (w.forward if training else w.infer)(a["x"], (a["h0"], a["c0"]), a["lengths"], a["reverse"], {})
        else:
            run = fusedrnn.lstm_forward if training else fusedrnn.lstm
            run(a["x"], lstm_weights(), a["h0"], a["c0"], lengths=a["lengths"], reverse=a["reverse"])
    assert text in str(raised.value)


INTEGERS = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4", ">u8", np.longlong, np.ulonglong]


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda d: np.dtype(d).str + np.dtype(d).char)
def test_integers_of_every_type(dtype: Any, rng: np.random.Generator) -> None:
    """By value, in lengths and start, as an array and as a sequence of NumPy's scalars."""
    w, x = clockwork_weights(), rng.standard_normal((T, B, I)).astype(f32)
    lengths, start = [3, 0, 4], [5, 1, 2]
    for module in (fusedrnn, fusedrnn.reference):
        want = module.clockwork_rnn(x, w, lengths=np.array(lengths), start=np.array(start))
        for make in (lambda values: np.array(values, dtype), lambda values: list(np.array(values, dtype))):
            got = module.clockwork_rnn(x, w, lengths=make(lengths), start=make(start))
            np.testing.assert_array_equal(got.y, want.y)
            np.testing.assert_array_equal(got.h_n, want.h_n)


@pytest.mark.parametrize("kind", [list, tuple, lambda v: range(v[0], v[0] + 3)], ids=["list", "tuple", "range"])
def test_sequences_of_integers(kind: Any, rng: np.random.Generator) -> None:
    w, x = clockwork_weights(), rng.standard_normal((T, B, I)).astype(f32)
    want = fusedrnn.clockwork_rnn(x, w, lengths=np.array([1, 2, 3]), start=np.array([4, 5, 6])).y
    np.testing.assert_array_equal(fusedrnn.clockwork_rnn(x, w, lengths=kind([1, 2, 3]), start=kind([4, 5, 6])).y, want)


def test_a_sequence_that_changes_while_it_is_read() -> None:
    class Shrinking:
        def __index__(self) -> int:
            values.clear()
            return 1

    values: list[Any] = [Shrinking(), 2, 3]
    y = fusedrnn.lstm(array(T, B, I), lstm_weights(), lengths=values).y
    np.testing.assert_array_equal((y != 0).any(2).sum(0), [1, 2, 3])

    class Failing:
        def __index__(self) -> int:
            raise KeyError("no value")

    with pytest.raises(KeyError, match="no value"):
        fusedrnn.lstm(array(T, B, I), lstm_weights(), lengths=[1, Failing(), 3])  # type: ignore[list-item]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_batch_without_rows_takes_no_time(cell: Cell, rng: np.random.Generator) -> None:
    """However long its sequence is: 2^40 steps of nothing are nothing to do."""
    problem = make_problem(cell, (1, 0, I, H), "float32", rng)
    steps = 1 << 40
    infer, forward, backward, _ = cell.functions()
    x, w = np.empty((steps, *problem.x.shape[1:]), f32), problem.w
    assert infer(x, w).y.shape[:2] == (steps, 0)
    out, reserve = forward(x, w)
    grads = backward(reserve, out.y)
    assert grads.dx.shape == x.shape
    assert all(not a.any() for _, a in named(grads))


def test_too_large_for_memory_is_a_memory_error() -> None:
    x = np.lib.stride_tricks.as_strided(array(1, 1, I), (1 << 30, 1 << 14, I), (0, 0, 4))
    with pytest.raises(MemoryError):
        fusedrnn.lstm_forward(x, lstm_weights())
    assert np.isfinite(fusedrnn.lstm(array(T, B, I), lstm_weights()).y).all()


def test_the_wrong_weights() -> None:
    gru = fusedrnn.GRUWeights(array(3 * H, I), array(3 * H, H))
    with pytest.raises(TypeError, match="w: expected LSTMWeights, got GRUWeights"):
        fusedrnn.lstm(array(T, B, I), gru)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="w: expected GRUWeights, got dict"):
        fusedrnn.gru(array(T, B, I), {})  # type: ignore[arg-type]
    w = gru._loaded
    with pytest.raises(ValueError, match="states: expected 1 for cell 'gru_reset_after', got 2"):
        w.infer(array(T, B, I), (None, array(B, H)), None, False, {})
    with pytest.raises(ValueError, match="states: expected 1 for cell 'gru_reset_after', got 0"):
        w.step(array(B, I), (), (None,), {})
    with pytest.raises(ValueError, match="out: expected 1 for cell 'gru_reset_after', got 2"):
        w.step(array(B, I), (None,), (None, None), {})
    with pytest.raises(ValueError, match="c_below: expected None for cell 'gru_reset_after', got numpy.ndarray"):
        w.infer(array(T, B, I), (None,), None, False, {"c_below": array(T, B, H)})
    with pytest.raises(ValueError, match="bias: expected None for cell 'gru_reset_after', got int"):
        w.infer(array(T, B, I), (None,), None, False, {"bias": 1})


def test_native_methods_take_the_right_types() -> None:
    w: Any = lstm_weights()._loaded
    x, states = array(T, B, I), (None, None)
    for call in (w.infer, w.forward):
        with pytest.raises(TypeError, match="expected 5 arguments, got 2"):
            call(x, states)
        with pytest.raises(TypeError, match="expected a tuple, got list"):
            call(x, [None, None], None, False, {})
        with pytest.raises(TypeError, match="expected a dict, got NoneType"):
            call(x, states, None, False, None)
    with pytest.raises(TypeError, match="expected a tuple, got NoneType"):
        w.step(x[0], states, None, {})
    _, kept, _ = w.forward(x, states, None, False, {})
    memory, arguments = kept
    others = w.forward(x[1:], states, None, False, {})[1]
    for bad, error in [
        (None, TypeError),
        ((), TypeError),
        ((memory,), TypeError),
        ((memory, ()), TypeError),
        ((memory, (*arguments[:4], 1)), TypeError),
        ((x, arguments), TypeError),
        ((memory, others[1]), ValueError),
        ((others[0], arguments), ValueError),
    ]:
        with pytest.raises(error):
            w.backward(bad, None, states, None)
    assert w.backward(kept, None, states, None)["dx"].shape == x.shape


class Emptying:
    """An integer and a text that empty a container when they are read."""

    def __init__(self, container: Any) -> None:
        self.container = container

    def __index__(self) -> int:
        self.container.clear()
        return -1

    def __str__(self) -> str:
        self.container.clear()
        return "start"


class EmptyingArray(np.ndarray):
    container: Any = None

    def __array_finalize__(self, _: Any) -> None:
        if EmptyingArray.container is not None:
            EmptyingArray.container.clear()


def test_containers_that_change_while_they_are_read() -> None:
    x, w = array(T, B, I), clockwork_weights()._loaded
    inputs: dict[Any, Any] = {}
    inputs["start"] = Emptying(inputs)
    with pytest.raises(ValueError, match="start: expected values in 0..2\\*\\*62, got"):
        w.infer(x, (None,), None, False, inputs)
    inputs[Emptying(inputs)] = 3
    w.infer(x, (None,), None, False, inputs)
    lengths: list[Any] = [1, 2]
    lengths.append(Emptying(lengths))
    with pytest.raises(ValueError, match="lengths: expected values in 0..seq_len = 0..4, got -1 at index 2"):
        fusedrnn.lstm(x, lstm_weights(), lengths=lengths)
    arrays = {"weight_ih": array(I, 4 * H).T.view(EmptyingArray), "weight_hh": array(4 * H, H)}
    EmptyingArray.container = arrays
    try:
        with pytest.raises(TypeError, match="weight_hh: expected a numpy.ndarray, got NoneType"):
            _core.make_weights(native_cell(lstm_weights().spec), arrays, {}, None)
    finally:
        EmptyingArray.container = None


def test_native_objects_keep_their_class() -> None:
    w: Any = lstm_weights()._loaded
    memory = w.forward(array(T, B, I), (None, None), None, False, {})[1][0]
    with pytest.raises(TypeError, match="object layout differs"):
        memory.__class__ = _core.Weights
    with pytest.raises(TypeError, match="self: expected Weights, got"):
        _core.Weights.array(memory, "weight_ih")


def with_flag(a: Any, **flags: bool) -> Any:
    a.setflags(**flags)
    return a


def overlapping() -> dict[str, Any]:
    h = array(B, H)
    return {"h": h, "out": (h, array(B, H))}


def overlapping_each_other() -> dict[str, Any]:
    both = array(B + 1, H)
    return {"out": (both[:B], both[1:])}


BAD_STEPS: list[tuple[Callable[[], dict[str, Any]], type[Exception], str]] = [
    (
        lambda: {"x": array(1, B, I)},
        ValueError,
        "x: expected 2 dimensions (batch_size, input_size), got shape (1, 3, 5)",
    ),
    (lambda: {"x": array(B, I + 1)}, ValueError, "x: expected shape (batch_size, input_size) = (3, 5), got (3, 6)"),
    (lambda: {"h": array(B, I)}, ValueError, "h: expected shape (batch_size, hidden_size) = (3, 6), got (3, 5)"),
    (lambda: {"c": array(B, H, dtype=float)}, TypeError, "c: expected dtype float32, got float64"),
    (
        lambda: {"out": (array(B, H + 1), array(B, H))},
        ValueError,
        "out (h): expected shape (batch_size, hidden_size) = (3, 6)",
    ),
    (
        lambda: {"out": (array(B, H, dtype=float), array(B, H))},
        TypeError,
        "out (h): expected dtype float32, got float64",
    ),
    (lambda: {"out": (array(B, H), array(B, H, dtype=">f4"))}, TypeError, "out (c): expected dtype float32, got >f4"),
    (
        lambda: {"out": (array(B, H), with_flag(array(B, H), write=False))},
        ValueError,
        "out (c): expected a writeable array, got a read-only one",
    ),
    (
        lambda: {"out": (array(H, B).T, array(B, H))},
        ValueError,
        "out (h): expected a C-contiguous array, got a strided one",
    ),
    (overlapping, ValueError, "out (h): expected memory of its own, got an array that overlaps h"),
    (overlapping_each_other, ValueError, "out (c): expected memory of its own, got an array that overlaps out (h)"),
    (lambda: {"out": array(B, H)}, TypeError, "out: expected a tuple (h, c) of two arrays, got ndarray"),
    (lambda: {"out": ([0], array(B, H))}, TypeError, "out (h): expected a numpy.ndarray, got list"),
]


def test_steps_of_other_states() -> None:
    w = fusedrnn.FGRLSTMWeights(array(4 * H, I), array(4 * H, H), weight_gates=array(3 * H, 3 * H))
    for out in (array(B, H), (array(B, H), array(B, H))):
        with pytest.raises(TypeError, match=r"out: expected a tuple \(h, c, gates\) of three arrays, got"):
            fusedrnn.fgr_lstm_cell(array(B, I), w, out=out)  # type: ignore[arg-type]


@pytest.mark.parametrize(("change", "error", "text"), BAD_STEPS)
def test_steps(change: Callable[[], dict[str, Any]], error: type[Exception], text: str) -> None:
    a: dict[str, Any] = {"x": array(B, I), "h": array(B, H), "c": array(B, H), "out": None} | change()
    outs = a["out"] if isinstance(a["out"], tuple) and error is ValueError else ()
    kept = [x.copy() for x in outs]
    with pytest.raises(error) as raised:
        fusedrnn.lstm_cell(a["x"], lstm_weights(), a["h"], a["c"], out=a["out"])
    assert text in str(raised.value)
    for before, after in zip(kept, outs, strict=True):
        np.testing.assert_array_equal(before, after)  # nothing modified


BAD_BACKWARDS: list[Bad] = [
    (
        {"dy": array(T, B, H + 1)},
        ValueError,
        "dy: expected shape (seq_len, batch_size, hidden_size) = (4, 3, 6), got (4, 3, 7)",
    ),
    ({"dy": array(T + 1, B, H)}, ValueError, "= (4, 3, 6), got (5, 3, 6)"),
    ({"dy": array(T, B, H, dtype=float)}, TypeError, "dy: expected dtype float32, got float64"),
    ({"dh_n": array(B, I)}, ValueError, "dh_n: expected shape (batch_size, hidden_size) = (3, 6), got (3, 5)"),
    ({"dc_n": array(H)}, ValueError, "dc_n: expected shape (batch_size, hidden_size) = (3, 6), got (6,)"),
    ({"dy": "no"}, TypeError, "dy: expected a numpy.ndarray, got str"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD_BACKWARDS)
def test_backward(change: dict[str, Any], error: type[Exception], text: str) -> None:
    _, reserve = fusedrnn.lstm_forward(array(T, B, I), lstm_weights())
    a: dict[str, Any] = {"dy": array(T, B, H), "dh_n": None, "dc_n": None} | change
    with pytest.raises(error) as raised:
        fusedrnn.lstm_backward(reserve, **a)
    assert text in str(raised.value)
    fusedrnn.lstm_backward(reserve, array(T, B, H))


def test_a_reserve_of_another_cell() -> None:
    _, reserve = fusedrnn.lstm_forward(array(T, B, I), lstm_weights())
    with pytest.raises(TypeError, match="reserve: expected one of gru_forward, got one of cell 'lstm'"):
        fusedrnn.gru_backward(reserve, array(T, B, H))
    with pytest.raises(TypeError, match="reserve: expected a Reserve, as rnn_forward returns it, got NoneType"):
        fusedrnn.rnn_backward(None, array(T, B, H))  # type: ignore[arg-type]
    w = lstm_weights()._loaded
    _, kept, _ = w.forward(array(T, B, I), (None, None), None, False, {})
    with pytest.raises(ValueError, match="dstates: expected 2 for cell 'lstm', got 1"):
        w.backward(kept, None, (None,), None)
    with pytest.raises(ValueError, match="dc: expected None for cell 'lstm', got numpy.ndarray"):
        w.backward(kept, None, (None, None), array(T, B, H))
    _, reserve = fusedrnn.lstm_forward(array(T, B, I), lstm_weights())
    with pytest.raises(TypeError, match=r"reserve: expected one of fusedrnn.reference, got one of fusedrnn"):
        fusedrnn.reference.lstm_backward(reserve, None)


def test_settings() -> None:
    for name in ("columns", "2x", "0x2", "2x3x4", "2000x1", " 2x3"):
        with pytest.raises(
            ValueError,
            match="schedule: expected one of 'auto', 'one', 'rows', 'units', 'wave' "
            f"or parts of rows and units such as '2x3', got '{name}'",
        ):
            _core.set_schedule(name)
    with pytest.raises(ValueError, match=r"isa: expected one of .*'portable' on this CPU, got 'sse9'"):
        fusedrnn.set_isa("sse9")
    with pytest.raises(TypeError, match="isa: expected str, got int"):
        fusedrnn.set_isa(2)  # type: ignore[arg-type]
    for n in (0, -1, 1025):
        with pytest.raises(ValueError, match=f"n: expected an integer in 1..1024, got {n}"):
            fusedrnn.set_num_threads(n)
        with pytest.raises(ValueError, match=f"n: expected an integer in 1..1024, got {n}"):
            _core.set_num_threads(n)
    with pytest.raises(TypeError, match="n: expected int, got float"):
        fusedrnn.set_num_threads(2.0)  # type: ignore[arg-type]
    fusedrnn.set_num_threads(3)
    assert fusedrnn.get_num_threads() == 3


def test_probes() -> None:
    bad: list[tuple[Callable[..., Any], tuple[Any, ...], str]] = [
        (_core.probe_fma, (False, 0), "rounds: expected an integer in 1..1099511627776, got 0"),
        (_core.probe_fma, (True, 2**40 + 1), "rounds: expected an integer in 1..1099511627776, got 1099511627777"),
        (_core.probe_read, (False, 0, 1), "bytes_each: expected an integer in 1..17179869184, got 0"),
        (_core.probe_read, (True, 2**34 + 1, 1), "bytes_each: expected an integer in 1..17179869184, got 17179869185"),
        (_core.probe_read, (True, 8, 2**40 + 1), "rounds: expected an integer in 1..1099511627776, got 1099511627777"),
        (lstm_weights()._loaded.schedule, (0, 1), "seq_len: expected an integer in 1..1073741824, got 0"),
        (lstm_weights()._loaded.schedule, (1, 0), "batch_size: expected an integer in 1..1073741824, got 0"),
    ]
    for call, arguments, text in bad:
        with pytest.raises(ValueError, match=re.escape(text)):
            call(*arguments)
    assert _core.probe_fma(False, 1000) > 0
    assert _core.probe_read(True, 4096, 10) > 0


def test_activations() -> None:
    with pytest.raises(TypeError, match="x: expected dtype float32 or float64, got int64"):
        _core.tanh(np.arange(3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="x: expected 1 dimensions"):
        _core.sigmoid(array(2, 2))
