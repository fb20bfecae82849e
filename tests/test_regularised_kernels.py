"""Regularisation in the kernels: they agree with the reference, and give the same bits whatever the threads, the ISA
and the place of masks; and in layers."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedrnn
from agreement import (
    DIFFERENCE_TOLERANCE,
    STEP,
    assert_agrees,
    assert_arrays_close,
    assert_close,
    assert_same_bits,
    roundings,
    roundings_of_layers,
    run_everywhere,
)
from cases import (
    CELLS,
    DISTINCT,
    DTYPES,
    Array,
    Cell,
    Problem,
    Shape,
    grid,
    make_problem,
    options_of,
    regularised,
    remade,
)
from fusedrnn import _core

P = 0.3
SHAPES = [(1, 1, 1, 1), (2, 5, 33, 17), (7, 13, 7, 33), (6, 70, 20, 24), (3, 0, 4, 5)]
SOME = [(7, 13, 7, 33)]
variants = pytest.mark.parametrize(
    "variant",
    [{}, {"reverse": True, "lengths": True}, {"resets": True, "reverse": True}],
    ids=["", "reverse lengths", "resets reverse"],
)


def problem_of(cell: Cell, shape: Shape, dtype: str, rng: np.random.Generator, **variant: bool) -> Problem:
    return regularised(make_problem(cell, shape, dtype, rng, **variant), options_of(cell, P), rng)


@pytest.mark.parametrize(("cell", "shape"), grid(SHAPES, SOME), ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@variants
def test_training(cell: Cell, shape: Shape, dtype: str, variant: dict[str, bool], rng: np.random.Generator) -> None:
    problem = problem_of(cell, shape, dtype, rng, **variant)
    assert_agrees(problem, run_everywhere(problem))


@pytest.mark.parametrize(("cell", "name"), [(c, n) for c in DISTINCT for n in options_of(c, P)], ids=str)
def test_training_with_one_option(cell: Cell, name: str, rng: np.random.Generator) -> None:
    problem = regularised(make_problem(cell, (7, 13, 7, 33), "float64", rng, lengths=True), {name: P}, rng)
    assert_agrees(problem, run_everywhere(problem))


@pytest.mark.parametrize(("cell", "shape"), grid(SHAPES, SOME), ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@variants
def test_inference(cell: Cell, shape: Shape, dtype: str, variant: dict[str, bool], rng: np.random.Generator) -> None:
    """With expectations, over a sequence and step by step."""
    problem = make_problem(cell, shape, dtype, rng, **variant)
    problem.w = remade(cell, problem.w, replaced=options_of(cell, P))
    infer, step = (cell.functions()[i] for i in (0, 3))
    got = infer(problem.x, problem.w, *problem.states, **problem.kwargs)
    exact = problem.as_float64()
    want = cell.functions(fusedrnn.reference)[0](exact.x, exact.w, *exact.states, **exact.kwargs)
    assert_close(got, want, dtype, roundings(problem, gradients=False), given=problem.states)
    if variant:
        return
    now: Any = problem.states
    for t, x in enumerate(problem.x):
        new = step(x, problem.w, *now, **cell.numbered(t))
        now = new if cell.states > 1 else (new,)
    for a, b in zip(now, got[1:], strict=False):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cell", DISTINCT, ids=str)
@pytest.mark.parametrize("shape", [(4, 9, 17, 40), (9, 33, 12, 20), (90, 3, 8, 40)], ids=str)
@pytest.mark.parametrize("variant", [{}, {"resets": True, "lengths": True}], ids=["", "resets lengths"])
def test_the_same_bits(cell: Cell, shape: Shape, variant: dict[str, bool], rng: np.random.Generator) -> None:
    """From masks and from the seed that makes them, and of expectations; under each schedule."""

    def everything() -> list[Any]:
        kwargs = {name: value for name, value in problem.kwargs.items() if name not in ("seed", "masks")}
        return [*problem.run(), cell.functions()[0](problem.x, problem.w, *problem.states, **kwargs)]

    problem = make_problem(cell, shape, "float32", rng, **variant)
    problem.w = remade(cell, problem.w, replaced=options_of(cell, P))
    _core.set_schedule("one")
    problem.kwargs["seed"] = 2**63 + 5
    want = everything()
    for isa in fusedrnn.available_isas():
        fusedrnn.set_isa(isa)
        for schedule, threads in [("one", 1), ("2x3", 7), ("rows", 3), ("units", 3)]:
            fusedrnn.set_num_threads(threads)
            _core.set_schedule(schedule)
            for a, b in zip(everything(), want, strict=True):
                assert_same_bits(a, b, f"{isa}, {threads} threads, {schedule}:")
    del problem.kwargs["seed"]
    problem.kwargs["masks"] = problem.w.masks(*shape[:2], 2**63 + 5)
    for a, b in zip(everything(), want, strict=True):
        assert_same_bits(a, b, "masks:")


@pytest.mark.parametrize("cell", DISTINCT, ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_a_row_does_not_depend_on_the_batch(cell: Cell, reverse: bool, rng: np.random.Generator) -> None:
    """Nor on padding: the bits of the first rows, with weights that are not dropped."""
    problem = make_problem(cell, (9, 12, 5, 20), "float32", rng, reverse=reverse)
    options = {name: p for name, p in options_of(cell, P).items() if name != "weight_dropout"}
    problem.w = remade(cell, problem.w, replaced=options)
    _, forward, backward, _ = cell.functions()
    lengths = rng.integers(0, 7, 12)
    kwargs = {"reverse": reverse, "seed": 3}
    more, reserve = forward(problem.x, problem.w, *problem.states, lengths=lengths, **kwargs)
    more_gradients = backward(reserve, problem.dy, *problem.dstates)
    few, reserve = forward(
        problem.x[:6, :5], problem.w, *(s[:5] for s in problem.states), lengths=lengths[:5], **kwargs
    )
    few_gradients = backward(reserve, problem.dy[:6, :5], *(s[:5] for s in problem.dstates))
    np.testing.assert_array_equal(more.y[:6, :5], few.y)
    np.testing.assert_array_equal(more.h_n[:5], few.h_n)
    np.testing.assert_array_equal(more_gradients.dx[:6, :5], few_gradients.dx)
    np.testing.assert_array_equal(more_gradients.dh0[:5], few_gradients.dh0)


# Layers.

LAYERS: list[tuple[str, dict[str, Any]]] = [
    ("LSTM", {}),
    ("LSTM", {"proj_size": 7}),
    ("GRU", {}),
    ("GRU", {"reset_after": False}),
    ("RNN", {}),
    ("IndRNN", {}),
    ("ClockworkRNN", {"periods": (1, 2, 3)}),
    ("FGRLSTM", {}),
    ("SLSTM", {}),
    ("LSTM", {"num_heads": 3}),
    ("GRU", {"num_heads": 3}),
    ("SLSTM", {"num_heads": 4}),
    ("DepthGatedLSTM", {}),
    ("LayerNormLSTM", {"epsilon": 1.0}),
    ("LayerNormGRU", {"epsilon": 1.0}),
]
layers = pytest.mark.parametrize(("name", "options"), LAYERS, ids=str)


def layer_of(name: str, options: dict[str, Any], **others: Any) -> Any:
    spec = getattr(fusedrnn, name)(3, 12, **options).spec
    (cell,) = [c for c in CELLS if c.name == spec.cell]
    return getattr(fusedrnn, name)(
        4, 12, **options, **options_of(cell, P), **{"dtype": "float64", "rng": 5, "num_layers": 2} | others
    )


def flat(results: Any) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for name, value in zip(results._fields, results, strict=True):
        if isinstance(value, dict):
            found |= value
        elif value is not None:
            found[name] = value
    return found


@layers
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "both"])
def test_layers_are_cells_above_each_other(
    name: str, options: dict[str, Any], bidirectional: bool, rng: np.random.Generator
) -> None:
    """Layer for layer and direction for direction by the reference, under masks of the layers' names."""
    layer = layer_of(name, options, bidirectional=bidirectional, dropout=0.4)
    x, lengths = rng.standard_normal((6, 5, 4)), [6, 0, 3, 5, 6]
    out, tape = layer.forward(x, lengths=lengths)
    masks = tape.masks
    assert masks.keys() == layer.masks(6, 5, tape.seed).keys()
    op = layer.spec.family
    forward = getattr(fusedrnn.reference, f"{op}_forward")
    below: list[Any] = [None, None]
    for number in range(2):
        ys = []
        for d in range(layer.num_directions):
            end = f"_l{number}" + ("_reverse" if d else "")
            of_run = {n.removesuffix(end): m for n, m in masks.items() if n.endswith(end) and not n.startswith("drop")}
            of_run = {n: m for n, m in of_run.items() if "_l" not in n}
            w = layer._made_weights(number, d)
            further = {"c_below": below[d]} if layer.spec.below else {}
            result = forward(x, w, lengths=lengths, reverse=d == 1, masks=of_run, **further)[0]
            below[d] = result.c if layer.spec.below else None
            ys.append(result.y)
        x = np.concatenate(ys, axis=2)
        if number == 0:
            x = np.where(masks["dropout_l0"], 0, x / 0.6)
    n = roundings_of_layers(layer, 6, 5, gradients=False)
    assert_arrays_close({"y": out.y}, {"y": x}, "float64", n)


@layers
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "both"])
def test_layers_replay(name: str, options: dict[str, Any], bidirectional: bool, rng: np.random.Generator) -> None:
    layer = layer_of(name, options, bidirectional=bidirectional, dropout=0.4, dtype="float32")
    x = rng.standard_normal((6, 5, 4)).astype("float32")
    results = []
    tape: Any = None
    for schedule in ("one", "units", "wave"):
        if bidirectional and schedule == "wave":
            continue
        _core.set_schedule(schedule)
        for source in ({"seed": 9}, {"masks": layer.masks(6, 5, 9)}):
            out, tape = layer.forward(x, **source)
            assert tape.seed == source.get("seed")
            assert all((tape.masks[n] == m).all() for n, m in layer.masks(6, 5, 9).items())
            results.append(flat(out) | flat(layer.backward(tape, np.ones_like(out.y))))
    for other in results[1:]:
        for key, a in other.items():
            np.testing.assert_array_equal(a, results[0][key], err_msg=key)


def test_gradients_of_layers(rng: np.random.Generator) -> None:
    """Against central differences along random directions of length 1, under fixed masks."""
    for name, options in LAYERS:
        layer = layer_of(name, options, bidirectional=True, dropout=0.4)
        x = rng.standard_normal((4, 2, 4))
        masks = layer.masks(4, 2, 1)
        out, tape = layer.forward(x, masks=masks)
        dy = rng.standard_normal(out.y.shape)
        got = layer.backward(tape, dy)
        for key, gradient in [("x", got.dx), *got.parameters.items()]:
            a = x if key == "x" else layer.parameters[key]
            direction, kept = rng.standard_normal(a.shape), a.copy()
            if key.startswith("weight_hh") and layer.spec.mask is not None:
                direction *= layer.spec.mask(12, layer.options)
            direction /= np.linalg.norm(direction)
            ends = []
            for sign in (1, -1):
                a[...] = kept + sign * STEP * direction
                ends.append(float(np.vdot(layer.forward(x, masks=masks)[0].y, dy)))
            a[...] = kept
            want = (ends[0] - ends[1]) / (2 * STEP)
            assert abs(float(np.vdot(gradient, direction)) - want) < DIFFERENCE_TOLERANCE, (name, key)


@layers
def test_layers_infer_with_expectations(name: str, options: dict[str, Any], rng: np.random.Generator) -> None:
    """And streams, step by step."""
    layer = layer_of(name, options)
    x = rng.standard_normal((6, 5, 4))
    out, y, below = layer(x), x, None
    for number in range(2):
        w = layer._made_weights(number, 0)
        further = {"c_below": below} if layer.spec.below else {}
        result = getattr(fusedrnn.reference, layer.spec.family)(y, w, **further)
        y, below = result.y, getattr(result, "c", None)
    assert_arrays_close({"y": out.y}, {"y": y}, "float64", roundings_of_layers(layer, 6, 5, gradients=False))
    stream = layer.stream(5)
    for t in range(6):
        np.testing.assert_array_equal(stream.step(x[t]), out.y[t])


def test_packed_sequences(rng: np.random.Generator) -> None:
    layer = layer_of("LSTM", {}, bidirectional=True, dropout=0.4)
    x, lengths = rng.standard_normal((6, 5, 4)), np.array([6, 5, 5, 2, 1])
    packed = fusedrnn.Packed.from_padded(x, lengths)
    (a, first), (b, second) = layer.forward(packed, seed=4), layer.forward(x, lengths=lengths, seed=4)
    np.testing.assert_array_equal(a.y.to_padded(), b.y)
    c, _ = layer.forward(packed, masks=first.masks)
    np.testing.assert_array_equal(c.y.data, a.y.data)
    got, want = layer.backward(first, a.y), layer.backward(second, b.y)
    np.testing.assert_array_equal(got.dx.to_padded(), want.dx)
    for key, gradient in got.parameters.items():
        np.testing.assert_array_equal(gradient, want.parameters[key], err_msg=key)


def test_options_of_layers(tmp_path: Path) -> None:
    layer = fusedrnn.GRU(3, 4, zoneout_h=0.25, weight_dropout=0.5)
    assert repr(layer) == "GRU(3, 4, zoneout_h=0.25, weight_dropout=0.5)"
    assert layer.regularisation == {"zoneout_h": 0.25, "weight_dropout": 0.5}
    assert (layer.zoneout_h, layer.zoneout_c, layer.weight_dropout) == (0.25, 0.0, 0.5)
    assert "zoneout_h" not in fusedrnn.GRU(3, 4).config()
    layer.save(tmp_path / "layer.npz")
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), fusedrnn.load(tmp_path / "layer.npz")):
        assert twin.config() == layer.config()
    with pytest.raises(AttributeError, match="zoneout_h: a layer keeps its sizes and options"):
        layer.zoneout_h = 0.5
    with pytest.raises(ValueError, match="zoneout_c: expected 0, as 'gru_reset_after' has no state c, got 0.5"):
        fusedrnn.GRU(3, 4, zoneout_c=0.5)
    with pytest.raises(ValueError, match=r"zoneout_h: expected a number in 0\.\.1, got 2"):
        fusedrnn.GRU(3, 4, zoneout_h=2)


def test_sources_of_layers() -> None:
    layer = fusedrnn.GRU(3, 4, 2, zoneout_h=0.25, dropout=0.5)
    x = np.ones((2, 3, 3), "float32")
    masks = layer.masks(2, 3, 1)
    assert list(masks) == ["zoneout_h_l0", "zoneout_h_l1", "dropout_l0"]
    first, second = layer.forward(x)[1], layer.forward(x)[1]
    assert first.seed != second.seed
    with pytest.raises(ValueError, match="masks: expected None beside a seed"):
        layer.forward(x, seed=1, masks=masks)
    with pytest.raises(ValueError, match="masks: expected one of 'dropout_l0', as there is dropout_l0=0.5, got none"):
        layer.forward(x, masks={n: m for n, m in masks.items() if n != "dropout_l0"})
    with pytest.raises(ValueError, match=r"zoneout_h_l1: expected shape \(seq_len, batch_size, hidden_size\) = \(2"):
        layer.forward(x, masks=masks | {"zoneout_h_l1": masks["zoneout_h_l0"][:1]})
    with pytest.raises(TypeError, match="dropout_l0: expected dtype bool, got float32"):
        layer.forward(x, masks=masks | {"dropout_l0": masks["dropout_l0"].astype("f4")})
    _, tape = fusedrnn.GRU(3, 4).forward(x, seed=3)
    assert (tape.seed, tape.masks) == (None, {})
