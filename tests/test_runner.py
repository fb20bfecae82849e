"""Calls by address, which front ends make: the bits of layers, whatever the strides, and packed or padded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusedrnn
from by_address import ByAddress
from cases import DISTINCT, Array, Cell, options_of, possible
from fusedrnn import _core
from stacks import STACKED, make_layer

T, B, I, H = 7, 4, 5, 9
FEW = [c for c in STACKED if c in DISTINCT]
directions = pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])


class Problem:
    def __init__(
        self, layer: fusedrnn.Layer, rng: np.random.Generator, shape: Any = (T, B), lengths: Any = None
    ) -> None:
        seq_len, batch = shape

        def normal(*size: int) -> Array:
            return rng.standard_normal(size).astype(layer.dtype)

        runs = layer.num_layers * layer.num_directions
        sizes = [s.length(layer.hidden_size, layer.proj_size or layer.hidden_size) for s in layer.spec.states]
        self.layer, self.lengths = layer, lengths
        self.x, self.dy = normal(seq_len, batch, layer.input_size), normal(seq_len, batch, layer.output_size)
        self.states = possible(layer.spec, [normal(runs, batch, n) for n in sizes])
        self.dlast = [normal(runs, batch, n) for n in sizes]
        self.start = rng.integers(0, 4, batch) if layer.spec.numbered else None

    def of_layer(self, **options: Any) -> dict[str, Any]:
        layer = self.layer
        state = tuple(self.states) if len(self.states) > 1 else self.states[0]
        dstate = tuple(self.dlast) if len(self.dlast) > 1 else self.dlast[0]
        if self.start is not None:
            options["start"] = self.start
        out, tape = layer.forward(self.x, state, lengths=self.lengths, **options)
        g = layer.backward(tape, self.dy, dstate)
        return {"out": list(out), "dx": g.dx, "dfirst": list(g[1:-1]), "dparameters": list(g.parameters.values())}


def assert_bits(got: Any, want: Any, context: str = "") -> None:
    got, want = [a for a in got if a is not None], list(want)
    assert len(got) == len(want), context
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        assert a.shape == b.shape, f"{context} {i}"
        assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes(), f"{context} {i}"


def in_order_of_parameters(layer: fusedrnn.Layer, gradients: list[Any]) -> list[Array]:
    """The gradients that a layer has a parameter for."""
    names = [n for w in layer._weights for n in w.spec.names]
    assert len(names) == len(gradients)
    return [g for g in gradients if g is not None]


@pytest.mark.parametrize("cell", STACKED, ids=str)
@directions
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bits_of_layers(cell: Cell, bidirectional: bool, dtype: str, rng: np.random.Generator) -> None:
    layer = make_layer(cell, I, H, 2, bidirectional=bidirectional, rng=1, dtype=dtype)
    p = Problem(layer, rng, lengths=[T, 0, 3, 5])
    want = p.of_layer()
    for gap in (0, 3):
        calls = ByAddress(layer, gap=gap)
        assert_bits(calls.infer(p.x, p.states, p.lengths, p.start), want["out"], "inference")
        out, tape = calls.forward(p.x, p.states, p.lengths, p.start)
        assert_bits(out, want["out"], "forward")
        g = calls.backward(tape, p.dy, p.dlast)
        assert_bits([g["dx"]], [want["dx"]], "dx")
        assert_bits(g["dfirst"], want["dfirst"], "dfirst")
        assert_bits(in_order_of_parameters(layer, g["dparameters"]), want["dparameters"], "dparameters")


@pytest.mark.parametrize("cell", FEW, ids=str)
@directions
@pytest.mark.parametrize("rows", [(1, 1), (2, 1), (1, 2), (2, 5), (1, 9)], ids=str)
def test_weights_that_are_read_in_place(cell: Cell, bidirectional: bool, rows: Any, rng: np.random.Generator) -> None:
    """Few rows: on every ISA, with tiles and parts of every kind."""
    layer = make_layer(cell, 70, 210, 2, bidirectional=bidirectional, rng=1)
    p = Problem(layer, rng, rows)
    want = p.of_layer()
    best = fusedrnn.isa()
    _core.set_in_place("always")
    try:
        for isa in fusedrnn.available_isas():
            fusedrnn.set_isa(isa)
            for schedule in ("one", "units", "auto"):
                _core.set_schedule(schedule)
                calls = ByAddress(layer)
                out, tape = calls.forward(p.x, p.states, p.lengths, p.start)
                assert_bits(out, want["out"], f"{isa} {schedule}")
                g = calls.backward(tape, p.dy, p.dlast)
                assert_bits([g["dx"], *g["dfirst"]], [want["dx"], *want["dfirst"]], f"{isa} {schedule}")
                assert_bits(in_order_of_parameters(layer, g["dparameters"]), want["dparameters"], f"{isa} {schedule}")
    finally:
        fusedrnn.set_isa(best)
        _core.set_schedule("auto")
        _core.set_in_place("auto")


@pytest.mark.parametrize("cell", STACKED, ids=str)
@directions
def test_packed_sequences_have_the_bits_of_padded_ones(
    cell: Cell, bidirectional: bool, rng: np.random.Generator
) -> None:
    layer = make_layer(cell, I, H, 3, bidirectional=bidirectional, rng=1, dropout=0.4)
    seq_len, lengths = 60, np.array([60, 60, 41, 40, 17, 17, 3, 1, 0])
    p = Problem(layer, rng, (seq_len, len(lengths)), lengths)
    live = np.arange(seq_len)[:, None] < lengths[None, :]
    padded, packed = ByAddress(layer), ByAddress(layer, gap=2, packed=True)
    want_out, want_tape = padded.forward(p.x, p.states, lengths, p.start, 0.4, 99)
    want = padded.backward(want_tape, p.dy, p.dlast)
    out, tape = packed.forward(p.x[live], p.states, lengths, p.start, 0.4, 99)
    assert_bits(out, [want_out[0][live], *want_out[1:]])
    g = packed.backward(tape, p.dy[live], p.dlast)
    assert_bits([g["dx"], *g["dfirst"]], [want["dx"][live], *want["dfirst"]])
    assert_bits(g["dparameters"], [a for a in want["dparameters"] if a is not None])
    assert_bits(
        packed.infer(p.x[live], p.states, lengths, p.start),
        [a if i else a[live] for i, a in enumerate(padded.infer(p.x, p.states, lengths, p.start))],
    )


@pytest.mark.parametrize("cell", FEW, ids=str)
@directions
def test_gradients_that_are_wanted(cell: Cell, bidirectional: bool, rng: np.random.Generator) -> None:
    """Each gradient alone, and without dy; dx is added to."""
    layer = make_layer(cell, I, H, 2, bidirectional=bidirectional, rng=1)
    p, calls = Problem(layer, rng), ByAddress(layer)
    _, tape = calls.forward(p.x, p.states, None, p.start)
    want = calls.backward(tape, p.dy, p.dlast)
    for i, whole in enumerate(want["dparameters"]):
        g = calls.backward(tape, p.dy, p.dlast, wanted=[j == i for j in range(len(calls.parameters))])
        assert_bits(g["dparameters"], [] if whole is None else [whole])
    for i in range(len(p.states)):
        first = [j == i for j in range(len(p.states))]
        g = calls.backward(tape, p.dy, p.dlast, first=first)
        assert_bits(g["dfirst"], [want["dfirst"][i]])
        assert_bits([g["dx"], *g["dparameters"]], [want["dx"], *(d for d in want["dparameters"] if d is not None)])
    before = rng.standard_normal(p.x.shape).astype("float32")
    zeros = calls.backward(tape, p.dy, p.dlast, dx=np.zeros_like(p.x))["dx"]
    np.testing.assert_array_equal(zeros, want["dx"])
    added = calls.backward(tape, p.dy, p.dlast, dx=before.copy())["dx"]
    np.testing.assert_allclose(added, before + want["dx"], rtol=1e-6, atol=1e-6)
    none = calls.backward(tape, None, p.dlast)
    assert_bits([none["dx"]], [calls.backward(tape, np.zeros_like(p.dy), p.dlast)["dx"]])


@pytest.mark.parametrize("cell", FEW, ids=str)
@directions
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_packed_weights_have_the_bits_of_parameters(
    cell: Cell, bidirectional: bool, dtype: str, rng: np.random.Generator
) -> None:
    layer = make_layer(cell, I, H, 2, bidirectional=bidirectional, dtype=dtype, rng=1)
    p, calls = Problem(layer, rng), ByAddress(layer)
    arguments = p.x, p.states, None, p.start
    assert_bits(calls.infer(*arguments, weights=layer._stack()), calls.infer(*arguments))


def test_packed_weights_that_are_not_the_runners() -> None:
    layer = fusedrnn.LSTM(I, H, rng=1)
    calls, x = ByAddress(layer), np.zeros((T, B, I), "float32")
    others: list[fusedrnn.Layer] = [fusedrnn.LSTM(I, H, 2), fusedrnn.LSTM(I, H + 1), fusedrnn.LSTM(I + 1, H)]
    others += [fusedrnn.GRU(I, H), fusedrnn.LSTM(I, H, dtype="float64"), fusedrnn.LSTM(I, H, bidirectional=True)]
    for other in others:
        with pytest.raises(
            ValueError, match="parameters: expected packed weights of the runner's cell, sizes and format"
        ):
            calls.infer(x, [None, None], weights=other._stack())
    with pytest.raises(TypeError, match="parameters: expected tuple"):
        calls.infer(x, [None, None], weights=1)
    common, kept = calls.common(x, [None, None], None, None)
    with pytest.raises(TypeError, match="parameters: expected tuple, got fusedrnn._core.Stack"):
        calls.runner.forward(*common[:-1], layer._stack(), 0, H, (0, 0), 0, 0.0, 0, 0)
    with pytest.raises(TypeError, match="parameters: expected tuple, got fusedrnn._core.Stack"):
        calls.runner.backward(
            *common[:-1], layer._stack(), 0, 0.0, 0, 0, H, (0, 0), 0, False, (0, 0), (0, 0), (0,) * 4, 0
        )
    del kept


@pytest.mark.parametrize("cell", FEW, ids=str)
@directions
def test_regularised_calls_have_the_bits_of_layers(cell: Cell, bidirectional: bool, rng: np.random.Generator) -> None:
    """Masks of all kinds follow from the seed of the call. A reserve keeps c after zoneout."""
    options = options_of(cell, 0.3)
    layer = make_layer(cell, I, H, 2, bidirectional=bidirectional, rng=1, dropout=0.4, **options)
    p, calls = Problem(layer, rng, lengths=[7, 0, 3, 5]), ByAddress(layer)
    want = p.of_layer(seed=2**63 + 5)
    out, tape = calls.forward(p.x, p.states, p.lengths, p.start, 0.4, 2**63 + 5)
    assert_bits(out, want["out"])
    g = calls.backward(tape, p.dy, p.dlast)
    assert_bits([g["dx"], *g["dfirst"]], [want["dx"], *want["dfirst"]])
    assert_bits(in_order_of_parameters(layer, g["dparameters"]), want["dparameters"])
    state = tuple(p.states) if len(p.states) > 1 else p.states[0]
    start = {} if p.start is None else {"start": p.start}
    assert_bits(calls.infer(p.x, p.states, p.lengths, p.start), list(layer(p.x, state, lengths=p.lengths, **start)))
    plain = ByAddress(make_layer(cell, I, H, 2, bidirectional=bidirectional, rng=1))
    sizes = [of.runner.reserve_bytes(T, B, 0, 0, True) for of in (calls, plain)]
    assert (sizes[0] > sizes[1]) == ("zoneout_c" in options)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_of_a_call(threads: int, rng: np.random.Generator) -> None:
    layer = fusedrnn.LSTM(40, 300, 2, rng=1)
    p = Problem(layer, rng, (30, 20))
    want = p.of_layer()
    calls = ByAddress(layer, threads=threads)
    out, tape = calls.forward(p.x, p.states)
    assert_bits(out, want["out"])
    assert_bits([calls.backward(tape, p.dy, p.dlast)["dx"]], [want["dx"]])


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({0: -1}, ValueError, "seq_len, batch_size"),
        ({1: 1 << 61}, ValueError, "seq_len, batch_size"),
        ({0: "3"}, TypeError, "int"),
        ({7: [0, 0]}, TypeError, "states: expected tuple, got list"),
        ({7: (0,)}, ValueError, "states: expected 2 addresses, got 1"),
        ({9: (0,) * 5}, ValueError, "weight_ih: expected an address, got 0"),
        ({8: (0,)}, ValueError, "reset_states: expected 2 addresses, got 1"),
        ({9: ()}, ValueError, "parameters: expected"),
        ({11: 8}, ValueError, "y_stride: expected at least"),
        ({13: -1}, ValueError, "threads: expected an integer in 0..1024"),
        ({6: 1.5}, TypeError, "int"),
    ],
)
def test_bad_calls(change: dict[int, Any], error: type[Exception], text: str) -> None:
    layer = fusedrnn.LSTM(I, H, rng=1)
    calls = ByAddress(layer)
    if change.get(9):
        change = {9: (0,) * len(calls.parameters)}
    x = np.zeros((T, B, I), "float32")
    common, kept = calls.common(x, [None, None], None, None)
    y, last = np.zeros((T, B, H), "float32"), calls.new_states(B, "float32")
    arguments: list[Any] = [*common, y.ctypes.data, H, tuple(a.ctypes.data for a in last), 0]
    for i, value in change.items():
        arguments[i] = value
    with pytest.raises(error, match=text):
        calls.runner.infer(*arguments)
    del kept


@pytest.mark.parametrize(
    ("lengths", "offsets", "text"),
    [
        ([8, 0, 0, 0], None, "lengths: expected values in 0..seq_len, got 8 at index 0"),
        ([-1, 0, 0, 0], None, "got -1 at index 0"),
        ([3, 4, 0, 0], [0, 2, 4], "none larger than the one before, got 4 at index 1"),
        ([3, 2, 0, 0], [0, 2, 3], "offsets: expected the rows of all steps before"),
        (None, [0, 2, 4], "offsets: expected lengths beside them"),
    ],
)
def test_bad_lengths(lengths: Any, offsets: Any, text: str) -> None:
    runner = ByAddress(fusedrnn.LSTM(I, H, rng=1)).runner
    arrays = [None if a is None else np.array(a, np.int64) for a in (lengths, offsets)]
    addresses = [0 if a is None else a.ctypes.data for a in arrays]
    with pytest.raises(ValueError, match=text):
        runner.reserve_bytes(3 if offsets else T, B, *addresses, False)


def test_dropout_is_a_bool_where_bytes_are_asked_for() -> None:
    runner = ByAddress(fusedrnn.LSTM(I, H, 2, rng=1)).runner
    assert runner.reserve_bytes(T, B, 0, 0, True) > runner.reserve_bytes(T, B, 0, 0, False)
    for value in (0.4, 1):
        with pytest.raises(TypeError, match="dropout: expected bool"):
            runner.reserve_bytes(T, B, 0, 0, value)


@pytest.mark.parametrize("threads", [1, 2])
def test_padding_of_dx_stays_where_it_is_added_to(threads: int, rng: np.random.Generator) -> None:
    layer = fusedrnn.LSTM(40, 300, bidirectional=True, rng=1)
    p, lengths = Problem(layer, rng, (12, 8), [12, 3, 0, 7, 12, 1, 5, 9]), [12, 3, 0, 7, 12, 1, 5, 9]
    calls = ByAddress(layer, threads=threads)
    _, tape = calls.forward(p.x, p.states, lengths)
    past = np.arange(12)[:, None] >= np.array(lengths)
    dx = np.where(past[:, :, None], np.float32(-0.0), np.float32(1)) * np.ones_like(p.x)
    got = calls.backward(tape, p.dy, p.dlast, dx=dx)["dx"]
    assert np.signbit(got[past]).all()
    assert not got[past].any()


def test_runners_that_cannot_be() -> None:
    from fusedrnn.backends import native_cell

    cell = native_cell(fusedrnn.LSTM(I, H)._config.spec)
    good: dict[str, Any] = {
        "format": "float32", "input_size": I, "hidden_size": H, "proj_size": H, "num_layers": 1, "directions": 1,
        "epsilon": 0.0, "periods": [],
    }  # fmt: skip
    _core.make_runner(cell, **good)
    for change in (
        {"format": "int3"}, {"input_size": 0}, {"hidden_size": 1 << 41}, {"proj_size": H - 1}, {"num_layers": 0},
        {"directions": 3}, {"periods": [1]}, {"hidden_size": 1 << 39, "proj_size": 1 << 39, "input_size": 1 << 39},
        {"options": {"zoneout_h": 1.5}},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"expected|needs more bytes"):
            _core.make_runner(cell, **(good | change))
