"""Modules of cells, for loops over time: torch.nn's three, and one for each further family."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from ..layers.config import config_of
from . import by_torch, drop_ins, private, routing
from .arguments import are_tensors, empty_states, require_dtype, resets_of, start_of, states_of, states_with_resets
from .gpu import Refused
from .module import Recurrent, proxy_in
from .plan import Layout, Steps
from .tensors import PLAIN


class Cell(Recurrent):
    """The base of cells."""

    registry: ClassVar[dict[str, type[Recurrent]]] = {}
    _theirs = drop_ins.CELLS

    def _complete(self, given: dict[str, Any]) -> dict[str, Any] | None:
        options = super()._complete(given)
        if options is None and not given.get("proj_size"):
            given.pop("proj_size", None)  # which torch.nn's cells do not have
            return None
        return options or dict(self._options.defaults)

    def _build(
        self,
        options: dict[str, Any],
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        proj_size: int = 0,
    ) -> None:
        """A module that torch.nn does not have."""
        config = config_of(
            type(self).__name__, self._options, input_size, hidden_size, bias=bias, proj_size=proj_size, **options
        )
        nn.Module.__init__(self)
        self.input_size, self.hidden_size, self.bias = config.input_size, config.hidden_size, config.bias
        self.cell_options = config.options
        if config.proj_size:
            self.proj_size = config.proj_size
        sizes = (config.input_size, config.hidden_size, config.proj_size, 1, 1)
        self._set_values(Layout(config.spec.cell, *sizes, config.bias))
        self._set_regularisation(config.regularisation)
        layout = Layout(config.spec.cell, *sizes, config.bias, self.cell_values)
        for name, shape in zip(layout.names_of_run, layout.shapes(), strict=True):
            self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    def _layout(self) -> Any:
        proj_size = getattr(self, "proj_size", 0)
        cell = drop_ins.cell_of_cell(self._family, self) if self._torch_has_it else self._chosen(proj_size)
        if cell is None:
            return None
        sizes = (self.input_size, self.hidden_size, proj_size, 1, 1)
        # PyTorch's cells take the biases that they have, whatever `bias` says.
        biases = {self._has(name) for name in ("bias_ih", "bias_hh")} if self._torch_has_it else {bool(self.bias)}
        about = self.cell_values, self._drops[self.training]
        return Layout(cell, *sizes, biases.pop(), *about) if len(biases) == 1 else None

    def _has(self, name: str) -> bool:
        return getattr(self, name, None) is not None

    def _names(self, layout: Layout) -> list[str]:
        return layout.names_of_run

    def forward(
        self, input: Any, hx: Any = None, *, start: Any = None, resets: Any = None, reset_state: Any = None
    ) -> Any:
        """One step, as torch.nn's cells.

        Args:
            input: ``(B, I)``, or ``(I,)`` for one row.
            hx: the state, a tensor; or a tuple of them where the cell has several; None for an empty one.
            start: for cells with clocks, the number of the step: an int, or ``(B,)`` integers.
            resets: ``(B,)`` bools, or one bool for one row: where a new episode begins, before this step.
            reset_state: the state before an episode, as `hx`, or without B for all rows; None for zeros.

        Returns:
            The new state, as `hx`.

        Raises:
            What torch.nn's cells raise, for what they do not take. ValueError: start, resets or reset_state that do not
            fit.
        """
        if resets is not None or reset_state is not None:
            hx, start = self._after_resets(input, hx, start, resets, reset_state)
        if torch.compiler.is_compiling():
            return self._by_torch(input, hx, start)
        return self._eager(input, hx, start)

    def _after_resets(self, input: Any, hx: Any, start: Any, resets: Any, reset_state: Any) -> tuple[Any, Any]:
        """The state and the number of the step of rows some of which begin anew."""
        layout, lead = self._checked_layout(), tuple(input.shape[:-1])
        begins = resets_of(resets, lead, False)
        if begins is None:
            begins = torch.zeros(lead, dtype=torch.bool, device="cpu")
        if start is not None:
            B = lead[0] if lead else 1
            start = torch.where(begins.reshape(B), 0, start_of(start, B, layout.spec.numbered is not None))
        states = states_of(hx, len(layout.units))
        if hx is None and reset_state is None:
            return hx, start
        empty = empty_states(layout.units, layout.empty, lead, input)
        every = states_with_resets(states, reset_state, layout.units, layout.empty, lead, bool(lead), input)
        first = every[: len(empty)]
        if not are_tensors(list(first), len(empty)):
            return hx, start  # which is refused as any other
        begins = begins.unsqueeze(-1).to(input.device)
        found = [torch.where(begins, b, s) for b, s in zip(every[len(empty) :] or empty, first, strict=True)]
        return (tuple(found) if len(found) > 1 else found[0]), start

    def _eager(self, input: Any, hx: Any, start: Any) -> Any:
        route = routing.of_state()
        if route is not None or type(input) not in PLAIN:
            return self._other(route or routing.of_tensor(input, None) or routing.WRONG, input, hx, start)
        plan, names = self._own(input.dtype) if routing.is_on_cpu(input) else self._own_elsewhere(input)
        if plan is not None and plan.layout.bias != (self._parameters.get("bias_ih") is not None):
            self._forget_plan()  # biases may have come or gone without a trace, as in functional_call
            plan, names = self._own(input.dtype) if routing.is_on_cpu(input) else self._own_elsewhere(input)
        if plan is None:
            return self._other(self._why_no_plan(input), input, hx, start)
        shape = input.shape
        states = () if hx is None else states_of(hx, len(plan.units))
        fits = len(shape) in (1, 2) and shape[-1] == plan.layout.input_size
        if not fits or not (hx is None or are_tensors(states, len(plan.units))):
            return self._other(routing.WRONG, input, hx, start)
        lead = shape[:-1]
        B = lead[0] if lead else 1
        if not B:
            return self._other(routing.EMPTY, input, hx, start)
        route, every, found = self._prepared(plan, names, input, states, lead)
        steps = Steps(1, B, lead, of_cell=True)
        if plan.drops and route is None:
            route = self._regularise(steps, found[0])
        if route is not None:
            return self._other(route, input, hx, start)
        if start is not None:
            steps.start = start_of(start, B, plan.spec.numbered is not None)
        try:
            new = self._native(plan, steps, every, found)
        except Refused as e:
            return self._other(str(e), input, hx, start)
        return new[0] if len(new) == 1 else tuple(new)

    def _other(self, route: str, input: Any, hx: Any, start: Any) -> Any:
        """By PyTorch's operators; traced ones are more portable than ours, and fuse."""
        proxy = proxy_in(input, hx, start) if route == routing.WRONG else None
        if proxy is not None and proxy.tracer.root is not self:
            further = {} if start is None else {"start": start}
            return self._as_proxy(proxy, (input,) if hx is None else (input, hx), further)
        routing.fall_back(routing.TRACED_CELL if route == routing.OPERATOR else route)
        self._check_frozen()
        return self._by_torch(input, hx, start)

    def _by_torch(self, input: Any, hx: Any, start: Any) -> Any:
        if self._torch_has_it:
            start_of(start, None, numbered=False)
            return super().forward(input, hx)
        layout = self._checked_layout()
        states = states_of(hx, len(layout.units))
        name = type(self).__name__
        if input.dim() not in (1, 2):
            raise ValueError(f"{name}: Expected input to be 1D or 2D, got {input.dim()}D instead")
        if input.shape[-1] != layout.input_size:
            raise RuntimeError(
                f"input has inconsistent input_size: got {input.shape[-1]}, expected {layout.input_size}"
            )
        lead = tuple(input.shape[:-1])
        if states and [tuple(s.shape) for s in states] != [(*lead, units) for units in layout.units]:
            expected = ", ".join(str((*lead, units)) for units in layout.units)
            raise RuntimeError(f"{name}: Expected hidden sizes {expected}, got {[tuple(s.shape) for s in states]}")
        for s in states:
            require_dtype(s, input)
        B = lead[0] if lead else 1
        steps = Steps(1, B, lead, None, start_of(start, B, layout.spec.numbered is not None), True)
        if self.regularisation:
            self._regularise(steps)
        x, whole = steps.whole(input, list(states), 1)
        new = steps.as_given(by_torch.run(layout, steps, x, whole, self._parameters_of(self._names(layout))), input)
        return tuple(new) if len(new) > 1 else new[0]


private.keep_compiler_out(Cell._eager)
