"""Weights that are packed once, for inference with weights that do not change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from .. import _core
from ..backends import native_cell
from .module import Recurrent
from .plan import DTYPES, Plan, plan_of, values_of
from .tensors import PLAIN, read

Model = TypeVar("Model", bound=nn.Module)


class Seen(NamedTuple):
    """A parameter as it was when it was packed."""

    tensor: Tensor
    address: int
    version: int


class Frozen:
    """The packed weights of a module."""

    def __init__(self, plan: Plan, parameters: Sequence[Tensor], names: Sequence[str]) -> None:
        self.plan, self.names = plan, names
        self.seen = [Seen(p, p.data_ptr(), p._version) for p in parameters]
        layout = plan.layout
        values = dict(values_of(layout.values)) | dict(values_of(layout.drops))
        each = len(parameters) // plan.runs
        every = dict.fromkeys(p.name for p in plan.spec.parameters)
        packed = []
        for i in range(plan.runs):
            arrays = [p.detach().contiguous().numpy() for p in parameters[i * each : (i + 1) * each]]
            given = every | dict(zip(layout.names_of_run, arrays, strict=True))
            packed.append(_core.make_weights(native_cell(plan.spec), given, values, DTYPES[plan.dtype]))
        self.stack = _core.make_stack(tuple(packed), layout.directions)

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
        plan = plan_of(replace(layout, drops=module._drops[False]), parameters[0].dtype)
        takes = plan is not None and read(parameters, plan.shapes, plan.bits) is not None
        if plan is not None and takes and not any(p.is_inference() for p in parameters):
            module._keeper().frozen = Frozen(plan, parameters, names)
    return model


def unfreeze(model: Model) -> Model:
    """Undoes `freeze`. Returns the model."""
    for module in _modules(model):
        module._keeper().frozen = None
    return model


def _modules(model: Any) -> list[Recurrent]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected an nn.Module, got {type(model).__name__}")
    return [m for m in model.modules() if isinstance(m, Recurrent)]
