"""Weights that are packed once, for inference with weights that do not change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from . import routing
from .gpu import GpuPlan, plan_or_reason
from .module import Recurrent
from .plan import Layout, Plan, plan_of
from .tensors import PLAIN, read

Model = TypeVar("Model", bound=nn.Module)


class Seen(NamedTuple):
    """A parameter as it was when it was packed."""

    tensor: Tensor
    address: int
    version: int


class Frozen:
    """The packed weights of a module."""

    def __init__(self, plan: Plan | GpuPlan, parameters: Sequence[Tensor], names: Sequence[str]) -> None:
        self.plan, self.names = plan, names
        self.seen = [Seen(p, p.data_ptr(), p._version) for p in parameters]
        self.packed = plan.packed(parameters)

    def check(self, parameters: Sequence[Tensor]) -> None:
        """Raises RuntimeError if PyTorch can see that a parameter has changed since."""
        for name, now, (tensor, address, version) in zip(self.names, parameters, self.seen, strict=True):
            if now is not tensor or now.data_ptr() != address or now._version != version:
                what = "changed in place" if now is tensor and now.data_ptr() == address else "replaced"
                raise RuntimeError(
                    f"{name} was {what} after fusedrnn.torch.freeze: freeze the model again to take its new values, or "
                    "call fusedrnn.torch.unfreeze"
                )


def freeze(model: Model) -> Model:
    """Packs the weights of all modules of fusedrnn in a model, once, for inference: a call packs and reads nothing
    else. The bits of the outputs stay. Frozen again, a module takes the parameters as they are now.

    A parameter that is replaced, moved, or changed in place (`load_state_dict`, an optimizer's step) makes the next
    call raise RuntimeError. Changes through `.data`, `detach().numpy()` or other views that leave no trace in
    PyTorch cannot be seen: the old weights go on. Calls that need gradients read the parameters themselves. Copies
    and pickles of a frozen module are not frozen.

    Left alone are modules whose parameters are computed (parametrisations) or inference tensors, and those that no
    kernel takes (of another dtype or device).

    Returns:
        The model.

    Raises:
        TypeError: model is no nn.Module.
    """
    for module in _modules(unfreeze(model)):
        layout = module._layout()
        names = [] if layout is None else module._names(layout)
        parameters = [module._parameters.get(name) for name in names]
        if any(type(p) not in PLAIN for p in parameters) or not parameters:
            continue
        assert layout is not None
        plan = _plan_of(replace(layout, drops=module._drops[False]), parameters)
        if plan is not None and not any(p.is_inference() for p in parameters):
            module._keeper().frozen = Frozen(plan, parameters, names)
    return model


def _plan_of(layout: Layout, parameters: Sequence[Tensor]) -> Plan | GpuPlan | None:
    """Where the parameters lie; None if no kernel takes them there."""
    first = parameters[0]
    if routing.is_on_cpu(first) or not routing.is_on_gpu(first):
        plan = plan_of(layout, first.dtype)
        return plan if plan is not None and read(parameters, plan.shapes, plan.bits) is not None else None
    found = plan_or_reason(layout, first.dtype, first.device)
    if isinstance(found, str) or [p.shape for p in parameters] != list(found.shapes):
        return None
    fit = all(p.is_contiguous() and not routing.of_tensor(p, first.dtype, first.device) for p in parameters)
    return found if fit else None


def unfreeze(model: Model) -> Model:
    """Undoes `freeze`. Returns the model."""
    for module in _modules(model):
        module._keeper().frozen = None
    return model


def _modules(model: Any) -> list[Recurrent]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected an nn.Module, got {type(model).__name__}")
    return [m for m in model.modules() if isinstance(m, Recurrent)]
