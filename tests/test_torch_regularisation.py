"""Options of regularisation of modules for PyTorch: checked, told, copied; and run by PyTorch's operators."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fusedrnn  # noqa: E402
import fusedrnn.torch as frt  # noqa: E402

P = 0.3
OPTIONS = {"zoneout_h": P, "input_dropout": P, "recurrent_dropout": P, "candidate_dropout": P, "weight_dropout": P}


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    frt.reset_routes()
    frt.set_fallback("ignore")
    yield
    frt.set_fallback("warn")


@pytest.mark.parametrize("kind", ["LSTM", "LSTMCell"])
def test_options(kind: str) -> None:
    module: Any = getattr(frt, kind)(3, 4, zoneout_h=0.25, weight_dropout=0.5)
    assert module.regularisation == {"zoneout_h": 0.25, "weight_dropout": 0.5}
    for twin in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert repr(twin).endswith("zoneout_h=0.25, weight_dropout=0.5)")
        assert twin.regularisation == module.regularisation
    assert getattr(frt, kind)(3, 4, zoneout_h=0.0).regularisation == {}
    with pytest.raises(ValueError, match=r"zoneout_h: expected a number in 0\.\.1, got 2"):
        getattr(frt, kind)(3, 4, zoneout_h=2)
    with pytest.raises(ValueError, match="zoneout_c: expected 0, as 'gru_reset_after' has no state c, got 0.5"):
        frt.GRU(3, 4, zoneout_c=0.5)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "SLSTM", "LayerNormGRU", "DepthGatedLSTM", "LSTM 2", "GRU 2"])
@pytest.mark.parametrize("lengths", [None, [5, 0, 3]], ids=["full", "lengths"])
def test_training_is_that_of_layers(name: str, lengths: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same seed: outputs and gradients, in float64. A number after the name is that of heads."""
    name, *heads = name.split()
    options: dict[str, Any] = OPTIONS | ({"num_heads": int(heads[0])} if heads else {})
    module: Any = getattr(frt, name)(3, 4, 2, bidirectional=True, dtype=torch.float64, **options)
    layer: Any = getattr(fusedrnn, name)(3, 4, 2, bidirectional=True, dtype="float64", **options)
    layer.load_state_dict(module.state_dict())
    seed = 2**62 + 7
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: torch.tensor(seed))
    x = torch.randn(5, 3, 3, dtype=torch.float64, requires_grad=True)
    y, _ = module(x, lengths=lengths)
    out, tape = layer.forward(x.detach().numpy(), lengths=lengths, seed=seed)
    np.testing.assert_allclose(y.detach().numpy(), out.y, rtol=1e-11, atol=1e-11)
    dy = torch.randn_like(y)
    y.backward(dy)
    got = layer.backward(tape, dy.numpy())
    np.testing.assert_allclose(x.grad.numpy(), got.dx, rtol=1e-10, atol=1e-10)
    for key, p in module.named_parameters():
        np.testing.assert_allclose(p.grad.numpy(), got.parameters[key], rtol=1e-10, atol=1e-10, err_msg=key)
    assert frt.routes().fallback == {"zoneout or dropout inside of cells": 1}


def test_a_seed_of_pytorch_gives_the_masks() -> None:
    module: Any = frt.LSTM(3, 4, **OPTIONS)
    x, outputs = torch.randn(5, 2, 3), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(module(x)[0])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("name", ["LSTM", "GRU", "SLSTM", "LayerNormGRU"])
def test_evaluation(name: str) -> None:
    """With zoneout, the expectation; without, the kernels run, and nothing is dropped."""
    options = {n: p for n, p in OPTIONS.items() if n != "zoneout_h"}
    for given, native in ((OPTIONS, 0), (options, 1)):
        frt.reset_routes()
        module: Any = getattr(frt, name)(3, 4, 2, dtype=torch.float64, **given).eval()
        layer: Any = getattr(fusedrnn, name)(3, 4, 2, dtype="float64", **given)
        layer.load_state_dict(module.state_dict())
        x = torch.randn(5, 2, 3, dtype=torch.float64)
        np.testing.assert_allclose(module(x)[0].detach().numpy(), layer(x.numpy()).y, rtol=1e-11, atol=1e-11)
        assert frt.routes().native == native


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_cells(kind: str) -> None:
    module: Any = getattr(frt, kind)(3, 4, zoneout_h=1.0)
    h = torch.randn(2, 4)
    state = (h, torch.randn(2, 4)) if kind == "LSTMCell" else h
    new = module(torch.randn(2, 3), state)
    assert torch.equal(new[0] if kind == "LSTMCell" else new, h)
