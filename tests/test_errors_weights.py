"""Promises 4 and 5, nothing hidden and safe: what bad weights get, from the package and from the raw native layer."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest

import fusedrnn
from arguments import B, Bad, H, I, T, array, clockwork_weights, lstm_weights
from fusedrnn import _core, backends

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
    ({"variant": ["plain"]}, ValueError, "variant: expected one of 'plain', "),
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
    for cls in (_core.Weights, _core.Cell, _core.Memory, _core.CudaCell, _core.CudaRun):
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


def native_cell(cell: str, *more: tuple[Any, ...], gates: int = 4) -> _core.Cell:
    """A cell with weight_ih, weight_hh and the parameters `more`."""
    affine = [("weight_ih", "weight_ih", gates, 1, True, ""), ("weight_hh", "matrix", gates, 1, True, "")]
    states = [("h", 1, "", 0.0), ("c", 1, "", 0.0)] if cell.startswith("lstm") else [("h", 1, "", 0.0)]
    further = False, cell.startswith("clockwork")
    return _core.make_cell(cell, [*affine, *((*p, False, "") for p in more)], gates, states, *further)


def native(cell: str, gates: int, **options: Any) -> _core.Weights:
    arrays = {"weight_ih": array(gates * H, I), "weight_hh": array(gates * H, H)}
    return _core.make_weights(native_cell(cell, gates=gates), arrays, options, None)


def test_native_clocks() -> None:
    """The raw layer checks them too."""
    with pytest.raises(ValueError, match="periods: expected none for cell 'rnn_tanh'"):
        native("rnn_tanh", 1, periods=[1])
    with pytest.raises(
        ValueError, match="periods: expected positive integers, none smaller than the one before, got 0"
    ):
        native("clockwork_rnn_tanh", 1, periods=[0])
    w = native("rnn_tanh", 1)
    with pytest.raises(ValueError, match="start: expected None for cell 'rnn_tanh', got int"):
        w.infer(array(T, B, I), (None,), None, False, {"start": 0})


@pytest.mark.parametrize(
    ("cell", "more", "text"),
    [
        ("lstm", [("p", "vector", 1, 1)], "p: expected no such vector in cell 'lstm'"),
        ("lstm_peephole", [("p", "vector", 1, 1)], "parameters: expected more vectors in cell 'lstm_peephole'"),
        ("lstm_peephole", [("p", "vector", 2**62, 1)] * 3, "p: expected no such vector in cell 'lstm_peephole'"),
        ("lstm", [("p", "matrix", 1, 1)], "p: expected no such matrix in cell 'lstm'"),
        ("lstm_matrix_peephole", [("p", "matrix", 1, 1)], "parameters: expected more matrices in cell"),
        ("lstm_matrix_peephole_if", [("p", "matrix", 1 << 20, 1)], "p: expected no such matrix in cell"),
        ("lstm_matrix_peephole_if", [("p", "matrix", 2, 3)], "p: expected 1 times H columns in cell"),
        ("lstm_matrix_peephole", [("p", "matrix", -1, 1)] * 3, "p: expected at least one gate in cell"),
        ("lstm_matrix_peephole", [("p", "matrix", 2**63 - 1, 1)] * 3, "p: expected no such matrix in cell"),
        ("lstm", [("p", "bias_ih", 3, 1)], "p: expected 4 gates in cell 'lstm'"),
        ("lstm", [("p", "bias_hh", 5, 1)], "p: expected 4 gates in cell 'lstm'"),
        ("lstm", [("p", "weight_ih", 4, 1)], "p: expected weight_ih first, and once, in cell 'lstm'"),
        (
            "lstm",
            [("p", "bias", 4, 1)],
            "role: expected one of weight_ih, matrix, bias_ih, bias_hh, vector, got 'bias'",
        ),
        ("lstn", [], "cell: expected one of 'rnn_tanh', "),
    ],
)
def test_native_cells(cell: str, more: list[tuple[Any, ...]], text: str) -> None:
    """The raw layer holds parameters against the cell."""
    with pytest.raises(ValueError, match=re.escape(text)):
        native_cell(cell, *more)


def test_native_arguments() -> None:
    cell: Any = backends.native_cell(fusedrnn.LSTMWeights(array(4 * H, I), array(4 * H, H)).spec)
    arrays = {"weight_ih": array(4 * H, I), "weight_hh": array(4 * H, H)}
    with pytest.raises(TypeError, match="weight_ih: expected a numpy.ndarray, got NoneType"):
        _core.make_weights(cell, {}, {}, None)
    with pytest.raises(ValueError, match="format: expected that of weights on the CPU, got 'tf32'"):
        _core.make_weights(cell, arrays, {}, "tf32")
    with pytest.raises(ValueError, match="surrogates not allowed"):
        _core.make_weights(cell, arrays, {}, "\ud800")
    every: list[Any] = [(None, arrays, {}, None), (cell, None, {}, None), (cell, arrays, (), None), (cell, arrays, {})]
    for bad in every:
        with pytest.raises(TypeError):
            _core.make_weights(*bad)
    w = _core.make_weights(cell, arrays, {}, "float32")
    with pytest.raises(ValueError, match="name: expected that of a parameter, got 'weight'"):
        w.array("weight")
    assert w.array("bias_ih") is None


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="z_weighs: expected one of 'h_prev', 'n', got 'new'"):
        fusedrnn.GRUWeights(array(3 * H, I), array(3 * H, H), z_weighs="new")
    with pytest.raises(ValueError, match="nonlinearity: expected one of 'tanh', 'relu', got 'gelu'"):
        fusedrnn.RNNWeights(array(H, I), array(H, H), nonlinearity="gelu")
    with pytest.raises(TypeError, match="reset_after: expected bool, got int"):
        fusedrnn.GRUWeights(array(3 * H, I), array(3 * H, H), reset_after=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cell: expected one of 'rnn_tanh', .*, got 'lstn'"):
        _core.describe_cell("lstn")
