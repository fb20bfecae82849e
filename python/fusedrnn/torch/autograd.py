"""The kernels as a function of autograd, differentiable any number of times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import by_torch, native, private
from .plan import Steps
from .tensors import PLAIN, Found, Maybe, read

NO_SHAPES = (None,) * 8


class Setting:
    """What a call of `Layers` has beside tensors."""

    __slots__ = ("at", "elements", "plan", "shape", "states", "steps")

    def __init__(self, plan: Any, steps: Steps, states: int, shape: Any, at: native.Addresses = ()) -> None:
        self.plan, self.steps, self.shape = plan, steps, shape  # of x
        self.states = states  # how many were given: those of the cell, as many again before episodes, or 0
        self.at = at  # of all tensors of forward
        self.elements = 0  # of the reserve

    def forward(self, tensors: Sequence[Any]) -> tuple[list[Tensor], Sequence[Maybe]]:
        """The outputs by the kernels, and the reserve for backward."""
        outputs, reserve = native.forward(self.plan, self.steps, tensors[0], self.at)
        self.elements = reserve.numel()
        return outputs, (reserve,)

    def seeds(self, grads: Sequence[Maybe]) -> Found:
        """What `read` finds of the gradients of outputs."""
        return read(grads, NO_SHAPES[: len(grads)], self.plan.bits)

    def backward(
        self, reserve: Sequence[Maybe], tensors: Any, grads: Sequence[Maybe], seeds: Found, wanted: Any
    ) -> list[Maybe]:
        """The gradients by the kernels."""
        shapes = self.plan.shapes_of(self.shape, self.steps.lead, self.states)
        saved, sizes = (*reserve, *tensors), ((self.elements,), *shapes)
        return native.backward(self.plan, self.steps, saved, sizes, grads, seeds, wanted)

    def run(self, tensors: Sequence[Any]) -> list[Tensor]:
        """The outputs by PyTorch's operators, which can be differentiated any number of times."""
        return self._run(by_torch.run, self.steps, tensors)

    def _run(self, by: Any, steps: Steps, tensors: Sequence[Any]) -> list[Tensor]:
        x, first = tensors[0], 1 + self.states
        whole, states = steps.whole(x, list(tensors[1:first]), self.plan.runs)
        outputs = by(self.plan.layout, steps, whole, states, tensors[first:])
        return steps.as_given(outputs, x)


def gradients_by_torch(setting: Setting, tensors: Sequence[Any], wanted: Any, grads: Sequence[Maybe]) -> list[Maybe]:
    """Gradients by autograd over PyTorch's operators, themselves with a graph if that is enabled."""
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases are where the gradients end. Those of a tensor that needs none itself have no graph behind them.
        alias = [
            t if t is None else t.view_as(t) if w else t if create else t.detach()
            for t, w in zip(tensors, wanted, strict=True)
        ]
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
    """All layers, both directions, in one call. Tensors: x, the states, the parameters. What backward does not read is
    not saved, such as biases: it may change before, as PyTorch's GRU allows."""

    @staticmethod
    def forward(ctx: Any, setting: Setting, *tensors: Any) -> Any:
        outputs, reserve = setting.forward(tensors)
        ctx.set_materialize_grads(False)
        needs = ctx.needs_input_grad
        places = setting.plan.places(setting.states, needs[1], True in needs[2 + setting.states :])
        ctx.save_for_backward(*reserve, *[tensors[i] for i in places.saved])
        others = [tensors[i] for i in places.others]
        ctx.kept = setting, len(reserve), places, others, [0 if t.is_inference() else t._version for t in others]
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _backward(ctx, grads)


@private.disabled_in_compiler  # compiled autograd would trace addresses of tensors that are gone when its graph runs
def _backward(ctx: Any, grads: Any) -> Any:
    setting, count, places, others, versions = ctx.kept
    wanted, saved = ctx.needs_input_grad[1:], ctx.saved_tensors
    reserve, tensors = saved[:count], places.together(saved[count:], others)
    seeds = setting.seeds(grads)
    special = private.is_forward_ad() or (seeds is None and _are_special(grads))
    if not (special or torch.is_grad_enabled()):
        return None, *setting.backward(reserve, tensors, grads, seeds, wanted)
    # PyTorch's operators compute forward anew, so that they read what is not saved too.
    for t, version in zip(others, versions, strict=True):
        now = 0 if t.is_inference() else t._version
        if now != version:
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace operation: "
                f"an input {tuple(t.shape)} is at version {now}; expected version {version} instead."
            )
    if special:
        return None, *gradients_by_torch(setting, tensors, wanted, grads)
    return None, *LayersGradients.apply((setting, wanted, len(tensors), reserve), *tensors, *grads)


def _are_special(grads: Sequence[Maybe]) -> bool:
    """Whether gradients are not plain: a batch of them, or of a type that may mean anything."""
    return private.are_batched(grads) or any(type(g) not in PLAIN for g in grads if g is not None)


class LayersGradients(torch.autograd.Function):
    """The backward of `Layers` where its own gradients may be asked for: the same bits; their derivatives are those of
    PyTorch's operators."""

    @staticmethod
    def forward(ctx: Any, about: Any, *tensors: Any) -> Any:
        setting, wanted, count, reserve = about
        ctx.about = setting, wanted, count
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        return tuple(setting.backward(reserve, tensors[:count], tensors[count:], None, wanted))

    @staticmethod
    def backward(ctx: Any, *second: Any) -> Any:
        setting, wanted, count = ctx.about
        create, needs = torch.is_grad_enabled(), ctx.needs_input_grad[1:]
        grads = len(ctx.saved_tensors) - count
        with torch.enable_grad():
            # A tensor whose first gradient is wanted must have a graph, though its second one may not be.
            alias = [
                t if t is None or not (n or w) else t.view_as(t) if n else t.detach().requires_grad_()
                for t, n, w in zip(ctx.saved_tensors, needs, (*wanted, *[False] * grads), strict=True)
            ]
            first = gradients_by_torch(setting, alias[:count], wanted, alias[count:])
            ends = [a for a, n in zip(alias, needs, strict=True) if n]
            return None, *_gradients(first, ends, second, needs, create)


apply_layers = private.apply_of(Layers)
private.keep_compiler_out(Layers.forward, Layers.backward, LayersGradients.forward, LayersGradients.backward)
