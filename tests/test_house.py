"""The house: a cell is data. No source but the cells' own names one, specs and native facts agree, and a new cell needs
a spec and its equations alone."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

import fusedrnn
from fusedrnn import Weights, _core, call
from fusedrnn.cells.families import FAMILIES, SPECS
from fusedrnn.cells.spec import HEADS, CellSpec, H, StateSpec, affine, vectors
from fusedrnn.reference.backend import EQUATIONS, ReferenceWeights

HOUSE = Path(fusedrnn.__file__).parent
SOURCES = Path(__file__).parent.parent / "csrc"
NAMES = {spec.family for spec in SPECS.values()} | set(SPECS)
TABLES = {  # of public names
    HOUSE / "__init__.py",
    HOUSE / "convert" / "tables.py",
    HOUSE / "torch" / "drop_ins.py",
    HOUSE / "torch" / "modules.py",
}
TYPES = {"Lstm", "Rnn", "Gru", "Peepholes", "GateRecurrence", "Clockwork", "LayerNorm"}  # parts of C++ names of cells
DRIVERS = {"ClockworkForward", "ClockworkBackward", "ClockworkBatched"}  # of any cell with clocks

specs = pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.cell)


def words_of(path: Path) -> Iterator[str]:
    """Names and texts in a Python source, docstrings left out."""
    tree = ast.parse(path.read_text())
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        for value in ast.iter_fields(node):
            if isinstance(value[1], str) and id(node) not in texts:
                yield from re.findall(r"[A-Za-z_0-9]+", value[1])


def names_a_cell(word: str) -> bool:
    """Whether it is, or begins with, the name of a cell or of its functions."""
    return any(word == name or word.startswith(f"{name}_") for name in NAMES)


def test_names_of_cells_are_noticed() -> None:
    assert all(names_a_cell(word) for word in ("lstm", "gru_forward", "rnn_relu", "lstm_coupled"))
    assert not any(names_a_cell(word) for word in ("fusedrnn", "run", "cell", "layer_norm"))


def test_no_python_source_names_a_cell_but_its_own() -> None:
    own = {HOUSE / "cells", HOUSE / "reference"}
    sources = [p for p in HOUSE.rglob("*.py*") if p.suffix in (".py", ".pyi") and not own & set(p.parents)]
    assert len(sources) > 8
    for path in sources:
        if path not in TABLES:
            assert not [w for w in words_of(path) if names_a_cell(w.lower())], path


@pytest.mark.skipif(not SOURCES.exists(), reason="needs the sources")
def test_no_driver_names_a_cell() -> None:
    files = [p for p in SOURCES.rglob("*.*") if p.suffix in (".hpp", ".cpp", ".cu") and p.parent.name != "cells"]
    assert len(files) > 20
    for path in files:
        code = re.sub(r"//[^\n]*", "", path.read_text())
        for word in set(re.findall(r"[A-Za-z_0-9]+", code)) - DRIVERS:
            assert not names_a_cell(word), (path, word)
            assert not any(part in word for part in TYPES), (path, word)


OF_ONE_SYSTEM = re.compile(  # or of one compiler
    r"#pragma (?!once)|__restrict|__extension__|typeof|\bM_PI\b|(?<!py::)\bssize_t\b|_M_(X64|ARM64)"
    r"|__attribute__|__builtin_|__asm|\basm\b|\[\[gnu|__declspec|__int128"
    r"|_MSC_VER|_WIN32|__linux__|__APPLE__|__GNUC__|__clang__|__GLIBC"
    r"|\bdl(open|sym|close|_iterate_phdr)\b|\b(pthread|sched|posix)_|\b(sigset_t|getpid|madvise)\b"
    r"|\b(aligned_alloc|fopen|strtod_l)\b|\"/(proc|sys)/"
    r"|#include <((sys|mach|mach-o)/.*"
    r"|(dlfcn|link|unistd|sched|signal|pthread|x?locale|malloc|windows|intrin|cxxabi)\.h)>"
)


@pytest.mark.skipif(not SOURCES.exists(), reason="needs the sources")
def test_what_systems_and_compilers_do_differently_is_in_one_folder() -> None:
    others = {SOURCES / "platform", SOURCES / "cuda" / "device.hpp"}  # the other asks GPUs
    found = set()
    for path in SOURCES.rglob("*.[ch]pp"):
        code = re.sub(r"//[^\n]*", "", path.read_text())
        if not others & {path, path.parent} and (match := OF_ONE_SYSTEM.search(code)):
            found.add((path.relative_to(SOURCES).as_posix(), match.group()))
    assert not found


def test_every_native_cell_has_a_spec() -> None:
    assert sorted(SPECS) == sorted(_core.cell_names())


@specs
def test_a_spec_agrees_with_the_native_facts(spec: CellSpec[Any, Any]) -> None:
    facts = _core.describe_cell(spec.cell)
    roles = {role: [p for p in spec.parameters if p.role == role] for role in ("matrix", "vector")}
    assert facts["gates"] == len(spec.gates)
    assert facts["state_units"] == {s.name: s.units for s in spec.states}
    assert facts["empty"] == {s.name: s.empty for s in spec.states}
    assert facts["vectors"] == sum(p.gates for p in roles["vector"])
    assert facts["below"] == (spec.below is not None) == (spec.above is not None)
    assert facts["numbered"] == (spec.numbered is not None)
    assert facts["heads"] or HEADS not in spec.values
    assert facts["projects"] == (spec.projection is not None) == (spec.states[0].size == "proj_size")
    by_name = {p.name: p for p in spec.parameters}
    assert by_name["weight_ih"].gates == facts["gates"]
    rows = sum(gates * depth for gates, depth in facts["matrices"])
    assert sum(p.gates * p.depth for p in roles["matrix"]) == rows
    if "bias_hh" in by_name and by_name["bias_hh"].role == "bias_hh":
        assert by_name["bias_hh"].gates == facts["recurrent_gates"] == by_name["weight_hh"].gates


@specs
def test_results_are_named_after_the_spec(spec: CellSpec[Any, Any]) -> None:
    above = [spec.above] if spec.above else []
    below = [f"d{spec.below}"] if spec.below else []
    states = [s.name for s in spec.states]
    every = dict.fromkeys(name for s in SPECS.values() if s.family == spec.family for name in s.names)
    assert list(spec.output._fields) == ["y", *(f"{s}_n" for s in states), *above]
    gradients = ["dx", *below, *(f"d{s}0" for s in states), *(f"d{name}" for name in every)]
    gradients += [f"dreset_{s}" for s in states]
    assert list(spec.gradients._fields) == gradients


@specs
def test_signatures_are_those_of_the_spec(spec: CellSpec[Any, Any]) -> None:
    """Names, defaults, and which arguments are given by name alone."""

    def signature(suffix: str) -> str:
        found = inspect.signature(getattr(fusedrnn, spec.family + suffix))
        plain = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values()]
        return str(inspect.Signature(plain))

    states, below = [s.name for s in spec.states], [f"{spec.below}=None"] if spec.below else []
    numbered = [f"{spec.numbered}=0"] if spec.numbered else []

    def text(*parameters: str) -> str:
        return f"({', '.join(parameters)})"

    first = [f"{s}0=None" for s in states]
    resets = "resets=None", "reset_state=None"
    about = *numbered, "lengths=None", "reverse=False", *resets
    for suffix, masks in (("", []), ("_forward", ["seed=None", "masks=None"])):
        assert signature(suffix) == text("x", "w", *below, *first, "*", *about, *masks)
    dabove = [f"d{spec.above}=None"] if spec.above else []
    assert signature("_backward") == text("reserve", "dy", *(f"d{s}_n=None" for s in states), *dabove)
    now = [f"{s}=None" for s in states]
    assert signature("_cell") == text("x", "w", *below, *now, "*", *numbered, *resets, "out=None")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"gates": "xy"}, "gates: expected 1 in cell 'rnn_tanh'"),
        ({"numbered": "start"}, "numbered: expected no numbered steps in cell 'rnn_tanh'"),
        ({"below": "c_below"}, "below: expected no further input in cell 'rnn_tanh'"),
        ({"states": (StateSpec("h", 2),)}, "states: expected other states in cell 'rnn_tanh'"),
        ({"states": (H._replace(empty=-math.inf),)}, "states: expected other states in cell 'rnn_tanh'"),
        ({"states": (H, StateSpec("c"))}, "output: expected the fields y, h_n, c_n of rnn_tanh"),
        ({"output": fusedrnn.LSTMOutput}, "output: expected the fields y, h_n of rnn_tanh"),
        ({"parameters": (*affine(1), *vectors("p"))}, "gradients: expected the fields dp of rnn_tanh"),
    ],
)
def test_a_wrong_spec_is_refused(change: dict[str, Any], text: str) -> None:
    spec = SPECS["rnn_tanh"]
    w = fusedrnn.RNNWeights(np.ones((3, 2), "f4"), np.ones((3, 3), "f4"))
    with pytest.raises(ValueError, match=re.escape(text)):
        Weights(dataclasses.replace(spec, **change), w.arrays())


@specs
def test_a_spec_can_be_a_key(spec: CellSpec[Any, Any]) -> None:
    assert {spec: 1}[dataclasses.replace(spec)] == 1


def test_public_functions_are_one_line() -> None:
    for family in FAMILIES:
        for name in family.__all__:
            function = getattr(family, name)
            if inspect.isfunction(function):
                (node,) = ast.parse(inspect.getsource(function)).body
                assert isinstance(node, ast.FunctionDef)
                assert [type(n) for n in node.body] == [ast.Expr, ast.Return], name


# A made-up cell: a leaky mean m of h, which h sees through a vector p:
#     h = tanh(W x + U h_prev + p * m_prev + b)        m = leak * m_prev + (1 - leak) * h


class ToyOutput(NamedTuple):
    y: Any
    h_n: Any
    m_n: Any


class ToyGradients(NamedTuple):
    dx: Any
    dh0: Any
    dm0: Any
    dweight_ih: Any
    dweight_hh: Any
    dbias_ih: Any
    dbias_hh: Any
    dp: Any
    dreset_h: Any = None
    dreset_m: Any = None


TOY = CellSpec(
    "toy",
    ToyOutput,
    ToyGradients,
    (*affine(1), *vectors("p", required=True)),
    "h",
    (H, StateSpec("m")),
    values=("leak",),
)


def toy_step(w: Any, x: Any, states: Any, drop: Any = None) -> tuple[Any, dict[str, Any]]:
    h_prev, m_prev = states
    bias = sum(b for b in (w.bias_ih, w.bias_hh) if b is not None)
    h = np.tanh(x @ w.weight_ih.T + h_prev @ w.weight_hh.T + w.p * m_prev + bias)
    return (h, w.leak * m_prev + (1 - w.leak) * h), {"x": x, "h_prev": h_prev, "m_prev": m_prev, "h": h}


def toy_step_backward(w: Any, saved: dict[str, Any], dstates: Any, drop: Any = None) -> tuple[Any, Any, dict[str, Any]]:
    dh, dm = dstates
    da = (dh + (1 - w.leak) * dm) * (1 - saved["h"] ** 2)
    dweights = {
        "weight_ih": da.T @ saved["x"],
        "weight_hh": da.T @ saved["h_prev"],
        "bias_ih": da.sum(0),
        "bias_hh": da.sum(0),
        "p": (da * saved["m_prev"]).sum(0),
    }
    return da @ w.weight_ih, (da @ w.weight_hh, w.leak * dm + da * w.p), dweights


T, B, I, HIDDEN = 4, 3, 2, 5


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> dict[str, Any]:
    """Arrays of a valid call."""
    monkeypatch.setitem(EQUATIONS, "toy", SimpleNamespace(step=toy_step, step_backward=toy_step_backward))
    arrays = {p.name: rng.standard_normal(p.shape(I, HIDDEN)) for p in TOY.parameters}
    states = tuple(rng.standard_normal((B, HIDDEN)) for _ in TOY.states)
    return {"arrays": arrays, "x": rng.standard_normal((T, B, I)), "states": states}


def toy_weights(arrays: dict[str, Any]) -> Weights:
    return Weights(TOY, arrays | {"leak": 0.7}, backend=ReferenceWeights)


def test_a_new_cell_infers_trains_and_steps(toy: dict[str, Any]) -> None:
    w, x, states = toy_weights(toy["arrays"]), toy["x"], toy["states"]
    lengths = [4, 2, 0]
    out = call.infer(TOY, x, w, states, lengths, False)
    again, reserve = call.forward(TOY, x, w, states, lengths, False)
    assert repr(reserve).startswith("<fusedrnn.Reserve of toy, seq_len=4, batch_size=3, hidden_size=5, float64")
    for a, b in zip(out, again, strict=True):
        np.testing.assert_array_equal(a, b)
    equations, by_hand = SimpleNamespace(**toy["arrays"], leak=0.7), [s.copy() for s in states]
    for t in range(T):
        rows = [row for row in range(B) if t < lengths[row]]
        new, _ = toy_step(equations, x[t, rows], tuple(s[rows] for s in by_hand))
        by_hand[0][rows], by_hand[1][rows] = new
        np.testing.assert_array_equal(out.y[t, rows], new[0])
    for a, b in zip(out[1:], by_hand, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not out.y[2:, 1].any()
    np.testing.assert_array_equal(out.m_n[2], states[1][2])
    now = states
    for t in range(T):
        now = call.step(TOY, x[t], w, now, None)
    for a, b in zip(now, call.infer(TOY, x, w, states, None, False)[1:], strict=True):
        np.testing.assert_array_equal(a, b)
    written = tuple(np.empty_like(s) for s in states)
    assert call.step(TOY, x[0], w, states, written)[1] is written[1]
    assert call.backward(TOY, reserve, None, (None, None)).dx.shape == x.shape


@pytest.mark.parametrize("reverse", [False, True])
def test_the_gradients_of_a_new_cell(toy: dict[str, Any], reverse: bool, rng: np.random.Generator) -> None:
    """Against central differences in float64, whose error is some 1e-9 here: h^2 of 1e-10 and roundoff over h."""
    lengths = [4, 2, 0]
    weights_of_loss = [rng.standard_normal(s) for s in ((T, B, HIDDEN), (B, HIDDEN), (B, HIDDEN))]

    def loss(arrays: dict[str, Any], x: Any, states: Any) -> float:
        out = call.infer(TOY, x, toy_weights(arrays), states, lengths, reverse)
        return float(sum((a * b).sum() for a, b in zip(out, weights_of_loss, strict=True)))

    arrays, x, states = toy["arrays"], toy["x"], toy["states"]
    _, reserve = call.forward(TOY, x, toy_weights(arrays), states, lengths, reverse)
    dy, *dstates = weights_of_loss
    got = call.backward(TOY, reserve, dy, tuple(dstates))
    every = {"x": x, "h0": states[0], "m0": states[1], **arrays}
    for name, a in every.items():
        direction, small = rng.standard_normal(a.shape), 1e-5
        ends = []
        for sign in (1, -1):
            moved = every | {name: a + sign * small * direction}
            ends.append(loss({n: moved[n] for n in arrays}, moved["x"], (moved["h0"], moved["m0"])))
        want = (ends[0] - ends[1]) / (2 * small)
        np.testing.assert_allclose((getattr(got, f"d{name}") * direction).sum(), want, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"weight_ih": np.ones((HIDDEN, 0))}, ValueError, "weight_ih: expected shape (hidden_size, input_size) with"),
        ({"weight_ih": np.ones(3)}, ValueError, "weight_ih: expected 2 dimensions (hidden_size, input_size), got"),
        ({"weight_hh": None}, TypeError, "weight_hh: expected a numpy.ndarray, got NoneType"),
        ({"weight_hh": np.ones((5, 4))}, ValueError, "weight_hh: expected shape (hidden_size, hidden_size) = (5, 5)"),
        ({"p": np.ones(5, "f4")}, TypeError, "p: expected dtype float64, got float32"),
        ({"x": np.ones((T, B))}, ValueError, "x: expected 3 dimensions (seq_len, batch_size, input_size), got shape"),
        ({"x": np.ones((T, B, 3))}, ValueError, "x: expected shape (seq_len, batch_size, input_size) = (4, 3, 2)"),
        ({"x": [1]}, TypeError, "x: expected a numpy.ndarray, got list"),
        ({"states": (None, np.ones((B, 4)))}, ValueError, "m0: expected shape (batch_size, hidden_size) = (3, 5)"),
        ({"lengths": [5, 1, 1]}, ValueError, "lengths: expected values in 0..seq_len = 0..4, got 5 at index 0"),
        ({"reverse": 1}, TypeError, "reverse: expected bool, got int"),
    ],
)
def test_errors_of_a_new_cell(toy: dict[str, Any], change: dict[str, Any], error: Any, text: str) -> None:
    given = {**toy["arrays"], **{k: toy[k] for k in ("x", "states")}, "lengths": None, "reverse": False} | change
    with pytest.raises(error, match=re.escape(text)):
        w = toy_weights({name: given[name] for name in toy["arrays"]})
        call.infer(TOY, given["x"], w, given["states"], given["lengths"], given["reverse"])


@pytest.mark.parametrize(
    ("x", "out", "error", "text"),
    [
        (np.ones((B, 4)), None, ValueError, "x: expected shape (batch_size, input_size) = (3, 2), got (3, 4)"),
        (np.ones(B), None, ValueError, "x: expected 2 dimensions (batch_size, input_size), got shape (3,)"),
        ([1], None, TypeError, "x: expected a numpy.ndarray, got list"),
        (np.ones((B, I)), np.ones((B, HIDDEN)), TypeError, "out: expected a tuple (h, m) of two arrays, got ndarray"),
        (np.ones((B, I)), (np.ones((HIDDEN, B)).T, None), ValueError, "out (h): expected a C-contiguous array, got a"),
    ],
)
def test_errors_of_a_step_of_a_new_cell(toy: dict[str, Any], x: Any, out: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=re.escape(text)):
        call.step(TOY, x, toy_weights(toy["arrays"]), toy["states"], out)


def test_weights_of_a_new_cell_are_checked_by_family(toy: dict[str, Any]) -> None:
    w = toy_weights(toy["arrays"])
    with pytest.raises(TypeError, match="w: expected LSTMWeights, got Weights"):
        fusedrnn.lstm(toy["x"], w)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="w: expected Weights of toy, got dict"):
        call.infer(TOY, toy["x"], {}, (None, None), None, False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cell: expected one of .*, got 'toy'"):
        Weights(TOY, toy["arrays"] | {"leak": 0.7})  # there is no kernel
