"""fusedrnn.convert from haste, oneDNN, DyNet, TensorFlow 1 and separate matrices: against the equations of their
documentation, written in NumPy in their own layouts; no one of them can be installed here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import fusedrnn
from cases import Array
from conversions import assert_same_function, normal, run_layer
from fusedrnn import convert

cases = pytest.mark.parametrize("case", range(8))


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def sizes(rng: np.random.Generator) -> list[int]:
    """Of inputs and units."""
    return [int(n) for n in rng.integers(1, 8, 2)]


def f64(rng: np.random.Generator, *shape: int) -> Array:
    return normal(rng, *shape, dtype="float64")


def assert_computes(layer: Any, x: Array, y: Sequence[Any]) -> None:
    want = np.stack(list(y))
    assert_same_function({"y": run_layer(layer, x)["y"]}, {"y": want}, layer, x)


@cases
def test_haste_with_four_gates(case: int, rng: np.random.Generator) -> None:
    """haste's LSTM, lib/lstm_forward_gpu.cu.cc: v = x kernel + h recurrent_kernel + bias, split into i, g, f, o."""
    C, H = sizes(rng)
    kernel, recurrent, bias = f64(rng, C, 4 * H), f64(rng, H, 4 * H), f64(rng, 4 * H)
    layer = convert.from_haste({"kernel": kernel, "recurrent_kernel": recurrent, "bias": bias})
    x = rng.standard_normal((4, 3, C))
    h, c, y = np.zeros((3, H)), np.zeros((3, H)), []
    for x_t in x:
        i, g, f, o = np.split(x_t @ kernel + h @ recurrent + bias, 4, 1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        y.append(h)
    assert_computes(layer, x, y)


@cases
def test_haste_with_three_gates(case: int, rng: np.random.Generator) -> None:
    """haste's GRU, lib/gru_forward_gpu.cu.cc: z, r, g with two biases; r acts after the product."""
    C, H = sizes(rng)
    kernel, recurrent, bx, br = f64(rng, C, 3 * H), f64(rng, H, 3 * H), f64(rng, 3 * H), f64(rng, 3 * H)
    source = {"kernel": kernel, "recurrent_kernel": recurrent, "bias": bx, "recurrent_bias": br}
    layer = convert.from_haste(source, batch_first=True)
    assert layer.batch_first
    x = rng.standard_normal((4, 3, C))
    h, y = np.zeros((4, H)), []
    for x_t in x.swapaxes(0, 1):
        (xz, xr, xg), (hz, hr, hg) = np.split(x_t @ kernel + bx, 3, 1), np.split(h @ recurrent + br, 3, 1)
        z, r = sigmoid(xz + hz), sigmoid(xr + hr)
        h = z * h + (1 - z) * np.tanh(xg + r * hg)
        y.append(h)
    assert_same_function({"y": layer(x).y}, {"y": np.stack(y, 1)}, layer, x)


def onednn_step(kind: str, x: Any, h: Any, c: Any, w: Any, r: Any, b: Any, further: dict[str, Any]) -> tuple[Any, Any]:
    """One step of a primitive; w and r are ldigo of one layer and direction, (., G, H), b is (G, H)."""
    gates = [x @ w[:, g] + h @ r[:, g] + b[g] for g in range(w.shape[1])]
    if kind == "rnn":
        return np.tanh(gates[0]), c
    if kind == "lstm":
        i, f, g, o = gates
        p_i, p_f, p_o = further.get("peephole", np.zeros((3, w.shape[2])))
        c = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * np.tanh(g)
        h = sigmoid(o + p_o * c) * np.tanh(c)
        return h @ further["projection"] if "projection" in further else h, c
    u, reset = sigmoid(gates[0]), sigmoid(gates[1])
    if kind == "lbr_gru":
        o = np.tanh(x @ w[:, 2] + reset * (h @ r[:, 2] + b[3]) + b[2])
    else:
        o = np.tanh(x @ w[:, 2] + (reset * h) @ r[:, 2] + b[2])
    return u * h + (1 - u) * o, c


@cases
@pytest.mark.parametrize("kind", ["lstm", "lstm_peephole", "lstm_projection", "gru", "lbr_gru", "rnn"])
def test_onednn(kind: str, case: int, rng: np.random.Generator) -> None:
    """As its documentation of the RNN primitive has it: u, r, o; h = u * h_prev + (1 - u) * o."""
    _, H = sizes(rng)
    D, L, G = int(rng.integers(1, 3)), int(rng.integers(1, 3)), {"l": 4, "g": 3, "r": 1}[kind[0]]
    G, rows = (3, 4) if kind == "lbr_gru" else (G, G)
    P = int(rng.integers(1, H)) if kind == "lstm_projection" and H > 1 else H
    I = D * P  # of all layers of a primitive
    w, r, b = f64(rng, L, D, I, G, H), f64(rng, L, D, P, G, H), f64(rng, L, D, rows, H)
    further: dict[str, Any] = {}
    if kind == "lstm_peephole":
        further["weights_peephole"] = f64(rng, L, D, 3, H)
    if P < H:
        further["weights_projection"] = f64(rng, L, D, H, P)
    layer = convert.from_onednn(w, r, b if case else None, linear_before_reset=kind == "lbr_gru", **further)
    b = b if case else np.zeros_like(b)
    x = rng.standard_normal((4, 3, I))
    steps = x
    for at in range(L):
        both = []
        for d in range(D):
            h, c, y = np.zeros((3, P)), np.zeros((3, H)), []
            own = {name.removeprefix("weights_"): a[at, d] for name, a in further.items()}
            for x_t in steps[:: 1 - 2 * d]:
                h, c = onednn_step(kind.split("_p")[0], x_t, h, c, w[at, d], r[at, d], b[at, d], own)
                y.append(h)
            both.append(np.stack(y)[:: 1 - 2 * d])
        steps = np.concatenate(both, -1)
    assert_computes(layer, x, list(steps))


def test_which_form_of_three_gates_onednn_has() -> None:
    w = np.zeros((1, 1, 2, 3, 2))
    assert not convert.from_onednn(w, w).options["reset_after"]
    assert convert.from_onednn(w, w, np.zeros((1, 1, 4, 2))).options["reset_after"]
    assert not convert.from_onednn(w, w, np.zeros((1, 1, 3, 2))).options["reset_after"]
    w = np.zeros((1, 1, 2, 1, 2))
    assert convert.from_onednn(w, w, nonlinearity="relu").options["nonlinearity"] == "relu"


def dynet_run(builder: Any, x: Any) -> list[Any]:
    """VanillaLSTMBuilder, lstm.h: i, f, o, g are blocks of Wx x + Wh h + b, with 1 added to f."""
    for Wx, Wh, b in builder:
        H = Wh.shape[1]
        h, c, y = np.zeros((x.shape[1], H)), np.zeros((x.shape[1], H)), []
        for x_t in x:
            i, f, o, g = np.split(x_t @ Wx.T + h @ Wh.T + b, 4, 1)
            c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            y.append(h)
        x = np.stack(y)
    return list(x)


@cases
def test_dynet(case: int, rng: np.random.Generator) -> None:
    I, H = sizes(rng)
    depth = int(rng.integers(1, 4))
    builder = [(f64(rng, 4 * H, H if at else I), f64(rng, 4 * H, H), f64(rng, 4 * H)) for at in range(depth)]
    layer = convert.from_dynet(builder)
    x = rng.standard_normal((4, 3, I))
    assert_computes(layer, x, dynet_run(builder, x))
    back = [(f64(rng, 4 * H, I), f64(rng, 4 * H, H), f64(rng, 4 * H))]
    both = convert.from_dynet(builder[:1], back)
    y = [dynet_run(builder[:1], x), dynet_run(back, x[::-1])[::-1]]
    assert_computes(both, x, [np.concatenate(pair, -1) for pair in zip(*y, strict=True)])


@cases
@pytest.mark.parametrize("form", ["basic", "peepholes", "projection"])
def test_tensorflow_1(form: str, case: int, rng: np.random.Generator) -> None:
    """LSTMCell, rnn_cell_impl.py: [x, h] kernel + bias, split into i, j, f, o; forget_bias is added to f."""
    I, H = sizes(rng)
    H += 1
    P = int(rng.integers(1, H)) if form == "projection" else H
    kernel, bias, forget = f64(rng, I + P, 4 * H), f64(rng, 4 * H), float(rng.choice([0, 0.5, 1]))
    named = {f"w_{g}_diag": f64(rng, H) for g in "ifo"} if form == "peepholes" else {}
    projection = f64(rng, H, P) if form == "projection" else None
    layer = convert.from_tf1(kernel, bias, forget_bias=forget, projection=projection, **named)
    p_i, p_f, p_o = named.values() if named else np.zeros((3, H))
    x = rng.standard_normal((4, 3, I))
    h, c, y = np.zeros((3, P)), np.zeros((3, H)), []
    for x_t in x:
        i, j, f, o = np.split(np.concatenate([x_t, h], 1) @ kernel + bias, 4, 1)
        c = sigmoid(f + forget + p_f * c) * c + sigmoid(i + p_i * c) * np.tanh(j)
        h = sigmoid(o + p_o * c) * np.tanh(c)
        h = h if projection is None else h @ projection
        y.append(h)
    assert_computes(layer, x, y)


@cases
@pytest.mark.parametrize("gates", ["ifgo", "rzn", "h"])
def test_separate_matrices(gates: str, case: int, rng: np.random.Generator) -> None:
    """The same layer as of stacked ones."""
    I, H = sizes(rng)
    w = {g: f64(rng, I, H) for g in gates}
    u = {g: f64(rng, H, H) for g in gates}
    b = {g: f64(rng, H) for g in gates if rng.integers(2)}
    options: dict[str, Any] = {"reset_after": False, "z_weighs": "n"} if gates == "rzn" else {}
    order = rng.permutation(list(gates))
    layer = convert.from_gates({g: w[g] for g in order}, u, b, transposed=True, batch_first=True, **options)
    assert layer.batch_first
    assert layer.bias == bool(b)
    for name, parts in (("weight_ih_l0", w), ("weight_hh_l0", u)):
        assert np.array_equal(layer.parameters[name], np.concatenate([parts[g].T for g in gates]))
    if b:
        zero = np.zeros(H)
        assert np.array_equal(layer.parameters["bias_ih_l0"], np.concatenate([b.get(g, zero) for g in gates]))
        assert not layer.parameters["bias_hh_l0"].any()
    plain = convert.from_gates({g: a.T for g, a in w.items()}, {g: a.T for g, a in u.items()}, bias_hh=b, **options)
    x = rng.standard_normal((4, 3, I))
    assert_same_function({"y": plain(x).y}, {"y": layer(x.swapaxes(0, 1)).y.swapaxes(0, 1)}, plain, x)


def z(*shape: int) -> Array:
    return np.zeros(shape, "float32")


REFUSED: list[tuple[Any, str]] = [
    (
        lambda: convert.from_haste({"kernel": z(2, 12)}),
        "source: expected kernel, recurrent_kernel, bias, got no recurrent",
    ),
    (
        lambda: convert.from_haste({"kernel": z(2, 12), "recurrent_kernel": z(3, 12), "bias": z(12), "gamma": z(2)}),
        "source: expected kernel, recurrent_kernel, bias, recurrent_bias, got gamma as well",
    ),
    (
        lambda: convert.from_haste({"kernel": z(2, 9), "recurrent_kernel": z(3, 9), "bias": z(9)}),
        "recurrent_bias: expected one beside 3 gates",
    ),
    (
        lambda: convert.from_haste({"kernel": z(2, 6), "recurrent_kernel": z(3, 6), "bias": z(6)}),
        "recurrent_kernel: expected 3, 4 gates, got 2",
    ),
    (lambda: convert.from_onednn(z(1, 1, 2, 2, 3), z(1, 1, 3, 2, 3)), "weights_layer: expected 1, 3, 4 gates, got 2"),
    (
        lambda: convert.from_onednn(z(1, 1, 2, 3, 3), z(1, 1, 3, 3, 3), z(1, 1, 3, 3), linear_before_reset=True),
        "bias: expected 4 rows, got shape (1, 1, 3, 3)",
    ),
    (lambda: convert.from_onednn(z(1, 1, 2, 4, 3), z(1, 1, 3, 4, 3), z(1, 1, 3, 3)), "bias: expected 4 rows, got 3"),
    (
        lambda: convert.from_onednn(z(1, 3, 2, 4, 3), z(1, 3, 3, 4, 3)),
        "weights_layer: expected 1 or 2 directions, got 3",
    ),
    (lambda: convert.from_onednn(z(2, 4, 3), z(3, 4, 3)), "weights_layer: expected 5 dimensions, got shape (2, 4, 3)"),
    (
        lambda: convert.from_dynet([(z(12, 2), z(12, 3), z(12))] * 2, [(z(12, 2), z(12, 3), z(12))] * 2),
        "backward: expected builders of one layer, as directions of layers here meet in the next one, got 2 and 2",
    ),
    (
        lambda: convert.from_dynet([(z(10, 2), z(10, 3), z(10))]),
        "Wx: expected 4 blocks of one size in axis 0, got shape (10, 2)",
    ),
    (lambda: convert.from_tf1(z(3, 12), z(12)), "kernel: expected more than 3 rows, those of h, got shape (3, 12)"),
    (
        lambda: convert.from_tf1(z(5, 12), z(12), w_i_diag=z(3)),
        "w_i_diag, w_f_diag, w_o_diag: expected all or none, got 1",
    ),
    (
        lambda: convert.from_gates({"a": z(3, 2)}, {"a": z(3, 3)}),
        "weight_ih: expected the gates of one of ifgo, rzn, h, got a",
    ),
    (
        lambda: convert.from_gates({"h": z(3, 2)}, {"h": z(3, 3)}, {"n": z(3)}),
        "bias_ih: expected gates among h, got n",
    ),
]


@pytest.mark.parametrize(("call", "text"), REFUSED)
def test_refusals(call: Any, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        call()


def test_other_types() -> None:
    with pytest.raises(TypeError, match="Wx: expected float32, float64, float16 or bfloat16, got int64"):
        convert.from_dynet([(np.zeros((12, 2), int), z(12, 3), z(12))])
    with pytest.raises(TypeError, match=r"unexpected argument 'nonlinearity'"):
        convert.from_gates({g: z(3, 2) for g in "rzn"}, {g: z(3, 3) for g in "rzn"}, nonlinearity="relu")


def test_no_package_is_imported() -> None:
    """`import fusedrnn` imports no conversion, and these need no other package."""
    import subprocess
    import sys

    code = """
import sys, fusedrnn
assert "fusedrnn.convert" not in sys.modules
import numpy as np
fusedrnn.convert.from_tf1(np.zeros((5, 12), "f4"), np.zeros(12, "f4"))
print(*(name for name in ("torch", "keras", "h5py", "onnx", "safetensors") if name in sys.modules))
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""


def test_layers_have_no_initial_state_of_their_own() -> None:
    assert fusedrnn.LSTM(2, 3).initial_state is None
