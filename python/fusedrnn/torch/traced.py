"""Layers as operators, for what traces calls: torch.compile, fake tensors, make_fx."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from . import private
from .arguments import are_tensors, lengths_of, start_of, states_of
from .drop_ins import PackedSequence
from .module import Recurrent
from .operator import operator_of
from .plan import DTYPES, Layout

Output = Any  # of a call: the outputs and the last state
Operators = tuple[list[str], list[tuple[str, tuple[int, ...]]], list[int], bool]


class TracedLayers(Recurrent):
    """The calls of layers that are traced."""

    def _by_torch(self, input: Any, hx: Any, lengths: Any, start: Any) -> Output:
        """By PyTorch's operators."""
        raise NotImplementedError

    def _compiled(self, input: Any, hx: Any, lengths: Any, start: Any) -> Output:
        """What torch.compile and torch.export trace. An exported program has PyTorch's operators, and runs anywhere."""
        if not (private.is_exporting() or isinstance(input, PackedSequence) or torch.is_autocast_enabled("cpu")):
            found = self._by_our_operator(input, hx, lengths, start)
            if found is not None:
                return found
        return self._by_torch(input, hx, lengths, start)

    def _operators(self, each: bool) -> Operators:
        """The name of the operator of all layers, or those of each layer; names and shapes of the parameters; the units
        of states; whether the cell numbers its steps. No operators where there are none for this module."""
        layout = self._layout()
        if layout is None:
            return [], [], [], False
        sizes = (layout.input_size, layout.hidden_size, layout.proj_size, layout.num_layers, layout.directions)
        found: Operators = _operators_of(each, layout.cell, *sizes, layout.bias, layout.values)
        return found

    def _by_our_operator(self, input: Any, hx: Any, lengths: Any, start: Any) -> Output | None:
        """By an operator that is traced as one call; None where it does not take the arguments."""
        dropout = self.dropout if self.training and self.num_layers > 1 else 0.0
        operators, expected, units, numbered = self._operators(each=True) if dropout else self._operators(each=False)
        x, states = input, states_of(hx, len(units))
        parameters = [getattr(self, name) for name, _ in expected]
        if not operators or x.dim() not in (2, 3) or not (hx is None or are_tensors(states, len(units))):
            return None
        unbatched = x.dim() == 2
        if unbatched:
            x, states = x.unsqueeze(1), [s.unsqueeze(1) for s in states]
        elif self.batch_first:
            x = x.transpose(0, 1)
        D, each = 1 + bool(self.bidirectional), len(parameters) // len(operators)
        sizes: list[Any] = [(self.num_layers * D, x.shape[1], u) for u in units] if states else []
        sizes += [shape for _, shape in expected]
        if x.shape[2] != self.input_size or x.numel() == 0 or x.dtype not in DTYPES:
            return None
        tensors = [*states, *parameters]
        if any(t.dtype != x.dtype or t.device.type != "cpu" for t in (x, *tensors)):
            return None
        if any(t.shape != size for t, size in zip(tensors, sizes, strict=True)):
            return None
        rows = lengths_of(lengths, x.shape[1], x.shape[0], unbatched), start_of(start, x.shape[1], numbered)
        lasts = []
        for n, operator in enumerate(operators):
            first: Any = list(states) or [None] * len(units)
            if len(operators) > 1:
                first = [None if s is None else s[n * D : (n + 1) * D] for s in first]
            call = getattr(torch.ops.fusedrnn, operator).default
            x, *last = call(x, *rows, *first, *parameters[n * each : (n + 1) * each], False)
            lasts.append(last[:-1])
            if n + 1 < len(operators):
                x = F.dropout(x, dropout, True)
        last = lasts[0] if len(lasts) == 1 else [torch.cat(of_state) for of_state in zip(*lasts, strict=True)]
        if unbatched:
            x, last = x.squeeze(1), [s.squeeze(1) for s in last]
        elif self.batch_first:
            x = x.transpose(0, 1)
        return self._given_back(None, [x, *last])

    def _given_back(self, packed: Any, outputs: Any) -> Output:
        """The outputs as the caller has the input, a PackedSequence or not."""
        y: Any
        y, *last = outputs
        if packed is not None:
            if packed.unsorted_indices is not None:
                last = [s.index_select(1, packed.unsorted_indices) for s in last]
            y = PackedSequence(y, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
        return y, tuple(last) if len(last) > 1 else last[0]


@private.constant_to_compiler  # of its arguments alone, which Dynamo watches
def _operators_of(each: bool, *fields: Any) -> Operators:
    layout = Layout(*fields)
    if private.below_autograd is None or (each and layout.spec.below):
        return [], [], [], False
    layouts = [layout.layer(n) for n in range(layout.num_layers)] if each else [layout]
    parameters = list(zip(layout.names(), layout.shapes(), strict=True))
    return [operator_of(of).name for of in layouts], parameters, layout.units, layout.spec.numbered is not None
