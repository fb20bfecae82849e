"""Modules of cells with heads: the bits of the NumPy layer, torch.nn's module with zeros beside the blocks, and every
way of a call."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import fusedrnn
from agreement import assert_arrays_close

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import fusedrnn.torch as frt  # noqa: E402
from torch_agreement import as_leaves, by_kernels, results, roundings  # noqa: E402

T, B, I, H, HEADS = 6, 3, 4, 15, 3
kinds = pytest.mark.parametrize("kind", ["LSTM", "GRU"])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def make(kind: str, *layers: int, dtype: Any = torch.float64, **options: Any) -> Any:
    torch.manual_seed(3)
    return getattr(frt, kind)(I, H, *layers, num_heads=HEADS, dtype=dtype, **options)


def dense(module: Any) -> Any:
    """torch.nn's module with the same recurrence, in float64."""
    name = type(module).__name__
    same = {k: getattr(module, k) for k in ("num_layers", "bidirectional") if hasattr(module, k)}
    theirs = getattr(nn, name)(I, H, bias=module.bias, dtype=torch.float64, **same)
    with torch.no_grad():
        for parameter, value in theirs.named_parameters():
            ours = module.get_parameter(parameter)
            value.copy_(in_place(ours) if parameter.startswith("weight_hh") else ours)
    return theirs


def in_place(blocks: Any) -> Any:
    """The blocks in a matrix of all units."""
    whole = torch.zeros(len(blocks), H, dtype=blocks.dtype)
    for row, values in enumerate(blocks):
        first = row % H // (H // HEADS) * (H // HEADS)
        whole[row, first : first + H // HEADS] = values
    return whole


def blocks_of(name: str, gradient: Any) -> Any:
    if "weight_hh" not in name:
        return gradient
    return gradient[in_place(torch.ones(len(gradient), H // HEADS)).numpy() == 1].reshape(len(gradient), -1)


def arguments(dtype: Any, module: Any = None) -> tuple[Any, ...]:
    torch.manual_seed(4)
    return (torch.randn(*((B, I) if "Cell" in type(module).__name__ else (T, B, I)), dtype=dtype, requires_grad=True),)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "LSTMCell", "GRUCell"])
@dtypes
@pytest.mark.parametrize("deep", [False, True], ids=["one layer", "deep"])
def test_torch_nn_with_zeros_beside_the_blocks(kind: str, dtype: Any, deep: bool) -> None:
    module = make(kind, *((2,) if deep and "Cell" not in kind else ()), dtype=dtype)
    theirs = dense(module)
    given = arguments(dtype, module)
    with by_kernels():
        out, gradients = results(module, given)
    want, theirs_gradients = results(theirs, as_leaves(given, torch.float64))
    name = str(dtype).removeprefix("torch.")
    assert_arrays_close(out, want, name, roundings(module, T, B, gradients=False))
    expected = {name: blocks_of(name, g) for name, g in theirs_gradients.items()}
    assert_arrays_close(gradients, expected, name, roundings(module, T, B, gradients=True))


@kinds
@pytest.mark.parametrize("way", ["native", "frozen", "compiled", "exported", "fallback"])
def test_ways_of_a_call(kind: str, way: str) -> None:
    """All of them know heads. Native ones have the bits of the NumPy layer."""
    module = make(kind, 2, dtype=torch.float32, bidirectional=True)
    layer = getattr(fusedrnn, kind)(I, H, 2, bidirectional=True, num_heads=HEADS)
    layer.load_state_dict(module.state_dict())
    x = arguments(torch.float32)[0].detach()
    want = layer(x.numpy()).y
    with torch.no_grad():
        if way == "frozen":
            got = frt.freeze(module)(x)[0]
        elif way == "compiled":
            with torch._dynamo.config.patch(allow_rnn=True):
                got = torch.compile(module, backend="aot_eager", fullgraph=True)(x)[0]
        elif way == "exported":
            got = torch.export.export(module, (x,)).module()(x)[0]
        elif way == "fallback":
            got = torch.func.functional_call(module.double(), {}, (x.double(),))[0].float()
            double = getattr(fusedrnn, kind)(I, H, 2, bidirectional=True, num_heads=HEADS, dtype="float64")
            double.load_state_dict(module.state_dict())
            want = double(x.double().numpy()).y.astype("float32")
        else:
            got = module(x)[0]
    if way == "exported":
        n = roundings(module, T, B, gradients=False)
        assert_arrays_close({"y": got.numpy()}, {"y": want}, "float32", n)
    else:
        np.testing.assert_array_equal(got.numpy(), want)


@kinds
def test_derivatives_of_derivatives(kind: str) -> None:
    """Which the equations give, in PyTorch's operators."""
    module = make(kind)
    x = arguments(torch.float64)[0][:2, :1].detach().requires_grad_()
    hh = module.weight_hh_l0
    frt.set_fallback("ignore")
    try:
        assert torch.autograd.gradgradcheck(
            lambda x, w: torch.func.functional_call(module, {"weight_hh_l0": w}, (x,))[0], (x, hh)
        )
    finally:
        frt.set_fallback("warn")


@kinds
def test_modules_know_their_heads(kind: str) -> None:
    module = make(kind, 2)
    gates = {"LSTM": 4, "GRU": 3}[kind]
    assert module.weight_hh_l0.shape == module.weight_hh_l1.shape == (gates * H, H // HEADS)
    assert "num_heads=3" in repr(module)
    x = arguments(torch.float64)[0]
    want = module(x)[0]
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x)[0], want)
    again = getattr(frt, kind)(I, H, 2, num_heads=HEADS, dtype=torch.float64)
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(x)[0], want)


@kinds
def test_one_head_is_the_module_of_torch_nn(kind: str) -> None:
    module, plain = getattr(frt, kind)(I, H, num_heads=1), getattr(frt, kind)(I, H)
    assert module._torch_has_it
    assert repr(module) == repr(plain)
    assert type(frt.revert(module)) is getattr(nn, kind)


@kinds
def test_torch_nn_has_no_heads(kind: str) -> None:
    module = make(kind)
    assert type(frt.revert(module)) is getattr(frt, kind)
    assert type(frt.convert(module)) is getattr(frt, kind)
    for n in (2, 0):
        with pytest.raises(ValueError, match=rf"^num_heads: expected a divisor of hidden_size = {H}, got {n}$"):
            getattr(frt, kind)(I, H, num_heads=n)
    with pytest.raises(TypeError, match="^num_heads: expected int, got float$"):
        getattr(frt, kind)(I, H, num_heads=3.0)


def test_options_that_have_no_heads() -> None:
    with pytest.raises(ValueError, match="^num_heads: expected 1, as cell 'lstm_projected' has no heads, got 3$"):
        frt.LSTM(I, H, proj_size=3, num_heads=3)
    assert frt.LSTM(I, H, variant="coupled", num_heads=3).weight_hh_l0.shape == (3 * H, 5)
    assert frt.LSTM(I, H, variant="coupled").cell_values == frt.LSTM(I, H).cell_values
