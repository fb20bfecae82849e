"""Resets: calls whose rows are cut into episodes are what calls on each episode would be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusedrnn
from agreement import assert_agrees, assert_arrays_close, assert_same_bits, named, roundings, run_everywhere
from cases import CELLS, DTYPES, FEW_SHAPES, SHAPES, Array, Cell, Problem, Shape, grid, make_problem, possible
from stacks import STACKED, Composed, by_name, make_layer

cells = pytest.mark.parametrize("cell", CELLS, ids=str)
dtypes = pytest.mark.parametrize("dtype", DTYPES)
reverses = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
directions = pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])


@pytest.mark.parametrize(("cell", "shape"), grid([*FEW_SHAPES, SHAPES[0], SHAPES[-3]], FEW_SHAPES[1:2]), ids=str)
@dtypes
@pytest.mark.parametrize("lengths", [False, True], ids=["full", "lengths"])
@reverses
def test_agrees_with_the_reference(
    cell: Cell, shape: Shape, dtype: str, lengths: bool, reverse: bool, rng: np.random.Generator
) -> None:
    problem = make_problem(cell, shape, dtype, rng, lengths=lengths, reverse=reverse, resets=True)
    assert_agrees(problem, run_everywhere(problem))


def pieces(problem: Problem, row: int) -> list[tuple[int, int, bool]]:
    """The episodes of a row in the order in which they run: first and last time, and whether it begins anew."""
    T, resets = problem.kwargs["lengths"][row], problem.kwargs["resets"][:, row]
    cuts = [t for t in range(1, T) if resets[t]]
    ends = list(zip([0, *cuts], [*cuts, T], strict=True))
    if problem.kwargs["reverse"]:
        return [(a, b, b < T) for a, b in reversed(ends)]
    return [(a, b, bool(resets[a])) for a, b in ends]


def cut_by_hand(problem: Problem, row: int) -> tuple[dict[str, Array], dict[str, Array]]:
    """The outputs and gradients of one row, from a call for each episode."""
    cell, (_, forward, backward, _) = problem.cell, problem.cell.functions()
    one = problem.of_rows(slice(row, row + 1))
    y, dx, total, ends = np.zeros_like(one.dy), np.zeros_like(one.x), dict[str, Any](), dict[str, Array]()
    dinitial, dreset = ([np.zeros_like(s) for s in one.states] for _ in range(2))
    dlast: list[Any] = one.dstates
    for first, last, anew in reversed(pieces(problem, row)):  # sums over episodes are in the order of backward
        start = {} if anew else cell.numbered(3)
        given, part = [np.atleast_2d(s) for s in one.reset_states] if anew else one.states, slice(first, last)
        out, reserve = forward(one.x[part], one.w, *given, reverse=problem.kwargs["reverse"], **start)
        g = backward(reserve, one.dy[part], *dlast)
        y[part], dx[part] = out.y, g.dx
        ends, dlast = ends or dict(named(out)), [None] * cell.states
        for i in range(cell.states):
            (dreset if anew else dinitial)[i] += g[1 + i]
        for name, a in named(g)[1 + cell.states :]:
            total[name] = total.get(name, 0) + a
    return ends | {"y": y}, total | {"dx": dx, "dinitial": dinitial, "dreset": dreset}


@cells
@dtypes
@reverses
def test_a_call_is_what_calls_on_episodes_are(cell: Cell, dtype: str, reverse: bool, rng: np.random.Generator) -> None:
    """To the bit; but sums over several of them, whose order differs."""
    problem = make_problem(cell, (12, 4, 3, 20), dtype, rng, lengths=True, reverse=reverse, resets=True)
    problem.kwargs["lengths"] = np.array([12, 7, 1, 10])
    problem.kwargs |= cell.numbered(3)
    out, grads = problem.run()
    sums: dict[str, Any] = {}
    for row in range(4):
        want, dwant = cut_by_hand(problem, row)
        np.testing.assert_array_equal(out.y[:, row], want["y"][:, 0])
        np.testing.assert_array_equal(grads.dx[:, row], dwant.pop("dx")[:, 0])
        for i, dstate in enumerate(dwant.pop("dinitial")):
            np.testing.assert_array_equal(out[1 + i][row], want[out._fields[1 + i]][0])
            np.testing.assert_array_equal(grads[1 + i][row], dstate[0])
        dreset = dwant.pop("dreset")
        np.testing.assert_array_equal(grads.dreset_h[row], dreset[0][0])
        sums |= {f"{i}": sums.get(f"{i}", 0) + a[0] for i, a in enumerate(dreset[1:])}
        sums |= {name: sums.get(name, 0) + a for name, a in dwant.items()}
    names = [name for name in grads._fields if name.startswith("dreset_")][1:]
    others = {f"{i}": getattr(grads, name) for i, name in enumerate(names)}
    found = {name: a for name, a in named(grads) if name in sums}
    assert_arrays_close(found | others, sums, dtype, roundings(problem, gradients=True), given=problem.dstates)


@cells
def test_nothing_passes_between_episodes(cell: Cell, rng: np.random.Generator) -> None:
    """Neither forward nor backward: not a NaN."""
    problem = make_problem(cell, (8, 2, 3, 9), "float32", rng)
    problem.kwargs["resets"] = np.arange(8)[:, None] == np.array([4, 9])
    poisoned = problem.changed(np.array)
    poisoned.x[:4, 0], poisoned.dy[4:, 0], poisoned.dstates[0][0] = np.nan, np.nan, np.nan
    (out, grads), (want, dwant) = poisoned.run(), problem.run()
    np.testing.assert_array_equal(out.y[4:], want.y[4:])
    np.testing.assert_array_equal(grads.dx[:, 1], dwant.dx[:, 1])
    assert np.isnan(out.y[:4, 0]).any() or cell.op == "indrnn" or cell.kink  # max(0, NaN) is 0
    clean = problem.changed(np.array)
    clean.dy[4:, 0], clean.dstates[0][0] = np.nan, np.nan
    np.testing.assert_array_equal(clean.run()[1].dx[:4], dwant.dx[:4])
    assert np.isfinite(want.y).all()


@cells
@dtypes
def test_resets_nowhere_change_no_bit(cell: Cell, dtype: str, rng: np.random.Generator) -> None:
    problem = make_problem(cell, (9, 5, 3, 20), dtype, rng, lengths=True)
    want = problem.run()
    problem.kwargs["resets"] = np.zeros((9, 5), bool)
    for a, b in zip(problem.run(), want, strict=True):
        assert_same_bits(a, b)
    problem.kwargs["resets"] = np.arange(9)[:, None] >= problem.kwargs["lengths"]  # past their ends
    for a, b in zip(problem.run(), want, strict=True):
        assert_same_bits(a, b)
    problem.reset_states = [np.ones_like(s) for s in problem.states]
    out, grads = problem.run()
    assert_same_bits(out, want[0])
    assert not any(getattr(grads, name).any() for name in grads._fields if name.startswith("dreset_"))


@cells
@dtypes
def test_single_steps_have_the_bits_of_a_call(cell: Cell, dtype: str, rng: np.random.Generator) -> None:
    T = 7
    problem = make_problem(cell, (T, 4, 3, 20), dtype, rng, resets=True)
    infer, _, _, step = cell.functions()
    want = infer(problem.x, problem.w, *problem.states, **problem.kwargs)
    now: tuple[Any, ...] = tuple(problem.states)
    since = np.zeros(4, int)
    for t in range(T):
        resets = problem.kwargs["resets"][t]
        out = tuple(np.empty_like(s) for s in now)
        given = {"resets": resets, "reset_state": problem.kwargs["reset_state"]} | (
            {"start": since} if cell.clocked else {}
        )
        made = step(problem.x[t], problem.w, *now, out=out if len(now) > 1 else out[0], **given)
        now = made if len(now) > 1 else (made,)
        since = np.where(resets, 0, since) + 1
        np.testing.assert_array_equal(now[0], want.y[t][:, : now[0].shape[1]])
    for a, b in zip(now, want[1:], strict=False):
        np.testing.assert_array_equal(a, b)


# Layers.

T, B, I, H = 9, 3, 4, 12


def drawn(layer: fusedrnn.Layer, rng: np.random.Generator) -> dict[str, Any]:
    """Arguments of a call with resets, whose states before episodes are each row's own or, the second, for all rows."""
    runs, spec = layer.num_layers * layer.num_directions, layer.spec
    sizes = [s.length(layer.hidden_size, layer.proj_size or layer.hidden_size) for s in spec.states]
    states = [rng.standard_normal((runs, *((B,) if i != 1 else ()), n)).astype("f4") for i, n in enumerate(sizes)]
    states = possible(spec, states)
    return {"resets": rng.random((T, B)) < 0.3, "reset_state": tuple(states) if len(states) > 1 else states[0]}


def as_list(state: Any) -> list[Array]:
    return list(state) if isinstance(state, tuple) else [state]


def run(layer: fusedrnn.Layer, x: Array, dy: Array, **kwargs: Any) -> dict[str, Array]:
    out, tape = layer.forward(x, **kwargs)
    again = layer(x, **kwargs)
    for a, b in zip(out, again, strict=True):
        np.testing.assert_array_equal(a, b)
    return dict(named(out)) | by_name(layer.backward(tape, dy))


@pytest.mark.parametrize("cell", STACKED, ids=str)
@directions
def test_a_layer_has_the_bits_of_functions_wired_by_hand(
    cell: Cell, bidirectional: bool, rng: np.random.Generator
) -> None:
    layer = make_layer(cell, I, H, 2, bidirectional=bidirectional, rng=1)
    x = rng.standard_normal((T, B, I)).astype("f4")
    dy = rng.standard_normal((T, B, layer.output_size)).astype("f4")
    kwargs = drawn(layer, rng) | {"lengths": [9, 0, 5]}
    composed = Composed(cell, layer)
    runs = layer.num_layers * layer.num_directions
    zeros = [np.zeros((runs, B, s.shape[-1]), "f4") for s in as_list(kwargs["reset_state"])]
    empty = [a + np.float32(s.empty) for a, s in zip(zeros, layer.spec.states, strict=True)]
    others = {name: kwargs[name] for name in ("resets", "lengths")}
    want, made = composed.run(x, empty, reset_states=as_list(kwargs["reset_state"]), **others)
    dwant = composed.gradients(made, dy, zeros)
    got = run(layer, x, dy, **kwargs)
    for name, a in (dict(named(want)) | dwant).items():
        assert got[name].shape == a.shape
        np.testing.assert_array_equal(got[name], a, err_msg=name)


@directions
def test_forms_of_a_call(bidirectional: bool, rng: np.random.Generator) -> None:
    """Batch first, one row, packed."""
    layer = fusedrnn.LSTM(I, H, 2, bidirectional=bidirectional, rng=2)
    first = fusedrnn.LSTM(I, H, 2, bidirectional=bidirectional, batch_first=True, rng=2)
    x = rng.standard_normal((T, B, I)).astype("f4")
    dy = rng.standard_normal((T, B, layer.output_size)).astype("f4")
    kwargs = drawn(layer, rng)
    want = run(layer, x, dy, **kwargs)
    turned = kwargs | {"resets": np.ascontiguousarray(kwargs["resets"].T)}
    got = run(first, x.swapaxes(0, 1), dy.swapaxes(0, 1), **turned)
    for name, a in want.items():
        np.testing.assert_array_equal(got[name].swapaxes(0, 1) if name in ("y", "dx") else got[name], a, err_msg=name)

    h, c = kwargs["reset_state"]
    alone = run(layer, x[:, 1], dy[:, 1], resets=kwargs["resets"][:, 1], reset_state=(h[:, 1], c))
    np.testing.assert_array_equal(alone["y"], want["y"][:, 1])
    np.testing.assert_array_equal(alone["dreset_h"], want["dreset_h"][:, 1])

    lengths = [4, 9, 2]
    want = run(layer, x, dy, lengths=lengths, **kwargs)
    packed = fusedrnn.Packed.from_padded(x, lengths)
    order = packed.sorted_indices
    assert order is not None
    resets = fusedrnn.Packed.from_padded(kwargs["resets"][:, :, None], lengths).data[:, 0].astype(bool)
    out, tape = layer.forward(packed, resets=resets, reset_state=(h[:, order], c))
    np.testing.assert_array_equal(out.y.to_padded(), want["y"])
    g = layer.backward(tape, fusedrnn.Packed.from_padded(dy, lengths))
    np.testing.assert_array_equal(g.dx.to_padded(), want["dx"])
    np.testing.assert_array_equal(g.dreset_h, want["dreset_h"][:, order])
    with pytest.raises(ValueError, match=r"resets: expected shape \(sum\(batch_sizes\),\) = \(15,\), got \(9, 3\)"):
        layer(packed, resets=kwargs["resets"])


@pytest.mark.parametrize("cell", STACKED, ids=str)
def test_streams(cell: Cell, rng: np.random.Generator) -> None:
    layer = make_layer(cell, I, H, 2, rng=3)
    x = rng.standard_normal((T, B, I)).astype("f4")
    resets = rng.random((T, B)) < 0.3
    want, stream = layer(x, resets=resets), layer.stream(B)
    for t in range(T):
        np.testing.assert_array_equal(
            stream.step(x[t], resets=resets[t] if t % 2 or resets[t].any() else None), want.y[t]
        )
    for a, b in zip(as_list(stream.state), want[1:], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_tape_keeps_resets_of_its_own(rng: np.random.Generator) -> None:
    layer = fusedrnn.GRU(I, H, rng=4)
    x, kwargs = rng.standard_normal((T, B, I)).astype("f4"), drawn(layer, rng)
    want = layer.backward(layer.forward(x, **kwargs)[1])
    _, tape = layer.forward(x, **kwargs)
    kwargs["resets"][...] = True
    kwargs["reset_state"][...] = np.nan
    assert_same_bits(layer.backward(tape)._replace(parameters=None), want._replace(parameters=None))


# Errors.

x = np.zeros((T, B, I), "f4")
ERRORS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"resets": np.zeros((T, B), int)}, TypeError, "resets: expected dtype bool, got int64"),
    ({"resets": [[False] * B] * T}, TypeError, "resets: expected a numpy.ndarray, got list"),
    (
        {"resets": np.zeros((B, T), bool)},
        ValueError,
        "resets: expected shape (seq_len, batch_size) = (9, 3), got (3, 9)",
    ),
    ({"reset_state": np.zeros((B, H), "f4")}, TypeError, "reset_state: expected a tuple (h, c), got ndarray"),
    (
        {"reset_state": (None, np.zeros((B, H)))},
        TypeError,
        "reset_state (c): expected dtype float32, got float64",
    ),
    (
        {"reset_state": (np.zeros((1, H + 1), "f4"), None)},
        ValueError,
        "reset_state (h): expected shape (batch_size, hidden_size) = (3, 12), got (1, 13)",
    ),
    (
        {"reset_state": (np.zeros(B, "f4"), None)},
        ValueError,
        "reset_state (h): expected shape (hidden_size,) = (12,), got (3,)",
    ),
]


@pytest.mark.parametrize(("kwargs", "error", "text"), ERRORS, ids=[text for _, _, text in ERRORS])
@pytest.mark.parametrize("module", [fusedrnn, fusedrnn.reference], ids=["kernels", "reference"])
def test_what_does_not_fit_is_refused(module: Any, kwargs: Any, error: Any, text: str) -> None:
    w = fusedrnn.LSTMWeights(np.zeros((4 * H, I), "f4"), np.zeros((4 * H, H), "f4"))
    for function in (module.lstm, module.lstm_forward):
        with pytest.raises(error) as e:
            function(x, w, **kwargs)
        assert str(e.value) == text


LAYER_ERRORS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"resets": np.zeros((T, B), "f4")}, TypeError, "resets: expected dtype bool, got float32"),
    (
        {"resets": np.zeros((B, T), bool)},
        ValueError,
        "resets: expected shape (seq_len, batch_size) = (9, 3), got (3, 9)",
    ),
    ({"reset_state": np.zeros((2, B, H), "f4")}, TypeError, "reset_state: expected a tuple (h, c), got ndarray"),
    (
        {"reset_state": (np.zeros((1, H), "f4"), None)},
        ValueError,
        "reset_state (h): expected shape (num_layers*num_directions, hidden_size) = (2, 12), got (1, 12)",
    ),
    (
        {"reset_state": (np.zeros((2, 1, H), "f4"), None)},
        ValueError,
        "reset_state (h): expected shape (num_layers*num_directions, batch_size, hidden_size) = (2, 3, 12), "
        "got (2, 1, 12)",
    ),
]


@pytest.mark.parametrize(("kwargs", "error", "text"), LAYER_ERRORS, ids=[text for _, _, text in LAYER_ERRORS])
def test_what_does_not_fit_a_layer_is_refused(kwargs: Any, error: Any, text: str) -> None:
    layer = fusedrnn.LSTM(I, H, 2)
    for call in (layer, layer.forward):
        with pytest.raises(error) as e:
            call(x, **kwargs)
        assert str(e.value) == text


def test_a_stream_that_refuses_resets_is_as_before(rng: np.random.Generator) -> None:
    layer = fusedrnn.LSTM(I, H)
    stream, first = layer.stream(B), rng.standard_normal((2, B, I)).astype("f4")
    stream.step(first[0])
    twin = stream.clone()
    for resets in (np.zeros(B + 1, bool), np.zeros(B, int), True):
        with pytest.raises((ValueError, TypeError), match="resets: expected"):
            stream.step(first[1], resets=resets)  # type: ignore[arg-type]
    np.testing.assert_array_equal(stream.step(first[1]), twin.step(first[1]))
