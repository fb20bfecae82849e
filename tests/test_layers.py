"""Layers: the bits of one-layer functions wired by hand, whatever the schedule; forms of arguments; dropout; first
values; parameters that change; files."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedrnn
from agreement import DIFFERENCE_TOLERANCE, STEP, assert_arrays_close, roundings_of_layers
from cases import DISTINCT, Array, Cell, possible
from fusedrnn import _core
from fusedrnn.cells.families import LAYERS
from fusedrnn.layers.numbers import Calls
from stacks import STACKED, Composed, by_name, dropout_mask, make_layer

T, B, I, H = 5, 3, 4, 12
directions = pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])
OF_ONE = [c for c in STACKED if c in DISTINCT]


@pytest.fixture
def settings() -> Iterator[None]:
    threads = fusedrnn.get_num_threads()
    yield
    fusedrnn.set_num_threads(threads)
    _core.set_schedule("auto")


class Inputs:
    """Of one call forward and backward."""

    def __init__(
        self, layer: fusedrnn.Layer, rng: np.random.Generator, lengths: bool = False, shape: Any = (T, B)
    ) -> None:
        seq_len, batch = shape
        runs = layer.num_layers * layer.num_directions

        def normal(*size: int) -> Array:
            return rng.standard_normal(size).astype(layer.dtype)

        self.x = normal(seq_len, batch, layer.input_size)
        sizes = [s.length(layer.hidden_size, layer.proj_size or layer.hidden_size) for s in layer.spec.states]
        self.states = possible(layer.spec, [normal(runs, batch, n) for n in sizes])
        self.dstates = [normal(runs, batch, n) for n in sizes]
        self.dy = normal(seq_len, batch, layer.output_size)
        self.kwargs: dict[str, Any] = {"lengths": rng.integers(0, seq_len + 1, batch)} if lengths else {}
        if layer.spec.numbered:
            self.kwargs["start"] = rng.integers(0, 4, batch)

    @property
    def state(self) -> Any:
        return tuple(self.states) if len(self.states) > 1 else self.states[0]

    @property
    def dstate(self) -> Any:
        return tuple(self.dstates) if len(self.dstates) > 1 else self.dstates[0]

    def run(self, layer: fusedrnn.Layer, **kwargs: Any) -> tuple[Any, dict[str, Array], fusedrnn.Tape]:
        out, tape = layer.forward(self.x, self.state, **self.kwargs, **kwargs)
        return out, by_name(layer.backward(tape, self.dy, self.dstate)), tape


def assert_bits(got: dict[str, Array], want: dict[str, Array], context: str = "") -> None:
    assert got.keys() == want.keys()
    for name, a in got.items():
        assert (a.dtype, a.shape) == (want[name].dtype, want[name].shape), f"{context} {name}"
        assert a.tobytes() == want[name].tobytes(), f"{context} {name}"


def outputs(out: Any) -> dict[str, Array]:
    return dict(zip(out._fields, out, strict=True))


@pytest.mark.parametrize("cell", STACKED, ids=str)
@directions
@pytest.mark.parametrize("lengths", [False, True], ids=["whole", "lengths"])
def test_a_layer_has_the_bits_of_functions_wired_by_hand(
    cell: Cell, bidirectional: bool, lengths: bool, rng: np.random.Generator
) -> None:
    layer = make_layer(cell, I, H, 3, bidirectional=bidirectional, rng=1)
    inputs, composed = Inputs(layer, rng, lengths), Composed(cell, layer)
    want, runs = composed.run(inputs.x, inputs.states, **inputs.kwargs)
    dwant = composed.gradients(runs, inputs.dy, inputs.dstates)
    out, gradients, _ = inputs.run(layer)
    assert_bits(outputs(out), outputs(want))
    assert_bits(outputs(layer(inputs.x, inputs.state, **inputs.kwargs)), outputs(want), "inference")
    assert_bits(gradients, dwant)


@pytest.mark.parametrize("cell", OF_ONE, ids=str)
@directions
def test_a_layer_agrees_with_the_reference(cell: Cell, bidirectional: bool, rng: np.random.Generator) -> None:
    layer = make_layer(cell, I, H, 2, bidirectional=bidirectional, rng=2)
    inputs = Inputs(layer, rng, lengths=True)
    composed = Composed(cell, layer, fusedrnn.reference, "float64")
    want, runs = composed.run(inputs.x, inputs.states, **inputs.kwargs)
    dwant = composed.gradients(runs, inputs.dy, inputs.dstates)
    out, gradients, _ = inputs.run(layer)
    for results, expected, is_gradient in ((outputs(out), outputs(want), False), (gradients, dwant, True)):
        n = roundings_of_layers(layer, T, B, gradients=is_gradient)
        assert_arrays_close(results, expected, "float32", n)


@pytest.mark.parametrize("cell", OF_ONE, ids=str)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])
@pytest.mark.parametrize("dropout", [0.0, 0.4], ids=["", "dropout"])
@pytest.mark.usefixtures("settings")
def test_schedules_change_no_bit(cell: Cell, bidirectional: bool, dropout: float, rng: np.random.Generator) -> None:
    layer = make_layer(cell, 7, 36, 3, bidirectional=bidirectional, dropout=dropout, rng=3)
    for shape in ((9, 1), (20, 5)):
        inputs = Inputs(layer, rng, lengths=shape[1] > 1, shape=shape)
        _core.set_schedule("one")
        fusedrnn.set_num_threads(1)
        out, gradients, tape = inputs.run(layer)
        for threads in (2, 3, 4):
            fusedrnn.set_num_threads(threads)
            for schedule in ("auto", "rows", "units", "wave"):
                _core.set_schedule(schedule)
                context = f"{schedule} {threads}"
                again, dagain, _ = inputs.run(layer, **({"seed": tape.seed} if dropout else {}))
                assert_bits(outputs(again), outputs(out), context)
                assert_bits(dagain, gradients, context)
                if not dropout:
                    assert_bits(outputs(layer(inputs.x, inputs.state, **inputs.kwargs)), outputs(out), context)


@pytest.mark.parametrize("isa", fusedrnn.available_isas())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_isas_change_no_bit(isa: str, dtype: str, rng: np.random.Generator) -> None:
    layer = fusedrnn.LSTM(9, 21, 2, bidirectional=True, proj_size=13, dropout=0.5, dtype=dtype, rng=4)
    inputs = Inputs(layer, rng, lengths=True)
    out, gradients, tape = inputs.run(layer)
    current = fusedrnn.isa()
    try:
        fusedrnn.set_isa(isa)
        again, dagain, _ = inputs.run(layer, seed=tape.seed)
    finally:
        fusedrnn.set_isa(current)
    assert_bits(outputs(again), outputs(out))
    assert_bits(dagain, gradients)


@pytest.mark.quick
def test_gradients_are_those_of_central_differences(rng: np.random.Generator) -> None:
    layer = fusedrnn.LSTM(3, 4, 2, bidirectional=True, dropout=0.3, dtype="float64", peepholes="diagonal", rng=5)
    inputs = Inputs(layer, rng, lengths=True)

    def loss() -> float:
        out, _ = layer.forward(inputs.x, inputs.state, seed=7, **inputs.kwargs)
        return float(
            (out.y * inputs.dy).sum() + sum((a * b).sum() for a, b in zip(out[1:], inputs.dstates, strict=True))
        )

    _, gradients, _ = inputs.run(layer, seed=7)
    arrays = {**layer.parameters, "dx": inputs.x, "dh0": inputs.states[0], "dc0": inputs.states[1]}
    for name, a in arrays.items():
        for at in rng.choice(a.size, min(a.size, 6), replace=False):
            place = np.unravel_index(at, a.shape)
            kept = a[place]
            a[place] = kept + STEP
            above = loss()
            a[place] = kept - STEP
            below = loss()
            a[place] = kept
            assert abs((above - below) / (2 * STEP) - gradients[name][place]) < DIFFERENCE_TOLERANCE, (name, place)


# Forms of arguments.


@directions
def test_batch_first(bidirectional: bool, rng: np.random.Generator) -> None:
    layer = fusedrnn.GRU(I, H, 2, bidirectional=bidirectional, rng=6)
    other = fusedrnn.GRU(I, H, 2, bidirectional=bidirectional, batch_first=True, rng=6)
    inputs = Inputs(layer, rng, lengths=True)
    out, gradients, _ = inputs.run(layer)
    inputs.x, inputs.dy = inputs.x.swapaxes(0, 1), inputs.dy.swapaxes(0, 1)
    again, dagain, _ = inputs.run(other)
    assert_bits(outputs(again._replace(y=again.y.swapaxes(0, 1))), outputs(out))
    assert_bits(dagain | {"dx": dagain["dx"].swapaxes(0, 1)}, gradients)
    assert again.y.shape == (B, T, other.output_size)


def test_one_row_without_a_batch(rng: np.random.Generator) -> None:
    for batch_first in (False, True):
        layer = fusedrnn.LSTM(I, H, 2, bidirectional=True, batch_first=batch_first, rng=6)
        plain = fusedrnn.LSTM(I, H, 2, bidirectional=True, rng=6)
        inputs = Inputs(plain, rng, shape=(T, 1))
        out, gradients, _ = inputs.run(plain)
        inputs.x, inputs.dy = inputs.x[:, 0], inputs.dy[:, 0]
        inputs.states, inputs.dstates = [s[:, 0] for s in inputs.states], [s[:, 0] for s in inputs.dstates]
        again, dagain, _ = inputs.run(layer)
        assert again.y.shape == (T, 2 * H)
        assert again.h_n.shape == (4, H)
        for a, b in zip(again, out, strict=True):
            assert a.tobytes() == b.tobytes()
        assert all(a.tobytes() == gradients[name].tobytes() for name, a in dagain.items())
        with pytest.raises(ValueError, match="lengths: expected None for one row"):
            layer(inputs.x, lengths=[1])


def test_strided_inputs_and_missing_states(rng: np.random.Generator) -> None:
    layer = fusedrnn.LSTM(I, H, rng=7)
    wide = rng.standard_normal((2 * T, B, 2 * I)).astype("float32")
    x, h0 = wide[::2, :, ::2], rng.standard_normal((1, B, H)).astype("float32")
    want = layer(x.copy(), (h0, np.zeros_like(h0)))
    assert_bits(outputs(layer(x, (h0, None))), outputs(want))
    assert_bits(outputs(layer(x)), outputs(layer(x, None)))
    assert (layer(x).y != want.y).any()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)], ids=str)
@directions
@pytest.mark.parametrize("schedule", ["auto", "one", "wave"])
@pytest.mark.usefixtures("settings")
def test_empty_sequences_and_batches(shape: Any, bidirectional: bool, schedule: str, rng: np.random.Generator) -> None:
    layer = fusedrnn.LSTM(I, H, 2, bidirectional=bidirectional, dropout=0.5, rng=8)
    fusedrnn.set_num_threads(2)
    _core.set_schedule(schedule)
    inputs = Inputs(layer, rng, shape=shape)
    out, gradients, _ = inputs.run(layer)
    assert out.y.shape == (*shape, layer.output_size)
    np.testing.assert_array_equal(out.h_n, inputs.states[0])
    np.testing.assert_array_equal(gradients["dc0"], inputs.dstates[1])
    assert not any(gradients[name].any() for name in layer.parameters)


# Dropout.


@pytest.mark.parametrize("p", [0.25, 0.5, 1.0])
@directions
def test_masks_are_those_of_numpys_generator(p: float, bidirectional: bool, rng: np.random.Generator) -> None:
    cell = next(c for c in STACKED if c.name == "lstm")
    layer = fusedrnn.LSTM(I, 13, 3, bidirectional=bidirectional, dropout=p, rng=9)
    inputs, composed, mask = Inputs(layer, rng), Composed(cell, layer), dropout_mask(layer, 12345678901234567890)
    want, runs = composed.run(inputs.x, inputs.states, mask)
    dwant = composed.gradients(runs, inputs.dy, inputs.dstates, mask)
    out, gradients, tape = inputs.run(layer, seed=12345678901234567890)
    assert tape.seed == 12345678901234567890
    assert_bits(outputs(out), outputs(want))
    assert_bits(gradients, dwant)


def test_masks_differ_from_call_to_call_and_follow_from_rng(rng: np.random.Generator) -> None:
    x = rng.standard_normal((20, 4, I)).astype("float32")

    def make() -> fusedrnn.LSTM:
        return fusedrnn.LSTM(I, H, 2, dropout=0.5, rng=10)

    layer = make()
    (a, first), (b, second) = layer.forward(x), layer.forward(x)
    assert first.seed != second.seed
    assert (a.y != b.y).any()
    again = make()
    assert_bits(outputs(again.forward(x)[0]), outputs(a))
    assert_bits(outputs(again.forward(x)[0]), outputs(b))
    assert_bits(outputs(again.forward(x, seed=first.seed)[0]), outputs(a))
    assert_bits(outputs(layer(x)), outputs(fusedrnn.LSTM(I, H, 2, rng=10)(x)))
    assert fusedrnn.LSTM(I, H, 2, rng=10).forward(x)[1].seed is None


def test_dropout_keeps_its_share_and_the_mean(rng: np.random.Generator) -> None:
    """The second layer passes its input on: relu of the identity."""
    layer = fusedrnn.RNN(1, 64, 2, nonlinearity="relu", dropout=0.3, bias=False, rng=11)
    for name, a in layer.parameters.items():
        a[...] = np.eye(64) if name == "weight_ih_l1" else 1 if name == "weight_ih_l0" else 0
    n = 400 * 8 * 64
    y = layer.forward(np.ones((400, 8, 1), "float32"))[0].y
    assert set(np.unique(y)) == {0, np.float32(1 / 0.7)}
    assert abs((y == 0).mean() - 0.3) < 4 * np.sqrt(0.21 / n)


# First values.


def digest(layer: fusedrnn.Layer) -> str:
    state = hashlib.sha256()
    for name, a in layer.state_dict().items():
        state.update(name.encode() + a.tobytes())
    return state.hexdigest()[:16]


@pytest.mark.quick
def test_first_values_follow_from_the_seed_under_every_numpy() -> None:
    assert digest(fusedrnn.LSTM(5, 7, 2, bidirectional=True, rng=0)) == "df7aa97603749e8e"
    assert digest(fusedrnn.GRU(5, 7, dtype="float64", rng=2**64 - 1)) == "34363e519d0da2c9"
    a = fusedrnn.LSTM(5, 7, rng=3).state_dict()["weight_hh_l0"]
    words = np.random.Philox(key=3, counter=[0, 1, 0, 1 << 32]).random_raw(28 * 7)
    want = (2 * ((words >> np.uint64(11)) * 2.0**-53) - 1) / np.sqrt(7)
    assert a.tobytes() == want.reshape(28, 7).astype("float32").tobytes()


def test_first_values_have_pytorchs_distribution() -> None:
    for name, a in fusedrnn.LSTM(64, 100, 2, proj_size=50, rng=4).state_dict().items():
        assert abs(a).max() <= 0.1, name
        if a.size > 1000:  # the moments of a uniform distribution, within 5 standard errors
            assert abs(a.mean()) < 5 * 0.1 / np.sqrt(3 * a.size), name
            assert abs(a.var() / (0.01 / 3) - 1) < 5 * np.sqrt(0.8 / a.size), name


def test_rng_may_be_a_generator_or_nothing() -> None:
    one, other = (fusedrnn.GRU(3, 4, rng=np.random.default_rng(5)) for _ in range(2))
    assert digest(one) == digest(other)
    generator = np.random.default_rng(5)
    assert digest(fusedrnn.GRU(3, 4, rng=generator)) != digest(fusedrnn.GRU(3, 4, rng=generator))
    assert digest(fusedrnn.GRU(3, 4)) != digest(fusedrnn.GRU(3, 4))


@directions
def test_forget_bias(bidirectional: bool) -> None:
    layer = fusedrnn.LSTM(3, 4, 2, bidirectional=bidirectional, forget_bias=1, rng=6)
    plain = fusedrnn.LSTM(3, 4, 2, bidirectional=bidirectional, rng=6).state_dict()
    for name, a in layer.state_dict().items():
        same = np.ones(len(a), bool)
        if name.startswith("bias"):
            same[4:8] = False
            assert (a[4:8] == (1 if name.startswith("bias_ih") else 0)).all()
        np.testing.assert_array_equal(a[same], plain[name][same])
    for kind in (fusedrnn.LayerNormLSTM, fusedrnn.FGRLSTM, fusedrnn.DepthGatedLSTM):
        p = kind(3, 4, forget_bias=3, rng=6).parameters
        assert (p["bias_ih_l0"][4:8] == 3).all()
        assert (p["bias_hh_l0"][4:8] == 0).all()
    assert (fusedrnn.LSTM(3, 4, variant="coupled", forget_bias=2).parameters["bias_ih_l0"][:4] == 2).all()


@pytest.mark.parametrize("proj_size", [0, 5])
def test_orthogonal_recurrence(proj_size: int) -> None:
    layer = fusedrnn.LSTM(3, 8, recurrent_init="orthogonal", proj_size=proj_size, dtype="float64", rng=7)
    w = layer.parameters["weight_hh_l0"]
    np.testing.assert_allclose(w.T @ w, np.eye(w.shape[1]), atol=1e-14)


def test_first_values_of_cells_with_their_own() -> None:
    normalised = fusedrnn.LayerNormLSTM(3, 4, rng=8).parameters
    assert all((a == 1).all() for name, a in normalised.items() if name.startswith("gain"))
    assert all((a == 0).all() for name, a in normalised.items() if name.startswith("bias"))
    recurrent = fusedrnn.IndRNN(3, 400, rng=8).parameters["weight_hh_l0"]
    assert recurrent.min() >= 0
    assert recurrent.max() > 0.9
    clocked = fusedrnn.ClockworkRNN(3, 6, periods=(1, 4), rng=8).parameters["weight_hh_l0"]
    np.testing.assert_array_equal(clocked != 0, fusedrnn.ClockworkRNNWeights.mask(6, (1, 4)))


def test_layers_without_biases() -> None:
    for name, kind in LAYERS.items():
        options: dict[str, Any] = {"periods": (1, 2)} if name == "ClockworkRNN" else {}
        layer = kind(3, 4, 2, bias=False, rng=9, **options)
        assert not any("bias" in p for p in layer.parameters)
        out, tape = layer.forward(np.ones((3, 2, 3), "float32"))
        assert layer.backward(tape, out.y).parameters.keys() == layer.parameters.keys()


# Parameters.


CHANGES: dict[str, Any] = {
    "in place": lambda p: p["weight_hh_l1"].__setitem__((3, 2), 9),
    "set": lambda p: p.__setitem__("weight_hh_l1", p["weight_hh_l1"] + 1),
    "subtract": lambda p: p.__setitem__("weight_hh_l1", p["weight_hh_l1"].__isub__(1)),
    "update": lambda p: p.update(bias_ih_l0=p["bias_ih_l0"] * 2),
    "|=": lambda p: p.__ior__({"bias_ih_l0": p["bias_ih_l0"] * 2}),
    "view": lambda p: np.negative(p["weight_ih_l0"].T, out=p["weight_ih_l0"].T),
    "buffer": lambda p: memoryview(p["weight_ih_l0"]).cast("B").__setitem__(3, 0x12),
    "sign of zero": lambda p: p["bias_hh_l1"].__setitem__(0, -0.0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("held", ["nothing", "arrays", "dict", "view"])
def test_a_change_is_seen_by_the_next_call(change: Any, held: str, rng: np.random.Generator) -> None:
    layer = fusedrnn.LSTM(I, H, 2, rng=10)
    layer.parameters["bias_hh_l1"][0] = 0
    x = rng.standard_normal((T, B, I)).astype("float32")
    before = layer(x).y
    keep: Any = None
    if held == "arrays":
        keep = list(layer.parameters.values())
    elif held == "dict":
        keep = layer.parameters
    elif held == "view":
        keep = [a[:1] for a in layer.parameters.values()]
    layer(x), layer(x)
    change(keep if held == "dict" else layer.parameters)
    del keep
    fresh = fusedrnn.LSTM(I, H, 2, rng=0)
    fresh.load_state_dict(layer.state_dict())
    assert layer._stack() is layer._stack()
    for name, a in layer.state_dict().items():
        place = 2 * (name[-1] == "1")
        assert a.tobytes() == layer._weights[place // 2]._array(name[:-3]).tobytes(), name
    assert_bits(outputs(layer(x)), outputs(fresh(x)))
    if change is not CHANGES["sign of zero"]:
        assert (layer(x).y != before).any()


def test_held_arrays_are_seen_when_they_change_after_calls(rng: np.random.Generator) -> None:
    layer = fusedrnn.GRU(I, H, rng=10)
    x = rng.standard_normal((T, B, I)).astype("float32")
    a = layer.parameters["weight_hh_l0"]
    for _ in range(3):
        before = layer(x).y
        a += 0.5
        assert (layer(x).y != before).any()
    view = a[0]
    del a
    before = layer(x).y
    view += 1
    del view
    assert (layer(x).y != before).any()


def test_weights_are_packed_once_where_nothing_changes() -> None:
    layer = fusedrnn.GRU(I, H, rng=10)
    stack = layer._stack()

    def may_have_changed() -> bool:
        assert layer._snapshot
        return layer._watch.may_have_changed(layer._snapshot.seen)

    always = _core.FREE_THREADED  # where references cannot be counted
    assert may_have_changed() == always
    assert layer._stack() is stack
    layer.parameters["bias_hh_l0"]
    assert may_have_changed()
    assert layer._stack() is stack
    assert may_have_changed() == always
    kept = layer.parameters
    assert layer._stack() is stack
    assert may_have_changed()
    del kept
    assert layer._stack() is stack
    assert may_have_changed() == always


def test_backward_takes_the_weights_of_forward(rng: np.random.Generator) -> None:
    layer = fusedrnn.LSTM(I, H, 2, rng=11)
    inputs = Inputs(layer, rng)
    _, want, _ = inputs.run(layer)
    _, tape = layer.forward(inputs.x, inputs.state)
    for a in layer.parameters.values():
        a[...] = 0
    assert_bits(by_name(layer.backward(tape, inputs.dy, inputs.dstate)), want)


def test_the_dict_of_parameters_keeps_its_names() -> None:
    layer = fusedrnn.GRU(I, H, rng=12)
    p = layer.parameters
    refusals: list[Any] = [p.clear, p.popitem, lambda: p.pop("bias_ih_l0"), lambda: p.setdefault("a", np.ones(1))]
    for refused in refusals:
        with pytest.raises(TypeError, match="parameters: expected"):
            refused()
    with pytest.raises(TypeError, match="parameters: expected"):
        del p["bias_ih_l0"]
    with pytest.raises(KeyError, match="bias_l0: expected one of weight_ih_l0"):
        p["bias_l0"] = np.ones(3, "float32")
    before = digest(layer)
    with pytest.raises(ValueError, match=r"bias_hh_l0: expected shape \(36,\), got \(3,\)"):
        p.update(bias_ih_l0=np.ones(36, "float32"), bias_hh_l0=np.ones(3, "float32"))
    with pytest.raises(TypeError, match="bias_hh_l0: expected dtype float32, got float64"):
        p["bias_hh_l0"] = np.ones(36)
    assert digest(layer) == before
    assert layer.num_parameters == 3 * H * (I + H + 2)


def test_state_dicts(rng: np.random.Generator) -> None:
    a, b = fusedrnn.LSTM(I, H, 2, rng=13), fusedrnn.LSTM(I, H, 2, rng=14)
    copied = a.state_dict()
    assert list(copied) == list(a.parameters)
    assert not any(np.shares_memory(v, a.parameters[k]) for k, v in copied.items())
    assert b.load_state_dict(copied) == ([], [])
    assert digest(a) == digest(b)
    before = digest(b)
    bad = {name: v + 1 for name, v in copied.items() if name != "bias_hh_l1"}
    bad["weight_ih_l0"], bad["fc.weight"] = np.ones((3, 3), "float32"), np.ones(1, "float32")
    with pytest.raises(ValueError, match="state_dict: ") as error:
        b.load_state_dict(bad)
    assert str(error.value) == (
        "state_dict: weight_ih_l0: expected shape (48, 4), got (3, 3); missing: bias_hh_l1; unexpected: fc.weight"
    )
    with pytest.raises(ValueError, match="weight_ih_l0: expected shape"):
        b.load_state_dict(bad, strict=False)
    with pytest.raises(TypeError, match="bias_ih_l0: expected dtype float32, got float64"):
        b.load_state_dict(copied | {"bias_ih_l0": np.ones(4 * H)})
    with pytest.raises(TypeError, match="bias_ih_l0: expected a numpy.ndarray, got list"):
        b.load_state_dict(copied | {"bias_ih_l0": [1.0]})
    with pytest.raises(TypeError, match="state_dict: expected a dict, got list"):
        b.load_state_dict([])  # type: ignore[arg-type]
    assert digest(b) == before
    keys = b.load_state_dict({"bias_ih_l0": np.full(4 * H, 7, "float32"), "other": 1}, strict=False)
    assert keys.unexpected_keys == ["other"]
    assert len(keys.missing_keys) == 7
    assert (b.parameters["bias_ih_l0"] == 7).all()


# Copies and files.


def every_layer() -> list[fusedrnn.Layer]:
    options: dict[str, dict[str, Any]] = {"ClockworkRNN": {"periods": [1, 2]}, "LSTM": {"proj_size": 3}}
    return [
        kind(3, 6, 2, bidirectional=True, dropout=0.25, rng=15, **options.get(name, {}))
        for name, kind in LAYERS.items()
    ]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files(suffix: str, tmp_path: Path, rng: np.random.Generator) -> None:
    layers = [
        *every_layer(),
        fusedrnn.LSTM(3, 4, variant="coupled", peepholes="diagonal", bias=False, batch_first=True),
    ]
    for i, layer in enumerate(layers):
        path = tmp_path / f"{i}{suffix}"
        layer.save(path)
        other = fusedrnn.load(str(path))
        assert repr(other) == repr(layer)
        assert type(other) is type(layer)
        assert_bits(other.state_dict(), layer.state_dict())
        x = rng.standard_normal((4, 2, 3)).astype("float32")
        assert_bits(outputs(other(x)), outputs(layer(x)))
    assert len(list(tmp_path.iterdir())) == len(layers)


def test_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, path = fusedrnn.GRU(3, 4, rng=16), tmp_path / "layer.npz"
    for suffixed in ("layer", "layer.pt", "layer.npz.bak"):
        with pytest.raises(ValueError, match="path: expected a suffix among .npz, .safetensors, got 'layer"):
            layer.save(tmp_path / suffixed)
    with pytest.raises(FileNotFoundError):
        fusedrnn.load(path)
    arrays: dict[str, Any] = dict(layer.state_dict())
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"path: expected a file that a layer's save wrote, got 'layer.npz': it names"):
        fusedrnn.load(path)
    layer.save(path)
    before = path.read_bytes()
    monkeypatch.setattr(np, "savez", lambda *a, **k: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        layer.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["layer.npz"]
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError):
        layer.save(tmp_path / "layer.safetensors")


@pytest.mark.parametrize("protocol", [None, *range(2, pickle.HIGHEST_PROTOCOL + 1)])
def test_copies(protocol: int | None, rng: np.random.Generator) -> None:
    """By deepcopy, or by pickle."""
    for layer in every_layer():
        x = rng.standard_normal((4, 2, 3)).astype("float32")
        layer.forward(x)
        want, (after, _) = layer(x), layer.forward(x)
        layer._calls = Calls(1)
        other = copy.deepcopy(layer) if protocol is None else pickle.loads(pickle.dumps(layer, protocol))
        assert_bits(outputs(other(x)), outputs(want))
        assert_bits(outputs(other.forward(x)[0]), outputs(after), "the masks of the next call")
        view = other.parameters["weight_ih_l0"][:1]
        view += 1  # seen, whoever owns the memory
        del view
        assert (other(x).y != want.y).any()
        for a in other.parameters.values():
            a[...] = 0
        assert_bits(outputs(layer(x)), outputs(want))


def test_copies_together_share_what_the_originals_share() -> None:
    layer = fusedrnn.GRU(3, 4, rng=1)
    for copied in (copy.deepcopy([layer, layer.parameters]), pickle.loads(pickle.dumps([layer, layer.parameters]))):
        other: Any
        parameters: Any
        other, parameters = copied
        assert all(np.shares_memory(a, other.parameters[name]) for name, a in parameters.items())


def test_a_subclass_is_saved_as_its_base(tmp_path: Path) -> None:
    class Mine(fusedrnn.GRU):
        pass

    Mine(3, 4, rng=1).save(tmp_path / "mine.npz")
    assert type(fusedrnn.load(tmp_path / "mine.npz")) is fusedrnn.GRU
    with pytest.raises(TypeError, match="GRU: expected a class without `weights`"):
        type("GRU", (fusedrnn.Layer,), {}, weights=fusedrnn.GRUWeights)


def test_sizes_and_options_do_not_change() -> None:
    layer = fusedrnn.LSTM(3, 4, 2, dropout=0.5, rng=1)
    for name in (
        "input_size",
        "hidden_size",
        "num_layers",
        "bias",
        "batch_first",
        "bidirectional",
        "proj_size",
        "spec",
    ):
        with pytest.raises(AttributeError, match=f"{name}: a layer keeps its sizes and options"):
            setattr(layer, name, 1)
    with pytest.raises(ValueError, match="dropout: expected a number in 0..1, got 2"):
        layer.dropout = 2
    layer.dropout = 0
    assert layer.forward(np.ones((2, 1, 3), "float32"))[1].seed is None


def description(arguments: Any = None, **changes: Any) -> str:
    config = fusedrnn.GRU(3, 4).config()
    whole = {"version": 1, "class": "GRU", "arguments": config if arguments is None else arguments} | changes
    return json.dumps(whole)


DAMAGED: dict[str, Any] = {
    "empty": b"",
    "text": b"no file of arrays",
    "no JSON": "{",
    "a list": "[]",
    "null": "null",
    "no class": "{}",
    "a later version": description(version=2),
    "another class": description(**{"class": "Conv"}),
    "a class that is a list": description(**{"class": []}),
    "arguments of none": description([]),
    "an unknown argument": description(fusedrnn.GRU(3, 4).config() | {"size": 3}),
    "an argument of first values": description(fusedrnn.GRU(3, 4).config() | {"rng": 3}),
    "a huge size": description(fusedrnn.GRU(3, 4).config() | {"hidden_size": 2**31 - 1}),
    "another size": description(fusedrnn.GRU(3, 4).config() | {"hidden_size": 5}),
    "another dtype": description(fusedrnn.GRU(3, 4).config() | {"dtype": "float64"}),
    "fewer parameters": description(fusedrnn.GRU(3, 4).config() | {"bias": False}),
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    path, content = tmp_path / "layer.npz", DAMAGED[name]
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        arrays: dict[str, Any] = {"fusedrnn": np.array(content), **fusedrnn.GRU(3, 4).state_dict()}
        np.savez(path, **arrays)
    with pytest.raises(ValueError, match="path: expected a file that a layer's save wrote, got 'layer.npz': "):
        fusedrnn.load(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".NPZ"])
def test_truncated_files(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"layer{suffix}"
    fusedrnn.GRU(3, 4).save(path)
    whole = path.read_bytes()
    for size in (10, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="path: expected a file that a layer's save wrote"):
            fusedrnn.load(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fusedrnn.GRU(3, 4).save(tmp_path / "nowhere" / f"layer{suffix}")


def test_a_loaded_layer_has_masks_of_its_own(tmp_path: Path) -> None:
    fusedrnn.LSTM(3, 4, 2, dropout=0.5, rng=1).save(tmp_path / "a.npz")
    x = np.ones((2, 3, 3), "float32")
    seeds = {fusedrnn.load(tmp_path / "a.npz").forward(x)[1].seed for _ in range(3)}
    assert len(seeds) == 3


def test_threads_have_masks_of_their_own() -> None:
    layer = fusedrnn.LSTM(3, 8, 2, dropout=0.5, rng=1)
    x = np.ones((5, 3, 3), "float32")
    with ThreadPoolExecutor(4) as pool:
        seeds = list(pool.map(lambda _: layer.forward(x)[1].seed, range(40)))
    assert len(set(seeds)) == 40


def test_a_refused_change_is_refused_again() -> None:
    layer = fusedrnn.ClockworkRNN(3, 4, periods=(1, 2), rng=1)
    x = np.ones((2, 1, 3), "float32")
    layer(x)
    layer.parameters["weight_hh_l0"][...] = 1
    for _ in range(3):
        with pytest.raises(ValueError, match="weight_hh: expected zeros where"):
            layer(x)


def test_parameters_may_be_exchanged() -> None:
    layer = fusedrnn.LSTM(3, 4, rng=1)
    ih, hh = (layer.state_dict()[name] for name in ("bias_ih_l0", "bias_hh_l0"))
    for exchange in (
        lambda p: p.update(bias_ih_l0=p["bias_hh_l0"], bias_hh_l0=p["bias_ih_l0"]),
        lambda p: layer.load_state_dict(
            {"bias_ih_l0": p["bias_hh_l0"], "bias_hh_l0": p["bias_ih_l0"][:]}, strict=False
        ),
    ):
        exchange(layer.parameters)
        np.testing.assert_array_equal(layer.parameters["bias_ih_l0"], hh)
        np.testing.assert_array_equal(layer.parameters["bias_hh_l0"], ih)
        ih, hh = hh, ih
    layer.parameters |= {"bias_ih_l0": hh}
    np.testing.assert_array_equal(layer.parameters["bias_ih_l0"], hh)
    with pytest.raises(AttributeError, match="parameters: expected `load_state_dict`"):
        layer.parameters = {}
    with pytest.raises(KeyError, match="nothing: expected one of weight_ih_l0"):
        layer.parameters.update(nothing=ih)
    with pytest.raises(TypeError, match="strict: expected bool, got str"):
        layer.load_state_dict({}, strict="no")  # type: ignore[arg-type]


def test_the_caller_may_overwrite_initial_states(rng: np.random.Generator) -> None:
    layer = fusedrnn.LSTM(I, H, 2, rng=11)
    inputs = Inputs(layer, rng)
    _, want, _ = inputs.run(layer)
    _, tape = layer.forward(inputs.x, inputs.state)
    for state in inputs.states:
        state[...] = 0
    assert_bits(by_name(layer.backward(tape, inputs.dy, inputs.dstate)), want)


@pytest.mark.usefixtures("settings")
def test_many_layers_in_a_wave(rng: np.random.Generator) -> None:
    """Of which some wait for others, with rows that end early, in inference, where outputs are not kept."""
    layer = fusedrnn.LSTM(32, 32, 5, rng=12)
    x, lengths = rng.standard_normal((120, 3, 32)).astype("float32"), [120, 10, 50]
    fusedrnn.set_num_threads(1)
    want, whole = layer(x, lengths=lengths), layer(x)
    _core.set_schedule("wave")
    for threads in (2, 4, 5):
        fusedrnn.set_num_threads(threads)
        for _ in range(30):
            assert_bits(outputs(layer(x, lengths=lengths)), outputs(want))
            assert_bits(outputs(layer(x)), outputs(whole))


def test_deep_layers_with_large_outputs_take_turns(rng: np.random.Generator) -> None:
    layer = fusedrnn.RNN(8, 128, 5, rng=13)
    x = rng.standard_normal((700, 40, 8)).astype("float32")  # 14 MB for each layer's outputs
    want = layer.forward(x)[0]
    assert_bits(outputs(layer(x)), outputs(want))


def test_gradients_can_be_pickled(rng: np.random.Generator) -> None:
    layer = fusedrnn.LSTM(I, H, rng=17)
    out, tape = layer.forward(rng.standard_normal((T, B, I)).astype("float32"))
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        copy.copy(tape)
    g = layer.backward(tape, out.y)
    again = pickle.loads(pickle.dumps(g))
    assert type(again) is type(g)
    assert again._fields == ("dx", "dh0", "dc0", "parameters")
    assert_bits(by_name(again), by_name(g))


def test_texts() -> None:
    layer = fusedrnn.LSTM(40, 256, num_layers=3, bidirectional=True, dropout=0.2)
    assert repr(layer) == "LSTM(40, 256, num_layers=3, dropout=0.2, bidirectional=True)"
    assert repr(fusedrnn.GRU(3, 4, reset_after=False)) == "GRU(3, 4, reset_after=False)"
    assert eval(repr(layer), {"LSTM": fusedrnn.LSTM}).config() == layer.config()
    _, tape = layer.forward(np.ones((2, 3, 40), "float32"))
    assert f"{layer!r}, seq_len=2, batch_size=3" in repr(tape)
    assert tape.layer is layer
    assert tape.nbytes > 0


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_signatures(name: str) -> None:
    import inspect

    parameters = inspect.signature(getattr(fusedrnn, name)).parameters
    of_pytorch = ["input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"]
    assert list(parameters)[:7] == of_pytorch
    assert ("proj_size" in parameters) == (name == "LSTM")
    own: dict[str, dict[str, Any]] = {
        "LSTM": {"variant": "plain", "peepholes": None},
        "GRU": {"reset_after": True, "z_weighs": "h_prev"},
    }
    for option, default in own.get(name, {"nonlinearity": "tanh"}).items():
        assert parameters[option].default == default
        assert parameters[option].kind is inspect.Parameter.KEYWORD_ONLY
