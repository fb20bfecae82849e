"""Heads, a block-diagonal recurrence: what a head is, what other cells it is like, and how far the likeness goes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedrnn
from agreement import assert_arrays_close, assert_same_bits, element_bound, named, roundings
from cases import CELLS, DTYPES, Array, Cell, Problem, given, make_problem, remade, with_heads
from fusedrnn import _core
from fusedrnn.backends import load, native_cell
from fusedrnn.cells.families import SPECS

HEADS = [c for c in CELLS if c.heads > 1]
cells = pytest.mark.parametrize("cell", HEADS, ids=str)
dtypes = pytest.mark.parametrize("dtype", DTYPES)
KINDS = [fusedrnn.LSTM, fusedrnn.GRU]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
# Around the vector widths, and beyond blocks of 64 in k, in a head and in all of them.
SIZES = [1, 5, 8, 17, 43, 64, 70]
sizes = pytest.mark.parametrize("size", SIZES)


def plain_of(cell: Cell) -> Cell:
    """The cell without heads."""
    return next(c for c in CELLS if c.name == cell.native)


def problem_of(cell: Cell, size: int, dtype: str, rng: np.random.Generator, T: int = 4, B: int = 3) -> Problem:
    I = 70 if size < 64 else 6  # as many as join the gates of short tiles (csrc/packing.hpp)
    return make_problem(cell, (T, B, I, cell.heads * size), dtype, rng, lengths=True, reverse=size % 2 == 1)


def dense(weight_hh: Array) -> Array:
    """The same recurrence as one matrix."""
    n = HEADS[0].heads
    size = weight_hh.shape[1]
    all_units = np.zeros((len(weight_hh), n * size), weight_hh.dtype)
    for row in range(len(weight_hh)):
        head = row // size % n
        all_units[row, head * size : (head + 1) * size] = weight_hh[row]
    return all_units


def blocks(matrix: Array, n: int) -> Array:
    """What of a matrix of all units has a place in the blocks."""
    size = matrix.shape[1] // n
    heads = np.arange(len(matrix)) // size % n
    return np.stack([row[head * size : (head + 1) * size] for row, head in zip(matrix, heads, strict=True)])


def as_dense(problem: Problem) -> Problem:
    cell = plain_of(problem.cell)
    w = remade(cell, problem.w, replaced={"weight_hh": dense(problem.w.weight_hh)})
    return Problem(cell, w, problem.x, problem.states, problem.kwargs, problem.dy, problem.dstates)


def of_dense(cell: Cell, gradients: Any) -> Any:
    return gradients._replace(dweight_hh=blocks(gradients.dweight_hh, cell.heads))


def rows_of_head(a: Array, head: int, n: int, gates: int) -> Array:
    """Of weights, whose rows are those of gates: the rows of the head's units."""
    return np.concatenate([np.split(gate, n)[head] for gate in np.split(a, gates)])


def of_head(problem: Problem, head: int) -> Problem:
    """A cell of the head's units alone."""
    cell, n = problem.cell, problem.cell.heads
    H = problem.w.hidden_size
    arrays = {name: np.ascontiguousarray(rows_of_head(a, head, n, len(a) // H)) for name, a in given(problem.w).items()}

    def units(a: Array) -> Array:
        return np.ascontiguousarray(np.split(a, n, -1)[head])

    plain = plain_of(cell)
    w = plain.weights(**arrays)
    states, dstates = [units(s) for s in problem.states], [units(s) for s in problem.dstates]
    return Problem(plain, w, problem.x, states, problem.kwargs, units(problem.dy), dstates)


@cells
@sizes
@dtypes
def test_the_dense_cell(cell: Cell, size: int, dtype: str, rng: np.random.Generator) -> None:
    """With the blocks in a matrix of all units, and zeros beside them, is the same function."""
    problem = problem_of(cell, size, dtype, rng)
    (out, gradients), (want, want_gradients) = problem.run(), as_dense(problem.as_float64()).run()
    for got, of, is_gradient in ((out, want, False), (gradients, of_dense(cell, want_gradients), True)):
        n = 2 * roundings(problem, gradients=is_gradient)
        assert_arrays_close(dict(named(got)), dict(named(of)), dtype, n)


@pytest.mark.parametrize("name", ["lstm_peephole_heads", "gru_reset_before_heads"])
@pytest.mark.parametrize("size", [64, 128])
@dtypes
def test_heads_of_whole_blocks_have_the_bits_of_the_dense_cell(
    name: str, size: int, dtype: str, rng: np.random.Generator
) -> None:
    """docs/bits.md says when. Zeros add nothing to a block, and blocks of zeros nothing to a sum."""
    problem = problem_of(next(c for c in HEADS if c.name == name), size, dtype, rng)
    (out, gradients), (want, want_gradients) = problem.run(), as_dense(problem).run()
    assert_same_bits(out, want)
    assert_same_bits(gradients, of_dense(problem.cell, want_gradients))


@cells
@sizes
@dtypes
@pytest.mark.parametrize("threads", [1, 2])
def test_a_head_has_the_bits_of_a_cell_of_its_units(
    cell: Cell, size: int, dtype: str, threads: int, rng: np.random.Generator
) -> None:
    """All but dx, which is a sum over the units of all heads."""
    fusedrnn.set_num_threads(threads)
    _core.set_schedule("units" if threads > 1 else "one")
    problem, n = problem_of(cell, size, dtype, rng, T=5, B=7), cell.heads
    results = dict(named(problem.run()[0])) | dict(named(problem.run()[1]))
    for head in range(n):
        out, gradients = of_head(problem, head).run()
        for name, want in named(out) + [(name, a) for name, a in named(gradients) if name != "dx"]:
            whole = results[name]
            is_weight = name.startswith(("dweight", "dbias", "dpeephole"))
            got = rows_of_head(whole, head, n, len(whole) // (n * size)) if is_weight else np.split(whole, n, -1)[head]
            np.testing.assert_array_equal(got, want, err_msg=f"{name} of head {head}")


@cells
@dtypes
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_in_one_head_stays_there(cell: Cell, dtype: str, value: float, rng: np.random.Generator) -> None:
    """Zeros beside the blocks are not multiplied: not by a NaN, and not by infinity."""
    problem, n = problem_of(cell, 5, dtype, rng), cell.heads
    problem.kwargs.clear()
    out, gradients = problem.run()
    problem.states[0][:, :5], problem.dstates[0][:, :5] = value, value
    spoilt, spoilt_gradients = problem.run()
    for a, b in zip([*out, gradients.dh0], [*spoilt, spoilt_gradients.dh0], strict=True):
        np.testing.assert_array_equal(a[..., 5:], b[..., 5:])
    assert not np.array_equal(gradients.dh0, spoilt_gradients.dh0)
    for head in range(1, n):
        for name in ("dweight_hh", "dbias_ih"):
            a, b = (rows_of_head(getattr(g, name), head, n, cell.gates) for g in (gradients, spoilt_gradients))
            np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("cell", [c for c in CELLS if c.op in ("lstm", "gru")], ids=str)
def test_one_head_is_the_cell_itself(cell: Cell, rng: np.random.Generator) -> None:
    cell = plain_of(cell)
    problem = make_problem(cell, (3, 2, 4, 9), "float32", rng)
    w = with_heads(cell, 1).weights(**given(problem.w))
    assert w.num_heads == problem.w.num_heads == 1
    assert repr(w) == repr(problem.w)
    assert pickle.dumps(w) == pickle.dumps(problem.w)
    assert w.spec is problem.w.spec


@cells
def test_weights_know_their_heads(cell: Cell, rng: np.random.Generator) -> None:
    w = problem_of(cell, 5, "float32", rng).w
    assert w.num_heads == cell.heads
    assert w.weight_hh.shape == (cell.gates * w.hidden_size, 5)
    assert f"num_heads={cell.heads}" in repr(w)
    for other in (copy.copy(w), pickle.loads(pickle.dumps(w)), w.on(load)):
        assert other.num_heads == cell.heads
        np.testing.assert_array_equal(other.weight_hh, w.weight_hh)


def test_less_work_costs_less(rng: np.random.Generator) -> None:
    """The model of cost knows that the recurrent product of n heads is n times smaller."""
    cell, T, B, H = next(c for c in CELLS if c.name == "lstm"), 50, 8, 512

    def cost(heads: int, backward: bool) -> float:
        w = make_problem(with_heads(cell, heads), (1, 1, 8, H), "float32", rng).w
        return float(w._loaded.cost(T, B, 1, 1, 1, backward))

    for backward in (False, True):
        assert cost(8, backward) < 0.6 * cost(2, backward) < 0.6 * cost(1, backward)


# Layers.


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def layer(request: pytest.FixtureRequest) -> fusedrnn.Layer:
    return request.param(4, 15, 2, bidirectional=True, num_heads=3, dropout=0.25, rng=5)  # type: ignore[no-any-return]


def test_layers(layer: fusedrnn.Layer) -> None:
    gates = len(layer.spec.gates)
    shapes = {name: a.shape for name, a in layer.parameters.items()}
    assert shapes["weight_hh_l0"] == shapes["weight_hh_l1_reverse"] == (gates * 15, 5)
    assert shapes["weight_ih_l1"] == (gates * 15, 30)
    assert layer.config()["num_heads"] == layer.options["num_heads"] == 3
    assert "num_heads=3" in repr(layer)
    assert "num_heads" not in repr(type(layer)(4, 15))


def saved(layer: fusedrnn.Layer, path: Path) -> Iterator[fusedrnn.Layer]:
    for suffix in (".npz", ".safetensors"):
        if suffix == ".safetensors":
            pytest.importorskip("safetensors")
        layer.save(path / f"layer{suffix}")
        yield fusedrnn.load(path / f"layer{suffix}")


def test_copies_of_layers(layer: fusedrnn.Layer, tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.standard_normal((5, 2, 4)).astype("float32")
    want = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), *saved(layer, tmp_path)):
        assert other.config() == layer.config()
        assert_same_bits(other(x), want)


def test_files_from_before_there_were_heads(rng: np.random.Generator) -> None:
    """Neither files nor pickles of weights say anything of one head."""
    layer = fusedrnn.LSTM(3, 6, rng=1)
    arguments = layer.config()
    del arguments["num_heads"]
    other = fusedrnn.LSTM._of(layer.state_dict(), **arguments)
    x = rng.standard_normal((5, 2, 3)).astype("float32")
    assert_same_bits(other(x), layer(x))


@kinds
@pytest.mark.parametrize("size", [5, 64])
def test_orthogonal_blocks(kind: Any, size: int) -> None:
    layer = kind(3, 4 * size, num_heads=4, recurrent_init="orthogonal", dtype="float64", rng=1)
    gates, weight = len(layer.spec.gates), layer.parameters["weight_hh_l0"]
    for head in range(4):
        block = rows_of_head(weight, head, 4, gates)
        np.testing.assert_allclose(block.T @ block, np.eye(size), atol=element_bound("float64", size**2))


# What cannot be.


def weights(kind: Any, columns: int = 3, **options: Any) -> Any:
    rows = 6 * (4 if kind is fusedrnn.LSTMWeights else 3)
    return kind(np.zeros((rows, 2), "f4"), np.zeros((rows, columns), "f4"), **options)


NO_INTEGERS: list[Any] = [2.0, "2", None, True]


@pytest.mark.parametrize("kind", [fusedrnn.LSTMWeights, fusedrnn.GRUWeights])
def test_numbers_of_heads_that_cannot_be(kind: Any) -> None:
    for n in (4, 0, -1, 7, 2**70):
        with pytest.raises(ValueError, match=rf"^num_heads: expected a divisor of hidden_size.*, got {n}$"):
            weights(kind, num_heads=n)
    for value in NO_INTEGERS:
        with pytest.raises(TypeError, match=rf"^num_heads: expected int, got {type(value).__name__}$"):
            weights(kind, num_heads=value)
    rows = 24 if kind is fusedrnn.LSTMWeights else 18
    symbols = rf"\({rows // 6}\*hidden_size, hidden_size/num_heads\)"
    with pytest.raises(ValueError, match=rf"^weight_hh: expected shape {symbols} = \({rows}, 3\), got \({rows}, 6\)$"):
        weights(kind, columns=6, num_heads=2)
    with pytest.raises(ValueError, match=rf"^weight_hh: expected shape \({rows // 6}\*hidden_size, hidden_size\) = "):
        weights(kind, columns=3)
    assert weights(kind, num_heads=np.int64(2)).num_heads == 2


def test_cells_without_heads() -> None:
    of_cells: dict[str, dict[str, Any]] = {
        "lstm_projected": {"weight_hr": np.zeros((3, 6), "f4")},
        "lstm_matrix_peephole_o": {"peephole_o": np.zeros((6, 6), "f4")},
    }
    for cell, options in of_cells.items():
        with pytest.raises(ValueError, match=rf"^num_heads: expected 1, as cell '{cell}' has no heads, got 2$"):
            weights(fusedrnn.LSTMWeights, num_heads=2, **options)
        assert weights(fusedrnn.LSTMWeights, columns=3 if "weight_hr" in options else 6, num_heads=1, **options)
    assert fusedrnn.RNNWeights(np.zeros((3, 2), "f4"), np.zeros((3, 3), "f4")).num_heads == 1
    of_layers: list[dict[str, Any]] = [{"proj_size": 2}, {"peepholes": "full"}]
    for arguments in of_layers:
        with pytest.raises(ValueError, match="^num_heads: expected 1, as cell 'lstm_"):
            fusedrnn.LSTM(3, 6, num_heads=2, **arguments)
    with pytest.raises(TypeError, match="^RNN: unexpected argument 'num_heads'$"):
        fusedrnn.RNN(3, 6, num_heads=2)


@kinds
def test_layers_that_cannot_be(kind: Any) -> None:
    for n in (4, 0, -2):
        with pytest.raises(ValueError, match=rf"^num_heads: expected a divisor of hidden_size = 6, got {n}$"):
            kind(3, 6, num_heads=n)
    for value in NO_INTEGERS:
        with pytest.raises(TypeError, match="^num_heads: expected int, got "):
            kind(3, 6, num_heads=value)


def test_the_module_checks_heads_too() -> None:
    def made(cell: str, n: Any) -> Any:
        spec = SPECS[cell]
        arrays = {p.name: np.zeros(p.shape(2, 6, 3, 2 if p.name == "weight_hh" else 1), "f4") for p in spec.parameters}
        return _core.make_weights(native_cell(spec), arrays, {"num_heads": n}, None)

    assert made("lstm", 2).hidden_size == 6
    for cell, n in (("lstm", 4), ("lstm", 0), ("lstm", -2), ("lstm_projected", 2), ("clockwork_rnn_tanh", 2)):
        with pytest.raises(ValueError, match="num_heads: expected"):
            made(cell, n)
    with pytest.raises(TypeError, match="num_heads: expected"):
        made("lstm", "two")


def test_stacks_are_of_one_number_of_heads() -> None:
    one, two = (weights(fusedrnn.GRUWeights, columns=6 // n, num_heads=n)._loaded for n in (1, 2))
    with pytest.raises(ValueError, match="expected layers of one cell"):
        _core.make_stack((one, two), 2)
