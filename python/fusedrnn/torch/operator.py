"""The kernels as operators of PyTorch, for whatever traces a call: torch.compile, fake tensors, make_fx.

An operator belongs to one `Layout`, which its name tells, so that a cached graph means the same layers everywhere. Its
tensors are arguments of their own, as a list of tensors costs more at each call."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import native, private, routing
from .autograd import Setting, gradients_by_torch
from .plan import DTYPES, NONE, Layout, Plan, Steps, plan_of
from .tensors import read

ABOUT = "lengths", "start", "resets", "seed"  # arguments about a call's rows and masks
_library = torch.library.Library("fusedrnn", "FRAGMENT")


def name_of(layout: Layout) -> str:
    sizes = (layout.input_size, layout.hidden_size, layout.proj_size, layout.num_layers, layout.directions)
    text = "_".join([layout.cell, *map(str, sizes), "bias" if layout.bias else "plain"])
    options = "".join(of for of in (layout.values, layout.drops) if of != NONE)
    return f"{text}_{hashlib.sha256(options.encode()).hexdigest()[:16]}" if options else text


class Operator:
    """The operators of a layout: forward, and backward. Arguments are x; lengths, start, resets, and the seed of masks
    (what is *about* a call); the first states and those before episodes; the parameters; and the dropout between
    layers, which has the seed too."""

    def __init__(self, layout: Layout) -> None:
        self.layout, self.name = layout, name_of(layout)
        self.states = 2 * len(layout.units)  # first ones, and those before episodes
        self.parameters = layout.names()
        inputs = ["Tensor x", *(f"Tensor? {name}" for name in ABOUT)]
        inputs += [f"Tensor? {form.format(s.name)}" for form in ("{}0", "reset_{}") for s in layout.spec.states]
        inputs += [*(f"Tensor {name}" for name in self.parameters), "float dropout"]
        outputs = 2 + len(layout.units)
        self._define(self.name, [*inputs, "bool keep"], outputs, self._forward, self._forward_fake, self._autograd)
        more = ["Tensor reserve", "Tensor? dy", *(f"Tensor? d{s.name}_n" for s in layout.spec.states), "bool[] wanted"]
        gradients = 1 + self.states + len(self.parameters)
        self._define(f"{self.name}_backward", inputs + more, gradients, self._backward, self._backward_fake, None)
        self.forward: Any = getattr(torch.ops.fusedrnn, self.name).default
        self.backward: Any = getattr(torch.ops.fusedrnn, f"{self.name}_backward").default
        for operator, flops in ((self.forward, self._flops), (self.backward, self._flops_of_backward)):
            register_flop_formula(operator.overloadpacket)(flops)

    def _define(
        self,
        name: str,
        inputs: list[str],
        outputs: int,
        run: Callable[..., Any],
        fake: Callable[..., Any],
        autograd: Any,
    ) -> None:
        schema = f"{name}({', '.join(inputs)}) -> ({', '.join(['Tensor'] * outputs)})"
        _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        _library.impl(name, run, "CPU")
        _library.impl(name, fake, "Meta")
        if autograd:
            _library.impl(name, autograd, "Autograd")

    def _plan(self, x: Tensor) -> Plan:
        plan = plan_of(self.layout, x.dtype)
        if plan is None:
            raise TypeError(
                f"fusedrnn::{self.name}: expected tensors of {' or '.join(map(str, DTYPES))}, got {x.dtype}"
            )
        return plan

    def _steps(self, x: Tensor, about: Sequence[Tensor | None], dropout: float) -> Steps:
        rows, pairs = (x.shape[1],), x.shape[:2]
        shapes = ((rows, torch.int64), (rows, torch.int64), (pairs, torch.bool), ((), torch.int64))
        every = zip(ABOUT, about, shapes, strict=True)
        lengths, start, resets, seed = [self._checked(name, t, *wanted) for name, t, wanted in every]
        steps = Steps(x.shape[0], x.shape[1], (self.layout.runs, x.shape[1]), lengths, start, resets=resets)
        if seed is not None:
            steps.seed, steps.dropout = int(seed), dropout
        return steps

    def _checked(self, name: str, t: Tensor | None, shape: Any, dtype: torch.dtype) -> Tensor | None:
        """A tensor about a call, contiguous."""
        if t is None:
            return None
        if t.shape != shape or t.dtype is not dtype or t.device.type not in ("cpu", "meta"):
            raise ValueError(
                f"fusedrnn::{self.name}: expected {name} as {tuple(shape)} {dtype} on the CPU, "
                f"got {tuple(t.shape)} {t.dtype} on {t.device}"
            )
        return t.contiguous()

    def _parts(self, tensors: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """States, of which the first are given or none, and with them those before episodes or none; and parameters;
        contiguous."""
        every = [None if t is None else t.contiguous() for t in tensors]
        return [s for s in every[: self.states] if s is not None], every[self.states :]

    # The kernels.

    def _forward(self, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        about, (*tensors, dropout, keep) = rest[: len(ABOUT)], rest[len(ABOUT) :]
        routing.count(routing.OPERATOR)
        plan, steps, x = self._plan(x), self._steps(x, about, dropout), x.contiguous()
        states, parameters = self._parts(tensors)
        every = (x, *states, *parameters)
        found = read(every, plan.shapes_of(x.shape, steps.lead, len(states)), plan.bits)
        if found is None:
            sizes = [tuple(t.shape) for t in every]
            raise ValueError(
                f"fusedrnn::{self.name}: expected plain tensors of the layers' sizes on the CPU, got {sizes}"
            )
        if not keep and steps.seed is None:
            return *native.infer(plan, steps, x, found[1]), x.new_empty(0)
        elements = plan.most_reserve_elements(steps.seq_len * steps.batch_size)
        outputs, reserve = native.forward(plan, steps, x, found[1], elements)
        return *outputs, reserve if keep else x.new_empty(0)

    def _forward_fake(self, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        lengths, start, resets, _ = rest[: len(ABOUT)]  # a fake seed has no value
        plan, steps = self._plan(x), self._steps(x, (lengths, start, resets, None), 0.0)
        rows = steps.seq_len * steps.batch_size
        elements = plan.most_reserve_elements(rows) if rest[-1] else 0
        y = x.new_empty((steps.seq_len, steps.batch_size, plan.width))
        return y, *(x.new_empty((*steps.lead, units)) for units in plan.units), x.new_empty(elements)

    def _backward(self, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        about, (*tensors, wanted) = rest[: len(ABOUT)], rest[len(ABOUT) :]
        count = self.states + len(self.parameters)
        states, parameters = self._parts(tensors[:count])
        dropout, reserve, *grads = tensors[count:]
        places = [wanted[0], *wanted[1 : 1 + len(states)], *wanted[1 + self.states :]]
        plan, steps, every = (
            self._plan(x),
            self._steps(x, about, dropout),
            (x.contiguous(), *states, *parameters),
        )
        outputs = [(*x.shape[:2], plan.width), *((*steps.lead, units) for units in plan.units)]
        for g, shape in zip(grads, outputs, strict=True):
            if g is not None and (g.shape != shape or g.dtype != x.dtype or not g.is_cpu):
                raise ValueError(
                    f"fusedrnn::{self.name}_backward: expected a gradient {shape} of {x.dtype}, "
                    f"got {tuple(g.shape)} of {g.dtype}"
                )
        elements = plan.most_reserve_elements(steps.seq_len * steps.batch_size)
        shapes = ((elements,), *plan.shapes_of(x.shape, steps.lead, len(states)))
        found = native.backward(plan, steps, (reserve, *every), shapes, grads, None, places)
        found[1 + len(states) : 1 + len(states)] = [None] * (self.states - len(states))
        return tuple(x.new_empty(0) if d is None else d for d in found)

    def _backward_fake(self, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        of = [x, *rest[len(ABOUT) : len(ABOUT) + self.states + len(self.parameters)]]
        return tuple(
            t.new_empty(t.shape) if w and t is not None else x.new_empty(0) for t, w in zip(of, rest[-1], strict=True)
        )

    def _autograd(self, *arguments: Any) -> tuple[Tensor, ...]:
        *tensors, dropout, _ = arguments
        wanted = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
        expected = wanted and self.layout.drops != NONE and tensors[len(ABOUT)] is None  # for which there is no kernel
        if private.is_forward_ad() or private.are_transforms_active() or expected:
            return self._decomposed(dropout, *tensors)
        if wanted:
            outputs: tuple[Tensor, ...] = _Traced.apply(self, dropout, *tensors)
            return outputs
        with private.below_autograd():
            return self.forward(*arguments)  # type: ignore[no-any-return]

    def _decomposed(self, dropout: float, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        """By PyTorch's operators, which know transforms and tangents."""
        tensors = [x, *(t for t in rest[len(ABOUT) :] if t is not None)]
        steps = self._steps(x, rest[: len(ABOUT)], dropout)
        setting = Setting(self._plan(x), steps, len(tensors) - 1 - len(self.parameters), x.shape)
        return *setting.run(tensors), x.new_empty(0)

    def _flops(self, x: Any, *rest: Any, out_shape: Any = None, **kwargs: Any) -> int:
        """Of forward, as PyTorch's counter asks for them, by shapes: a multiplication and an addition for each row and
        each element of a matrix."""
        first = len(ABOUT) + self.states
        parameters = rest[first : first + len(self.parameters)]
        return int(2 * x[0] * x[1] * sum(p[0] * p[1] for p in parameters if len(p) == 2))

    def _flops_of_backward(self, *shapes: Any, **kwargs: Any) -> int:
        return 2 * self._flops(*shapes)


class _Traced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, operator: Operator, dropout: float, *tensors: Any) -> Any:
        with private.below_autograd():
            outputs = operator.forward(*tensors, dropout, True)
        ctx.operator, ctx.dropout = operator, dropout
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(outputs[-1])
        ctx.save_for_backward(outputs[-1], *tensors)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        operator, dropout, grads = ctx.operator, ctx.dropout, grads[:-1]
        reserve, *tensors = ctx.saved_tensors
        x, about, rest = tensors[0], tensors[1 : 1 + len(ABOUT)], tensors[1 + len(ABOUT) :]
        wanted = [ctx.needs_input_grad[2], *ctx.needs_input_grad[3 + len(ABOUT) :]]
        if not torch.compiler.is_compiling() and (
            torch.is_grad_enabled() or private.are_batched(grads) or private.is_forward_ad()
        ):
            found = _by_torch(operator, x, (about, dropout), rest, wanted, grads)
        else:
            found = operator.backward(*tensors, dropout, reserve, *grads, wanted)
        dx, *others = (d if w else None for d, w in zip(found, wanted, strict=True))
        return None, None, dx, *[None] * len(ABOUT), *others


def _by_torch(
    operator: Operator, x: Tensor, about: tuple[Any, ...], rest: list[Any], wanted: list[bool], grads: Any
) -> list[Any]:
    given = [t for t in rest if t is not None]
    plan = plan_of(operator.layout, x.dtype)
    assert plan is not None
    setting = Setting(plan, operator._steps(x, *about), len(given) - len(operator.parameters), x.shape)
    places = [w for t, w in zip([x, *rest], wanted, strict=True) if t is not None]
    each = iter(gradients_by_torch(setting, [x, *given], places, grads))
    return [None if t is None else next(each) for t in (x, *rest)]


_operators: dict[Layout, Operator] = {}
_making = threading.RLock()  # PyTorch runs Python code meanwhile, which may ask again


def _renew() -> None:
    """In the child of a fork, whose parent may have held the lock."""
    global _making
    _making = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def operator_of(layout: Layout) -> Operator:
    """The operators of a layout, which PyTorch lets one thread define, and once. Other threads wait for it."""
    found = _operators.get(layout)
    if found is None:
        with _making:
            found = _operators.get(layout)
            if found is None:
                found = _operators[layout] = Operator(layout)
    return found
