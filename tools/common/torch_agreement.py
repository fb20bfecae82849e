"""Modules of fusedrnn.torch beside torch.nn's: how far results may be apart, and the ways of calls. Needs PyTorch."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence

import fusedrnn.torch as frt
from agreement import assert_arrays_close, roundings_of


@functools.cache
def _lstm_under_autocast() -> str:
    """Why PyTorch's own LSTM refuses autocast on this processor; empty if it does not."""
    try:
        with torch.no_grad(), torch.autocast("cpu"):
            torch.nn.LSTM(2, 3)(torch.zeros(1, 1, 2))
    except RuntimeError as e:
        if "could not create a primitive descriptor" in str(e):
            return str(e)
        raise
    return ""


def skip_without_autocast(name: str) -> None:
    """Skips a test of a module of this name where PyTorch's own cannot run under autocast: oneDNN has no LSTM in
    bfloat16 for processors without AVX-512."""
    if name.lower() == "lstm" and _lstm_under_autocast():
        pytest.skip(f"torch.nn.LSTM under autocast: {_lstm_under_autocast()}")


@contextlib.contextmanager
def by_kernels(calls: int | None = 1) -> Iterator[None]:
    """So many calls within take the native way, and none another; None for any number of them but zero."""
    before = frt.routes()
    yield
    after = frt.routes()
    assert (after.operator, after.fallback) == (before.operator, before.fallback)
    assert after.native - before.native == calls if calls is not None else after.native > before.native


def roundings(module: Any, T: int, B: int, *, gradients: bool) -> int:
    """As `agreement.roundings_of_layers`, of a module of PyTorch."""
    layers, directions = getattr(module, "num_layers", 1), 1 + getattr(module, "bidirectional", False)
    return roundings_of((p.shape for p in module.parameters()), layers, directions, T, B, gradients)


def assert_near(got: Any, want: Any, module: Any, T: int, B: int, times: int = 1) -> None:
    """Tensors of two results of a module are as near as so many times the roundings of forward and backward allow, in
    the dtype of those that it got."""
    a, b = ({str(i): t.detach().numpy() for i, t in enumerate(tensors(tree))} for tree in (got, want))
    (dtype,) = {str(array.dtype) for array in a.values()}
    assert_arrays_close(a, b, dtype, times * roundings(module, T, B, gradients=True))


def tensors(value: Any) -> list[Any]:
    """All floating tensors of arguments or of a result, in order."""
    if isinstance(value, PackedSequence):
        return [value.data]
    if isinstance(value, torch.Tensor):
        return [value]
    return [t for part in value for t in tensors(part)] if isinstance(value, (tuple, list)) else []


def as_leaves(value: Any, dtype: Any, requires_grad: Any = None) -> Any:
    """The arguments as new leaves in this dtype; each requires a gradient as `requires_grad`, an iterator, says."""
    if isinstance(value, PackedSequence):
        return value._replace(data=as_leaves(value.data, dtype, requires_grad))
    if isinstance(value, torch.Tensor):
        wanted = value.requires_grad if requires_grad is None else next(requires_grad)
        return value.detach().to(dtype, copy=True).requires_grad_(wanted)
    return type(value)(as_leaves(v, dtype, requires_grad) for v in value) if isinstance(value, (tuple, list)) else value


def results(module: Any, arguments: tuple[Any, ...], seed: int = 0, **keywords: Any) -> tuple[dict[str, Any], ...]:
    """The outputs, and the gradients of a random sum of them, as arrays."""
    module.zero_grad(set_to_none=True)
    outputs = tensors(module(*arguments, **keywords))
    generator = torch.Generator().manual_seed(seed)
    seeds = [torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o.dtype) for o in outputs]
    pairs = [(o, s) for o, s in zip(outputs, seeds, strict=True) if o.requires_grad]
    if pairs:
        torch.autograd.backward(*zip(*pairs, strict=True))
    leaves = {f"argument {i}": t for i, t in enumerate(tensors(arguments))} | dict(module.named_parameters())
    grads = {f"gradient of {name}": t.grad.numpy() for name, t in leaves.items() if t.grad is not None}
    return {f"output {i}": o.detach().numpy() for i, o in enumerate(outputs)}, grads


def assert_agrees(ours: Any, theirs: Any, arguments: tuple[Any, ...], T: int, B: int, **keywords: Any) -> None:
    """Outputs and gradients of our module, against those of torch.nn's with the same parameters in float64. `ours` may
    be asked for `keywords` that torch.nn's does not have."""
    dtype = next(ours.parameters()).dtype
    theirs = copy.deepcopy(theirs).double()
    theirs.load_state_dict(ours.state_dict())
    got = results(ours, as_leaves(arguments, dtype), **keywords)
    want = results(theirs, as_leaves(arguments, torch.float64))
    for a, b, gradients in zip(got, want, (False, True), strict=True):
        name = str(dtype).removeprefix("torch.")
        assert all(array.dtype == name for array in a.values())
        if b or a:
            assert_arrays_close(a, b, name, roundings(theirs, T, B, gradients=gradients))


def outcome(function: Any, *arguments: Any, **keywords: Any) -> Any:
    """What a call returns, or the type and text of what it raises."""
    try:
        return function(*arguments, **keywords)
    except Exception as e:
        return type(e), str(e)
