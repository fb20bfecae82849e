"""Masks of regularisation: which masks a seed gives, that they can be replayed, and what is refused."""

from __future__ import annotations

import copy
import math
import pickle
import re
from typing import Any

import numpy as np
import pytest

import fusedrnn
from agreement import assert_arrays_close, named, roundings_of
from cases import CELLS, Array, Cell, make_problem, make_weights, options_of, remade
from fusedrnn.masks import KINDS, NAMES, philox

P = 0.3
LSTM, GRU = CELLS[0], CELLS[1]
PROJECTED = next(c for c in CELLS if c.projects)
HEADS = next(c for c in CELLS if c.heads > 1)

cells = pytest.mark.parametrize("cell", CELLS, ids=str)


def weights_of(cell: Cell, p: float, rng: np.random.Generator, input_size: int = 3, hidden_size: int = 20) -> Any:
    return remade(cell, make_weights(cell, input_size, hidden_size, "float64", rng), replaced=options_of(cell, p))


# The mapping from a seed to masks.


def numbers_of(seed: int, kind: int, row: int, t: int, units: int, layer: int = 0, direction: int = 0) -> Array:
    """The 16 bits of each unit, by NumPy's generator, as docs/layers.md has it."""
    place = kind << 32 | layer << 1 | direction
    words = np.random.Philox(key=seed, counter=[0, row, t, place]).random_raw(-(-units // 16) * 4)
    numbers: Array = words.astype("<u8").view("<u2")[:units]
    return numbers


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_blocks_are_those_of_numpy(seed: int, rng: np.random.Generator) -> None:
    for counter in rng.integers(2**64, size=(20, 4), dtype=np.uint64):
        before = counter.copy()
        before[0] -= np.uint64(1)  # NumPy gives the block after its counter
        got = [int(w[0]) for w in philox(seed, tuple(counter))]
        assert got == [int(w) for w in np.random.Philox(key=seed, counter=before).random_raw(4)]


def test_kinds_have_numbers_of_their_own() -> None:
    assert {name: kind.number for name, kind in KINDS.items()} == {name: 3 + i for i, name in enumerate(NAMES)}


@pytest.mark.parametrize("cell", [LSTM, GRU, PROJECTED, HEADS], ids=str)
@pytest.mark.parametrize("place", [(0, 0), (2, 1)], ids=str)
def test_masks_are_numbers_below_the_probability(cell: Cell, place: tuple[int, int], rng: np.random.Generator) -> None:
    w, seed = weights_of(cell, P, rng), int(rng.integers(2**63))
    masks = w.masks(4, 5, seed, layer=place[0], direction=place[1])
    assert list(masks) == list(options_of(cell, P))
    h, H = w.proj_size, w.hidden_size
    shapes: dict[str, tuple[int, ...]] = {
        "zoneout_h": (4, 5, h),
        "zoneout_c": (4, 5, H),
        "candidate_dropout": (4, 5, H),
    }
    shapes |= {"input_dropout": (5, 3), "recurrent_dropout": (5, h), "weight_dropout": w.weight_hh.shape}
    for name, mask in masks.items():
        assert mask.dtype == bool
        assert mask.shape == shapes[name]
        every = mask if mask.ndim == 3 else mask[None]
        for t, row in np.ndindex(every.shape[:2]):
            numbers = numbers_of(seed, KINDS[name].number, row, t, mask.shape[-1], *place)
            np.testing.assert_array_equal(every[t, row], numbers < round(P * 2**16), err_msg=name)


def test_a_mask_knows_nothing_of_other_rows_and_steps(rng: np.random.Generator) -> None:
    w = weights_of(LSTM, P, rng)
    small, large = w.masks(3, 2, 7), w.masks(9, 8, 7)
    for name, mask in small.items():
        part = large[name][tuple(slice(n) for n in mask.shape)]
        np.testing.assert_array_equal(part, mask, err_msg=name)


@pytest.mark.parametrize("p", [2.0**-16, 0.001, 0.1, 0.5, 0.9, 1 - 2.0**-16])
def test_rates(p: float, rng: np.random.Generator) -> None:
    """Of n numbers, as many as expected are True but for at most sqrt(n*ln(2/1e-9)/2), which chance exceeds once in
    1e9 (Hoeffding 1963); the seeds are fixed."""
    w = weights_of(LSTM, p, rng, input_size=64, hidden_size=64)
    for name, mask in w.masks(40, 50, 11).items():
        n, expected = mask.size, round(p * 2**16) / 2**16 * mask.size
        assert abs(int(mask.sum()) - expected) <= math.sqrt(n * math.log(2 / 1e-9) / 2), name


def test_masks_are_independent(rng: np.random.Generator) -> None:
    """Of kinds, seeds, layers, directions, steps, rows and units: pairs differ with the probability 2*p*(1-p), within
    the same bound."""
    w = weights_of(LSTM, P, rng, input_size=64, hidden_size=64)

    def h(seed: int = 1, **place: int) -> Any:
        return w.masks(40, 50, seed, **place)["zoneout_h"]

    one = h()
    others = [w.masks(40, 50, 1)["zoneout_c"], w.masks(40, 50, 1)["candidate_dropout"], h(2), h(2**63)]
    others += [h(layer=1), h(direction=1), np.roll(one, 1, 0), np.roll(one, 1, 1), np.roll(one, 1, 2)]
    for i, other in enumerate(others):
        n = one.size
        assert abs(int((one ^ other).sum()) - 2 * P * (1 - P) * n) <= math.sqrt(n * math.log(2 / 1e-9) / 2), i


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)], ids=str)
def test_masks_of_no_steps_or_rows(shape: tuple[int, int], rng: np.random.Generator) -> None:
    masks = weights_of(LSTM, P, rng).masks(*shape, 1)
    assert masks["zoneout_h"].shape == (*shape, 20)
    assert masks["input_dropout"].shape == (shape[1], 3)


# Replay.


@cells
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_a_seed_is_its_masks(cell: Cell, reverse: bool, rng: np.random.Generator) -> None:
    """The same bits, forward and backward; the reserve tells both."""
    problem = make_problem(cell, (5, 3, 3, 7), "float64", rng, reverse=reverse)
    problem.kwargs["lengths"] = [5, 0, 3]
    problem.w = remade(cell, problem.w, replaced=options_of(cell, P))
    _, forward, backward, _ = cell.functions(fusedrnn.reference)
    kwargs = problem.kwargs

    def run(**source: Any) -> tuple[Any, Any, Any]:
        out, reserve = forward(problem.x, problem.w, *problem.states, **kwargs, **source)
        return out, backward(reserve, problem.dy, *problem.dstates), reserve

    seed = 2**64 - 3
    *results, reserve = run(seed=seed)
    *replayed, other = run(masks=reserve.masks)
    *others, _ = run(seed=seed - 1)
    assert (reserve.seed, other.seed) == (seed, None)
    masks = problem.w.masks(5, 3, seed)
    for found in (reserve.masks, other.masks):
        assert found.keys() == masks.keys()
        assert all((found[name] == masks[name]).all() and not found[name].flags.writeable for name in masks)
    for a, b in zip(results, replayed, strict=True):
        for (name, p), (_, q) in zip(named(a), named(b), strict=True):
            np.testing.assert_array_equal(p, q, err_msg=name)
    assert any((p != q).any() for (_, p), (_, q) in zip(named(results[0]), named(others[0]), strict=True))


def test_a_row_depends_on_its_own_masks(rng: np.random.Generator) -> None:
    """Not on padding, nor on other rows: those of a longer and larger batch give the same, in both directions."""
    w = weights_of(LSTM, P, rng)
    x = rng.standard_normal((6, 4, 3))
    n = roundings_of([w.weight_ih.shape, w.weight_hh.shape], 1, 1, 3, 2, False)
    for reverse in (False, True):
        few, _ = fusedrnn.reference.lstm_forward(x[:3, :2], w, lengths=[3, 2], reverse=reverse, seed=1)
        more, _ = fusedrnn.reference.lstm_forward(x, w, lengths=[3, 2, 6, 1], reverse=reverse, seed=1)
        got = {"h_n": more.h_n[:2], "y": more.y[:3, :2]}
        assert_arrays_close(got, {"h_n": few.h_n, "y": few.y}, "float64", n)


def test_parts_of_a_sequence_under_parts_of_its_masks(rng: np.random.Generator) -> None:
    w = weights_of(LSTM, P, rng)
    x, masks = rng.standard_normal((6, 4, 3)), w.masks(6, 4, 1)
    whole, _ = fusedrnn.reference.lstm_forward(x, w, masks=masks)
    states: Any = (None, None)
    for first in (0, 4):
        part = slice(first, first + 4)
        some = {name: m[part] if m.ndim == 3 else m for name, m in masks.items()}
        out, _ = fusedrnn.reference.lstm_forward(x[part], w, *states, masks=some)
        states = out.h_n, out.c_n
        np.testing.assert_array_equal(out.y, whole.y[part])


def test_a_caller_s_masks_are_copied(rng: np.random.Generator) -> None:
    w, x = weights_of(LSTM, P, rng), rng.standard_normal((3, 2, 3))
    given = {name: m.copy() for name, m in w.masks(3, 2, 1).items()}
    _, reserve = fusedrnn.reference.lstm_forward(x, w, masks=given)
    before = fusedrnn.reference.lstm_backward(reserve, np.ones((3, 2, 20)))
    for m in given.values():
        m[...] = ~m
    for (name, a), (_, b) in zip(
        named(before), named(fusedrnn.reference.lstm_backward(reserve, np.ones((3, 2, 20)))), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=name)
    reserve.masks.clear()
    assert set(reserve.masks) == set(given)


def test_nothing_to_drop_needs_no_seed(rng: np.random.Generator) -> None:
    w, x = make_weights(LSTM, 3, 5, "float64", rng), rng.standard_normal((3, 2, 3))
    for module in (fusedrnn, fusedrnn.reference):
        sources: list[dict[str, Any]] = [{}, {"seed": 5}, {"masks": {}}]
        for source in sources:
            _, reserve = module.lstm_forward(x, w, **source)
            assert (reserve.seed, reserve.masks) == (None, {})


# Options of weights.


@cells
def test_weights_tell_their_options(cell: Cell, rng: np.random.Generator) -> None:
    w = weights_of(cell, P, rng)
    for other in (w, copy.copy(w), copy.deepcopy(w), pickle.loads(pickle.dumps(w))):
        assert other.regularisation == options_of(cell, P)
        assert {name: getattr(other, name) for name in NAMES} == dict.fromkeys(NAMES, 0.0) | options_of(cell, P)
    assert f"input_dropout={P}" in repr(w)
    assert "zoneout" not in repr(make_weights(cell, 3, 5, "float64", rng))
    with pytest.raises(AttributeError, match="zoneout_h: weights are a snapshot"):
        w.zoneout_h = 0.5


MATRIX = "recurrent matrix"


@pytest.mark.parametrize(
    ("cell", "options", "error", "text"),
    [
        ("lstm", {"zoneout_h": 1.5}, ValueError, "zoneout_h: expected a number in 0..1, got 1.5"),
        ("lstm", {"zoneout_h": -0.1}, ValueError, "zoneout_h: expected a number in 0..1, got -0.1"),
        ("lstm", {"weight_dropout": math.nan}, ValueError, "weight_dropout: expected a number in 0..1, got nan"),
        ("lstm", {"input_dropout": "0.1"}, TypeError, "input_dropout: expected a number, got str"),
        ("lstm", {"input_dropout": True}, TypeError, "input_dropout: expected a number, got bool"),
        ("lstm", {"zoneout": 0.1}, TypeError, "LSTMWeights: unexpected argument 'zoneout'"),
        ("gru_reset_after", {"zoneout_c": 0.1}, ValueError,
         "zoneout_c: expected 0, as 'gru_reset_after' has no state c, got 0.1"),
        ("rnn_tanh", {"candidate_dropout": 0.1}, ValueError,
         "candidate_dropout: expected 0, as 'rnn_tanh' has no candidate, got 0.1"),
        ("indrnn_relu", {"recurrent_dropout": 0.1}, ValueError,
         f"recurrent_dropout: expected 0, as 'indrnn_relu' has no {MATRIX}, got 0.1"),
        ("indrnn_relu", {"weight_dropout": 1}, ValueError,
         f"weight_dropout: expected 0, as 'indrnn_relu' has no {MATRIX}, got 1"),
        ("clockwork_rnn_tanh", {"zoneout_c": 0.1}, ValueError,
         "zoneout_c: expected 0, as 'clockwork_rnn_tanh' has no state c, got 0.1"),
        ("slstm", {"zoneout_c": 0.1}, ValueError,
         "zoneout_c: expected 0, as 'slstm' has no state c that can stay while others change, got 0.1"),
    ],
)  # fmt: skip
def test_bad_options(
    cell: str, options: dict[str, Any], error: type[Exception], text: str, rng: np.random.Generator
) -> None:
    (found,) = [c for c in CELLS if c.name == cell]
    w = make_weights(found, 3, 5, "float64", rng)
    with pytest.raises(error, match=re.escape(text) + "$"):
        remade(found, w, replaced=options)


def changed(**masks: Any) -> dict[str, Any]:
    """All masks of weights of sizes T 4, B 3, I 3, H 20, but for these."""
    sizes: dict[str, tuple[int, ...]] = dict.fromkeys(("zoneout_h", "zoneout_c", "candidate_dropout"), (4, 3, 20))
    sizes |= {"input_dropout": (3, 3), "recurrent_dropout": (3, 20), "weight_dropout": (80, 20)}
    every = {name: np.zeros(s, bool) for name, s in sizes.items()} | masks
    return {"masks": {name: m for name, m in every.items() if m is not None}}


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        ({}, ValueError, "seed: expected an int, or masks, as there is zoneout_h=0.3, got None"),
        ({"seed": -1}, ValueError, "seed: expected an integer in 0..2**64-1, got -1"),
        ({"seed": 2**64}, ValueError, f"seed: expected an integer in 0..2**64-1, got {2**64}"),
        ({"seed": 0.5}, TypeError, "seed: expected int, got float"),
        ({"seed": True}, TypeError, "seed: expected int, got bool"),
        ({"seed": 1, **changed()}, ValueError, "masks: expected None beside a seed, got dict"),
        ({"masks": [1]}, TypeError, "masks: expected a dict, got list"),
        ({"masks": {}}, ValueError, "masks: expected one of 'zoneout_h', as there is zoneout_h=0.3, got none"),
        (changed(input_dropout=None), ValueError,
         "masks: expected one of 'input_dropout', as there is input_dropout=0.3, got none"),
        (changed(zoneout=np.zeros(3, bool)), ValueError,
         "masks: expected those of zoneout_h, zoneout_c, input_dropout, recurrent_dropout, candidate_dropout, "
         "weight_dropout, got one of 'zoneout'"),
        (changed(zoneout_h=[True]), TypeError, "zoneout_h: expected a numpy.ndarray, got list"),
        (changed(zoneout_h=np.zeros((4, 3, 20))), TypeError, "zoneout_h: expected dtype bool, got float64"),
        (changed(zoneout_h=np.zeros((4, 3, 20), "u1")), TypeError, "zoneout_h: expected dtype bool, got uint8"),
        (changed(zoneout_h=np.zeros((3, 3, 20), bool)), ValueError,
         "zoneout_h: expected shape (seq_len, batch_size, hidden_size) = (4, 3, 20), got (3, 3, 20)"),
        (changed(recurrent_dropout=np.zeros((20,), bool)), ValueError,
         "recurrent_dropout: expected shape (batch_size, hidden_size) = (3, 20), got (20,)"),
        (changed(input_dropout=np.zeros((3, 20), bool)), ValueError,
         "input_dropout: expected shape (batch_size, input_size) = (3, 3), got (3, 20)"),
        (changed(weight_dropout=np.zeros((20, 80), bool)), ValueError,
         "weight_dropout: expected shape (4*hidden_size, hidden_size) = (80, 20), got (20, 80)"),
    ],
)  # fmt: skip
def test_bad_sources(source: dict[str, Any], error: type[Exception], text: str, rng: np.random.Generator) -> None:
    w, x = weights_of(LSTM, P, rng), rng.standard_normal((4, 3, 3))
    with pytest.raises(error, match=re.escape(text) + "$"):
        fusedrnn.reference.lstm_forward(x, w, **source)


def test_masks_beside_no_options(rng: np.random.Generator) -> None:
    w, x = make_weights(LSTM, 3, 20, "float64", rng), rng.standard_normal((4, 3, 3))
    text = "masks: expected none, as nothing is dropped, got one of 'zoneout_h'"
    for module in (fusedrnn, fusedrnn.reference):
        with pytest.raises(ValueError, match=text):
            module.lstm_forward(x, w, masks={"zoneout_h": np.zeros((4, 3, 20), bool)})


def test_masks_of_a_projection(rng: np.random.Generator) -> None:
    w, x = weights_of(PROJECTED, P, rng), rng.standard_normal((4, 3, 3))
    masks = w.masks(4, 3, 1) | {"zoneout_h": np.zeros((4, 3, 20), bool)}
    text = "zoneout_h: expected shape (seq_len, batch_size, proj_size) = (4, 3, 13), got (4, 3, 20)"
    with pytest.raises(ValueError, match=re.escape(text)):
        fusedrnn.reference.lstm_forward(x, w, masks=masks)


def test_masks_of_heads(rng: np.random.Generator) -> None:
    w, x = weights_of(HEADS, P, rng, hidden_size=21), rng.standard_normal((4, 3, 3))
    masks = w.masks(4, 3, 1) | {"weight_dropout": np.zeros((84, 21), bool)}
    text = "weight_dropout: expected shape (4*hidden_size, hidden_size/num_heads) = (84, 7), got (84, 21)"
    with pytest.raises(ValueError, match=re.escape(text)):
        fusedrnn.reference.lstm_forward(x, w, masks=masks)


def test_a_probability_of_one_takes_no_other_mask(rng: np.random.Generator) -> None:
    w, x = weights_of(LSTM, 1.0, rng), rng.standard_normal((4, 3, 3))
    text = "zoneout_h: expected True everywhere, as its probability is 1, got False"
    with pytest.raises(ValueError, match=text):
        fusedrnn.reference.lstm_forward(x, w, **changed())


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((-1, 1, 1), ValueError, "seq_len: expected an integer in 0..2147483647, got -1"),
        ((1, 1.0, 1), TypeError, "batch_size: expected int, got float"),
        ((1, 1, None), TypeError, "seed: expected int, got NoneType"),
        ((1, 1, -1), ValueError, "seed: expected an integer in 0..2**64-1, got -1"),
    ],
)
def test_bad_sizes_of_masks(
    arguments: tuple[Any, ...], error: type[Exception], text: str, rng: np.random.Generator
) -> None:
    with pytest.raises(error, match=re.escape(text)):
        weights_of(LSTM, P, rng).masks(*arguments)
