"""PyTorch's private names: looked up here, once. Where PyTorch has a name no more, a stand-in is safe rather than
fast."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def _first(*paths: str, otherwise: Any) -> Any:
    """The first of these names of `torch` that there is."""
    for path in paths:
        try:
            return functools.reduce(getattr, path.split("."), torch)
        except AttributeError:
            continue
    return otherwise


def _yes(*arguments: Any) -> bool:
    """Stands in for a test whose answer would be no in most calls."""
    return True


are_transforms_active: Callable[[], bool] = _first("_C._are_functorch_transforms_active", otherwise=_yes)
dispatch_modes: Callable[[], int] = _first("_C._len_torch_dispatch_stack", otherwise=_yes)
is_tracing: Callable[[], bool] = _first("_C._is_tracing", "jit.is_tracing", otherwise=_yes)
is_any_autocast_enabled: Callable[[], bool] = _first("_C._is_any_autocast_enabled", otherwise=_yes)
is_exporting: Callable[[], bool] = _first("compiler.is_exporting", "compiler.is_compiling", otherwise=_yes)
_is_batched: list[Callable[[Tensor], bool]] = [
    _first(f"_C._functorch.{name}", otherwise=_yes) for name in ("is_batchedtensor", "is_legacy_batchedtensor")
]
below_autograd: Callable[[], Any] = _first(
    "_C._AutoDispatchBelowAutograd", "_C._AutoDispatchBelowADInplaceOrView", otherwise=None
)


def is_forward_ad() -> bool:
    """Whether dual numbers may be around."""
    return getattr(forward_ad, "_current_level", 0) >= 0


def are_batched(grads: Sequence[Tensor | None]) -> bool:
    """Whether a gradient is a batch of gradients, of vmap or of `is_grads_batched`."""
    new, legacy = _is_batched
    for t in grads:  # noqa: SIM110  # at each backward, where a generator costs more
        if t is not None and (new(t) or legacy(t)):
            return True
    return False


def apply_of(function: Any) -> Any:
    """`Function.apply` without its look at each argument for tensors of transforms that have ended, which kernels do
    not take anyway."""
    return getattr(super(torch.autograd.Function, function), "apply", function.apply)


@functools.cache
def fake_tensor() -> Any:
    """The class of tensors that have no numbers."""
    try:
        return importlib.import_module("torch._subclasses.fake_tensor").FakeTensor
    except (ImportError, AttributeError):
        return ()


def constant_to_compiler(function: Any) -> Any:
    """The function, which Dynamo calls when it traces, and whose result it takes for a constant. Without the mark it
    looks into the function."""
    function._dynamo_marked_constant = True
    return function


def disabled_in_compiler(function: Any) -> Any:
    """The function, which Dynamo does not trace: what `torch.compiler.disable` does, without a wrapper at each call."""
    function._torchdynamo_disable = True
    return function


def keep_compiler_out(*functions: Any) -> None:
    """After a break of its graph Dynamo compiles the Python frames that it meets: not these, nor what they call.
    Without the private switch it compiles them, which is correct, but slower."""
    try:
        frames: Any = importlib.import_module("torch._C._dynamo.eval_frame")
        skip = frames._FrameAction.SKIP
        for function in functions:
            frames.set_code_exec_strategy(function.__code__, frames._FrameExecStrategy(skip, skip))
    except (ImportError, AttributeError):
        return
