"""Modules of layers: torch.nn's three, and one for each further family of cells."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.config import config_of
from ..layers.layer import LAYERS
from . import by_torch, drop_ins, private, routing
from .drop_ins import PackedSequence
from .module import Recurrent, fallen_back, is_proxy, keep_out
from .operator import operator_of
from .plan import DTYPES, Layout, Plan, Steps, plan_of
from .routing import OPERATOR
from .tensors import read

Output = Any  # of a call: the outputs and the last state
MOST_STEPS = 2**62  # that clocks count


class Layers(Recurrent):
    """The base of layers."""

    registry: ClassVar[dict[str, type[Layers]]] = {}  # by the names of families

    def __init_subclass__(cls, family: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if family is None:
            if "__init__" in vars(cls):
                cls.__signature__ = None  # type: ignore[attr-defined]  # it has one of its own
            return
        cls._family, cls._options, cls._torch = family, LAYERS[family]._options, drop_ins.LAYERS.get(family)
        Layers.registry[family] = cls
        cls.__signature__ = signature_of(cls, Layers._build)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        options = self._complete(kwargs)
        if options is None:
            super().__init__(*args, **kwargs)
        else:
            self._build(options, *args, **kwargs)

    def _build(
        self,
        options: dict[str, Any],
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        """A module that torch.nn does not have. Its entries are named as those of nn.RNNBase."""
        flags: Any = {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional, "proj_size": proj_size}
        name = type(self).__name__
        config = config_of(name, self._options, input_size, hidden_size, num_layers, **flags, **options)
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout <= 1:
            raise ValueError("dropout should be a number in range [0, 1] representing the probability of an element "
                             "being zeroed")  # fmt: skip
        if dropout and num_layers == 1:
            warnings.warn(f"dropout acts between layers: it has no effect with {num_layers=}", stacklevel=4)
        nn.Module.__init__(self)
        self.mode, self.options = self._family, config.options
        self.input_size, self.hidden_size, self.num_layers = config.input_size, config.hidden_size, config.num_layers
        self.bias, self.batch_first, self.bidirectional = config.bias, config.batch_first, config.bidirectional
        self.dropout, self.proj_size = float(dropout), config.proj_size
        layout = self._layout()
        self.options = self.options | self._check_values(config.spec, layout)
        layout = self._layout()
        names = layout.names()
        each = len(names) // layout.runs
        self._flat_weights_names = names
        self._all_weights = [names[i : i + each] for i in range(0, len(names), each)]
        self._flat_weights: list[Any] = [None] * len(names)
        self._flat_weight_refs: list[Any] = []
        for parameter, shape in zip(names, layout.shapes(), strict=True):
            setattr(self, parameter, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self._init_flat_weights()
        self.reset_parameters()

    def flatten_parameters(self) -> None:
        """For cuDNN, which has no cells but torch.nn's."""
        if self._torch_has_it:
            super().flatten_parameters()

    def _layout(self) -> Any:
        cell = drop_ins.cell_of_layers(self) if self._torch_has_it else self._chosen(self.proj_size)
        if cell is None:
            return None
        sizes = (self.input_size, self.hidden_size, self.proj_size, self.num_layers, 1 + bool(self.bidirectional))
        return Layout(cell, *sizes, bool(self.bias), self._values())

    def _names(self, layout: Layout) -> list[str]:
        return layout.names()

    # Calls.

    def forward(self, input: Any, hx: Any = None, *, lengths: Any = None, start: Any = None) -> Output:
        """As torch.nn's modules, and two arguments more.

        Args:
            input: ``(T, B, I)``, ``(B, T, I)`` with `batch_first`, ``(T, I)``, or a PackedSequence.
            hx: the first state, a tensor; or a tuple of them where the cell has several; None for zeros.
            lengths: of padded rows: ``(B,)`` integers in 0..T. Steps past them are not read; outputs there are zero,
                and the last states are those of each row's last step.
            start: for cells with clocks, the number of the first step: an int, or ``(B,)`` integers.

        Returns:
            The outputs, as the input; and the last state, as `hx`.

        Raises:
            What torch.nn's modules raise, for what they do not take. ValueError: lengths or start that do not fit.
        """
        if torch.compiler.is_compiling():
            return self._compiled(input, hx, lengths, start)
        return self._eager(input, hx, lengths, start)

    def _eager(self, input: Any, hx: Any, lengths: Any, start: Any) -> Output:
        packed = isinstance(input, PackedSequence)
        x = input.data if packed else input
        if is_proxy(x):
            given = {"lengths": lengths, "start": start}
            return self._as_proxy(x, (input,) if hx is None else (input, hx),
                                  {name: value for name, value in given.items() if value is not None})  # fmt: skip
        route = routing.of_state() or routing.of_tensor(x, getattr(x, "dtype", None))
        if route is not None:
            return self._other(route, input, hx, lengths, start)
        plan, names = self.__dict__.get("_plan") or (None, ())
        if plan is None or plan.dtype is not x.dtype:
            plan = self._plan_for(x.dtype)
            if plan is None:
                return self._other(f"no kernel for {x.dtype}", input, hx, lengths, start)
            names = self.__dict__["_plan"][1]
        states = () if hx is None else (hx,) if len(plan.units) == 1 else hx
        steps = self._steps(plan, input, x, packed, states, lengths, start)
        if isinstance(steps, str):
            return self._other(steps, input, hx, lengths, start)
        if packed and input.sorted_indices is not None:
            states = [s.index_select(1, input.sorted_indices) for s in states]
        turned = not packed and self.batch_first and x.dim() == 3
        if turned:
            x = x.transpose(0, 1)
        route, every, found = self._prepared(plan, names, x, states, steps.lead)
        if route is not None:
            return self._other(route, input, hx, lengths, start)
        if self.dropout and self.training and plan.layout.num_layers > 1:
            outputs = self._with_dropout(plan, steps, every)
        else:
            outputs = self._native(plan, steps, every, found)
        return self._given_back(input if packed else None, turned, outputs)

    def _steps(
        self, plan: Plan, input: Any, x: Tensor, packed: bool, states: Any, lengths: Any, start: Any
    ) -> Steps | str:
        """The rows of a call; or why the kernels cannot take it."""
        if not x.numel():
            return routing.EMPTY
        if x.shape[-1] != plan.layout.input_size or (states and not are_tensors(states, len(plan.units))):
            return routing.WRONG
        if packed:
            if x.dim() != 2 or lengths is not None:
                return routing.WRONG
            steps = Steps.packed(input.batch_sizes, plan.runs)
            if start is not None:
                start = of_rows(start, steps.batch_size, "start", self._numbered(plan.layout), None)
                order = input.sorted_indices
                steps.start = start if order is None else start.index_select(0, order)
            return steps
        if x.dim() == 3:
            T, B = (x.shape[1], x.shape[0]) if self.batch_first else (x.shape[0], x.shape[1])
            lead: tuple[int, ...] = (plan.runs, B)
        elif x.dim() == 2:
            T, B, lead = x.shape[0], 1, (plan.runs,)
        else:
            return routing.WRONG
        if lengths is None and start is None:
            return Steps(T, B, lead)
        if lengths is not None:
            lengths = of_rows(lengths, B, "lengths", x.dim() == 3, T)
        if start is not None:
            start = of_rows(start, B, "start", self._numbered(plan.layout), None)
        return Steps(T, B, lead, lengths, start)

    @staticmethod
    def _numbered(layout: Layout) -> bool:
        return layout.spec.numbered is not None

    def _with_dropout(self, plan: Plan, steps: Steps, every: list[Tensor]) -> Sequence[Tensor]:
        """A layer after the other, with PyTorch's dropout between them: for one seed its masks are those of
        torch.nn."""
        layout, count = plan.layout, len(every) - len(plan.shapes)
        x, states, parameters = every[0], every[1:count], every[count:]
        if layout.spec.below:
            fallen_back("dropout between layers that read more than outputs of the layer below")
            whole, given = steps.whole(x, list(states), plan.runs)
            return steps.as_given(by_torch.run(layout, steps, whole, given, parameters, self.dropout), x)
        D, each = layout.directions, len(parameters) // layout.num_layers
        steps.lead = (D, *steps.lead[1:])
        lasts = []
        for n in range(layout.num_layers):
            of_layer = plan_of(layout.layer(n), plan.dtype)
            assert of_layer is not None
            of_layer_tensors = [x, *(s[n * D : (n + 1) * D] for s in states), *parameters[n * each : (n + 1) * each]]
            shapes = of_layer.shapes_of(x, steps.lead, len(states))
            x, *last = self._native(of_layer, steps, of_layer_tensors, read(of_layer_tensors, shapes, plan.bits))
            lasts.append(last)
            if n + 1 < layout.num_layers:
                x = F.dropout(x, self.dropout, True)
        return [x, *(torch.cat(of_state) for of_state in zip(*lasts, strict=True))]

    def _given_back(self, packed: Any, turned: bool, outputs: Sequence[Tensor]) -> Output:
        """The outputs as the caller has the input."""
        y: Any
        y, *last = outputs
        if packed is not None:
            if packed.unsorted_indices is not None:
                last = [s.index_select(1, packed.unsorted_indices) for s in last]
            y = PackedSequence(y, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
        elif turned:
            y = y.transpose(0, 1)
        return y, tuple(last) if len(last) > 1 else last[0]

    # Other ways.

    def _other(self, route: str, input: Any, hx: Any, lengths: Any, start: Any) -> Output:
        """By an operator of ours, or by those of PyTorch for the reason that `route` is."""
        if route == OPERATOR and not isinstance(input, PackedSequence):
            found = self._by_our_operator(input, hx, lengths, start)
            if found is not None:
                return found
            route = routing.WRONG
        fallen_back("packed rows among traced tensors" if route == OPERATOR else route)
        return self._by_torch(input, hx, lengths, start)

    def _by_torch(self, input: Any, hx: Any, lengths: Any, start: Any) -> Output:
        if self._torch_has_it and lengths is None:
            if start is not None:
                raise ValueError("start: expected None for a cell without clocks")
            return super().forward(input, hx)
        layout: Any = self._layout()
        packed = isinstance(input, PackedSequence)
        x = input.data if packed else input
        unbatched = not packed and x.dim() == 2
        if unbatched:
            x = x.unsqueeze(1)
        elif not packed and self.batch_first and x.dim() == 3:
            x = x.transpose(0, 1)
        if not packed and not x.shape[0]:
            raise RuntimeError(drop_ins.NO_STEPS)
        states = () if hx is None else (hx,) if len(layout.units) == 1 else hx
        self._check(layout, input, x, states, unbatched)
        steps = self._rows(layout, input, x, lengths, start, unbatched)
        given = [s.unsqueeze(1) for s in states] if unbatched else list(states)
        if packed and input.sorted_indices is not None:
            given = [s.index_select(1, input.sorted_indices) for s in given]
        dropout = self.dropout if self.training and self.num_layers > 1 else 0.0
        outputs = by_torch.run(layout, steps, x, given, self._parameters_of(layout.names()), dropout)
        if unbatched:
            outputs = [s.squeeze(1) for s in outputs]
        turned = self.batch_first and not packed and not unbatched
        return self._given_back(input if packed else None, turned, outputs)

    def _rows(self, layout: Layout, input: Any, x: Tensor, lengths: Any, start: Any, unbatched: bool) -> Steps:
        """The rows of a call by PyTorch's operators."""
        numbered = self._numbered(layout)
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("lengths: expected None beside a PackedSequence, which has its own")
            steps = Steps.packed(input.batch_sizes, layout.runs)
            if start is not None:
                start = of_rows(start, steps.batch_size, "start", numbered, None)
                steps.start = start if input.sorted_indices is None else start[input.sorted_indices.cpu()]
            return steps
        T, B = x.shape[0], x.shape[1]
        if lengths is not None:
            lengths = of_rows(lengths, B, "lengths", not unbatched, T)
        if start is not None:
            start = of_rows(start, B, "start", numbered, None)
        return Steps(T, B, (layout.runs, B), lengths, start)

    def _check(self, layout: Layout, input: Any, x: Tensor, states: Any, unbatched: bool) -> None:
        """Raises what torch.nn's modules raise for sizes that do not fit."""
        batch_sizes = input.batch_sizes if isinstance(input, PackedSequence) else None
        self.check_input(x, batch_sizes)
        if states and len(states) != len(layout.units):
            raise RuntimeError(f"Expected a tuple of {len(layout.units)} hidden states, got {len(states)}")
        batch = () if unbatched else (x.shape[1] if batch_sizes is None else int(batch_sizes[0]),)
        for s, units in zip(states, layout.units, strict=bool(states)):
            require_dtype(s, x)
            self.check_hidden_size(s, (layout.runs, *batch, units))

    # Tracing.

    def _compiled(self, input: Any, hx: Any, lengths: Any, start: Any) -> Output:
        """What torch.compile and torch.export trace. An exported program has PyTorch's operators, and runs anywhere."""
        if not (private.is_exporting() or isinstance(input, PackedSequence)):
            found = self._by_our_operator(input, hx, lengths, start)
            if found is not None:
                return found
        return self._by_torch(input, hx, lengths, start)

    def _operators(self) -> tuple[list[str], list[str], int]:
        """The name of the operator of all layers, or those of each layer where dropout is between them; none for a cell
        that has no operator. The names of all parameters; the number of states. To Dynamo all are constants."""
        layout: Any = self._layout()
        if layout is None:
            return [], [], 0
        if not (self.dropout and self.training and self.num_layers > 1):
            layouts = [layout]
        else:
            layouts = [] if layout.spec.below else [layout.layer(n) for n in range(self.num_layers)]
        return [operator_of(each).name for each in layouts], layout.names(), len(layout.units)

    _operators._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _by_our_operator(self, input: Any, hx: Any, lengths: Any, start: Any) -> Output | None:
        """By an operator that is traced as one call; None where it does not take the arguments."""
        operators, names, count = self._operators()
        x, states = input, _as_states(hx)
        parameters = [getattr(self, name) for name in names]
        if not operators or not _fit(x, self.input_size, states, parameters):
            return None
        unbatched = x.dim() == 2
        if unbatched:
            x, states = x.unsqueeze(1), [s.unsqueeze(1) for s in states]
        elif self.batch_first:
            x = x.transpose(0, 1)
        D, each = 1 + bool(self.bidirectional), len(names) // len(operators)
        runs, B = self.num_layers * D, x.shape[1]
        if len(states) not in (0, count) or any(s.dim() != 3 or s.shape[:2] != (runs, B) for s in states):
            return None
        rows = [
            None if t is None else torch.as_tensor(t).to(torch.int64).expand(B).contiguous() for t in (lengths, start)
        ]
        lasts = []
        for n, operator in enumerate(operators):
            first: list[Any] = states or [None] * count
            if len(operators) > 1:
                first = [None if s is None else s[n * D : (n + 1) * D] for s in first]
            call = getattr(torch.ops.fusedrnn, operator).default
            x, *last = call(x, *rows, *first, *parameters[n * each : (n + 1) * each], False)
            lasts.append(last[:-1])
            if n + 1 < len(operators):
                x = F.dropout(x, self.dropout, True)
        last = lasts[0] if len(lasts) == 1 else [torch.cat(of_state) for of_state in zip(*lasts, strict=True)]
        if unbatched:
            x, last = x.squeeze(1), [s.squeeze(1) for s in last]
        return self._given_back(None, self.batch_first and not unbatched, [x, *last])


def _as_states(hx: Any) -> list[Any]:
    return [] if hx is None else list(hx) if isinstance(hx, (tuple, list)) else [hx]


def _fit(x: Any, input_size: int, states: list[Any], parameters: list[Any]) -> bool:
    """Whether an operator of ours takes these tensors, but for the sizes of states."""
    if x.dim() not in (2, 3) or x.shape[-1] != input_size or x.numel() == 0 or x.dtype not in DTYPES:
        return False
    return all(t.dtype == x.dtype and t.device.type == "cpu" for t in (x, *states, *parameters))


def require_dtype(state: Tensor, x: Tensor) -> None:
    """Raises ValueError for a state of another dtype than the input's, where no autocast makes them one."""
    if state.dtype != x.dtype and not private.is_any_autocast_enabled():
        raise ValueError(f"hidden state dtype ({state.dtype}) does not match input dtype ({x.dtype})")


def are_tensors(states: Any, count: int) -> bool:
    return isinstance(states, (tuple, list)) and len(states) == count and all(isinstance(s, Tensor) for s in states)


def of_rows(value: Any, batch_size: int, name: str, expected: bool, most: int | None) -> Tensor:
    """A number for each row, as ``(B,)`` int64 on the CPU. Raises ValueError or TypeError for others."""
    if not expected:
        reason = "a sequence without a batch" if name == "lengths" else "a cell without clocks"
        raise ValueError(f"{name}: expected None for {reason}")
    t = torch.as_tensor(value)
    if t.is_floating_point() or t.is_complex() or t.dtype is torch.bool:
        raise TypeError(f"{name}: expected integers, got {t.dtype}")
    if t.shape not in ((batch_size,), ()) or (t.dim() == 0 and most is not None):
        raise ValueError(f"{name}: expected ({batch_size},) integers, got shape {tuple(t.shape)}")
    t = t.to("cpu", torch.int64).expand(batch_size).contiguous()
    top = MOST_STEPS if most is None else most
    if t.numel() and (int(t.min()) < 0 or int(t.max()) > top):
        raise ValueError(f"{name}: expected integers in 0..{top}, got {int(t.min())}..{int(t.max())}")
    return t


def signature_of(cls: type[Recurrent], build: Any) -> inspect.Signature:
    """The arguments of torch.nn's module, and the options of the cells."""
    plain = list(inspect.signature(build).parameters.values())[2:]
    plain = [p for p in plain if p.name != "proj_size" or cls._options.projects]
    own = [p for p in cls._options.parameters() if p.name in cls._own_options()]
    theirs = [p.replace(kind=p.POSITIONAL_OR_KEYWORD) for p in cls._options.parameters() if p not in own]
    plain[3:3] = theirs  # where nn.RNN and nn.RNNCell have their nonlinearity
    return inspect.Signature([*plain, *own])


keep_out(Layers._eager)
