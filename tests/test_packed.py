"""Packed sequences: what packing gives, and layers on them."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import fusedrnn
from cases import DISTINCT, Array, Cell, possible
from stacks import STACKED, make_layer

T, B, I, H = 9, 5, 4, 12
LENGTHS = [3, 9, 1, 9, 4]
ORDER = [1, 3, 4, 0, 2]
directions = pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])


def padded(rng: np.random.Generator, units: int = I) -> Array:
    x = rng.standard_normal((T, B, units)).astype("float32")
    x[np.arange(T)[:, None] >= np.array(LENGTHS)] = 0
    return x


def test_packing_and_back(rng: np.random.Generator) -> None:
    x = padded(rng)
    packed = fusedrnn.Packed.from_padded(x, LENGTHS)
    assert packed.sorted_indices is not None
    np.testing.assert_array_equal(packed.sorted_indices, ORDER)
    np.testing.assert_array_equal(packed.lengths, sorted(LENGTHS, reverse=True))
    np.testing.assert_array_equal(packed.batch_sizes, [sum(n > t for n in LENGTHS) for t in range(T)])
    assert (packed.seq_len, packed.batch_size) == (T, B)
    np.testing.assert_array_equal(packed.to_padded(), x)
    np.testing.assert_array_equal(packed.to_padded(batch_first=True), x.swapaxes(0, 1))
    first = fusedrnn.Packed.from_padded(x.swapaxes(0, 1), LENGTHS, batch_first=True)
    np.testing.assert_array_equal(first.data, packed.data)
    again = pickle.loads(pickle.dumps(packed))
    np.testing.assert_array_equal(again.to_padded(), x)
    assert repr(packed) == f"<fusedrnn.Packed, seq_len=9, batch_size=5, data {(sum(LENGTHS), I)} float32>"
    given = fusedrnn.Packed(packed.data, [*map(int, packed.batch_sizes)])
    np.testing.assert_array_equal(given.to_padded(), x[:, ORDER])
    assert not packed.batch_sizes.flags.writeable


def test_steps_that_no_row_has_are_left_out(rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 2, 3))
    packed = fusedrnn.Packed.from_padded(x, [2, 4])
    assert packed.seq_len == 4
    assert packed.to_padded().shape == (4, 2, 3)


def test_packed_as_pytorch_packs(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    from torch.nn.utils.rnn import pack_padded_sequence

    x = padded(rng)
    theirs = pack_padded_sequence(torch.from_numpy(x), torch.tensor(LENGTHS), enforce_sorted=False)
    ours = fusedrnn.Packed(*(part.numpy() for part in theirs[:3] if part is not None))
    np.testing.assert_array_equal(ours.to_padded(), x)
    layer, lstm = fusedrnn.LSTM(I, H, 2, bidirectional=True, rng=0), torch.nn.LSTM(I, H, 2, bidirectional=True)
    layer.load_state_dict(lstm.state_dict())
    want = lstm(theirs)[0].data.detach().numpy()
    np.testing.assert_allclose(layer(ours).y.data, want, rtol=0, atol=1e-6)


def as_packed(packed: fusedrnn.Packed, a: Array) -> fusedrnn.Packed:
    """The same rows of another padded sequence."""
    return fusedrnn.Packed.from_padded(a, LENGTHS)


@pytest.mark.parametrize("cell", STACKED, ids=str)
@directions
def test_layers_have_the_bits_of_padded_calls(cell: Cell, bidirectional: bool, rng: np.random.Generator) -> None:
    layer = make_layer(cell, I, H, 2, bidirectional=bidirectional, rng=3, dropout=0.5)
    x, dy = padded(rng), padded(rng, layer.output_size)
    runs = layer.num_layers * layer.num_directions
    sizes = [s.length(layer.hidden_size, layer.proj_size or layer.hidden_size) for s in layer.spec.states]
    states = possible(layer.spec, [rng.standard_normal((runs, B, n)).astype("float32") for n in sizes])
    dstates = [rng.standard_normal((runs, B, n)).astype("float32") for n in sizes]
    start: dict[str, Any] = {"start": np.arange(B)} if layer.spec.numbered else {}

    def one_or_all(arrays: list[Array]) -> Any:
        return tuple(arrays) if len(arrays) > 1 else arrays[0]

    # Of a call with the rows in their order here, as masks of dropout follow the rows.
    rows = ORDER
    lengths = np.array(LENGTHS)[rows]
    start_sorted = {k: v[rows] for k, v in start.items()}
    want, tape = layer.forward(
        x[:, rows], one_or_all([s[:, rows] for s in states]), lengths=lengths, seed=5, **start_sorted
    )
    dwant = layer.backward(tape, dy[:, rows], one_or_all([s[:, rows] for s in dstates]))

    packed = fusedrnn.Packed.from_padded(x, LENGTHS)
    out, tape = layer.forward(packed, one_or_all([s[:, rows] for s in states]), seed=5, **start_sorted)
    g = layer.backward(tape, as_packed(packed, dy), one_or_all([s[:, rows] for s in dstates]))
    np.testing.assert_array_equal(out.y.to_padded()[:, rows], want.y)
    np.testing.assert_array_equal(g.dx.to_padded()[:, rows], dwant.dx)
    for a, b in zip((*out[1:], *g[1:-1]), (*want[1:], *dwant[1:-1]), strict=True):
        np.testing.assert_array_equal(a, b)
    for name, a in g.parameters.items():
        assert a.tobytes() == dwant.parameters[name].tobytes(), name
    plain = layer(packed, one_or_all([s[:, rows] for s in states]), **start_sorted)
    padded_plain = layer(x[:, rows], one_or_all([s[:, rows] for s in states]), lengths=lengths, **start_sorted)
    np.testing.assert_array_equal(plain.y.to_padded()[:, rows], padded_plain.y)


@pytest.mark.parametrize("cell", [c for c in STACKED if c in DISTINCT], ids=str)
def test_long_packed_sequences(cell: Cell, rng: np.random.Generator) -> None:
    """Several chunks of backward, where rows have ended."""
    layer = make_layer(cell, I, H, 2, rng=3)
    lengths = np.sort(rng.integers(1, 200, 7))[::-1]
    x = rng.standard_normal((int(lengths[0]), 7, I)).astype("float32")
    packed = fusedrnn.Packed.from_padded(x, lengths)
    out, tape = layer.forward(packed)
    want, want_tape = layer.forward(x, lengths=lengths)
    np.testing.assert_array_equal(out.y.to_padded(), want.y)
    g, dwant = layer.backward(tape, out.y), layer.backward(want_tape, want.y)
    for name, a in g.parameters.items():
        assert a.tobytes() == dwant.parameters[name].tobytes(), name


any_list: Any = [1, 2]
BAD: dict[str, Any] = {
    "data": (lambda p: fusedrnn.Packed(any_list, [2]), TypeError, "data: expected a numpy.ndarray, got list"),
    "rows": (lambda p: fusedrnn.Packed(p.data, [5]), ValueError, "data: expected sum(batch_sizes) = 5 rows"),
    "no steps": (lambda p: fusedrnn.Packed(p.data[:0], []), ValueError, "batch_sizes: expected at least one step"),
    "rising": (lambda p: fusedrnn.Packed(p.data[:3], [1, 2]), ValueError, "batch_sizes: expected positive integers"),
    "zero": (lambda p: fusedrnn.Packed(p.data[:3], [3, 0]), ValueError, "got 0 at index 1"),
    "floats": (lambda p: fusedrnn.Packed(p.data[:3], [3.0]), TypeError, "batch_sizes: expected integers"),
    "order": (lambda p: fusedrnn.Packed(p.data[:2], [2], [1, 1]), ValueError, "sorted_indices: expected each of"),
    "order past the batch": (lambda p: fusedrnn.Packed(p.data[:2], [2], [0, 2]), ValueError, "sorted_indices: "),
    "order of another batch": (lambda p: fusedrnn.Packed(p.data[:2], [2], [0]), ValueError, "sorted_indices: "),
    "order of floats": (lambda p: fusedrnn.Packed(p.data[:2], [2], [0.0, 1.0]), TypeError, "sorted_indices: "),
    "lengths": (lambda p: fusedrnn.Packed.from_padded(p.to_padded(), [0, 1, 1, 1, 1]), ValueError, "got 0 at index 0"),
    "long": (lambda p: fusedrnn.Packed.from_padded(p.to_padded(), [10, 1, 1, 1, 1]), ValueError, "lengths"),
    "flat": (lambda p: fusedrnn.Packed.from_padded(p.data[:, 0], [1]), ValueError, "x: expected 2 dimensions or more"),
    "no array": (
        lambda p: fusedrnn.Packed.from_padded(any_list, [1]),
        TypeError,
        "x: expected a numpy.ndarray, got list",
    ),
    "no rows": (lambda p: fusedrnn.Packed.from_padded(np.zeros((3, 0, 2)), []), ValueError, "a batch without rows"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_packed(name: str, rng: np.random.Generator) -> None:
    make, error, text = BAD[name]
    with pytest.raises(error) as raised:
        make(fusedrnn.Packed.from_padded(padded(rng), LENGTHS))
    assert text in str(raised.value)


def test_bad_calls_of_layers(rng: np.random.Generator) -> None:
    layer = fusedrnn.LSTM(I, H, rng=0)
    packed = fusedrnn.Packed.from_padded(padded(rng), LENGTHS)
    with pytest.raises(ValueError, match="lengths: expected None beside a Packed x, which has its own, got list"):
        layer(packed, lengths=LENGTHS)
    wide = packed.with_data(np.zeros((len(packed.data), I + 1), "float32"))
    with pytest.raises(
        ValueError, match=r"x: expected shape \(sum\(batch_sizes\), input_size\) = \(26, 4\), got \(26, 5\)"
    ):
        layer(wide)
    with pytest.raises(TypeError, match="x: expected dtype float32, got float64"):
        layer(packed.with_data(packed.data.astype("float64")))
    with pytest.raises(ValueError, match="h0: expected shape"):
        layer(packed, (np.zeros((1, B + 1, H), "float32"), None))
    out, tape = layer.forward(packed)
    with pytest.raises(TypeError, match=r"dy: expected a fusedrnn.Packed, as x is, got ndarray"):
        layer.backward(tape, out.y.data)
    with pytest.raises(ValueError, match="dy: expected the batch_sizes of x, got others"):
        layer.backward(tape, fusedrnn.Packed(np.zeros((3, H), "float32"), [2, 1]))
    with pytest.raises(ValueError, match=r"dy: expected shape \(sum\(batch_sizes\), num_directions\*hidden_size\)"):
        layer.backward(tape, packed)
    assert packed.sorted_indices is not None
    other = fusedrnn.Packed(out.y.data, packed.batch_sizes, packed.sorted_indices[::-1])
    with pytest.raises(ValueError, match="dy: expected the sorted_indices of x, got others"):
        layer.backward(tape, other)
    layer.backward(tape, out.y)
    with pytest.raises(TypeError, match="x: expected a numpy.ndarray or a fusedrnn.Packed, got list"):
        layer([1])  # type: ignore[arg-type]
