"""Promises 4 and 5, nothing hidden and safe: what bad input gets, from the package and from the raw native layer."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusedrnn
from agreement import named
from cases import CELLS, Cell, make_problem
from fusedrnn import _core

T, B, I, H = 4, 3, 5, 6
f32 = np.float32


def array(*shape: int, dtype: Any = f32) -> Any:
    return np.ones(shape, dtype)


def lstm_weights(**change: Any) -> Any:
    arrays = {
        "weight_ih": array(4 * H, I),
        "weight_hh": array(4 * H, H),
        "bias_ih": array(4 * H),
        "bias_hh": array(4 * H),
    }
    return fusedrnn.LSTMWeights(**(arrays | change))


Bad = tuple[dict[str, Any], type[Exception], str]
BAD_WEIGHTS: list[Bad] = [
    (
        {"weight_ih": array(4 * H)},
        ValueError,
        "weight_ih: expected 2 dimensions (4*hidden_size, input_size), got shape (24,)",
    ),
    (
        {"weight_ih": array(23, I)},
        ValueError,
        "weight_ih: expected shape (4*hidden_size, input_size) with hidden_size and input_size at least 1, got (23, 5)",
    ),
    ({"weight_ih": array(0, I)}, ValueError, "at least 1, got (0, 5)"),
    ({"weight_ih": array(4 * H, 0)}, ValueError, "at least 1, got (24, 0)"),
    (
        {"weight_hh": array(4 * H, 7)},
        ValueError,
        "weight_hh: expected shape (4*hidden_size, hidden_size) = (24, 6), got (24, 7)",
    ),
    (
        {"weight_hh": array(3 * H, H)},
        ValueError,
        "weight_hh: expected shape (4*hidden_size, hidden_size) = (24, 6), got (18, 6)",
    ),
    ({"bias_ih": array(23)}, ValueError, "bias_ih: expected shape (4*hidden_size,) = (24,), got (23,)"),
    ({"bias_hh": array(24, 1)}, ValueError, "bias_hh: expected shape (4*hidden_size,) = (24,), got (24, 1)"),
    ({"weight_ih": array(24, I, dtype=int)}, TypeError, "weight_ih: expected dtype float32 or float64, got int64"),
    ({"weight_ih": array(24, I, dtype="f2")}, TypeError, "weight_ih: expected dtype float32 or float64, got float16"),
    ({"weight_ih": array(24, I, dtype=object)}, TypeError, "got object"),
    ({"weight_ih": array(24, I, dtype=complex)}, TypeError, "got complex128"),
    ({"weight_ih": array(24, I, dtype=">f4")}, TypeError, "got >f4"),
    ({"weight_hh": array(24, H, dtype=float)}, TypeError, "weight_hh: expected dtype float32, got float64"),
    ({"bias_ih": array(24, dtype=float)}, TypeError, "bias_ih: expected dtype float32, got float64"),
    ({"weight_ih": [[1.0]]}, TypeError, "weight_ih: expected a numpy.ndarray, got list"),
    ({"weight_hh": None}, TypeError, "weight_hh: expected a numpy.ndarray, got NoneType"),
    (
        {"weight_ih": np.lib.stride_tricks.as_strided(array(1, 1), (4 << 28, 1 << 30), (0, 0))},
        ValueError,
        "needs more bytes than 64 bits can count",
    ),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD_WEIGHTS)
def test_weights(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as raised:
        lstm_weights(**change)
    assert text in str(raised.value)


BAD_VARIANTS: list[Bad] = [
    (
        {"variant": "cifg"},
        ValueError,
        "variant: expected one of 'plain', 'no_input_gate', 'no_forget_gate', 'no_output_gate', "
        "'no_input_activation', 'no_output_activation', 'coupled', got 'cifg'",
    ),
    ({"variant": None}, ValueError, "variant: expected one of 'plain', "),
    (
        {"variant": "coupled"},
        ValueError,
        "weight_hh: expected shape (3*hidden_size, hidden_size) = (24, 8), got (24, 6)",
    ),
    ({"peephole_i": array(H + 1)}, ValueError, "peephole_i: expected shape (hidden_size,) = (6,), got (7,)"),
    ({"peephole_f": array(H, dtype=float)}, TypeError, "peephole_f: expected dtype float32, got float64"),
    ({"peephole_o": [1.0]}, TypeError, "peephole_o: expected a numpy.ndarray, got list"),
    (
        {"peephole_o": array(H, H + 1)},
        ValueError,
        "peephole_o: expected shape (hidden_size, hidden_size) = (6, 6), got (6, 7)",
    ),
    (
        {"peephole_i": array(H, H), "peephole_o": array(H)},
        ValueError,
        "peephole_o: expected shape (hidden_size, hidden_size) = (6, 6), got (6,)",
    ),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD_VARIANTS)
def test_variants(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as raised:
        lstm_weights(**change)
    assert text in str(raised.value)


@pytest.mark.parametrize(
    ("variant", "gate"), [("no_input_gate", "i"), ("coupled", "i"), ("no_forget_gate", "f"), ("no_output_gate", "o")]
)
def test_peepholes_of_gates_that_a_variant_has_not(variant: str, gate: str) -> None:
    arrays = array(3 * H, I), array(3 * H, H)
    with pytest.raises(ValueError, match=f"peephole_{gate}: expected None, as variant '{variant}' has no gate {gate}"):
        fusedrnn.LSTMWeights(*arrays, variant=variant, **{f"peephole_{gate}": array(H)})
    other = "f" if gate == "i" else "i"
    with pytest.raises(
        ValueError, match=rf"peephole_{other}: expected shape \(hidden_size,\), as variant '{variant}' has"
    ):
        fusedrnn.LSTMWeights(*arrays, variant=variant, **{f"peephole_{other}": array(H, H)})


def test_weights_that_a_cell_needs() -> None:
    with pytest.raises(TypeError, match="weight_gates: expected a numpy.ndarray, got NoneType"):
        fusedrnn.FGRLSTMWeights(array(4 * H, I), array(4 * H, H), weight_gates=None)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=re.escape("weight_gates: expected shape (3*hidden_size, 3*hidden_size) = (18, 18), got")
    ):
        fusedrnn.FGRLSTMWeights(array(4 * H, I), array(4 * H, H), weight_gates=array(H, H))
    with pytest.raises(TypeError, match="weight_hh: expected a numpy.ndarray, got NoneType"):
        fusedrnn.IndRNNWeights(array(H, I), None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=re.escape("weight_hh: expected shape (hidden_size,) = (6,), got (6, 6)")):
        fusedrnn.IndRNNWeights(array(H, I), array(H, H))


BAD_NORMALISATIONS: list[Bad] = [
    ({"gain_hh": None}, TypeError, "gain_hh: expected a numpy.ndarray, got NoneType"),
    ({"gain_c": None}, TypeError, "gain_c: expected a numpy.ndarray, got NoneType"),
    ({"gain_ih": array(H)}, ValueError, "gain_ih: expected shape (4*hidden_size,) = (24,), got (6,)"),
    ({"bias_ih": array(23)}, ValueError, "bias_ih: expected shape (4*hidden_size,) = (24,), got (23,)"),
    ({"bias_c": array(H, dtype=float)}, TypeError, "bias_c: expected dtype float32, got float64"),
    ({"epsilon": 0}, ValueError, "epsilon: expected a positive number, got 0"),
    ({"epsilon": float("nan")}, ValueError, "epsilon: expected a positive number, got nan"),
    ({"epsilon": float("inf")}, ValueError, "epsilon: expected a positive number, got inf"),
    ({"epsilon": 1e-40}, ValueError, "epsilon: expected at least 1.175e-38, the smallest normal float32, got 1e-40"),
    ({"epsilon": "small"}, TypeError, "epsilon: expected float, got str"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD_NORMALISATIONS)
def test_layer_norm(change: dict[str, Any], error: type[Exception], text: str) -> None:
    arrays = {"gain_ih": array(4 * H), "gain_hh": array(4 * H), "gain_c": array(H)}
    with pytest.raises(error) as raised:
        fusedrnn.LayerNormLSTMWeights(array(4 * H, I), array(4 * H, H), **(arrays | change))
    assert text in str(raised.value)


BAD_CLOCKS: list[Bad] = [
    (
        {"periods": (1, 2, 4, 8)},
        ValueError,
        "periods: expected as many as there are groups of equal size in hidden_size",
    ),
    ({"periods": ()}, ValueError, "in hidden_size = 6 units, got 0"),
    ({"periods": (0, 1)}, ValueError, "periods: expected integers in 1..2**62, got 0 at index 0"),
    ({"periods": (1, -2)}, ValueError, "periods: expected integers in 1..2**62, got -2 at index 1"),
    (
        {"periods": (1, 2**62 + 1)},
        ValueError,
        "periods: expected integers in 1..2**62, got 4611686018427387905 at index",
    ),
    ({"periods": (2, 1)}, ValueError, "periods: expected positive integers, none smaller than the one before, got 1"),
    ({"periods": (1.0, 2)}, TypeError, "periods: expected int, got float at index 0"),
    ({"periods": (True, 2)}, TypeError, "periods: expected int, got bool at index 0"),
    ({"periods": 2}, TypeError, "periods: expected a sequence of int, got int"),
    ({"periods": "12"}, TypeError, "periods: expected a sequence of int, got str"),
    ({"nonlinearity": "gelu"}, ValueError, "nonlinearity: expected one of 'tanh', 'relu', got 'gelu'"),
    (
        {"weight_hh": np.tril(np.ones((H, H), "f4"), -1)},
        ValueError,
        "weight_hh: expected zeros where a unit would see a group with a shorter period, got 1.0 at index (3, 0)",
    ),
    (
        {"weight_hh": np.full((H, H), np.nan, "f4")},
        ValueError,
        "weight_hh: expected zeros where a unit would see a group with a shorter period, got nan at index (3, 0)",
    ),
]


def clockwork_weights(**change: Any) -> Any:
    weight_hh = change.pop("weight_hh", np.eye(H, dtype="f4"))
    return fusedrnn.ClockworkRNNWeights(array(H, I), weight_hh, **({"periods": (1, 2)} | change))


@pytest.mark.parametrize(("change", "error", "text"), BAD_CLOCKS)
def test_clocks(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as raised:
        clockwork_weights(**change)
    assert text in str(raised.value)


def test_masks_of_bad_sizes() -> None:
    for size in (0, -4, 2**20 + 4, 2**64):
        with pytest.raises(ValueError, match=re.escape(f"hidden_size: expected an integer in 1..1048576, got {size}")):
            fusedrnn.ClockworkRNNWeights.mask(size, (1, 1, 1, 1))
    for bad, kind in ((4.0, "float"), (True, "bool"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"hidden_size: expected int, got {kind}"):
            fusedrnn.ClockworkRNNWeights.mask(bad, (1, 1))  # type: ignore[arg-type]


def test_objects_of_other_classes_in_native_methods() -> None:
    """Called by way of the class, with None or another object in place of self."""
    for cls in (_core.Weights, _core.Reserve, _core.CudaCell, _core.CudaRun):
        for name, member in vars(cls).items():
            call = member.fget if isinstance(member, property) else getattr(cls, name)
            if name.startswith("__") or not callable(call):
                continue
            arguments = ((), (0,), (True,), (1, 0), ("h0", 1), (False, 0, [1, 2], 0), (0, 1, 0, False, 0, 0))
            for other, rest in itertools.product((None, 1, array(2)), arguments):
                with pytest.raises(TypeError):
                    call(other, *rest)


def test_masks_of_bad_periods() -> None:
    for periods in ((), (1, 2, 4, 8), (2, 1)):
        with pytest.raises(ValueError, match="periods: expected positive integers, none smaller than the one before"):
            fusedrnn.ClockworkRNNWeights.mask(H, periods)


@pytest.mark.parametrize(
    ("start", "error", "text"),
    [
        (-1, ValueError, "start: expected values in 0..2**62, got -1"),
        (2**62 + 1, ValueError, "start: expected values in 0..2**62, got 4611686018427387905"),
        (2**70, ValueError, "start: expected values in 0..2**62, got 1180591620717411303424"),
        (np.array([0, 1, -3]), ValueError, "start: expected values in 0..2**62, got -3"),
        (np.array([0, 1]), ValueError, "start: expected shape (batch_size,) = (3,), got (2,)"),
        (np.zeros(B), TypeError, "start: expected integers, got dtype float64"),
        ([0, 1, 2**62 + 1], ValueError, "start: expected values in 0..2**62, got 4611686018427387905"),
        ([0, 1, 2**80], ValueError, "start: expected values in 0..2**62, got 1208925819614629174706176"),
        ([0, 1.0, 2], TypeError, "start: expected integers, got float at index 1"),
        (1.0, TypeError, "start: expected a sequence or numpy.ndarray of integers, got float"),
        (True, TypeError, "start: expected integers, got bool"),
    ],
)
def test_first_steps_of_clocks(start: Any, error: type[Exception], text: str) -> None:
    w = clockwork_weights()
    for call in (fusedrnn.clockwork_rnn, fusedrnn.clockwork_rnn_forward):
        with pytest.raises(error) as raised:
            call(array(T, B, I), w, start=start)
        assert text in str(raised.value)
    with pytest.raises(error) as raised:
        fusedrnn.clockwork_rnn_cell(array(B, I), w, start=start)
    assert text in str(raised.value)


def test_native_clocks() -> None:
    """The raw layer checks them too."""
    rnn = array(H, I), array(H, H), None, None
    with pytest.raises(ValueError, match="periods: expected none for cell 'rnn_tanh'"):
        _core.Weights("rnn_tanh", *rnn, periods=[1])
    with pytest.raises(
        ValueError, match="periods: expected positive integers, none smaller than the one before, got 0"
    ):
        _core.Weights("clockwork_rnn_tanh", *rnn, periods=[0])
    with pytest.raises(ValueError, match="start: expected None for cell 'rnn_tanh', got int"):
        _core.infer(_core.Weights("rnn_tanh", *rnn), array(T, B, I), (None,), None, False, None, 0)


def test_native_weights() -> None:
    """The raw layer counts what it is given."""
    lstm = array(4 * H, I), array(4 * H, H), None, None
    vector, matrix = ("p", 0, array(H)), ("p", 1, array(H, H))
    for cell, vectors, blocks, text in [
        ("lstm", [vector], [], "vectors: expected 0 for cell 'lstm', got 1"),
        ("lstm_peephole", [vector], [], "vectors: expected 3 for cell 'lstm_peephole', got 1"),
        ("lstm", [], [matrix], "p: expected no such matrix in cell 'lstm'"),
        ("lstm_matrix_peephole", [], [matrix], "blocks: expected more matrices for cell 'lstm_matrix_peephole'"),
        ("lstm_matrix_peephole_if", [], [("p", 1 << 20, array(H, H))], "p: expected no such matrix in cell"),
        (
            "lstm_matrix_peephole",
            [],
            [("p", 1 << 31, array(H, H))] * 3,
            "p: expected a number of gates that a cell may",
        ),
        (
            "lstm_matrix_peephole",
            [],
            [("p", -1, array(H, H))] * 3,
            "p: expected a number of gates that a cell may have",
        ),
        (
            "lstm_peephole",
            [("p", (1 << 31) - 1, array(H))] * 3,
            [],
            "p: expected a number of gates that a cell may have",
        ),
        ("lstm_matrix_peephole_if", [], [matrix, ("q", 2, array(2 * H, H))], "q: expected no such matrix in cell"),
        ("lstm_peephole", [vector] * 1025, [], "vectors: expected fewer arrays, got 1025"),
    ]:
        with pytest.raises(ValueError, match=text):
            _core.Weights(cell, *lstm, vectors, blocks)


def test_native_weights_on_no_device() -> None:
    for device in (None, 1, array(2)):
        with pytest.raises(TypeError, match="device: expected weights of fusedrnn._cuda, got"):
            _core.Weights("lstm", 2, 3, device)


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="z_weighs: expected one of 'h_prev', 'n', got 'new'"):
        fusedrnn.GRUWeights(array(3 * H, I), array(3 * H, H), z_weighs="new")
    with pytest.raises(ValueError, match="nonlinearity: expected one of 'tanh', 'relu', got 'gelu'"):
        fusedrnn.RNNWeights(array(H, I), array(H, H), nonlinearity="gelu")
    with pytest.raises(TypeError, match="reset_after: expected bool, got int"):
        fusedrnn.GRUWeights(array(3 * H, I), array(3 * H, H), reset_after=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cell: expected one of 'rnn_tanh', .*, got 'lstn'"):
        _core.Weights("lstn", array(H, I), array(H, H), None, None)


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
            call = _core.forward if training else _core.infer
            call(lstm_weights(), a["x"], (a["h0"], a["c0"]), a["lengths"], a["reverse"], None)
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
    with pytest.raises(TypeError, match="w: expected weights of a cell .*, got dict"):
        _core.infer({}, array(T, B, I), (None, None), None, False, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="states: expected 1 for cell 'gru_reset_after', got 2"):
        _core.infer(gru, array(T, B, I), (None, array(B, H)), None, False, None)
    with pytest.raises(ValueError, match="states: expected 1 for cell 'gru_reset_after', got 0"):
        _core.step(gru, array(B, I), (), (None,), None)
    with pytest.raises(ValueError, match="out: expected 1 for cell 'gru_reset_after', got 2"):
        _core.step(gru, array(B, I), (None,), (None, None), None)
    with pytest.raises(ValueError, match="c_below: expected None for cell 'gru_reset_after', got numpy.ndarray"):
        _core.infer(gru, array(T, B, I), (None,), None, False, array(T, B, H))


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
    assert not reserve.used  # the refused call has not spoilt it
    fusedrnn.lstm_backward(reserve, array(T, B, H))


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.name)
def test_a_reserve_serves_once(cell: Cell, rng: np.random.Generator) -> None:
    problem = make_problem(cell, (T, B, I, H), "float32", rng)
    _, forward, backward, _ = cell.functions()
    _, reserve = forward(problem.x, problem.w)
    backward(reserve, problem.dy)
    assert reserve.used
    with pytest.raises(ValueError, match="reserve: expected one that no backward has used, got one that has been used"):
        backward(reserve, problem.dy)


def test_a_reserve_of_another_cell() -> None:
    _, reserve = fusedrnn.lstm_forward(array(T, B, I), lstm_weights())
    with pytest.raises(TypeError, match="reserve: expected one of gru_forward, got one of cell 'lstm'"):
        fusedrnn.gru_backward(reserve, array(T, B, H))
    with pytest.raises(TypeError, match="reserve: expected a Reserve, as rnn_forward returns it, got NoneType"):
        fusedrnn.rnn_backward(None, array(T, B, H))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dstates: expected 2 for cell 'lstm', got 1"):
        _core.backward(reserve, None, (None,), None)
    with pytest.raises(ValueError, match="dc: expected None for cell 'lstm', got numpy.ndarray"):
        _core.backward(reserve, None, (None, None), array(T, B, H))
    with pytest.raises(TypeError, match="reserve: expected a Reserve, as forward returns it, got int"):
        _core.backward(1, None, (None, None), None)  # type: ignore[arg-type]


def test_settings() -> None:
    with pytest.raises(ValueError, match="schedule: expected one of 'auto', 'one', 'rows', 'units', got 'columns'"):
        _core.set_schedule("columns")
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
    for call, arguments, text in [
        (_core.probe_fma, (False, 0), "rounds: expected an integer in 1..1099511627776, got 0"),
        (_core.probe_fma, (True, 2**40 + 1), "rounds: expected an integer in 1..1099511627776, got 1099511627777"),
        (_core.probe_read, (False, 0, 1), "bytes_each: expected an integer in 1..17179869184, got 0"),
        (_core.probe_read, (True, 2**34 + 1, 1), "bytes_each: expected an integer in 1..17179869184, got 17179869185"),
        (_core.probe_read, (True, 8, 2**40 + 1), "rounds: expected an integer in 1..1099511627776, got 1099511627777"),
        (_core.schedule, (lstm_weights(), 0, 1), "seq_len: expected an integer in 1..1099511627776, got 0"),
        (_core.schedule, (lstm_weights(), 1, 0), "batch_size: expected an integer in 1..1099511627776, got 0"),
    ]:
        with pytest.raises(ValueError, match=re.escape(text)):
            call(*arguments)
    assert _core.probe_fma(False, 1000) > 0
    assert _core.probe_read(True, 4096, 10) > 0


def test_activations() -> None:
    with pytest.raises(TypeError, match="x: expected dtype float32 or float64, got int64"):
        _core.tanh(np.arange(3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="x: expected 1 dimensions"):
        _core.sigmoid(array(2, 2))
