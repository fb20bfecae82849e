"""What modules of layers and of cells have in common: options, plans, parameters, and what they leave out of copies."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import init

from ..cells.families import LAYERS
from ..layers.options import Options
from ..masks import ZONEOUT
from . import drop_ins, gpu, native, routing
from .arguments import signature_of
from .autograd import Setting, apply_layers
from .gpu import GpuPlan
from .plan import DTYPES, NONE, BasePlan, Layout, Plan, Steps, plan_of, text_of
from .tensors import Found, Shapes, read

# Entries of a module's __dict__ that belong to it alone, and to this process: ours, and what Module.compile makes.
_KEPT = ("_fusedrnn", "_compiled_call_impl")


class OnGpu(NamedTuple):
    """What a module is on one GPU."""

    plan: GpuPlan | str  # or why the backend runs no such module there
    names: list[str]  # of the parameters that it takes
    dtype: torch.dtype
    device: torch.device


class Own:
    """What a module keeps, but its copies and pickles do not."""

    __slots__ = ("frozen", "on_gpu", "owner", "ready")

    def __init__(self, owner: int = 0) -> None:
        self.owner = owner  # the module's id: whoever copies a __dict__ copies this too
        self.ready: tuple[Plan | None, list[str]] = None, []  # a plan, and the names of the parameters that it takes
        self.on_gpu: OnGpu | None = None
        self.frozen: Any = None

    def __copy__(self) -> Own:
        return Own()

    def __deepcopy__(self, memo: Any) -> Own:
        return Own()

    def __reduce__(self) -> Any:
        return Own, ()


class Recurrent(nn.Module):
    """The base of all modules. No slots: `convert` assigns classes, whose layouts must be equal."""

    registry: ClassVar[dict[str, type[Recurrent]]]  # the classes of layers, or of cells, by the names of families
    _theirs: ClassVar[dict[str, Any]]  # torch.nn's, by the same
    _family: ClassVar[str]  # the name of the layer
    _options: ClassVar[Options]  # of the family
    _torch: ClassVar[type[nn.Module] | None]  # the module that this one can stand for
    cell_options: dict[str, Any] = {}  # noqa: RUF012  # none for the modules that torch.nn has too
    cell_values = NONE  # of the options that belong to weights
    regularisation: dict[str, float] = {}  # noqa: RUF012  # the probabilities that are not 0; those of torch.nn have none
    _drops: tuple[str, str] = NONE, NONE  # what a call regularises: in inference, and in training

    @property
    def _torch_has_it(self) -> bool:
        """Whether torch.nn has a module of this cell."""
        return self._torch is not None and not self.cell_options

    # Construction.

    def __init_subclass__(cls, family: str | None = None, **kwargs: Any) -> None:
        """A class of a family; or, without one, a user's, which may have a constructor of its own."""
        super().__init_subclass__(**kwargs)
        if family is not None:
            cls._family, cls._options, cls._torch = family, LAYERS[family]._options, cls._theirs.get(family)
            cls.registry[family] = cls
            cls.__signature__ = signature_of(cls, cls._build)
            cls.forward = named(cls.forward, cls)
        elif "__init__" in vars(cls):
            cls.__signature__ = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        options = self._complete(kwargs)
        if options is None:
            super().__init__(*args, **kwargs)
        else:
            self._build(options, *args, **kwargs)

    def _complete(self, given: dict[str, Any]) -> dict[str, Any] | None:
        """The options that choose the cell; None if torch.nn has it under the arguments that are left in `given`."""
        own = {name: given.pop(name) for name in list(given) if name in self._own_options()}
        if self._torch is not None and all(self._options.defaults[name] == value for name, value in own.items()):
            return None
        own |= {name: given.pop(name) for name in list(given) if name in self._options.defaults}
        if unknown := [name for name in given if name not in inspect.signature(type(self)._build).parameters]:
            raise TypeError(f"{type(self).__name__}: unexpected argument {unknown[0]!r}")
        return self._options.complete(type(self).__name__, own)

    @classmethod
    def _own_options(cls) -> list[str]:
        """The options that torch.nn's module does not have."""
        theirs = drop_ins.OPTIONS.get(cls._family, ()) if cls._torch else ()
        return [name for name in cls._options.defaults if name not in theirs]

    def _set_values(self, layout: Layout) -> None:
        """Has the options that belong to weights checked by them."""
        spec = layout.spec
        self.cell_values = text_of(spec.given_values(self.cell_options))
        if not spec.own_values:
            return
        shapes = layout.shapes()[: len(layout.parameters)]
        arrays = {name: np.zeros(s, "f4") for name, s in zip(layout.names_of_run, shapes, strict=True)}
        weights: Any = self._options.weights
        made = weights(**arrays, **spec.options, **{name: self.cell_options[name] for name in spec.values})
        self.cell_options = self.cell_options | made._values
        self.cell_values = text_of(made._values)

    def _set_regularisation(self, options: dict[str, float]) -> None:
        if options:
            self.regularisation, self.cell_options = options, self.cell_options | options
            zoneout = {name: p for name, p in options.items() if name in ZONEOUT}
            self._drops = text_of(zoneout), text_of(options)

    def _regularise(self, steps: Steps, wanted: bool = False) -> str | None:
        """In training, gives the call the seed of its masks, which comes from PyTorch's generator. In evaluation,
        returns why there is no kernel if gradients are wanted."""
        if self.training:
            steps.seed = int(new_seed())
        elif wanted and torch.is_grad_enabled():
            return routing.EXPECTED
        return None

    def _chosen(self, proj_size: int) -> str:
        """The cell that the options choose."""
        return self._options.choose({name: self.cell_options[name] for name in self._options.choosing}, proj_size).cell

    def extra_repr(self) -> str:
        defaults = self._options.defaults
        own = [f"{name}={value!r}" for name, value in self.cell_options.items() if value != defaults[name]]
        return ", ".join([super().extra_repr(), *own])

    def reset_parameters(self) -> None:
        """New values for all parameters: uniform in ``+-1/sqrt(hidden_size)``, or what the cell starts with."""
        if self._torch_has_it:
            super().reset_parameters()
            return
        layout = self._layout()
        assert layout is not None
        bound = 1 / math.sqrt(layout.hidden_size)
        for p, t in zip(layout.parameters * layout.runs, self._parameters_of(self._names(layout)), strict=True):
            fill = {"zeros": init.zeros_, "ones": init.ones_, "unit": init.uniform_}.get(p.initial)
            fill(t) if fill else init.uniform_(t, -bound, bound)
            if p is layout.spec.recurrence and layout.spec.mask is not None:
                mask = layout.spec.mask(layout.hidden_size, self.cell_options)
                with torch.no_grad():
                    t.mul_(torch.as_tensor(mask, device=t.device))

    # Plans and parameters.

    def _layout(self) -> Layout | None:
        """What the module is now; None if no cell is that."""
        raise NotImplementedError

    def _names(self, layout: Layout) -> list[str]:
        raise NotImplementedError

    def _build(self, options: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """A module that torch.nn does not have."""
        raise NotImplementedError

    def _keeper(self) -> Own:
        own: Own | None = self.__dict__.get("_fusedrnn")
        if own is None or own.owner != id(self):
            own = self.__dict__["_fusedrnn"] = Own(id(self))
        return own

    def _own(self, dtype: torch.dtype) -> tuple[Plan | None, list[str]]:
        """The plan for this dtype, and the names of the parameters that it takes; no plan where there is no kernel."""
        own = self.__dict__.get("_fusedrnn")
        if own is None or own.owner != id(self):
            own = self._keeper()
        ready: tuple[Plan | None, list[str]] = own.ready
        if ready[0] is None or ready[0].dtype is not dtype:
            layout = self._layout()
            ready = own.ready = (None, []) if layout is None else (plan_of(layout, dtype), self._names(layout))
        return ready

    def _own_elsewhere(self, x: Tensor) -> tuple[GpuPlan | None, list[str]]:
        """The same for an input that is not on the CPU."""
        if not routing.is_on_gpu(x):
            return None, []
        own, dtype = self._keeper(), gpu.dtype_of(x)
        ready = own.on_gpu
        if ready is None or ready.dtype is not dtype or ready.device != x.device:
            layout = self._layout()
            plan = routing.WRONG if layout is None else gpu.plan_or_reason(layout, dtype, x.device)
            names = [] if layout is None else self._names(layout)
            ready = own.on_gpu = OnGpu(plan, names, dtype, x.device)
        return (None if isinstance(ready.plan, str) else ready.plan), ready.names

    def _why_no_plan(self, x: Tensor) -> str:
        layout, dtype = self._layout(), x.dtype
        if not routing.is_on_cpu(x):
            if not routing.is_on_gpu(x):
                return routing.of_tensor(x, dtype) or routing.WRONG
            ready = self._keeper().on_gpu
            return routing.WRONG if ready is None else str(ready.plan)
        parameters = [] if layout is None else self._parameters_of(self._names(layout))
        if layout is None or any(p is None or p.dtype is not dtype for p in parameters):
            return routing.WRONG
        return f"no kernel for {dtype}" if dtype not in DTYPES else "no kernel for such sizes"

    def _checked_layout(self) -> Layout:
        """Raises RuntimeError where attributes that were set after construction have made it impossible."""
        layout = self._layout()
        if layout is None or any(getattr(self, name, None) is None for name in self._names(layout)):
            raise RuntimeError(f"{type(self).__name__}: its attributes do not fit its parameters")
        return layout

    def _forget_plan(self) -> None:
        own = self.__dict__.get("_fusedrnn")
        if own is not None:
            own.ready, own.on_gpu = (None, []), None

    def __setattr__(self, name: str, value: Any) -> None:
        self._forget_plan()
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._forget_plan()
        super().__delattr__(name)

    def register_parameter(self, name: str, param: Any) -> None:
        self._forget_plan()
        super().register_parameter(name, param)

    def register_buffer(self, *args: Any, **kwargs: Any) -> None:
        self._forget_plan()
        super().register_buffer(*args, **kwargs)

    def _parameters_of(self, names: Sequence[str]) -> list[Any]:
        """The tensors that are the parameters in this call: parametrisations and functional_call replace them."""
        own = self._parameters
        return [p if (p := own.get(name)) is not None else getattr(self, name, None) for name in names]

    # Calls.

    def _prepared(
        self, plan: BasePlan, names: Sequence[str], x: Tensor, states: Sequence[Any], lead: tuple[int, ...]
    ) -> tuple[str | None, list[Any], Any]:
        """The way that tensors need (None for the kernels); x, states and parameters as kernels take them; and what
        `tensors.read` found."""
        own = self._parameters
        parameters = [own.get(name) for name in names]
        every = [x, *states, *parameters]
        shapes = plan.shapes_of(x.shape, lead, len(states))
        found = read(every, shapes, plan.bits)
        if found is not None and 0 not in found[1]:
            return None, every, found
        every = [x, *states, *self._parameters_of(names)]
        device = None
        if plan.on_gpu:
            device, every = x.device, [gpu.cast(t) for t in every]
        ways = [way for t in every if (way := routing.of_tensor(t, plan.dtype, device))]
        if ways:
            return routing.WRONG if routing.WRONG in ways else ways[0], every, None
        if any(t.shape != shape for t, shape in zip(every, shapes, strict=True)):
            return routing.WRONG, every, None
        every = [t.contiguous() for t in every]
        found = look(plan, every, shapes)
        return (None if found else "tensors without memory of their own"), every, found

    def _native(self, plan: BasePlan, steps: Steps, every: Sequence[Tensor], found: Any) -> Sequence[Tensor]:
        """The outputs by the kernels, with packed weights if the module is frozen."""
        frozen = self.__dict__["_fusedrnn"].frozen
        if frozen is None:
            return self._run(plan, steps, every, found)
        if frozen.plan is not plan:
            self._check_frozen()
            return self._run(plan, steps, every, found)
        frozen.check(every[-len(plan.shapes) :])
        return self._run(plan, steps, every, found, frozen.packed)

    @staticmethod
    def _run(plan: Any, steps: Steps, every: Sequence[Tensor], found: Any, packed: Any = None) -> Sequence[Tensor]:
        if plan.on_gpu:
            return gpu.run(plan, steps, every, found[0] and torch.is_grad_enabled(), packed)
        routing.COUNTS[routing.NATIVE] += 1
        if found[0] and torch.is_grad_enabled():
            states = len(every) - 1 - len(plan.shapes)
            return apply_layers(Setting(plan, steps, states, every[0].shape, found[1]), *every)  # type: ignore[no-any-return]
        if steps.seed is not None:
            return native.forward(plan, steps, every[0], found[1])[0]
        return native.infer(plan, steps, every[0], found[1], packed)

    def _check_frozen(self) -> None:
        """Raises RuntimeError if the module is frozen and its parameters have changed."""
        frozen = self._keeper().frozen
        if frozen is not None:
            frozen.check(self._parameters_of(frozen.names))

    def _as_proxy(self, input: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """The call as a leaf of torch.fx, as those of torch.nn's own modules are."""
        tracer = input.tracer
        return tracer.create_proxy("call_module", tracer.path_of_module(self), arguments, keywords)

    # Copies.

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__() if isinstance(self, nn.RNNBase) else self.__dict__)
        for name in _KEPT:
            state.pop(name, None)
        return state

    def __prepare_scriptable__(self) -> nn.Module:
        """What torch.jit.script takes in this module's place: one of torch.nn's class, with the same entries."""
        theirs: Any = self._torch
        if not self._torch_has_it:
            raise TypeError(f"{type(self).__name__}: torch.nn has no module of this cell")
        twin: nn.Module = theirs.__new__(theirs)
        twin.__dict__.update({name: value for name, value in self.__dict__.items() if name not in _KEPT})
        return twin


def look(plan: BasePlan, tensors: Sequence[Tensor], shapes: Shapes) -> Found:
    """What `read` finds of tensors; of those on a GPU, which are known to fit, no addresses."""
    if plan.on_gpu:
        return any(t.requires_grad for t in tensors), ()
    return read(tensors, shapes, plan.bits)


def new_seed() -> Tensor:
    """Of the masks of a call, from PyTorch's generator."""
    return torch.randint(2**63 - 1, (), device="cpu")


def proxy_in(*arguments: Any) -> Any:
    """The first proxy of torch.fx among arguments and their parts; None if there is none."""
    for argument in arguments:
        for part in argument if isinstance(argument, (tuple, list)) else (argument,):
            if isinstance(part, Proxy):
                return part
    return None


def named(forward: Any, cls: type) -> Any:
    """The function, under the name that errors about its arguments show."""
    made = types.FunctionType(
        forward.__code__, forward.__globals__, "forward", forward.__defaults__, forward.__closure__
    )
    made.__kwdefaults__, made.__doc__ = forward.__kwdefaults__, forward.__doc__
    made.__annotations__, made.__module__ = forward.__annotations__, forward.__module__
    made.__qualname__ = f"{cls.__name__}.forward"
    return made
