"""What layers refuse, and how they say it. Nothing is modified on failure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn.cells.lstm import PROJECTED
from fusedrnn.reference.backend import ReferenceWeights

T, B, I, H = 5, 3, 4, 6
of: Any = fusedrnn  # arguments of wrong types

BAD_LAYERS: dict[str, tuple[Any, type[Exception], str]] = {
    "no sizes": (lambda: of.LSTM(), TypeError, "missing 2 required positional arguments"),
    "input size": (lambda: of.LSTM(0, H), ValueError, "input_size: expected an integer in 1..2147483647, got 0"),
    "hidden size": (lambda: of.LSTM(I, -1), ValueError, "hidden_size: expected an integer in 1.."),
    "size type": (lambda: of.LSTM(I, 6.0), TypeError, "hidden_size: expected int, got float"),
    "layers": (lambda: of.LSTM(I, H, 0), ValueError, "num_layers: expected an integer in 1..1024, got 0"),
    "layers type": (lambda: of.LSTM(I, H, True), TypeError, "num_layers: expected int, got bool"),
    "bias": (lambda: of.LSTM(I, H, bias=1), TypeError, "bias: expected bool, got int"),
    "batch_first": (
        lambda: of.LSTM(I, H, batch_first=None),
        TypeError,
        "batch_first: expected bool, got NoneType",
    ),
    "bidirectional": (
        lambda: of.LSTM(I, H, bidirectional=None),
        TypeError,
        "bidirectional: expected bool, got NoneType",
    ),
    "dropout": (lambda: of.LSTM(I, H, dropout=1.5), ValueError, "dropout: expected a number in 0..1, got 1.5"),
    "NaN": (lambda: of.LSTM(I, H, dropout=np.nan), ValueError, "dropout: expected a number in 0..1, got nan"),
    "dropout type": (lambda: of.LSTM(I, H, dropout=True), TypeError, "dropout: expected a number, got bool"),
    "proj_size": (
        lambda: of.LSTM(I, H, proj_size=6),
        ValueError,
        "proj_size: expected an integer in 0..5, got 6",
    ),
    "proj_size of a variant": (
        lambda: of.LSTM(I, H, proj_size=2, variant="coupled"),
        ValueError,
        "proj_size: expected 0, as cell 'lstm_coupled' has no projection, got 2",
    ),
    "proj_size of a GRU": (
        lambda: of.GRU(I, H, proj_size=2),
        ValueError,
        "proj_size: expected 0, as cell 'gru_reset_after' has no projection, got 2",
    ),
    "dtype": (
        lambda: of.LSTM(I, H, dtype="float16"),
        TypeError,
        "dtype: expected float32 or float64, got 'float16'",
    ),
    "no dtype": (lambda: of.LSTM(I, H, dtype=None), TypeError, "dtype: expected float32 or float64, got None"),
    "rng": (
        lambda: of.LSTM(I, H, rng="0"),
        TypeError,
        "rng: expected int, numpy.random.Generator or None, got str",
    ),
    "seed": (lambda: of.LSTM(I, H, rng=2**64), ValueError, "rng: expected an integer in 0..2**64-1, got 1844674"),
    "variant": (
        lambda: of.LSTM(I, H, variant="x"),
        ValueError,
        "variant: expected one of 'plain', 'no_input_gate'",
    ),
    "peepholes": (
        lambda: of.LSTM(I, H, peepholes=True),
        ValueError,
        "peepholes: expected one of None, 'diagonal', 'full', got True",
    ),
    "together": (
        lambda: of.LSTM(I, H, variant="coupled", peepholes="full"),
        ValueError,
        "variant, peepholes: expected values that some cell has together, got variant='coupled', peepholes='full'",
    ),
    "reset_after": (lambda: of.GRU(I, H, reset_after=1), TypeError, "reset_after: expected bool, got int"),
    "unhashable": (
        lambda: of.GRU(I, H, z_weighs=[]),
        ValueError,
        "z_weighs: expected one of 'h_prev', 'n', got []",
    ),
    "nonlinearity": (
        lambda: of.RNN(I, H, nonlinearity="sigmoid"),
        ValueError,
        "nonlinearity: expected one of 'tanh', 'relu', got 'sigmoid'",
    ),
    "unknown": (lambda: of.GRU(I, H, variant="plain"), TypeError, "GRU: unexpected argument 'variant'"),
    "periods": (lambda: of.ClockworkRNN(I, H), TypeError, "ClockworkRNN: missing argument 'periods'"),
    "bad periods": (lambda: of.ClockworkRNN(I, H, periods=(1, 2, 3, 4)), ValueError, "periods: expected"),
    "epsilon": (
        lambda: of.LayerNormGRU(I, H, epsilon=0),
        ValueError,
        "epsilon: expected a positive number, got 0",
    ),
    "forget bias": (
        lambda: of.GRU(I, H, forget_bias=1),
        ValueError,
        "forget_bias: expected None, as there is no gate f, got 1",
    ),
    "no biases": (
        lambda: of.LSTM(I, H, bias=False, forget_bias=1),
        ValueError,
        "forget_bias: expected None, as there are no biases, got 1",
    ),
    "infinite": (
        lambda: of.LSTM(I, H, forget_bias=1e300),
        ValueError,
        "forget_bias: expected a finite number of float32",
    ),
    "huge number": (
        lambda: of.LSTM(I, H, dropout=10**400),
        ValueError,
        "dropout: expected a number, got an integer that",
    ),
    "array of a size": (lambda: of.LSTM(I, np.array(4.0)), TypeError, "hidden_size: expected int, got ndarray"),
    "text of a dtype": (
        lambda: of.LSTM(I, H, dtype="f4,,x"),
        TypeError,
        "dtype: expected float32 or float64, got 'f4,,x'",
    ),
    "array of an option": (
        lambda: of.GRU(I, H, z_weighs=np.array(["n", "x"])),
        ValueError,
        "z_weighs: expected one of",
    ),
    "recurrent_init": (
        lambda: of.LSTM(I, H, recurrent_init="keras"),
        ValueError,
        "recurrent_init: expected one of 'uniform', 'orthogonal', got 'keras'",
    ),
    "orthogonal": (
        lambda: of.IndRNN(I, H, recurrent_init="orthogonal"),
        ValueError,
        "recurrent_init: expected 'uniform' for cell 'indrnn_relu', got 'orthogonal'",
    ),
    "base": (
        lambda: of.Layer(I, H),
        TypeError,
        "Layer: expected the class of a cell, one of ClockworkRNN, DepthGatedLSTM",
    ),
}


@pytest.mark.parametrize("name", BAD_LAYERS)
def test_layers_that_cannot_be_made(name: str) -> None:
    make, error, text = BAD_LAYERS[name]
    with pytest.raises(error) as raised:
        make()
    assert text in str(raised.value)


def f4(*shape: int) -> Any:
    return np.zeros(shape, "float32")


# What a call gets, and what it says.
BAD_CALLS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "x type": ({"x": [[1.0]]}, TypeError, "x: expected a numpy.ndarray or a fusedrnn.Packed, got list"),
    "x dtype": ({"x": np.zeros((T, B, I))}, TypeError, "x: expected dtype float32, got float64"),
    "x rank": (
        {"x": f4(I)},
        ValueError,
        "x: expected 3 dimensions (seq_len, batch_size, input_size), or 2 (seq_len, input_size), got shape (4,)",
    ),
    "x width": (
        {"x": f4(T, B, I + 1)},
        ValueError,
        "x: expected shape (seq_len, batch_size, input_size) = (5, 3, 4), got (5, 3, 5)",
    ),
    "x of one row": ({"x": f4(T, 7)}, ValueError, "x: expected shape (seq_len, input_size) = (5, 4), got (5, 7)"),
    "state of one": ({"state": f4(4, B, H)}, TypeError, "state: expected a tuple (h, c), got ndarray"),
    "states": ({"state": (f4(4, B, H),) * 3}, TypeError, "state: expected a tuple (h, c), got one of 3"),
    "depth": (
        {"state": (f4(2, B, H), None)},
        ValueError,
        "h0: expected shape (num_layers*num_directions, batch_size, hidden_size) = (4, 3, 6), got (2, 3, 6)",
    ),
    "state dtype": ({"state": (None, np.zeros((4, B, H)))}, TypeError, "c0: expected dtype float32, got float64"),
    "state type": ({"state": (1, None)}, TypeError, "h0: expected a numpy.ndarray, got int"),
    "lengths": ({"lengths": [6, 0, 0]}, ValueError, "lengths: expected values in 0..seq_len = 0..5, got 6 at index 0"),
    "lengths shape": ({"lengths": [1]}, ValueError, "lengths: expected shape (batch_size,) = (3,), got (1,)"),
    "lengths type": ({"lengths": [0.5, 1, 1]}, TypeError, "lengths: expected integers"),
    "start": ({"start": 1}, TypeError, "LSTM: unexpected argument 'start'"),
    "row's state": (
        {"x": f4(T, I), "state": (f4(4, 1, H), None)},
        ValueError,
        "state: expected 2 dimensions (num_layers*num_directions, units), got shape (4, 1, 6)",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
@pytest.mark.parametrize("call", ["__call__", "forward"])
def test_calls_that_cannot_be_made(name: str, call: str) -> None:
    layer = fusedrnn.LSTM(I, H, 2, bidirectional=True, dropout=0.5, rng=1)
    arguments, error, text = BAD_CALLS[name]
    with pytest.raises(error) as raised:
        getattr(layer, call)(**({"x": f4(T, B, I)} | arguments))
    assert text in str(raised.value)
    assert layer._calls.take() == 0  # masks go on where they were


def test_batch_first_is_named() -> None:
    layer = fusedrnn.GRU(I, H, batch_first=True)
    text = r"x: expected shape \(batch_size, seq_len, input_size\) = \(3, 5, 4\), got \(3, 5, 9\)"
    with pytest.raises(ValueError, match=text):
        layer(f4(B, T, 9))
    _, tape = layer.forward(f4(B, T, I))
    text = r"dy: expected shape \(batch_size, seq_len, num_directions\*hidden_size\) = \(3, 5, 6\), got \(5, 3, 6\)"
    with pytest.raises(ValueError, match=text):
        layer.backward(tape, f4(T, B, H))


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True, "a"])
def test_seeds(seed: Any) -> None:
    layer = fusedrnn.LSTM(I, H, 2, dropout=0.5)
    with pytest.raises((TypeError, ValueError), match="seed: expected"):
        layer.forward(f4(T, B, I), seed=seed)


BAD_BACKWARDS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "dy": (
        {"dy": f4(T, B, H)},
        ValueError,
        "dy: expected shape (seq_len, batch_size, num_directions*hidden_size) = (5, 3, 12), got (5, 3, 6)",
    ),
    "dy type": ({"dy": 1.0}, TypeError, "dy: expected a numpy.ndarray, got float"),
    "dy dtype": ({"dy": np.zeros((T, B, 2 * H))}, TypeError, "dy: expected dtype float32, got float64"),
    "dstate": ({"dstate": f4(4, B, H)}, TypeError, "dstate: expected a tuple (h, c), got ndarray"),
    "depth": (
        {"dstate": (None, f4(4, B, 1))},
        ValueError,
        "dc_n: expected shape (num_layers*num_directions, batch_size, hidden_size) = (4, 3, 6), got (4, 3, 1)",
    ),
}


@pytest.mark.parametrize("name", BAD_BACKWARDS)
def test_a_refused_backward_leaves_the_tape(name: str, rng: np.random.Generator) -> None:
    layer = fusedrnn.LSTM(I, H, 2, bidirectional=True, rng=2)
    out, tape = layer.forward(rng.standard_normal((T, B, I)).astype("float32"))
    arguments, error, text = BAD_BACKWARDS[name]
    with pytest.raises(error) as raised:
        layer.backward(tape, **arguments)
    assert text in str(raised.value)
    layer.backward(tape, out.y)


def test_tapes_of_others() -> None:
    a, b = fusedrnn.LSTM(I, H), fusedrnn.LSTM(I, H)
    _, tape = a.forward(f4(T, B, I))
    with pytest.raises(ValueError, match="tape: expected one of this layer's forward, got another layer's"):
        b.backward(tape)
    with pytest.raises(TypeError, match="tape: expected a Tape, as forward returns it, got NoneType"):
        a.backward(None)  # type: ignore[arg-type]
    a.backward(tape)


@pytest.mark.parametrize("training", [False, True])
def test_a_failed_allocation_loses_nothing(training: bool) -> None:
    layer = fusedrnn.LSTM(I, H, 2, rng=3)
    huge = np.broadcast_to(np.float32(0), (10**7, 10**5, I))
    with pytest.raises(MemoryError):
        (layer.forward if training else layer)(huge)
    with pytest.raises(ValueError, match="needs more bytes than 64 bits can count"):
        layer(np.broadcast_to(np.float32(0), (2**35, 2**20, I)))
    assert layer(f4(T, B, I)).y.shape == (T, B, H)


BAD_PROJECTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "rank": (
        {"weight_hr": f4(3)},
        ValueError,
        "weight_hr: expected 2 dimensions (proj_size, hidden_size), got shape (3,)",
    ),
    "columns": (
        {"weight_hr": f4(3, 5)},
        ValueError,
        "weight_hr: expected shape (proj_size, hidden_size) = (3, 6), got (3, 5)",
    ),
    "too many": (
        {"weight_hr": f4(6, 6)},
        ValueError,
        "weight_hr: expected shape (proj_size, hidden_size) with proj_size in 1..hidden_size-1 = 1..5, got (6, 6)",
    ),
    "none": ({"weight_hr": f4(0, 6)}, ValueError, "with proj_size in 1..hidden_size-1 = 1..5, got (0, 6)"),
    "type": ({"weight_hr": 3}, TypeError, "weight_hr: expected a numpy.ndarray, got int"),
    "dtype": ({"weight_hr": np.zeros((3, 6))}, TypeError, "weight_hr: expected dtype float32, got float64"),
    "weight_hh": (
        {"weight_hh": f4(24, 6)},
        ValueError,
        "weight_hh: expected shape (4*hidden_size, proj_size) = (24, 3), got (24, 6)",
    ),
    "variant": (
        {"variant": "no_output_activation"},
        ValueError,
        "weight_hr: expected None, as 'lstm_no_output_activation' has no projection, got an array",
    ),
    "peepholes": (
        {"peephole_i": f4(6)},
        ValueError,
        "weight_hr: expected None, as 'lstm_peephole' has no projection, got an array",
    ),
}


@pytest.mark.parametrize("name", BAD_PROJECTIONS)
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_projections_that_cannot_be(name: str, backend: str) -> None:
    arguments, error, text = BAD_PROJECTIONS[name]
    given = {"weight_ih": f4(24, 4), "weight_hh": f4(24, 3), "weight_hr": f4(3, 6)} | arguments
    if backend == "reference" and name in ("variant", "peepholes"):
        pytest.skip("the class of weights chooses the cell")
    with pytest.raises(error) as raised:
        if backend == "native":
            fusedrnn.LSTMWeights(**given)
        else:
            ReferenceWeights(PROJECTED, given, {})
    assert text in str(raised.value)


def test_errors_of_calls_with_a_projection() -> None:
    w = fusedrnn.LSTMWeights(f4(24, 4), f4(24, 3), weight_hr=f4(3, 6))
    assert (w.hidden_size, w.proj_size) == (6, 3)
    assert fusedrnn.LSTMWeights(f4(24, 4), f4(24, 6)).proj_size == 6
    for module in (fusedrnn, fusedrnn.reference):
        with pytest.raises(ValueError, match=r"h0: expected shape \(batch_size, proj_size\) = \(3, 3\), got \(3, 6\)"):
            module.lstm(f4(T, B, I), w, f4(B, H))
        _, reserve = module.lstm_forward(f4(T, B, I), w)
        text = r"dy: expected shape \(seq_len, batch_size, proj_size\) = \(5, 3, 3\), got \(5, 3, 6\)"
        with pytest.raises(ValueError, match=text):
            module.lstm_backward(reserve, f4(T, B, H))
