"""Calls of modules on a GPU, by the CUDA backend, whose weights are a direction of a layer each. All memory is
PyTorch's. Weights are copied and packed in each call, and once more in its backward, so that whatever changes
parameters is seen, and a CUDA graph packs them when it is replayed. Nothing reads a value from the GPU."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..backends import Loaded, load
from . import by_torch, private, routing
from .autograd import Setting, apply_layers
from .plan import BasePlan, Layout, Places, Steps, values_of
from .tensors import Found, Maybe

Weights = Callable[[int], Loaded]  # of each run


class Refused(Exception):
    """Why the backend does not take a call, whose weights it takes."""


class GpuPlan(BasePlan):
    """On a GPU. Raises what the backend does for a module that it does not run there."""

    on_gpu = True

    def __init__(self, layout: Layout, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(layout, dtype, bits=0)  # as `read` finds what lies on the CPU alone
        self.device = device
        self.options = dict(values_of(layout.drops))
        self.values = dict(values_of(layout.values)) | self.options
        self.each = len(self.shapes) // self.runs  # the parameters of a run
        zeros = functools.partial(torch.zeros, dtype=dtype, device=device)
        w = self.loaded([zeros(shape) for shape in self.shapes[: self.each]], 0)
        states, inputs = (None,) * len(self.units), dict.fromkeys(self.spec.further_inputs)
        w.infer(zeros((1, 1, layout.input_size)), states, None, False, inputs)

    def loaded(self, parameters: Sequence[Tensor], run: int, format: str | None = None) -> Loaded:
        """The weights of a run."""
        of_run = parameters[run * self.each : (run + 1) * self.each]
        given = dict(zip(self.layout.names_of_run, of_run, strict=True))
        return load(self.spec, dict.fromkeys(self.spec.names) | given, self.values, format)

    def packed(self, parameters: Sequence[Tensor]) -> list[Loaded]:
        """Packed weights, which a call takes in place of the parameters."""
        return [self.loaded(parameters, run) for run in range(self.runs)]

    def places(self, states: int, x_wanted: bool, parameters_wanted: bool) -> Places:
        """All: the backend may read any of them."""
        return Places([True] * (1 + states + len(self.shapes)))

    def layer(self, number: int) -> GpuPlan:
        return plan_of(self.layout.layer(number), self.dtype, self.device)


@functools.lru_cache(maxsize=1024)
def plan_of(layout: Layout, dtype: torch.dtype, device: torch.device) -> GpuPlan:
    return GpuPlan(layout, dtype, device)


def plan_or_reason(layout: Layout, dtype: torch.dtype, device: torch.device) -> GpuPlan | str:
    """The plan; or why the backend runs no such module there, or not at all in this build, or on this machine."""
    try:
        return plan_of(layout, dtype, device)
    except torch.cuda.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError) as e:  # NotImplementedError among them
        return f"on device {device.type}: {e}"


def _is_autocast(t: Any) -> bool:
    """Whether autocast would cast it, were it an argument of torch.nn's layers."""
    if not private.is_any_autocast_enabled() or not isinstance(t, Tensor):
        return False
    return torch.is_autocast_enabled(t.device.type) and t.is_floating_point() and t.dtype is not torch.float64


def dtype_of(x: Tensor) -> torch.dtype:
    """In which a call on x computes."""
    return torch.get_autocast_dtype(x.device.type) if _is_autocast(x) else x.dtype


def cast(t: Any) -> Any:
    """A tensor of a call as autocast wants it."""
    return t.to(dtype_of(t)) if _is_autocast(t) else t


# Calls.


def run(plan: GpuPlan, steps: Steps, tensors: Sequence[Tensor], graph: bool, packed: Any) -> Sequence[Tensor]:
    """The outputs, with a graph if that is wanted. `packed` are weights in place of the parameters. Raises Refused."""
    states = len(tensors) - 1 - len(plan.shapes)
    if graph:
        return apply_layers(GpuSetting(plan, steps, states, tensors[0].shape), *tensors)  # type: ignore[no-any-return]
    parameters = tensors[1 + states :]
    weights = functools.partial(plan.loaded, parameters) if packed is None else packed.__getitem__
    return _forward(plan, steps, tensors, weights, None)


class Packing:
    """Where packed rows stand among those of all steps."""

    def __init__(self, steps: Steps, device: torch.device) -> None:
        self.sizes, self.index = (steps.seq_len, steps.batch_size), None
        if steps.batch_sizes is not None:
            live = torch.arange(steps.batch_size, device="cpu") < steps.batch_sizes.unsqueeze(1)
            self.index = live.flatten().nonzero().squeeze(1).to(device, non_blocking=True)

    def padded(self, rows: Tensor) -> Tensor:
        """``(T, B, ...)``, zeros where no row stands."""
        if self.index is None:
            return rows
        T, B = self.sizes
        return rows.new_zeros((T * B, *rows.shape[1:])).index_copy_(0, self.index, rows).unflatten(0, (T, B))

    def packed(self, padded: Tensor) -> Tensor:
        return padded if self.index is None else padded.flatten(0, 1).index_select(0, self.index)


class Inputs:
    """What the runs of a call read beside the outputs below, on the GPU."""

    def __init__(self, plan: GpuPlan, steps: Steps, packing: Packing, states: list[Maybe]) -> None:
        self.plan, self.steps, count = plan, steps, len(plan.units)
        self.first, self.before = states[:count], states[count:]
        self.lengths, resets = (
            None if t is None else t.to(plan.device, non_blocking=True) for t in (steps.lengths, steps.resets)
        )
        self.all: dict[str, Any] = {} if resets is None else {"resets": packing.padded(resets)}
        if plan.spec.numbered:
            self.all[plan.spec.numbered] = None if steps.start is None else steps.start.numpy()

    def of_run(self, layer: int, d: int, below: Maybe) -> tuple[Any, ...]:
        """The arguments of the backend's call after x."""
        plan, steps = self.plan, self.steps
        run, inputs = layer * plan.layout.directions + d, dict(self.all)
        first, before = (tuple([s[run] for s in some if s is not None]) for some in (self.first, self.before))
        if before:
            inputs["reset_state"] = before
        if plan.spec.below:
            inputs[plan.spec.below] = below
        if steps.seed is not None:
            sizes = steps.seq_len, steps.batch_size, steps.seed
            inputs["masks"] = by_torch.masks_of(plan.layout.layer(layer), plan.options, *sizes, layer, d)
        return first or (None,) * len(plan.units), self.lengths, d == 1, inputs


def _forward(
    plan: GpuPlan, steps: Steps, tensors: Sequence[Tensor], weights: Weights, kept: list[Any] | None
) -> list[Tensor]:
    """y and the last states, as the caller has them. What each run keeps for backward is added to `kept`, if that is
    given."""
    spec, layout, packing = plan.spec, plan.layout, Packing(steps, plan.device)
    x, states = steps.whole(tensors[0], list(tensors[1 : len(tensors) - len(plan.shapes)]), plan.runs)
    x, inputs = packing.padded(x), Inputs(plan, steps, packing, states)
    below, ends = [None] * layout.directions, list[list[Tensor]]()
    try:
        for layer in range(layout.num_layers):
            ys = []
            for d in range(layout.directions):
                w, arguments = weights(len(ends)), (x, *inputs.of_run(layer, d, below[d]))
                if kept is None and steps.seed is None:
                    results = w.infer(*arguments)
                else:
                    results, of_backward, _ = w.forward(*arguments)
                    if kept is not None:
                        kept.append(of_backward)
                ys.append(results["y"])
                ends.append([results[f"{s.name}_n"] for s in spec.states])
                below[d] = results[spec.above] if spec.above else None
            x = ys[0] if len(ys) == 1 else torch.cat(ys, -1)
            if steps.dropout and layer + 1 < layout.num_layers:
                x = by_torch.dropped(layout, steps, x, layer)
    except (NotImplementedError, ValueError) as e:
        raise Refused(f"on device {plan.device.type}: {e}") from e
    routing.count(routing.NATIVE)
    last = [torch.stack(of_state).resize_((*steps.lead, of_state[0].shape[-1])) for of_state in zip(*ends, strict=True)]
    # In place, so that no output is a view: some changes of views are refused.
    return last if steps.of_cell else [packing.packed(x).resize_((*tensors[0].shape[:-1], plan.width)), *last]


class GpuSetting(Setting):
    """Of a call on a GPU, whose reserve is what the runs keep, one after the other."""

    __slots__ = ("format", "forms", "kept")  # of weights; of saved tensors; what runs keep, without its arrays

    def forward(self, tensors: Sequence[Any]) -> tuple[list[Tensor], list[Maybe]]:
        parameters, kept = tensors[1 + self.states :], list[Any]()

        def weights(run: int) -> Loaded:
            w: Loaded = self.plan.loaded(parameters, run)
            self.format = w.format
            return w

        outputs = _forward(self.plan, self.steps, tensors, weights, kept)
        reserve = [a for k in kept for a in k.laid_out()]
        self.kept = [k.emptied() for k in kept]
        self.forms = [None if a is None else (a.shape, a.dtype) for a in (*reserve, *tensors)]
        return outputs, reserve

    def seeds(self, grads: Sequence[Maybe]) -> Found:
        return None

    def backward(
        self, reserve: Sequence[Maybe], tensors: Any, grads: Sequence[Maybe], seeds: Found, wanted: Any
    ) -> list[Maybe]:
        every = [_restored(a, form, self.plan.device) for a, form in zip((*reserve, *tensors), self.forms, strict=True)]
        reserve, tensors = every[: len(reserve)], every[len(reserve) :]
        found = _backward(self, reserve, tensors, grads)
        return [d if w else None for d, w in zip(found, wanted, strict=True)]

    def run(self, tensors: Sequence[Any]) -> list[Tensor]:
        """By the equations, as derivatives of cuDNN's operators have none."""
        steps = copy.copy(self.steps)
        steps.lengths, steps.resets = (None if t is None else t.cpu() for t in (steps.lengths, steps.resets))
        return self._run(by_torch.by_equations, steps, tensors)


def _restored(a: Any, form: Any, device: torch.device) -> Maybe:
    """A saved tensor, which a hook may have brought back in another form. Raises RuntimeError for another shape."""
    if form is None:
        return None
    shape, dtype = form
    if a.shape != shape:
        raise RuntimeError(f"saved tensors: expected shape {tuple(shape)}, got {tuple(a.shape)} from a hook")
    restored: Tensor = a.to(device, dtype).resolve_neg().contiguous()
    return restored


def _seeds(setting: GpuSetting, packing: Packing, grads: Sequence[Maybe]) -> tuple[Maybe, list[Maybe]]:
    """Gradients of outputs, of whole layers: of y, padded, and of the last states."""
    plan, steps = setting.plan, setting.steps
    dy, *dlast = ([None] if steps.of_cell else []) + [None if d is None else d.resolve_neg() for d in grads]
    if dy is not None:
        dy = packing.padded(dy)
        dy = dy.reshape(steps.seq_len, steps.batch_size, plan.width)
    return dy, [None if d is None else d.reshape(plan.runs, steps.batch_size, -1) for d in dlast]


def _backward(
    setting: GpuSetting, reserve: Sequence[Maybe], tensors: Sequence[Tensor], grads: Sequence[Maybe]
) -> list[Tensor]:
    """The gradients of all tensors of forward."""
    plan, steps, D = setting.plan, setting.steps, setting.plan.layout.directions
    packing, parameters = Packing(steps, plan.device), tensors[1 + setting.states :]
    dy, dlast = _seeds(setting, packing, grads)
    each, width = len(reserve) // plan.runs, plan.width // D
    found: list[Any] = [None] * plan.runs
    for layer in reversed(range(plan.layout.num_layers)):
        dx, above = None, found[(layer + 1) * D : (layer + 2) * D]
        for d in range(D):
            run = layer * D + d
            w = plan.loaded(parameters, run, setting.format)
            kept = setting.kept[run].filled(w, reserve[run * each : (run + 1) * each])
            dabove = above[d][f"d{plan.spec.below}"] if above and plan.spec.below else None
            dy_of_run = None if dy is None else dy[..., d * width : (d + 1) * width]
            of_run = found[run] = w.backward(kept, dy_of_run, tuple(s if s is None else s[run] for s in dlast), dabove)
            dx = of_run["dx"] if dx is None else dx + of_run["dx"]
        dy = by_torch.dropped(plan.layout, steps, dx, layer - 1) if steps.dropout and layer else dx
    return list(_gradients(setting, packing.packed(dy), found, tensors))


def _gradients(setting: GpuSetting, dx: Tensor, found: list[Any], tensors: Sequence[Tensor]) -> Iterator[Tensor]:
    """The same in the order and the shapes of the tensors."""
    plan = setting.plan
    yield dx.reshape(tensors[0].shape)
    names = [f"d{s.name}0" for s in plan.spec.states] + [f"dreset_{s.name}" for s in plan.spec.states]
    for name, state in zip(names[: setting.states], tensors[1:], strict=False):
        yield torch.stack([of_run[name] for of_run in found]).reshape(state.shape)
    for of_run in found:
        yield from (of_run[f"d{name}"] for name in plan.layout.names_of_run)
