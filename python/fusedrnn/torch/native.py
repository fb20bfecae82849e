"""Calls of the native runner on tensors that are plain (`tensors.read`). All memory is PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .plan import Plan, Steps
from .tensors import Found, Maybe, read

Addresses = tuple[int, ...]  # of x, the states that are given, and the parameters


def _common(plan: Plan, steps: Steps, at: Addresses, weights: Any = None) -> tuple[Any, ...]:
    """The first arguments of all calls of a runner."""
    first = len(at) - len(plan.shapes)
    states = at[1:first] if first > 1 else (0,) * len(plan.units)
    return (*steps.addresses(), at[0], states, plan.slots(at[first:]) if weights is None else weights)


def _outputs(plan: Plan, steps: Steps, x: Tensor) -> tuple[list[Tensor], tuple[Any, ...]]:
    """y, whose rows lie as those of x, and the last states; of a cell, the states alone, and its y is its h. And where
    a runner writes them."""
    new, lead = x.new_empty, steps.lead
    outputs = [new((*lead, units)) for units in plan.units]
    last = tuple([t.data_ptr() for t in outputs])
    if steps.of_cell:
        return outputs, (last[0], plan.width, (0, *last[1:]))
    y = new((*x.shape[:-1], plan.width))
    return [y, *outputs], (y.data_ptr(), plan.width, last)


def infer(plan: Plan, steps: Steps, x: Tensor, at: Addresses, weights: Any = None) -> list[Tensor]:
    """y and the last states. `weights` are packed weights in place of the parameters."""
    outputs, places = _outputs(plan, steps, x)
    plan.runner.infer(*_common(plan, steps, at, weights), *places, torch.get_num_threads())
    return outputs


def forward(plan: Plan, steps: Steps, x: Tensor, at: Addresses, most_bytes: int = 0) -> tuple[list[Tensor], Tensor]:
    """The outputs of `infer`, and the reserve for `backward`; of `most_bytes`, if they are given."""
    outputs, places = _outputs(plan, steps, x)
    common = _common(plan, steps, at)
    nbytes = plan.runner.reserve_bytes(*common[:4], False)
    if most_bytes:
        assert nbytes <= most_bytes
        nbytes = most_bytes
    reserve = x.new_empty(-(-nbytes // plan.itemsize))
    plan.runner.forward(*common, *places, reserve.data_ptr(), 0.0, 0, torch.get_num_threads())
    return outputs, reserve


def _rows_of(dy: Tensor, width: int) -> tuple[Tensor, int]:
    """A gradient whose rows lie at equal distances, and their distance: halves of wider rows are taken as they are."""
    dy = dy.resolve_neg()
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
    tensors: Sequence[Any],
    grads: Sequence[Maybe],
    seeds: Found,
    wanted: Sequence[bool],
) -> list[Maybe]:
    """The gradients of x, the first states that were given, and the parameters; None for each that is not wanted. The
    tensors are all of forward, the grads those of its outputs, and the seeds what `read` found of the grads. The
    reserve is only read."""
    x, count = tensors[0], len(tensors) - len(plan.shapes)  # of x and the states
    shapes = plan.shapes_of(x, steps.lead, count - 1)
    found = read((reserve, *tensors), (None, *shapes), plan.bits)
    if found is None or found[1][0] % 64:  # saved-tensor hooks may bring them back in another form
        tensors = [
            t.to("cpu", plan.dtype).resolve_neg().reshape(s).contiguous() for t, s in zip(tensors, shapes, strict=True)
        ]
        reserve = reserve.to("cpu", plan.dtype, copy=True).contiguous()
        x, found = tensors[0], read((reserve, *tensors), (None, *shapes), plan.bits)
        assert found is not None
    at, stride = found[1], plan.width
    if seeds is None:
        if not steps.of_cell and grads[0] is not None:
            dy, stride = _rows_of(grads[0], plan.width)
            grads = [dy, *grads[1:]]
        rest = [None if d is None else d.resolve_neg().contiguous() for d in grads[0 if steps.of_cell else 1 :]]
        grads = rest if steps.of_cell else [grads[0], *rest]
        seeds = False, tuple([0 if d is None else d.data_ptr() for d in grads])
    new = torch.empty_like
    gradients = [new(t) if w else None for t, w in zip(tensors, wanted, strict=True)]
    to = tuple([0 if d is None else d.data_ptr() for d in gradients])
    plan.runner.backward(
        *_common(plan, steps, at[1:]),
        at[0],
        0.0,
        0,
        0 if steps.of_cell else seeds[1][0],
        stride,
        seeds[1] if steps.of_cell else seeds[1][1:],
        to[0],
        False,
        to[1:count] if count > 1 else (0,) * len(plan.units),
        plan.slots(to[count:]),
        torch.get_num_threads(),
    )
    return gradients
