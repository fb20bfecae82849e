"""Arguments of calls and constructors that torch.nn's modules do not check."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from . import private

MOST_STEPS = 2**62  # that clocks count


def states_of(hx: Any, count: int) -> Any:
    """The states of a cell that has so many, as a sequence; whatever was given, if that is none."""
    return () if hx is None else (hx,) if count == 1 else hx


def are_tensors(states: Any, count: int) -> bool:
    return isinstance(states, (tuple, list)) and len(states) == count and all(isinstance(s, Tensor) for s in states)


def require_dtype(state: Tensor, x: Tensor) -> None:
    """Raises ValueError for a state of another dtype than the input's, where no autocast makes them one."""
    if state.dtype != x.dtype and not private.is_any_autocast_enabled():
        raise ValueError(f"hidden state dtype ({state.dtype}) does not match input dtype ({x.dtype})")


def _as_tensor(value: Any, gpu: torch.device | None) -> tuple[Tensor, bool]:
    """On the CPU, or where it is, if that is this GPU; and whether it stays there, where to read its values would mean
    to wait."""
    stays = gpu is not None and isinstance(value, Tensor) and value.device == gpu
    return (value if stays else torch.as_tensor(value, device="cpu")), stays


def of_rows(
    value: Any, batch_size: Any, name: str, reason: str | None, most: Any, gpu: torch.device | None = None
) -> Tensor:
    """A number for each row, as ``(B,)`` int64 on the CPU: of 0..most, if that is not None. What lies on the `gpu` of
    the input stays there unread. A `reason` says why there can be none. Raises ValueError or TypeError for others."""
    if reason is not None:
        raise ValueError(f"{name}: expected None for {reason}, got {type(value).__name__}")
    t, stays = _as_tensor(value, gpu)
    if t.is_floating_point() or t.is_complex() or t.dtype is torch.bool:
        raise TypeError(f"{name}: expected integers, got {t.dtype}")
    if t.dim() > 1 or (t.dim() == 1 and t.shape[0] != batch_size) or (t.dim() == 0 and most is not None):
        raise ValueError(f"{name}: expected ({batch_size},) integers, got shape {tuple(t.shape)}")
    # A copy, as kernels read it without the GIL, and in backward again.
    t = t.to(torch.int64).expand(batch_size).clone(memory_format=torch.contiguous_format)
    if stays or torch.compiler.is_compiling():  # the values are not known: a kernel checks them
        return t
    top = MOST_STEPS if most is None else most
    if t.numel() and (int(t.min()) < 0 or int(t.max()) > top):
        raise ValueError(f"{name}: expected integers in 0..{top}, got {int(t.min())}..{int(t.max())}")
    return t


def lengths_of(
    value: Any, batch_size: Any, seq_len: Any, unbatched: bool, gpu: torch.device | None = None
) -> Tensor | None:
    if value is None:
        return None
    return of_rows(value, batch_size, "lengths", "a sequence without a batch" if unbatched else None, seq_len, gpu)


def start_of(value: Any, batch_size: Any, numbered: bool) -> Tensor | None:
    if value is None:
        return None
    return of_rows(value, batch_size, "start", None if numbered else "a cell without clocks", None)


def resets_of(value: Any, shape: tuple[Any, ...], turned: bool, gpu: torch.device | None = None) -> Tensor | None:
    """Where episodes begin, as ``(T, B)`` bool on the CPU, or on the `gpu` of the input; `turned` from ``(B, T)``.
    Raises ValueError or TypeError for others."""
    if value is None:
        return None
    t, _ = _as_tensor(value, gpu)
    if t.dtype is not torch.bool:
        raise TypeError(f"resets: expected torch.bool, got {t.dtype}")
    if t.shape != shape:
        raise ValueError(f"resets: expected shape {tuple(shape)}, got {tuple(t.shape)}")
    # A copy, as kernels read it without the GIL, and in backward again.
    return (t.t() if turned else t).clone(memory_format=torch.contiguous_format)


def states_with_resets(
    states: Any, before: Any, units: list[int], empty: list[float], lead: Any, batched: bool, like: Tensor
) -> Any:
    """First states, and after them those before episodes: each ``(*lead, units)`` or, for all rows, without the batch,
    which is the last of `lead`. Raises ValueError or TypeError for others."""
    if before is None:
        return states
    before = states_of(before, len(units))
    if not are_tensors(before, len(units)):
        expected = "a tensor" if len(units) == 1 else f"a tuple of {len(units)} tensors"
        raise TypeError(f"reset_state: expected {expected}, got {type(before).__name__}")
    whole = []
    for s, n in zip(before, units, strict=True):
        of_all = (*lead[:-1], n) if batched else (*lead, n)
        if s.shape not in ((*lead, n), of_all) or s.dtype != like.dtype:
            raise ValueError(
                f"reset_state: expected {(*lead, n)} or {of_all} of {like.dtype}, got {tuple(s.shape)} of {s.dtype}"
            )
        whole.append(s if s.shape == (*lead, n) else s.unsqueeze(-2).expand(*lead, n))
    return [*(states or empty_states(units, empty, lead, like)), *whole]


def empty_states(units: list[int], empty: list[float], lead: Any, like: Tensor) -> list[Tensor]:
    return [like.new_full((*lead, n), value) for n, value in zip(units, empty, strict=True)]


def signature_of(cls: Any, build: Any) -> inspect.Signature:
    """The arguments of torch.nn's module, and the options of the cells."""
    plain = list(inspect.signature(build).parameters.values())[2:]
    plain = [p for p in plain if p.name != "proj_size" or cls._options.projects]
    own = [p for p in cls._options.parameters() if p.name in cls._own_options()]
    theirs = [p.replace(kind=p.POSITIONAL_OR_KEYWORD) for p in cls._options.parameters() if p not in own]
    plain[3:3] = theirs  # where nn.RNN and nn.RNNCell have their nonlinearity
    return inspect.Signature([*plain, *own])
