"""Which way each call takes, and what happens where there is no kernel."""

from __future__ import annotations

import operator
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..backends.arrays import library_of
from . import private
from .tensors import PLAIN

NATIVE, OPERATOR = "native", "operator"
FALLBACKS = ("warn", "error", "ignore")


class FallbackWarning(UserWarning):
    """A call has no kernel: PyTorch's own operators compute it."""


class FallbackError(RuntimeError):
    """A call has no kernel, and `set_fallback("error")` was called."""


class Routes(NamedTuple):
    """How many calls of the modules took each way in this process: see `routes`."""

    native: int
    operator: int
    fallback: dict[str, int]


COUNTS: dict[str, int] = {NATIVE: 0, OPERATOR: 0}
_fallback = {"action": "warn"}
_told: set[str] = set()


def routes() -> Routes:
    """How many calls ran by the kernels; by the kernels as operators of PyTorch, which compiled and traced calls use
    (counted a layer each where dropout is between layers); and by PyTorch's own operators, for each reason."""
    counts = dict(COUNTS)
    return Routes(counts.pop(NATIVE), counts.pop(OPERATOR), counts)


def reset_routes() -> None:
    """Begins to count anew, and to warn anew."""
    _told.clear()
    for name in list(COUNTS):
        if name in (NATIVE, OPERATOR):
            COUNTS[name] = 0
        else:
            del COUNTS[name]


def set_fallback(action: str) -> None:
    """What to do where there is no kernel: "warn" (`FallbackWarning`, once for each reason), "error"
    (`FallbackError`), or "ignore". Raises ValueError for another action."""
    if action not in FALLBACKS:
        raise ValueError(f"action: expected one of {', '.join(map(repr, FALLBACKS))}, got {action!r}")
    _fallback["action"] = action


def count(route: str) -> None:
    COUNTS[route] = COUNTS.get(route, 0) + 1


def fall_back(reason: str) -> None:
    """Counts a call that PyTorch's operators take for this reason, and tells it, or raises FallbackError, if it is for
    want of a kernel."""
    if reason in QUIET:
        count(reason)
        return
    if _fallback["action"] == "error":
        raise FallbackError(f"fusedrnn: no kernel takes this call: {reason}")
    count(reason)
    if reason in _told or _fallback["action"] == "ignore":
        return
    _told.add(reason)
    message = f"fusedrnn: PyTorch's own operators take this call, as no kernel can: {reason}"
    warnings.warn(message, FallbackWarning, stacklevel=_depth_of_caller())


def _depth_of_caller() -> int:
    """For `warnings.warn`: the first frame that is neither ours nor of torch.nn."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith((__package__, "torch.nn.modules")):
        depth, frame = depth + 1, frame.f_back
    return depth


def of_state() -> str | None:
    """The way of all calls in the state that PyTorch is in: None for the kernels, `OPERATOR`, or a reason for PyTorch's
    operators. The order matters: a transform or a mode sees tensors that look plain."""
    if private.are_transforms_active():
        return "a torch.func transform is active"
    if private.is_forward_ad():
        return "forward-mode differentiation"
    if private.is_any_autocast_enabled() and torch.is_autocast_enabled("cpu"):
        return AUTOCAST
    if private.dispatch_modes():
        return OPERATOR
    if private.is_tracing():
        return TRACED
    return None


# Asked in every call, before the question below, which costs more.
is_on_cpu: Callable[[Tensor], bool] = operator.attrgetter("is_cpu")


def is_on_gpu(t: Tensor) -> bool:
    """Whether a tensor that is not on the CPU lies where the CUDA backend computes."""
    return library_of(t) is not None


AUTOCAST = "autocast"
TRACED = "torch.jit.trace"
EXPECTED = "gradients of the expectation of zoneout (a module in evaluation)"
EMPTY = "an empty input"
META = "tensors without numbers (meta)"
WRONG = "arguments that do not fit"
TRACED_CELL = "a cell among traced tensors"
QUIET = frozenset((TRACED, EMPTY, META, WRONG, TRACED_CELL))  # reasons that are the user's own


def of_tensor(t: Any, dtype: torch.dtype | None, device: torch.device | None = None) -> str | None:
    """The way that a tensor needs that is not plain, on this device (the CPU, if None is told), strided, and of this
    dtype."""
    if type(t) not in PLAIN:
        if isinstance(t, private.fake_tensor()):
            return OPERATOR
        return f"a tensor of type {type(t).__name__}" if isinstance(t, Tensor) else WRONG
    if t.is_meta:
        return META
    if device is not None and t.device != device:
        return WRONG
    if device is None and not t.is_cpu:
        return f"a tensor on device {t.device.type}"
    if t.layout is not torch.strided:
        return f"a tensor of layout {t.layout}"
    if t.is_neg():
        return "a tensor with the negative bit"
    if t.dtype is not dtype:
        return WRONG
    return None
