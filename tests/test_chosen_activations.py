"""Activations that users choose for the gates of LSTMs and GRUs. cases.CELLS has two such cells, for all other tests;
here are all activations, in all places."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedrnn
from agreement import assert_agrees, assert_same_bits, run_everywhere
from cases import CELLS, SMALL_SHAPES, Cell, Problem, make_problem, remade
from fusedrnn.cells.activations import NAMES, OWN
from fusedrnn.cells.families import SPECS

ACTIVATIONS: list[Any] = [*NAMES, ("hard_sigmoid", 0.5, 0.25)]
CHOOSING = [c for c in CELLS if OWN.keys() & set(SPECS[c.native].values) and c.native == c.name]
activations = pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
modules = pytest.mark.parametrize("module", [fusedrnn.reference, fusedrnn], ids=lambda m: m.__name__)
SHAPE = SMALL_SHAPES[1]
EPS = float(np.finfo("float64").eps)


def places_of(cell: Cell) -> list[str]:
    return [place for place in OWN if place in SPECS[cell.native].values]


def problem_of(cell: Cell, rng: np.random.Generator, dtype: str = "float64", **chosen: Any) -> Problem:
    problem = make_problem(cell, SHAPE, dtype, rng)
    problem.w = remade(cell, problem.w, replaced=chosen)
    return problem


@pytest.mark.parametrize("cell", CHOOSING, ids=str)
@activations
def test_kernels_agree_with_the_reference(cell: Cell, activation: Any, rng: np.random.Generator) -> None:
    """In each place alone, on every ISA."""
    for place in places_of(cell):
        for dtype in ("float32", "float64"):
            problem = problem_of(cell, rng, dtype, **{place: activation})
            assert getattr(problem.w, place) in (activation, (activation, 0.2, 0.5))
            assert_agrees(problem, run_everywhere(problem))


def expected(activation: Any, a: Any) -> Any:
    """The functions, written again."""
    name, alpha, beta = activation if isinstance(activation, tuple) else (activation, 0.2, 0.5)
    functions: dict[str, Any] = {
        "sigmoid": lambda: 1 / (1 + np.exp(-a)),
        "tanh": lambda: np.tanh(a),
        "hard_sigmoid": lambda: np.minimum(np.maximum(alpha * a + beta, 0), 1),
        "relu": lambda: np.where(a > 0, a, 0),
        "softsign": lambda: a / (1 + np.abs(a)),
        "linear": lambda: a,
    }
    return functions[name]()


def activated(module: Any, activation: Any, a: Any) -> Any:
    """By the first step of a cell with the candidate's pre-activation a: ``h = o * f(c)``, ``c = a``, o = 1."""
    gates: Any = {"i": 1, "f": 0, "g": a, "o": 1}
    n = len(a)
    bias = np.concatenate([np.full(n, gates[g], a.dtype) for g in "ifgo"])
    w = fusedrnn.LSTMWeights(
        np.zeros((4 * n, 1), a.dtype), np.zeros((4 * n, n), a.dtype), bias,
        gate_activation="linear", candidate_activation="linear", output_activation=activation,
    )  # fmt: skip
    return module.lstm(np.zeros((1, 1, 1), a.dtype), w).y[0, 0]


@modules
@activations
def test_the_functions(activation: Any, module: Any) -> None:
    a = np.linspace(-5, 5, 41)
    # Each side is at most 2 ulp away. An ulp of a number is at most EPS times it; terms that cancel are at most 1.
    np.testing.assert_allclose(activated(module, activation, a), expected(activation, a), rtol=4 * EPS, atol=4 * EPS)


@modules
@activations
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_not_a_number_or_infinite(activation: Any, module: Any, dtype: str) -> None:
    """NaN stays NaN; infinities have the limits."""
    a = np.array([np.nan, np.inf, -np.inf], dtype)
    limits: dict[str, Any] = {"sigmoid": (1, 0), "tanh": (1, -1), "relu": (np.inf, 0), "softsign": (1, -1)}
    name = activation if isinstance(activation, str) else activation[0]
    want = [np.nan, *(limits | {"hard_sigmoid": (1, 0), "linear": a[1:]})[name]]
    np.testing.assert_array_equal(activated(module, activation, a), want)


def test_the_cells_own_activations_change_no_bit(rng: np.random.Generator) -> None:
    for cell in CHOOSING:
        problem = make_problem(cell, SHAPE, "float32", rng)
        own = {place: OWN[place] for place in places_of(cell)}
        results = problem.run()
        assert not set(remade(cell, problem.w, replaced=own)._values) & OWN.keys()
        problem.w = remade(cell, problem.w, replaced=own)
        for a, b in zip(results, problem.run(), strict=True):
            assert_same_bits(a, b)


def test_a_variant_is_the_linear_activation(rng: np.random.Generator) -> None:
    """The LSTM without an input activation, and that with a linear one: the same equations, and bits."""
    by_name = {c.name: c for c in CELLS}
    for variant, place in (("no_input_activation", "candidate"), ("no_output_activation", "output")):
        problem = make_problem(by_name["lstm"], SHAPE, "float32", rng)
        arrays = {name: a for name, a in problem.w.arrays().items() if a is not None}
        results = []
        for w in (
            fusedrnn.LSTMWeights(**arrays, variant=variant),
            fusedrnn.LSTMWeights(**arrays, **{f"{place}_activation": "linear"}),  # type: ignore[arg-type]
        ):
            problem.w = w
            results.append(problem.run())
        for a, b in zip(*results, strict=True):
            assert_same_bits(a, b)


# Layers, files, PyTorch.

CHOICES: list[tuple[str, dict[str, Any]]] = [
    ("LSTM", {"gate_activation": "hard_sigmoid", "candidate_activation": "softsign", "output_activation": "relu"}),
    ("LSTM", {"gate_activation": "hard_sigmoid", "proj_size": 3}),
    ("GRU", {"gate_activation": ("hard_sigmoid", 1 / 6, 0.5), "candidate_activation": "relu"}),
    ("GRU", {"gate_activation": "hard_sigmoid", "reset_after": False, "num_heads": 2}),
]
choices = pytest.mark.parametrize(("name", "options"), CHOICES, ids=lambda v: v if isinstance(v, str) else None)


@choices
def test_layers_keep_their_activations(name: str, options: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    layer = getattr(fusedrnn, name)(3, 8, 2, bidirectional=True, rng=0, **options)
    x = rng.standard_normal((5, 4, 3)).astype("f4")
    want = layer(x).y
    layer.save(tmp_path / "layer.npz")
    twins = [pickle.loads(pickle.dumps(layer)), fusedrnn.load(tmp_path / "layer.npz"), type(layer)(**layer.config())]
    for twin in twins:
        twin.load_state_dict(layer.state_dict())
        assert twin(x).y.tobytes() == want.tobytes()
        assert twin.config() == layer.config()
    out, _ = layer.forward(x)
    assert out.y.tobytes() == want.tobytes()
    plain = type(layer)(**{n: v for n, v in layer.config().items() if n not in OWN})
    plain.load_state_dict(layer.state_dict())
    assert not np.allclose(plain(x).y, want)
    one = getattr(fusedrnn, name)(3, 8, 2, rng=0, **options)
    stream = one.stream(4)
    assert b"".join(stream.step(x[t]).tobytes() for t in range(5)) == one(x).y.tobytes()


@choices
@pytest.mark.filterwarnings("error")
def test_modules_for_pytorch(name: str, options: Any, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    import fusedrnn.torch as frt
    from torch_agreement import by_kernels

    module = getattr(frt, name)(3, 4, 2, **options, dtype=torch.float64)
    layer = getattr(fusedrnn, name)(3, 4, 2, **options, dtype="float64")
    layer.load_state_dict(module.state_dict())
    x = torch.from_numpy(rng.standard_normal((4, 2, 3))).requires_grad_()
    with by_kernels():
        y = module(x)[0]
    out, tape = layer.forward(x.detach().numpy())
    assert y.detach().numpy().tobytes() == out.y.tobytes()
    dy = torch.from_numpy(rng.standard_normal(tuple(y.shape)))
    (dx,) = torch.autograd.grad(y, x, dy)
    assert dx.numpy().tobytes() == layer.backward(tape, dy.numpy()).dx.tobytes()
    assert torch.autograd.gradcheck(lambda x: module(x)[0], x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: module(x)[0], x, fast_mode=True)
    assert repr(module).count("_activation=") == sum(n in OWN for n in options)
    with torch.no_grad():
        assert torch.equal(frt.freeze(module)(x)[0], y)


# Errors.


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"gate_activation": "swish"}, ValueError, "gate_activation: expected one of 'sigmoid', 'tanh', 'hard"),
        ({"gate_activation": None}, TypeError, "gate_activation: expected a name, or (name, alpha, beta), got Non"),
        ({"gate_activation": ("relu", 1, 2)}, ValueError, "gate_activation: expected 'relu' without numbers, got ("),
        ({"output_activation": ("hard_sigmoid", np.inf, 0)}, ValueError, "output_activation: expected finite num"),
        ({"candidate_activation": ("hard_sigmoid", "a", 0)}, ValueError, "candidate_activation: expected finite n"),
        (
            {"candidate_activation": "relu", "variant": "no_input_activation"},
            ValueError,
            "candidate_activation: expected 'tanh', as cell 'lstm_no_input_activation' has no other, got 'relu'",
        ),
        (
            {"gate_activation": "relu", "peephole_i": np.zeros((4, 4), "f4")},
            ValueError,
            "gate_activation: expected 'sigmoid', as cell 'lstm_matrix_peephole_if' has no other, got 'relu'",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_is_refused(options: Any, error: Any, text: str) -> None:
    with pytest.raises(error) as e:
        fusedrnn.LSTMWeights(np.zeros((16, 3), "f4"), np.zeros((16, 4), "f4"), **options)
    assert str(e.value).startswith(text)
    if "peephole_i" not in options:
        with pytest.raises(error) as e:
            fusedrnn.LSTM(3, 4, **options)
        assert str(e.value).startswith(text)


def test_other_cells_have_none() -> None:
    with pytest.raises(TypeError, match="unexpected argument 'gate_activation'"):
        fusedrnn.SLSTM(3, 4, gate_activation="relu")
    with pytest.raises(TypeError, match="unexpected argument 'output_activation'"):
        fusedrnn.GRU(3, 4, output_activation="relu")
