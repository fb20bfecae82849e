"""fusedrnn.convert from and to PyTorch: the numbers of torch.nn on random models, exact round trips, and refusals."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedrnn
from conversions import KINDS, assert_same_function, assert_same_parameters, random_layer, random_sizes, run_layer
from fusedrnn import convert

torch = pytest.importorskip("torch")
nn = torch.nn
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def random_module(rng: np.random.Generator, kind: str) -> Any:
    arguments = random_sizes(rng) | {"dropout": float(rng.choice([0, 0.5])) if rng.integers(2) else 0.0}
    if arguments["num_layers"] == 1:
        arguments["dropout"] = 0.0  # torch.nn warns of others
    if kind == "RNN":
        arguments["nonlinearity"] = str(rng.choice(["tanh", "relu"]))
    if kind == "LSTM" and rng.integers(2) and arguments["hidden_size"] > 1:
        arguments["proj_size"] = int(rng.integers(1, arguments["hidden_size"]))
    torch.manual_seed(int(rng.integers(2**31)))
    return getattr(nn, kind)(**arguments, dtype=torch.float64 if rng.integers(2) else torch.float32)


def run_module(module: Any, x: Any, state: Any = None) -> dict[str, Any]:
    """In evaluation, in float64."""
    given = None if state is None else tuple(torch.from_numpy(s.astype("float64")) for s in state)
    if given is not None and not isinstance(module, nn.LSTM):
        (given,) = given
    with torch.no_grad():
        y, last = module.double().eval()(torch.from_numpy(x.astype("float64")), given)
    states = last if isinstance(last, tuple) else (last,)
    return {"y": y.numpy()} | {f"{s}_n": a.numpy() for s, a in zip("hc", states, strict=False)}


def random_state(rng: np.random.Generator, layer: Any, rows: int) -> list[Any]:
    units = [layer.proj_size or layer.hidden_size, layer.hidden_size][: len(layer.spec.states)]
    return [rng.standard_normal((layer.num_layers * layer.num_directions, rows, u)).astype(layer.dtype) for u in units]


@pytest.mark.parametrize("case", range(20))
@pytest.mark.parametrize("kind", KINDS)
def test_modules(kind: str, case: int, rng: np.random.Generator) -> None:
    module = random_module(rng, kind)
    layer = convert.from_torch(module)
    for name in ("num_layers", "bias", "batch_first", "dropout", "bidirectional"):
        assert getattr(layer, name) == getattr(module, name)
    assert layer.dtype == module.weight_ih_l0.detach().numpy().dtype
    x = rng.standard_normal((3, 4, layer.input_size)).astype(layer.dtype)
    state = random_state(rng, layer, 3 if layer.batch_first else 4)
    before = {name: p.detach().numpy().tobytes() for name, p in module.named_parameters()}
    assert {name: a.tobytes() for name, a in layer.state_dict().items()} == before
    back = convert.to_torch(layer)
    assert type(back) is type(module)
    assert repr(back) == repr(module)
    assert {name: p.detach().numpy().tobytes() for name, p in back.named_parameters()} == before
    given = tuple(state) if len(state) > 1 else state[0]
    assert_same_function(run_layer(layer, x, given), run_module(module, x, state), layer, x)
    layer.parameters["weight_ih_l0"][...] = 0
    assert module.weight_ih_l0.abs().max() > 0  # parameters are copies


@pytest.mark.parametrize("kind", KINDS)
def test_state_dicts(kind: str, rng: np.random.Generator, tmp_path: Path) -> None:
    """Alone, with prefixes, in checkpoints, of arrays, and in files of each kind."""
    module = random_module(rng, kind)
    layer = convert.from_torch(module)
    own = {"batch_first": module.batch_first, "dropout": module.dropout}
    own |= {"nonlinearity": module.nonlinearity} if kind == "RNN" else {}
    assert_same_parameters(convert.from_torch(module.state_dict(), **own), layer)
    arrays = layer.state_dict()
    assert_same_parameters(convert.from_torch(arrays, **own), layer)
    model = nn.ModuleDict({"encoder": nn.ModuleList([nn.Linear(2, 3), module]), "head": nn.Linear(3, 2)})
    found = convert.from_torch(model.state_dict(), **own)
    assert list(found) == ["encoder.1"]
    assert_same_parameters(found["encoder.1"], layer)
    assert_same_parameters(convert.from_torch(model, "encoder.1"), layer)
    assert_same_parameters(convert.from_torch(model)["encoder.1"], layer)
    checkpoint = {"epoch": 3, "model": model.state_dict(), "optimizer": {"state": {0: torch.zeros(3)}}}
    assert_same_parameters(convert.from_torch(checkpoint, "encoder.1", **own), layer)
    two = {"model": model.state_dict(), "average": model.state_dict()}
    assert list(convert.from_torch(two, **own)) == ["model.encoder.1", "average.encoder.1"]
    torch.save(checkpoint, tmp_path / "a.pt")
    assert_same_parameters(convert.from_torch(tmp_path / "a.pt", "encoder.1", **own), layer)
    torch.save(module.state_dict(), tmp_path / "b.bin")
    assert_same_parameters(convert.from_torch(str(tmp_path / "b.bin"), **own), layer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_safetensors(dtype: Any, tmp_path: Path) -> None:
    file = pytest.importorskip("safetensors.torch")
    module = nn.GRU(3, 4, 2, bidirectional=True).to(dtype)
    file.save_file({f"rnn.{name}": p for name, p in module.state_dict().items()}, tmp_path / "a.safetensors")
    layer = convert.from_torch(tmp_path / "a.safetensors")["rnn"]
    assert layer.dtype == "float32"
    assert_same_parameters(layer, convert.from_torch(module.float()))


@pytest.mark.parametrize("cell", ["LSTMCell", "GRUCell", "RNNCell"])
@pytest.mark.parametrize("bias", [True, False])
def test_cells(cell: str, bias: bool, rng: np.random.Generator) -> None:
    options = {"nonlinearity": "relu"} if cell == "RNNCell" else {}
    module = getattr(nn, cell)(3, 5, bias, **options)
    layer = convert.from_torch(module)
    x = rng.standard_normal((1, 2, 3)).astype("float32")
    with torch.no_grad():
        h = module.double()(torch.from_numpy(x[0]).double())
    states = h if isinstance(h, tuple) else (h,)
    want = {"y": states[0][None].numpy()} | {f"{s}_n": a[None].numpy() for s, a in zip("hc", states, strict=False)}
    assert_same_function(run_layer(layer, x), want, layer, x)
    assert_same_parameters(convert.from_torch(module.float().state_dict(), **options), layer)
    prefixed = {f"a.{name}": p for name, p in module.state_dict().items()}
    assert_same_parameters(convert.from_torch(prefixed, **options)["a"], layer)


def test_torchscript(tmp_path: Path) -> None:
    model = nn.Sequential(nn.LSTM(3, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(model)
        torch.jit.save(scripted, str(tmp_path / "a.pt"))
        layers = convert.from_torch(tmp_path / "a.pt")
    assert_same_parameters(layers["0"], convert.from_torch(model, "0"))
    assert_same_parameters(convert.from_torch(scripted)["0"], convert.from_torch(model, "0"))


def test_parametrised_modules_are_read_as_a_call_reads_them(rng: np.random.Generator) -> None:
    module = nn.LSTM(3, 4)
    torch.nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    layer = convert.from_torch(module)
    assert layer.parameters["weight_hh_l0"].tobytes() == module.weight_hh_l0.detach().numpy().tobytes()
    with pytest.raises(ValueError, match="weight_hh_l0: expected beside weight_ih_l0, got none"):
        convert.from_torch(module.state_dict())


MODULES: list[tuple[str, dict[str, Any]]] = [
    ("LSTM", {"num_layers": 2, "bidirectional": True, "proj_size": 2}),
    ("LSTM", {"variant": "coupled", "peepholes": "diagonal"}),
    ("GRU", {"reset_after": False, "num_heads": 2}),
    ("LSTM", {"gate_activation": ("hard_sigmoid", 0.25, 0.5)}),
    ("RNN", {"nonlinearity": "relu", "zoneout_h": 0.25}),
    ("LayerNormLSTM", {"epsilon": 1e-3}),
    ("LayerNormGRU", {}),
    ("IndRNN", {"num_layers": 2}),
    ("ClockworkRNN", {"periods": (1, 2)}),
    ("FGRLSTM", {}),
    ("SLSTM", {"forget_gate": "exp"}),
    ("DepthGatedLSTM", {"num_layers": 2}),
]


@pytest.mark.parametrize(("family", "options"), MODULES, ids=str)
def test_modules_of_fusedrnn_torch(family: str, options: dict[str, Any], rng: np.random.Generator) -> None:
    frt = pytest.importorskip("fusedrnn.torch")
    torch.manual_seed(0)
    module = getattr(frt, family)(3, 4, dtype=torch.float64, **options).eval()
    layer = convert.from_torch(module)
    x = rng.standard_normal((5, 2, 3))
    with torch.no_grad():
        y = module(torch.from_numpy(x))[0]
    assert np.array_equal(layer(x).y, y.numpy())
    if hasattr(frt, f"{family}Cell") and "num_layers" not in options:
        cell = getattr(frt, f"{family}Cell")(3, 4, dtype=torch.float64, **options).eval()
        with torch.no_grad():
            h = cell(torch.from_numpy(x[0]))
        assert np.array_equal(convert.from_torch(cell)(x[:1]).y[0], (h[0] if isinstance(h, tuple) else h).numpy())


def test_a_gru_whose_z_weighs_n_becomes_one_of_torch(rng: np.random.Generator) -> None:
    layer = random_layer(rng, "GRU", z_weighs="n", dtype="float64")
    x = rng.standard_normal((3, 4, layer.input_size))
    assert_same_function(run_layer(layer, x), run_module(convert.to_torch(layer), x), layer, x)


REFUSED: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (
        nn.Linear(2, 3),
        {},
        ValueError,
        "source: expected a module, state dict or file of PyTorch with a recurrent layer",
    ),
    ({}, {}, ValueError, "source: expected a module, state dict or file of PyTorch with a recurrent layer"),
    (3, {}, TypeError, "source: expected an nn.Module, a state dict or a path, got int"),
    (nn.LSTM(2, 3), {"batch_first": True}, TypeError, "batch_first: expected none beside a module, which has its own"),
    (nn.Sequential(nn.LSTM(2, 3)), {"name": "1"}, ValueError, "name: expected one of '0', got '1'"),
    (
        {"a.weight_ih_l0": torch.zeros(6, 3), "a.weight_hh_l0": torch.zeros(6, 3)},
        {},
        ValueError,
        "a: weight_hh_l0: expected 4, 3 or 1 gates of 3 rows, got shape (6, 3)",
    ),
    (
        {"weight_ih_l0": torch.zeros(12, 3), "weight_hh_l0": torch.zeros(12, 3, dtype=torch.int8)},
        {},
        TypeError,
        "weight_hh_l0: expected float32, float64, float16 or bfloat16, got int8",
    ),
    (
        {"weight_ih_l0": torch.zeros(12, 3), "weight_hh_l0": torch.zeros(12, 3), "peephole_i_l0": torch.zeros(3)},
        {},
        ValueError,
        "peephole_i_l0: expected none, got ((3,), dtype('float32'))",
    ),
]


@pytest.mark.parametrize(("source", "arguments", "error", "text"), REFUSED)
def test_refusals(source: Any, arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=re.escape(text)):
        convert.from_torch(source, **arguments)


def test_files_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"path: expected a file for from_torch, got 'a.onnx': use from_onnx"):
        convert.from_torch(tmp_path / "a.onnx")
    (tmp_path / "a.pt").write_bytes(b"no file of PyTorch")
    with pytest.raises(ValueError, match="path: expected a file of tensors that torch.load reads"):
        convert.from_torch(tmp_path / "a.pt")
    (tmp_path / "a.safetensors").write_bytes(b"none either")
    with pytest.raises(ValueError, match=r"path: expected a file of safetensors, got 'a.safetensors'"):
        convert.from_torch(tmp_path / "a.safetensors")
    torch.save(nn.LSTM(2, 3), tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"pass torch.load\(path, weights_only=False\)"):
        convert.from_torch(tmp_path / "b.pt")
    with pytest.raises(FileNotFoundError):
        convert.from_torch(tmp_path / "c.pt")


LACKING: list[tuple[Any, str]] = [
    (
        lambda: fusedrnn.GRU(2, 3, reset_after=False),
        "reset_after: expected True, as torch.nn has no other GRU, got False; fusedrnn.torch.GRU has it",
    ),
    (
        lambda: fusedrnn.LSTM(2, 3, peepholes="diagonal"),
        "peepholes: expected None, as torch.nn has no other LSTM, got 'diagonal'; fusedrnn.torch.LSTM has it",
    ),
    (
        lambda: fusedrnn.GRU(2, 3, candidate_activation="relu"),
        "candidate_activation: expected 'tanh', as torch.nn has no other GRU, got 'relu'; fusedrnn.torch.GRU has it",
    ),
    (
        lambda: fusedrnn.LSTM(2, 3, zoneout_c=0.5),
        "zoneout_c: expected 0.0, as torch.nn has no other LSTM, got 0.5; fusedrnn.torch.LSTM has it",
    ),
    (
        lambda: fusedrnn.SLSTM(2, 3),
        "layer: expected one of LSTM, GRU, RNN, as torch.nn has no other cells, got SLSTM; fusedrnn.torch.SLSTM has it",
    ),
]


@pytest.mark.parametrize(("make", "text"), LACKING)
def test_what_torch_lacks(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        convert.to_torch(make())


def test_only_layers_become_modules() -> None:
    with pytest.raises(TypeError, match="layer: expected a layer of fusedrnn, got int"):
        convert.to_torch(3)  # type: ignore[arg-type]


def test_without_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """State dicts of arrays need none; files say which extra to install."""
    layer = fusedrnn.LSTM(2, 3)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert_same_parameters(convert.from_torch(layer.state_dict()), layer)
    (tmp_path / "a.pt").write_bytes(b"")
    calls: list[Any] = [lambda: convert.to_torch(layer), lambda: convert.from_torch(tmp_path / "a.pt")]
    for call in calls:
        with pytest.raises(ImportError, match=r"this conversion needs torch: pip install 'fusedrnn\[torch\]'"):
            call()
