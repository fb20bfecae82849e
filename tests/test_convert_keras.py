"""fusedrnn.convert from and to Keras: the numbers of Keras on random layers, files of Keras 3 and 2, and refusals."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedrnn
from conversions import (
    KINDS,
    assert_same_function,
    assert_same_parameters,
    normal,
    random_layer,
)
from fusedrnn import convert

h5py = pytest.importorskip("h5py")
pytest.importorskip("torch")
os.environ["KERAS_BACKEND"] = "torch"
keras = pytest.importorskip("keras")
L = keras.layers
NAMES = {"LSTM": "LSTM", "GRU": "GRU", "RNN": "SimpleRNN"}
pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "torch", reason="another backend of Keras has been loaded"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
    pytest.mark.filterwarnings("ignore:__array__ implementation"),  # of Keras's variables on PyTorch
]


def randomise(layer: Any, rng: np.random.Generator) -> Any:
    """Random weights in place of Keras's first ones, whose biases are zero."""
    layer.set_weights([normal(rng, *w.shape) for w in layer.get_weights()])
    return layer


def random_keras(rng: np.random.Generator, kind: str, units: int, **others: Any) -> Any:
    """A layer of Keras that is not built."""
    options: dict[str, Any] = {"use_bias": bool(rng.integers(2)), "return_sequences": True}
    options |= {"dropout": 0.25, "recurrent_dropout": 0.25} if rng.integers(2) else {}
    if kind == "GRU":
        options["reset_after"] = bool(rng.integers(2))
    if kind == "RNN":
        options["activation"] = str(rng.choice(["tanh", "relu"]))
    return getattr(L, NAMES[kind])(units, **(options | others))


def built(layer: Any, width: int, rng: np.random.Generator) -> Any:
    layer.build((None, None, width))
    return randomise(layer, rng)


def outputs_of(layer: Any, x: Any, **arguments: Any) -> Any:
    """In float32: where Keras computes in float64, its products on PyTorch are rounded to float32 all the same."""
    return keras.ops.convert_to_numpy(layer(x, **arguments))


def assert_same_y(layer: Any, theirs: Any, x: Any, **arguments: Any) -> None:
    """y alone, which is all that a layer of Keras returns."""
    got, want = {"y": layer(x, **arguments).y}, {"y": theirs}
    assert_same_function(got, want, getattr(layer, "layer", layer), x)


@pytest.mark.parametrize("case", range(10))
@pytest.mark.parametrize("wrapper", ["layer", "bidirectional", "backwards", "cell"])
@pytest.mark.parametrize("kind", KINDS)
def test_layers(kind: str, wrapper: str, case: int, rng: np.random.Generator) -> None:
    width, units = (int(n) for n in rng.integers(1, 8, 2))
    theirs = random_keras(rng, kind, units, go_backwards=wrapper == "backwards")
    if wrapper == "bidirectional":
        theirs = L.Bidirectional(theirs)
    if wrapper == "cell":
        own = ("use_bias", "reset_after", "activation")
        config = {name: value for name, value in theirs.get_config().items() if name in own}
        cell = getattr(L, f"{NAMES[kind]}Cell")(units, **config)
        theirs = L.RNN(cell, return_sequences=True)
    built(theirs, width, rng)
    layer = convert.from_keras(theirs)
    assert isinstance(layer, convert.Reversed) == (wrapper == "backwards")
    if wrapper in ("layer", "bidirectional"):
        options = {name: value for name, value in layer.options.items() if name in ("reset_after", "nonlinearity")}
        assert_same_parameters(convert.from_keras(theirs.get_weights(), **options), layer)
    x = rng.standard_normal((3, 4, width)).astype("float32")
    want = outputs_of(theirs, x)
    assert_same_y(layer, want[:, ::-1] if wrapper == "backwards" else want, x)
    if wrapper != "backwards":
        back = convert.to_keras(layer)
        bias = theirs.get_config().get("use_bias", True)
        for a, b in zip(back.get_weights(), theirs.get_weights(), strict=True):
            assert a.tobytes() == b.tobytes(), bias


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_lengths(kind: str, rng: np.random.Generator) -> None:
    theirs = L.Bidirectional(random_keras(rng, kind, 3, zero_output_for_mask=True))
    built(theirs, 2, rng)
    x, lengths = rng.standard_normal((3, 4, 2)).astype("float32"), np.array([4, 1, 3])
    mask = np.arange(4) < lengths[:, None]
    assert_same_y(convert.from_keras(theirs), outputs_of(theirs, x, mask=mask), x, lengths=lengths)


@pytest.mark.parametrize("kind", KINDS)
def test_stacked_cells(kind: str, rng: np.random.Generator, tmp_path: Path) -> None:
    cells = [getattr(L, f"{NAMES[kind]}Cell")(3) for _ in range(12)]
    theirs = L.RNN(cells, return_sequences=True, name="stack")
    model = keras.Sequential([keras.Input((None, 2)), theirs])
    randomise(model, rng)
    layer = convert.from_keras(theirs)
    assert layer.num_layers == 12
    x = rng.standard_normal((3, 4, 2)).astype("float32")
    assert_same_y(layer, outputs_of(theirs, x), x)
    for path in save_all(model, tmp_path):
        assert_same_parameters(convert.from_keras(path)["stack"], layer)


def save_all(model: Any, folder: Path) -> list[Path]:
    paths = [folder / f"a{suffix}" for suffix in (".keras", ".h5", ".weights.h5")]
    model.save(paths[0])
    model.save(paths[1])
    model.save_weights(paths[2])
    return paths


@pytest.mark.parametrize("case", range(6))
def test_files(case: int, rng: np.random.Generator, tmp_path: Path) -> None:
    """Functional and sequential models, models in models, and wrappers, by the names of layers."""
    first, second, third, fourth = (
        random_keras(rng, kind, 3, name=f"rnn_{i}", use_bias=True) for i, kind in enumerate((*KINDS, "GRU"))
    )
    inner = keras.Sequential([keras.Input((None, 6)), L.Dense(3), third], name="inner")
    x = keras.Input((None, 2))
    y = L.Bidirectional(second, name="both")(first(L.Dense(2)(x)))
    z = inner(y)
    windows = L.TimeDistributed(fourth, name="windows")(keras.ops.expand_dims(z, 1))
    model = keras.Model(x, windows)
    randomise(model, rng)
    expected = {
        "rnn_0": convert.from_keras(first),
        "both": convert.from_keras(model.get_layer("both")),
        "inner/rnn_2": convert.from_keras(third),
        "windows": convert.from_keras(fourth),
    }
    sources = [model, *save_all(model, tmp_path)]
    relu = {"nonlinearity": "relu"} if third.get_config()["activation"] == "relu" else {}
    for source in sources:
        for name, layer in expected.items():
            of_weights = source is sources[-1]
            own = relu if of_weights and name == "inner/rnn_2" else {}
            name = "windows/rnn_3" if of_weights and name == "windows" else name
            assert_same_parameters(convert.from_keras(source, name, **own), layer)
        if not relu:
            assert len(convert.from_keras(source)) == len(expected)


def test_layers_and_models_of_the_user(rng: np.random.Generator, tmp_path: Path) -> None:
    """Their configuration does not say what is inside; the groups of their files do."""

    @keras.saving.register_keras_serializable("test")
    class Encoder(keras.Model):  # type: ignore[name-defined]
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.one, self.two = L.LSTM(3, return_sequences=True, name="low"), L.Bidirectional(L.GRU(2), name="high")

        def call(self, x: Any) -> Any:
            return self.two(self.one(x))

    model = Encoder()
    model(np.zeros((1, 2, 4), "float32"))
    randomise(model, rng)
    expected = {"low": convert.from_keras(model.one), "high": convert.from_keras(model.two)}
    model.save(tmp_path / "a.keras")
    model.save_weights(tmp_path / "a.weights.h5")
    for source in (model, tmp_path / "a.keras", tmp_path / "a.weights.h5"):
        found = convert.from_keras(source)
        assert found.keys() == expected.keys()
        for name, layer in expected.items():
            assert_same_parameters(found[name], layer)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_files_of_short_numbers(dtype: str, rng: np.random.Generator, tmp_path: Path) -> None:
    pytest.importorskip("ml_dtypes")  # which Keras needs for bfloat16, too
    model = keras.Sequential([keras.Input((None, 2)), L.GRU(3, dtype=dtype, recurrent_initializer="zeros", name="a")])
    randomise(model, rng)
    kernel, recurrent, _ = (np.asarray(w, "float32") for w in model.get_weights())
    for source in (model, *save_all(model, tmp_path)):
        layer = convert.from_keras(source, "a")
        assert layer.dtype == "float32"
        for name, a in (("weight_ih_l0", kernel), ("weight_hh_l0", recurrent)):
            assert np.array_equal(layer.parameters[name], a.T[[3, 4, 5, 0, 1, 2, 6, 7, 8]])


def test_groups_without_names(tmp_path: Path, rng: np.random.Generator) -> None:
    """The first versions of Keras 3 wrote no names of layers."""
    model = keras.Sequential([keras.Input((None, 2)), L.LSTM(3, return_sequences=True, name="a"), L.LSTM(4, name="b")])
    path = tmp_path / "a.weights.h5"
    model.save_weights(path)
    with h5py.File(path, "a") as file:
        file.visititems(lambda _, group: group.attrs.pop("name", None) and None)
    assert list(convert.from_keras(path)) == ["lstm", "lstm_1"]
    assert_same_parameters(convert.from_keras(path, "lstm_1"), convert.from_keras(model.get_layer("b")))


def test_groups_of_keras_2(tmp_path: Path, rng: np.random.Generator) -> None:
    """Keras 2.12 and later: another list of layers, which has each layer twice, so that numbers are left out."""
    names = ["a", "b", "c"]
    layers = [L.LSTM(3, return_sequences=True, name=name) for name in names]
    model = randomise(keras.Sequential([keras.Input((None, 3)), *layers]), rng)
    model.save(tmp_path / "a.keras")
    with zipfile.ZipFile(tmp_path / "a.keras") as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with h5py.File(tmp_path / "weights", "w") as new, h5py.File(io.BytesIO(parts["model.weights.h5"])) as old:
        for i, name in enumerate(("lstm", "lstm_1", "lstm_2")):
            old.copy(f"layers/{name}", new, f"_layer_checkpoint_dependencies/lstm{f'_{2 * i}' if i else ''}")
    parts["model.weights.h5"] = (tmp_path / "weights").read_bytes()
    with zipfile.ZipFile(tmp_path / "b.keras", "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)
    found = convert.from_keras(tmp_path / "b.keras")
    for name, layer in zip(names, layers, strict=True):
        assert_same_parameters(found[name], convert.from_keras(layer))


@pytest.mark.parametrize("bias", [True, False])
def test_weights_alone_need_what_shapes_do_not_say(bias: bool, tmp_path: Path) -> None:
    layer = L.GRU(3, reset_after=False, use_bias=bias, name="rnn")
    model = keras.Sequential([keras.Input((None, 2)), layer])
    model.save_weights(tmp_path / "a.weights.h5")
    options = {} if bias else {"reset_after": False}
    assert_same_parameters(convert.from_keras(tmp_path / "a.weights.h5", "rnn", **options), convert.from_keras(layer))


# Keras 2, which no Keras 3 writes.


def write_keras_2(
    path: Path, layers: list[dict[str, Any]], weights: dict[str, list[Any]], *, config: bool = True
) -> None:
    """As Keras 2's hdf5_format.py does: a group for each layer, the names of its weights as an attribute."""
    with h5py.File(path, "w") as file:
        group = file
        if config:
            model = {"class_name": "Sequential", "config": {"name": "sequential", "layers": layers}}
            file.attrs["model_config"] = json.dumps(model).encode()
            file.attrs["keras_version"], file.attrs["backend"] = b"2.4.0", b"tensorflow"
            group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in weights]
        for name, arrays in weights.items():
            own = group.create_group(name)
            count = 3 if len(arrays) % 3 == 0 else 2
            kinds = ("kernel:0", "recurrent_kernel:0", "bias:0")[:count]
            directions = ["forward", "backward"] if len(arrays) > count else ["rnn"]
            paths = [f"{name}/{d}/{k}" for d in directions for k in kinds] if arrays else []
            own.attrs["weight_names"] = [p.encode() for p in paths]
            for p, a in zip(paths, arrays, strict=True):
                own.create_dataset(p, data=a)


def entry_2(kind: str, name: str, **others: Any) -> dict[str, Any]:
    config: dict[str, Any] = {"name": name, "units": 3, "activation": "tanh", "use_bias": True, "go_backwards": False}
    config |= {"recurrent_activation": "sigmoid"} if kind != "RNN" else {}
    return {"class_name": NAMES[kind], "config": config | others}


def arrays_2(rng: np.random.Generator, kind: str, rows: int = 1) -> list[Any]:
    G = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    bias = normal(rng, 2, 3 * G) if rows == 2 else normal(rng, 3 * G)
    return [normal(rng, 2, 3 * G), normal(rng, 3, 3 * G), bias]


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_keras_2(kind: str, rng: np.random.Generator, tmp_path: Path) -> None:
    """Against the same layers of Keras 3. A first Keras 2 knew no reset_after."""
    one, two = arrays_2(rng, kind), [*arrays_2(rng, kind), *arrays_2(rng, kind)]
    both = {"class_name": "Bidirectional", "config": {"name": "b", "merge_mode": "concat", "layer": entry_2(kind, "c")}}
    empty = {"class_name": "Dropout", "config": {"name": "d", "rate": 0.5}}
    write_keras_2(tmp_path / "a.h5", [entry_2(kind, "a"), empty, both], {"a": one, "d": [], "b": two})
    found = convert.from_keras(tmp_path / "a.h5")
    options = {"reset_after": False} if kind == "GRU" else {}
    alone = getattr(L, NAMES[kind])(3, return_sequences=True, **options)
    layers = {"a": (alone, one), "b": (L.Bidirectional(alone.from_config(alone.get_config())), two)}
    assert found.keys() == layers.keys()
    write_keras_2(tmp_path / "a.weights.h5", [], {"a": one, "d": [], "b": two}, config=False)
    x = rng.standard_normal((3, 4, 2)).astype("float32")
    for name, (theirs, arrays) in layers.items():
        theirs.build((None, None, 2))
        theirs.set_weights(arrays)
        assert_same_y(found[name], outputs_of(theirs, x), x)
        assert_same_parameters(convert.from_keras(tmp_path / "a.weights.h5", name), found[name])


def test_time_major_of_keras_2(rng: np.random.Generator, tmp_path: Path) -> None:
    for flag in (False, True):
        write_keras_2(tmp_path / "a.h5", [entry_2("LSTM", "a", time_major=flag)], {"a": arrays_2(rng, "LSTM")})
        assert convert.from_keras(tmp_path / "a.h5", "a").batch_first != flag


def test_the_two_biases_of_a_gru_of_keras_2(rng: np.random.Generator, tmp_path: Path) -> None:
    write_keras_2(tmp_path / "a.h5", [entry_2("GRU", "a", reset_after=True)], {"a": arrays_2(rng, "GRU", 2)})
    layer = convert.from_keras(tmp_path / "a.h5", "a")
    assert layer.options["reset_after"]
    assert np.abs(layer.parameters["bias_hh_l0"]).min() > 0


@pytest.mark.parametrize(("version", "alpha"), [("2.4.0", 0.2), ("3.1.0", 1 / 6)])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_hard_sigmoid_is_that_of_the_version(
    kind: str, version: str, alpha: float, rng: np.random.Generator, tmp_path: Path
) -> None:
    arrays = arrays_2(rng, kind)
    write_keras_2(tmp_path / "a.h5", [entry_2(kind, "a", recurrent_activation="hard_sigmoid")], {"a": arrays})
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file.attrs["keras_version"] = version.encode()
    layer = convert.from_keras(tmp_path / "a.h5", "a")
    assert layer.options["gate_activation"] == ("hard_sigmoid", alpha, 0.5)


def test_hard_sigmoid_of_an_unknown_version(rng: np.random.Generator, tmp_path: Path) -> None:
    entry = entry_2("LSTM", "a", recurrent_activation="hard_sigmoid")
    write_keras_2(tmp_path / "a.h5", [entry], {"a": arrays_2(rng, "LSTM")})
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file.attrs["keras_version"]
    text = "activation: expected a version of Keras that says what 'hard_sigmoid' is (0.2x+0.5 in 2, x/6+0.5 in 3), got"
    with pytest.raises(ValueError, match=re.escape(f"{text} none")):
        convert.from_keras(tmp_path / "a.h5", "a")


ACTIVATIONS = [("hard_sigmoid", "tanh"), ("sigmoid", "relu"), ("hard_sigmoid", "softsign"), ("sigmoid", "linear")]


@pytest.mark.parametrize("activations", ACTIVATIONS)
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_activations(
    kind: str, both: bool, activations: tuple[str, str], rng: np.random.Generator, tmp_path: Path
) -> None:
    gates, candidate = activations
    theirs = random_keras(rng, kind, 4, recurrent_activation=gates, activation=candidate)
    theirs = built(L.Bidirectional(theirs) if both else theirs, 3, rng)
    layer = convert.from_keras(theirs)
    x = rng.standard_normal((3, 4, 3)).astype("float32")
    assert_same_y(layer, outputs_of(theirs, x), x)
    model = keras.Sequential([keras.Input((None, 3)), theirs])
    for path in save_all(model, tmp_path)[:2]:
        assert_same_parameters(convert.from_keras(path, theirs.name), layer)
    back = convert.to_keras(layer)
    assert_same_parameters(convert.from_keras(back), layer)
    assert_same_y(layer, outputs_of(back, x), x)


# Layers of Keras from layers.


@pytest.mark.parametrize("case", range(8))
@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_keras(kind: str, case: int, rng: np.random.Generator) -> None:
    options: dict[str, Any] = {"batch_first": True}
    if kind == "GRU":
        options |= {"reset_after": bool(rng.integers(2)), "z_weighs": str(rng.choice(["h_prev", "n"]))}
    if kind == "RNN":
        options["nonlinearity"] = str(rng.choice(["tanh", "relu"]))
    layer = random_layer(rng, kind, **options)
    theirs = convert.to_keras(layer)
    x = rng.standard_normal((3, 4, layer.input_size)).astype("float32")
    assert_same_y(layer, outputs_of(theirs, x), x)
    back = convert.from_keras(theirs)
    assert isinstance(back, dict) == (layer.num_layers > 1)
    again = theirs.layers if layer.num_layers > 1 else [theirs]
    for made, converted in zip(again, back.values() if isinstance(back, dict) else [back], strict=True):
        for a, b in zip(convert.to_keras(converted).get_weights(), made.get_weights(), strict=True):
            assert a.tobytes() == b.tobytes()


def test_float64_is_kept() -> None:
    layer = fusedrnn.GRU(2, 3, dtype="float64", batch_first=True)
    assert_same_parameters(convert.from_keras(convert.to_keras(layer)), layer)


def test_one_bias_is_the_sum_of_both(rng: np.random.Generator) -> None:
    layer = random_layer(rng, "LSTM", num_layers=1, bidirectional=False, bias=True)
    back = convert.from_keras(convert.to_keras(layer))
    p = layer.parameters
    total = (p["bias_ih_l0"].astype("float64") + p["bias_hh_l0"]).astype("float32")
    assert back.parameters["bias_ih_l0"].tobytes() == total.tobytes()
    assert not back.parameters["bias_hh_l0"].any()


REFUSED: list[tuple[Any, str]] = [
    (
        lambda: L.Bidirectional(L.LSTM(3), merge_mode="sum"),
        "merge_mode: expected 'concat', as directions lie side by side here, got 'sum': convert the layers of both "
        "directions, and combine their outputs",
    ),
    (
        lambda: L.Bidirectional(L.LSTM(3, go_backwards=True), backward_layer=L.LSTM(3)),
        "go_backwards: expected False in a bidirectional layer, as the first direction here runs forwards, got True",
    ),
    (
        lambda: L.Bidirectional(L.RNN([L.LSTMCell(3), L.LSTMCell(3)])),
        "layer: expected one cell in each direction, as layers here join directions, got a stack",
    ),
    (
        lambda: L.LSTM(3, activation="gelu"),
        "activation: expected one of sigmoid, tanh, hard_sigmoid, relu, softsign, linear, as no cell has others, "
        "got 'gelu'",
    ),
    (
        lambda: L.SimpleRNN(3, activation="sigmoid"),
        "activation: expected 'tanh' or 'relu', as no cell of one gate has another, got 'sigmoid'",
    ),
    (
        lambda: L.RNN([L.LSTMCell(3), L.LSTMCell(2)]),
        "cells: expected one kind and size, as the layers of a stack have, got different ones",
    ),
    (
        lambda: L.RNN([L.LSTMCell(3), L.GRUCell(3)]),
        "cells: expected one kind and size, as the layers of a stack have, got different ones",
    ),
    (
        lambda: L.Bidirectional(L.LSTM(3), backward_layer=L.LSTM(3, activation="relu", go_backwards=True)),
        "backward_layer: expected the cell of the forward layer, as layers have, got another one",
    ),
    (lambda: L.Dense(3), "source: expected a layer, model or file of Keras with a recurrent layer, got none in it"),
]


@pytest.mark.parametrize(("make", "text"), REFUSED)
def test_refusals(make: Any, text: str) -> None:
    layer = make()
    layer.build((None, None, 2))
    with pytest.raises(ValueError, match=re.escape(text)):
        convert.from_keras(layer)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_layers_of_cudnn(kind: str, rng: np.random.Generator, tmp_path: Path) -> None:
    """Keras 2's CuDNNLSTM and CuDNNGRU gave the bytes of each gate's matrix to cuDNN, which reads them as (H, .), and
    both of its biases one after the other; a GRU of cuDNN resets after the product."""
    kernel, recurrent, _ = arrays_2(rng, kind)
    G = {"LSTM": 4, "GRU": 3}[kind]
    bias = normal(rng, 2 * 3 * G)
    entry = {"class_name": f"CuDNN{kind}", "config": {"name": "a", "units": 3}}
    write_keras_2(tmp_path / "a.h5", [entry], {"a": [kernel, recurrent, bias]})
    write_keras_2(tmp_path / "b.h5", [], {"a": [kernel, recurrent, bias]}, config=False)
    got = convert.from_keras(tmp_path / "a.h5", "a")
    assert_same_parameters(convert.from_keras(tmp_path / "b.h5", "a"), got)
    order = {"LSTM": [0, 1, 2, 3], "GRU": [1, 0, 2]}[kind]
    w, r = ([np.hsplit(a, G)[g].tobytes() for g in order] for a in (kernel, recurrent))
    assert got.parameters["weight_ih_l0"].tobytes() == b"".join(w)
    assert got.parameters["weight_hh_l0"].tobytes() == b"".join(r)
    for name, b in zip(("bias_ih_l0", "bias_hh_l0"), np.split(bias, 2), strict=True):
        assert np.array_equal(got.parameters[name], b.reshape(G, 3)[order].ravel())
    if kind == "GRU":
        assert got.options["reset_after"]


def test_other_sources(tmp_path: Path) -> None:
    with pytest.raises(
        TypeError, match="source: expected a layer or a model of Keras, its weights, or a path, got int"
    ):
        convert.from_keras(3)
    with pytest.raises(TypeError, match="reset_after: expected none beside a model, which has its own"):
        convert.from_keras(built(L.GRU(3), 2, np.random.default_rng(0)), reset_after=True)
    with pytest.raises(ValueError, match=r"source: expected the arrays of a recurrent layer, as get_weights\(\) gives"):
        convert.from_keras([np.zeros((3, 4), "float32")])
    (tmp_path / "a.h5").write_bytes(b"no file of Keras")
    with pytest.raises(ValueError, match=r"path: expected a file of Keras, .keras, .h5 or .weights.h5, got 'a.h5'"):
        convert.from_keras(tmp_path / "a.h5")
    np.savez(tmp_path / "a.npz", a=np.zeros(1))
    with pytest.raises(ValueError, match=r"path: expected a .keras file, got 'a.npz' without config.json"):
        convert.from_keras(tmp_path / "a.npz")
    (tmp_path / "a.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"path: expected a file for from_keras, got 'a.onnx': use from_onnx"):
        convert.from_keras(tmp_path / "a.onnx")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["a"] = np.zeros(3)
    with pytest.raises(ValueError, match="source: expected a layer, model or file of Keras with a recurrent layer"):
        convert.from_keras(tmp_path / "b.h5")


LACKING: list[tuple[Any, str]] = [
    (lambda: fusedrnn.LSTM(2, 3, proj_size=2), "proj_size: expected 0, as Keras has no other LSTM, got 2"),
    (
        lambda: fusedrnn.LSTM(2, 3, variant="coupled"),
        "variant: expected 'plain', as Keras has no other LSTM, got 'coupled'",
    ),
    (
        lambda: fusedrnn.LSTM(2, 3, gate_activation="hard_sigmoid"),
        "activation: expected 'hard_sigmoid' with alpha 1/6 and beta 0.5, as Keras 3, got ('hard_sigmoid', 0.2, 0.5)",
    ),
    (
        lambda: fusedrnn.LSTM(2, 3, output_activation="relu"),
        "output_activation: expected that of the candidate, as Keras has one for both, got ['tanh', 'relu']",
    ),
    (
        lambda: fusedrnn.LayerNormLSTM(2, 3),
        "layer: expected one of LSTM, GRU, RNN, as Keras has no other cells, got LayerNormLSTM",
    ),
]


@pytest.mark.parametrize(("make", "text"), LACKING)
def test_what_keras_lacks(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        convert.to_keras(make())


def test_without_keras_and_h5py(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "keras", None)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"this conversion needs h5py: pip install 'fusedrnn\[keras\]'"):
        convert.from_keras(tmp_path / "a.h5")
    with pytest.raises(ImportError, match=r"this conversion needs keras: pip install 'fusedrnn\[keras\]'"):
        convert.to_keras(fusedrnn.LSTM(2, 3))
