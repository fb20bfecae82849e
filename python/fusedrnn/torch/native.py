"""Calls of the native runner on tensors that are plain, contiguous, on the CPU, and of one dtype. All memory is PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .plan import Plan, Steps

Maybe = Tensor | None


def addresses(tensors: Sequence[Maybe]) -> list[int]:
    return [0 if t is None else t.data_ptr() for t in tensors]


def _common(plan: Plan, steps: Steps, x: Tensor, states: Sequence[Maybe], weights: Any) -> tuple[Any, ...]:
    """The first arguments of all calls of a runner."""
    first = tuple(addresses(states)) if states else (0,) * len(plan.units)
    return (*steps.addresses(), x.data_ptr(), first, weights)


def _outputs(plan: Plan, steps: Steps, x: Tensor) -> list[Tensor]:
    """y, whose rows lie as those of x, and the last states; of a cell, the states alone."""
    last = [x.new_empty((*steps.lead, units)) for units in plan.units]
    return last if steps.of_cell else [x.new_empty((*x.shape[:-1], plan.width)), *last]


def _places(plan: Plan, steps: Steps, outputs: list[Tensor]) -> tuple[Any, ...]:
    """Where a runner writes: a cell's y is its h."""
    y, *last = [t.data_ptr() for t in outputs]
    return y, plan.width, (0, *last) if steps.of_cell else tuple(last)


def infer(plan: Plan, steps: Steps, x: Tensor, states: Sequence[Maybe], weights: Any) -> list[Tensor]:
    """y and the last states. `weights` are the addresses of parameters, or packed weights."""
    outputs = _outputs(plan, steps, x)
    common = _common(plan, steps, x, states, weights)
    plan.runner.infer(*common, *_places(plan, steps, outputs), torch.get_num_threads())
    return outputs


def forward(
    plan: Plan, steps: Steps, x: Tensor, states: Sequence[Maybe], parameters: Sequence[Tensor], reserve_bytes: int = 0
) -> tuple[list[Tensor], Tensor]:
    """The outputs of `infer`, and the reserve for `backward`, of at least this many bytes."""
    outputs = _outputs(plan, steps, x)
    common = _common(plan, steps, x, states, plan.slots(addresses(parameters)))
    nbytes = plan.runner.reserve_bytes(*common[:4], False)
    if reserve_bytes:
        assert nbytes <= reserve_bytes
        nbytes = reserve_bytes
    reserve = x.new_empty(-(-nbytes // plan.itemsize))
    plan.runner.forward(*common, *_places(plan, steps, outputs), reserve.data_ptr(), 0.0, 0, torch.get_num_threads())
    return outputs, reserve


def _rows_of(dy: Tensor, width: int) -> tuple[Tensor, int]:
    """A gradient whose rows lie at equal distances, and their distance: halves of wider rows are taken as they are."""
    stride = dy.stride(-2) if dy.dim() > 1 else width
    strides = [stride]
    for size in reversed(dy.shape[1:-1]):
        strides.insert(0, strides[0] * size)
    if dy.stride() == (*strides, 1) and stride >= width:
        return dy, stride
    return dy.contiguous(), width


def backward(
    plan: Plan,
    steps: Steps,
    reserve: Tensor,
    x: Tensor,
    states: Sequence[Maybe],
    parameters: Sequence[Tensor],
    dy: Maybe,
    dlast: Sequence[Maybe],
    wanted: Sequence[bool],
) -> list[Maybe]:
    """The gradients of x, the first states that were given, and the parameters; None for each that is not wanted. The
    reserve is only read."""
    if reserve.data_ptr() % 64:  # saved-tensor hooks may bring it back anywhere
        reserve = reserve.clone()
    stride = plan.width
    if dy is not None:
        dy, stride = _rows_of(dy.resolve_neg(), plan.width)
    dlast = [None if d is None else d.resolve_neg().contiguous() for d in dlast]
    dx = torch.empty_like(x) if wanted[0] else None
    first = 1 + len(states)
    # The runner needs a place for the gradient of each first state.
    dfirst = [x.new_empty((*steps.lead, units)) for units in plan.units]
    dparameters = [torch.empty_like(p) if w else None for p, w in zip(parameters, wanted[first:], strict=True)]
    plan.runner.backward(
        *_common(plan, steps, x, states, plan.slots(addresses(parameters))),
        reserve.data_ptr(),
        0.0,
        0,
        0 if dy is None else dy.data_ptr(),
        stride,
        tuple(addresses(dlast)),
        0 if dx is None else dx.data_ptr(),
        False,
        tuple(addresses(dfirst)),
        plan.slots(addresses(dparameters)),
        torch.get_num_threads(),
    )
    given = [d if w else None for d, w in zip(dfirst, wanted[1:first], strict=False)]
    return [dx, *given, *dparameters]
