"""Calls of the native runner on tensors that are plain (`tensors.read`). All memory is PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .plan import Plan, Steps
from .tensors import Found, Maybe, read

Addresses = tuple[int, ...]  # of x, the states that are given (first ones, and those before episodes), the parameters
MOST_THREADS = 1024  # that a runner takes


def _threads() -> int:
    n: int = torch.get_num_threads()
    return min(n, MOST_THREADS)


def _common(plan: Plan, steps: Steps, at: Addresses, weights: Any = None) -> tuple[Any, ...]:
    """The first arguments of all calls of a runner."""
    first = len(at) - len(plan.shapes)
    parameters = plan.slots(at[first:]) if weights is None else weights
    return (*steps.addresses(), at[0], *_halves(plan, at[1:first]), parameters)


def _halves(plan: Plan, states: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The addresses of first states and of those before episodes, 0 where they are not given."""
    count = len(plan.units)
    if len(states) == 2 * count:
        return states[:count], states[count:]
    return states or (0,) * count, (0,) * count


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
    plan.runner.infer(*_common(plan, steps, at, weights), *places, _threads())
    return outputs


def forward(plan: Plan, steps: Steps, x: Tensor, at: Addresses, elements: int = 0) -> tuple[list[Tensor], Tensor]:
    """The outputs of `infer`, and the reserve for `backward`; of so many elements, if they are given."""
    outputs, places = _outputs(plan, steps, x)
    common = _common(plan, steps, at)
    needed = -(-plan.runner.reserve_bytes(*common[:4], steps.dropout > 0) // plan.itemsize)
    if elements and needed > elements:
        raise RuntimeError(f"reserve: expected at most {elements} elements, got {needed}")
    reserve = x.new_empty(elements or needed)
    plan.runner.forward(*common, *places, reserve.data_ptr(), steps.dropout, steps.seed or 0, _threads())
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
    saved: Sequence[Any],
    shapes: Sequence[tuple[int, ...]],
    grads: Sequence[Maybe],
    seeds: Found,
    wanted: Sequence[bool],
) -> list[Maybe]:
    """The gradients of x, the states that were given, and the parameters; None for each that is not wanted. Saved
    are the reserve, which is only read, and all tensors of forward, of these shapes; the grads are those of its
    outputs, and the seeds what `read` found of the grads."""
    found, stride = read(saved, shapes, plan.bits), plan.width
    if found is None or found[1][0] % 64:
        saved = _restored(plan, saved, shapes)
        found = read(saved, shapes, plan.bits)
        if found is None:
            raise RuntimeError(
                f"saved tensors: expected plain ones, got {[type(t).__name__ for t in saved]} from a hook"
            )
    at, tensors = found[1], saved[1:]
    count = len(tensors) - len(plan.shapes)  # of x and the states
    if seeds is None:
        grads, stride = _seeds(plan, steps, grads)
        seeds = False, tuple([0 if d is None else d.data_ptr() for d in grads])
    new = torch.empty_like
    gradients = [new(t) if w else None for t, w in zip(tensors, wanted, strict=True)]
    to = tuple([0 if d is None else d.data_ptr() for d in gradients])
    plan.runner.backward(
        *_common(plan, steps, at[1:]),
        at[0],
        steps.dropout,
        steps.seed or 0,
        0 if steps.of_cell else seeds[1][0],
        stride,
        seeds[1] if steps.of_cell else seeds[1][1:],
        to[0],
        False,
        *_halves(plan, to[1:count]),
        plan.slots(to[count:]),
        _threads(),
    )
    return gradients


def _restored(plan: Plan, saved: Sequence[Any], shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    """Saved tensors that hooks have brought back in another form: on the CPU, contiguous, the reserve aligned. Raises
    RuntimeError for other shapes."""
    for t, shape in zip(saved, shapes, strict=True):
        if t.shape != shape:
            raise RuntimeError(f"saved tensors: expected shape {tuple(shape)}, got {tuple(t.shape)} from a hook")
    reserve, *tensors = [t.to("cpu", plan.dtype).resolve_neg().contiguous() for t in saved]
    return [reserve.clone(), *tensors]


def _seeds(plan: Plan, steps: Steps, grads: Sequence[Maybe]) -> tuple[list[Maybe], int]:
    """Gradients of outputs as the runner takes them, and the distance of the rows of dy. Autograd has checked shapes
    and dtypes."""
    first = 0 if steps.of_cell else 1
    states = [None if d is None else d.resolve_neg().contiguous() for d in grads[first:]]
    if not first or grads[0] is None:
        return [*grads[:first], *states], plan.width
    dy, stride = _rows_of(grads[0], plan.width)
    return [dy, *states], stride
