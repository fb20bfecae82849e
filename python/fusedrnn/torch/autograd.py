"""The kernels as a function of autograd, differentiable any number of times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import by_torch, native, private
from .plan import Plan, Steps

Maybe = Tensor | None


class Setting:
    """What a call of `Layers` has beside tensors."""

    __slots__ = ("plan", "states", "steps")

    def __init__(self, plan: Plan, steps: Steps, states: int) -> None:
        self.plan, self.steps = plan, steps
        self.states = states  # how many were given: those of the cell, or 0

    def parts(self, tensors: Sequence[Any]) -> tuple[Any, list[Any], list[Any]]:
        """x, the states and the parameters."""
        x, *rest = tensors
        return x, rest[: self.states], rest[self.states :]

    def run(self, tensors: Sequence[Any]) -> list[Tensor]:
        """The outputs by PyTorch's operators."""
        x, states, parameters = self.parts(tensors)
        whole, states = self.steps.whole(x, states, self.plan.runs)
        outputs = by_torch.run(self.plan.layout, self.steps, whole, states, parameters)
        return self.steps.as_given(outputs, x)

    def backward(self, reserve: Tensor, tensors: Sequence[Any], grads: Sequence[Maybe], wanted: Any) -> list[Maybe]:
        """The gradients of the tensors by the kernels."""
        dy, dlast = (None, grads) if self.steps.of_cell else (grads[0], grads[1:])
        return native.backward(self.plan, self.steps, reserve, *self.parts(tensors), dy, dlast, wanted)


def gradients_by_torch(setting: Setting, tensors: Sequence[Any], wanted: Any, grads: Sequence[Maybe]) -> list[Maybe]:
    """Gradients by autograd over PyTorch's operators, themselves with a graph if that is enabled."""
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        if create:
            alias = [t.view_as(t) if w else t for t, w in zip(tensors, wanted, strict=True)]
        else:
            alias = [t if t is None else t.detach().requires_grad_(w) for t, w in zip(tensors, wanted, strict=True)]
        outputs = setting.run(alias)
        ends = [t for t, w in zip(alias, wanted, strict=True) if w]
        return _gradients(outputs, ends, grads, wanted, create)


def _gradients(outputs: Any, ends: Any, grads: Any, wanted: Any, create: bool) -> list[Maybe]:
    """Of the ends, in the places that are wanted."""
    pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None and o is not None and o.requires_grad]
    found: Any = [None] * len(ends)
    if pairs:
        starts, seeds = zip(*pairs, strict=True)
        found = torch.autograd.grad(starts, ends, seeds, create_graph=create, allow_unused=True)
    each = iter(found)
    return [next(each) if w else None for w in wanted]


class Layers(torch.autograd.Function):
    """All layers, both directions, in one call. Tensors: x, the states, the parameters. Biases are not saved, as backward
    does not read them: they may change before it, as PyTorch's GRU allows."""

    @staticmethod
    def forward(ctx: Any, setting: Setting, *tensors: Any) -> Any:
        x, states, parameters = setting.parts(tensors)
        outputs, reserve = native.forward(setting.plan, setting.steps, x, states, parameters)
        ctx.setting = setting
        ctx.set_materialize_grads(False)
        _save(ctx, setting, tensors, reserve)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        setting, wanted = ctx.setting, ctx.needs_input_grad[1:]
        tensors, reserve = _saved(ctx)
        if any(map(private.is_batched, grads)):
            _refuse_changed_biases(ctx)
            return None, *gradients_by_torch(setting, tensors, wanted, grads)
        if torch.is_grad_enabled():
            _refuse_changed_biases(ctx)
            about = (setting, wanted, len(tensors), reserve)
            return None, *LayersGradients.apply(about, *tensors, *grads)
        return None, *setting.backward(reserve, tensors, grads, wanted)


def _save(ctx: Any, setting: Setting, tensors: Sequence[Any], reserve: Tensor) -> None:
    first, saved = 1 + setting.states, setting.plan.saved
    if all(saved):
        ctx.save_for_backward(reserve, *tensors)
        ctx.biases = ()
        return
    parameters = tensors[first:]
    ctx.save_for_backward(reserve, *tensors[:first], *(p for p, s in zip(parameters, saved, strict=True) if s))
    ctx.biases = tuple((p, _version(p)) for p, s in zip(parameters, saved, strict=True) if not s)


def _saved(ctx: Any) -> tuple[list[Any], Tensor]:
    setting = ctx.setting
    reserve, *tensors = ctx.saved_tensors
    if ctx.biases:
        biases, saved = iter(ctx.biases), iter(tensors[1 + setting.states :])
        parameters = [next(saved) if s else next(biases)[0] for s in setting.plan.saved]
        tensors = [*tensors[: 1 + setting.states], *parameters]
    return tensors, reserve


def _version(t: Tensor) -> int:
    return 0 if t.is_inference() else t._version


def _refuse_changed_biases(ctx: Any) -> None:
    """PyTorch's operators compute forward anew, so that they read biases too."""
    for bias, version in ctx.biases:
        if _version(bias) != version:
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace operation: "
                f"a bias {tuple(bias.shape)} is at version {_version(bias)}; expected version {version} instead."
            )


class LayersGradients(torch.autograd.Function):
    """The backward of `Layers` where its own gradients may be asked for: the same bits; their derivatives are those of
    PyTorch's operators."""

    @staticmethod
    def forward(ctx: Any, about: Any, *tensors: Any) -> Any:
        setting, wanted, count, reserve = about
        ctx.about = setting, wanted, count
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        return tuple(setting.backward(reserve, tensors[:count], tensors[count:], wanted))

    @staticmethod
    def backward(ctx: Any, *second: Any) -> Any:
        setting, wanted, count = ctx.about
        create, needs = torch.is_grad_enabled(), ctx.needs_input_grad[1:]
        grads = len(ctx.saved_tensors) - count
        with torch.enable_grad():
            # A tensor whose first gradient is wanted must have a graph, though its second one may not be.
            alias = [
                t if t is None or not (n or w) else t.view_as(t) if create and n else t.detach().requires_grad_()
                for t, n, w in zip(ctx.saved_tensors, needs, (*wanted, *[False] * grads), strict=True)
            ]
            first = gradients_by_torch(setting, alias[:count], wanted, alias[count:])
            ends = [a for a, n in zip(alias, needs, strict=True) if n]
            return None, *_gradients(first, ends, second, needs, create)
