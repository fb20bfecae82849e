"""Modules of layers: torch.nn's three, and one for each further family of cells."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.config import config_of
from . import by_torch, drop_ins, private, routing
from .arguments import are_tensors, require_dtype, resets_of, start_of, states_of, states_with_resets
from .drop_ins import PackedSequence
from .gpu import Refused
from .module import Recurrent, look, proxy_in
from .plan import BasePlan, Layout, Steps
from .routing import OPERATOR
from .tensors import PLAIN
from .traced import Output, Rows, TracedLayers


class Layers(TracedLayers):
    """The base of layers."""

    registry: ClassVar[dict[str, type[Recurrent]]] = {}
    _theirs = drop_ins.LAYERS

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
        self.mode, self.cell_options = self._family, config.options
        self.input_size, self.hidden_size, self.num_layers = config.input_size, config.hidden_size, config.num_layers
        self.bias, self.batch_first, self.bidirectional = config.bias, config.batch_first, config.bidirectional
        self.dropout, self.proj_size = float(dropout), config.proj_size
        sizes = (config.input_size, config.hidden_size, config.proj_size, config.num_layers, config.num_directions)
        self._set_values(Layout(config.spec.cell, *sizes, config.bias))
        self._set_regularisation(config.regularisation)
        layout = Layout(config.spec.cell, *sizes, config.bias, self.cell_values)
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
        layout = Layout(cell, *sizes, bool(self.bias), self.cell_values, self._drops[self.training])
        # An attribute that was set after construction does not change which parameters there are.
        return layout if layout.names() == self._flat_weights_names else None

    def _names(self, layout: Layout) -> list[str]:
        return layout.names()

    # Calls.

    def forward(
        self,
        input: Any,
        hx: Any = None,
        *,
        lengths: Any = None,
        start: Any = None,
        resets: Any = None,
        reset_state: Any = None,
    ) -> Output:
        """As torch.nn's modules, and some arguments more.

        Args:
            input: ``(T, B, I)``, ``(B, T, I)`` with `batch_first`, ``(T, I)``, or a PackedSequence.
            hx: the first state, a tensor; or a tuple of them where the cell has several; None for an empty one.
            lengths: of padded rows: ``(B,)`` integers in 0..T. Steps past them are not read; outputs there are zero,
                and the last states are those of each row's last step.
            start: for cells with clocks, the number of the first step: an int, or ``(B,)`` integers.
            resets: bools, as the input without its last dimension (of a PackedSequence: of its data): where a row's new
                episode begins. Neither state nor gradient passes between the step before and this one, in either
                direction.
            reset_state: the state before the first step of an episode, as `hx`, or without B for all rows; None for
                zeros.

        Returns:
            The outputs, as the input; and the last state, as `hx`.

        Raises:
            What torch.nn's modules raise, for what they do not take. ValueError: lengths, start, resets or reset_state
            that do not fit. TypeError: lengths or start that are no integers, resets that are no bools.
        """
        rows = Rows(lengths, start, resets, reset_state)
        return self._compiled(input, hx, rows) if torch.compiler.is_compiling() else self._eager(input, hx, rows)

    def _eager(self, input: Any, hx: Any, rows: Rows) -> Output:
        packed = isinstance(input, PackedSequence)
        x = input.data if packed else input
        route = routing.of_state()
        if route is not None or type(x) not in PLAIN:
            return self._other(route or routing.of_tensor(x, None) or routing.WRONG, input, hx, rows)
        plan, names = self._own(x.dtype) if routing.is_on_cpu(x) else self._own_elsewhere(x)
        if plan is None:
            return self._other(self._why_no_plan(x), input, hx, rows)
        states = () if hx is None else states_of(hx, len(plan.units))
        steps = self._steps(plan, input, x, packed, None if hx is None else states, rows)
        if isinstance(steps, str):
            return self._other(steps, input, hx, rows)
        if rows.reset_state is not None:
            states = states_with_resets(
                states, rows.reset_state, plan.units, plan.layout.empty, steps.lead, packed or x.dim() == 3, x
            )
        if packed and input.sorted_indices is not None:
            states = [s.index_select(1, input.sorted_indices) for s in states]
        turned = not packed and self.batch_first and x.dim() == 3
        if turned:
            x = x.transpose(0, 1)
        route, every, found = self._prepared(plan, names, x, states, steps.lead)
        if plan.drops and route is None:
            route = self._regularise(steps, found[0])
        if route is not None:
            return self._other(route, input, hx, rows)
        try:
            if self.dropout and steps.seed is None and self.training and plan.layout.num_layers > 1:
                outputs = self._with_dropout(plan, steps, every)
            else:
                outputs = self._native(plan, steps, every, found)
        except Refused as e:
            return self._other(str(e), input, hx, rows)
        if turned:
            outputs[0].transpose_(0, 1)  # in place, so that y is no view: some changes of views are refused
        return self._given_back(input if packed else None, outputs)

    def _dropout_between(self) -> float:
        """The dropout between layers in this call."""
        return self.dropout if self.training and self.num_layers > 1 else 0.0

    def _regularise(self, steps: Steps, wanted: bool = False) -> str | None:
        """With the dropout between layers, whose masks have the same seed."""
        reason = super()._regularise(steps, wanted)
        if steps.seed is not None:
            steps.dropout = self._dropout_between()
        return reason

    def _steps(self, plan: BasePlan, input: Any, x: Tensor, packed: bool, states: Any, rows: Rows) -> Steps | str:
        """The rows of a call; or why the kernels cannot take it."""
        dims = x.dim()
        if dims not in ((2,) if packed else (2, 3)) or x.shape[-1] != plan.layout.input_size:
            return routing.WRONG
        if states is not None and not are_tensors(states, len(plan.units)):
            return routing.WRONG
        if not x.numel():
            return routing.EMPTY
        if packed:
            return self._packed_steps(plan.layout, input, x, rows, plan.on_gpu) or routing.WRONG
        if dims == 3:
            T, B = (x.shape[1], x.shape[0]) if self.batch_first else (x.shape[0], x.shape[1])
            lead: tuple[int, ...] = (plan.runs, B)
        else:
            T, B, lead = x.shape[0], 1, (plan.runs,)
        if rows.lengths is None and rows.start is None and rows.resets is None:
            return Steps(T, B, lead)
        of_input = dims == 2, self.batch_first, plan.spec.numbered is not None, x.device if plan.on_gpu else None
        lengths, start, resets = rows.read(B, T, *of_input)
        return Steps(T, B, lead, lengths, start, resets=resets)

    def _packed_steps(self, layout: Layout, input: Any, x: Tensor, rows: Rows, on_gpu: bool = False) -> Steps | None:
        """Those of a PackedSequence; None if it is none."""
        if rows.lengths is not None:
            got = type(rows.lengths).__name__
            raise ValueError(f"lengths: expected None beside a PackedSequence, which has its own, got {got}")
        steps = Steps.packed(input.batch_sizes, layout.runs, x.shape[0])
        if steps is not None and rows.start is not None:
            start: Any = start_of(rows.start, steps.batch_size, layout.spec.numbered is not None)
            order = input.sorted_indices
            if order is not None and order.shape != (steps.batch_size,):
                return None
            steps.start = start if order is None else start.index_select(0, order.cpu())
        if steps is not None:
            steps.resets = resets_of(rows.resets, x.shape[:1], False, x.device if on_gpu else None)
        return steps

    def _with_dropout(self, plan: BasePlan, steps: Steps, every: list[Tensor]) -> Sequence[Tensor]:
        """A layer after the other, with PyTorch's dropout between them: for one seed its masks are those of
        torch.nn."""
        layout, count = plan.layout, len(every) - len(plan.shapes)
        x, states, parameters = every[0], every[1:count], every[count:]
        if layout.spec.below:
            routing.fall_back("dropout between layers that read more than outputs of the layer below")
            whole, given = steps.whole(x, list(states), plan.runs)
            return steps.as_given(by_torch.run(layout, steps, whole, given, parameters, self.dropout), x)
        self._check_frozen()
        D, each = layout.directions, len(parameters) // layout.num_layers
        steps.lead = (D, *steps.lead[1:])
        lasts = []
        for n in range(layout.num_layers):
            of_layer = plan.layer(n)
            tensors = [x, *(s[n * D : (n + 1) * D] for s in states), *parameters[n * each : (n + 1) * each]]
            found = look(of_layer, tensors, of_layer.shapes_of(x.shape, steps.lead, len(states)))
            x, *last = self._run(of_layer, steps, tensors, found)
            lasts.append(last)
            if n + 1 < layout.num_layers:
                x = F.dropout(x, self.dropout, True)
        return [x, *(torch.cat(of_state) for of_state in zip(*lasts, strict=True))]

    # By PyTorch's operators.

    def _other(self, route: str, input: Any, hx: Any, rows: Rows) -> Output:
        """By an operator of ours, or by those of PyTorch for the reason that `route` is."""
        if route == OPERATOR:
            if not isinstance(input, PackedSequence):
                found = self._by_our_operator(input, hx, rows)
                if found is not None:
                    return found
                route = routing.EMPTY if not input.numel() else routing.WRONG
            else:
                route = "packed rows among traced tensors"
        proxy = proxy_in(input, hx, *rows) if route == routing.WRONG else None
        if proxy is not None and proxy.tracer.root is not self:
            given = {name: value for name, value in rows._asdict().items() if value is not None}
            return self._as_proxy(proxy, (input,) if hx is None else (input, hx), given)
        routing.fall_back(route)
        self._check_frozen()
        return self._by_torch(input, hx, rows)

    def _by_torch(self, input: Any, hx: Any, rows: Rows) -> Output:
        if self._torch_has_it and rows.lengths is None and rows.resets is None:
            start_of(rows.start, None, numbered=False)
            return super().forward(input, hx)
        layout = self._checked_layout()
        packed = isinstance(input, PackedSequence)
        x = input.data if packed else input
        unbatched = not packed and x.dim() == 2
        if unbatched:
            x = x.unsqueeze(1)
        elif not packed and self.batch_first and x.dim() == 3:
            x = x.transpose(0, 1)
        states = states_of(hx, len(layout.units))
        self._check(layout, input, x, states, unbatched)
        steps: Any
        if packed:
            steps = self._packed_steps(layout, input, x, rows)
            if steps is None:
                raise RuntimeError(
                    f"batch_sizes: expected positive integers that do not rise, whose sum is that of the {x.shape[0]} "
                    f"rows, got {input.batch_sizes.tolist()}"
                )
        else:
            T, B = x.shape[0], x.shape[1]
            lengths, start, resets = rows.read(B, T, unbatched, self.batch_first, layout.spec.numbered is not None)
            steps = Steps(T, B, (layout.runs, B), lengths, start, resets=resets)
        if self.regularisation:
            self._regularise(steps)
        if rows.reset_state is not None:
            lead = (layout.runs,) if unbatched else (layout.runs, steps.batch_size)
            states = states_with_resets(states, rows.reset_state, layout.units, layout.empty, lead, not unbatched, x)
        given = [s.unsqueeze(1) for s in states] if unbatched else list(states)
        if packed and input.sorted_indices is not None:
            given = [s.index_select(1, input.sorted_indices) for s in given]
        dropout = self._dropout_between() if steps.seed is None else 0.0
        outputs = by_torch.run(layout, steps, x, given, self._parameters_of(layout.names()), dropout)
        if unbatched:
            outputs = [s.squeeze(1) for s in outputs]
        elif self.batch_first and not packed:
            outputs[0] = outputs[0].transpose(0, 1)
        return self._given_back(input if packed else None, outputs)

    def _check(self, layout: Layout, input: Any, x: Tensor, states: Any, unbatched: bool) -> None:
        """Raises what torch.nn's modules raise for sizes that do not fit."""
        batch_sizes = input.batch_sizes if isinstance(input, PackedSequence) else None
        self.check_input(x, batch_sizes)
        if batch_sizes is None and not x.shape[0]:
            raise RuntimeError(drop_ins.NO_STEPS)
        if len(states) not in (0, len(layout.units)):
            raise RuntimeError(f"Expected a tuple of {len(layout.units)} hidden states, got {len(states)}")
        batch = () if unbatched else (x.shape[1] if batch_sizes is None else int(batch_sizes[0]),)
        for s, units in zip(states, layout.units, strict=False):
            require_dtype(s, x)
            self.check_hidden_size(s, (layout.runs, *batch, units))


private.keep_compiler_out(Layers._eager)
