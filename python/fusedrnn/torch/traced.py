"""Layers as operators, for what traces calls: torch.compile, fake tensors, make_fx."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from . import private
from .arguments import are_tensors, lengths_of, resets_of, start_of, states_of, states_with_resets
from .drop_ins import PackedSequence
from .module import Recurrent, new_seed
from .operator import operator_of
from .plan import DTYPES, NONE, Layout

Output = Any  # of a call: the outputs and the last state
Operators = tuple[list[str], list[tuple[str, tuple[int, ...]]], list[int], list[float], bool]


class Rows(NamedTuple):
    """What the caller says of a call's rows."""

    lengths: Any
    start: Any
    resets: Any
    reset_state: Any

    def read(
        self,
        batch_size: Any,
        seq_len: Any,
        unbatched: bool,
        batch_first: bool,
        numbered: bool,
        gpu: torch.device | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """lengths, start and resets as kernels take them; see `arguments`."""
        turned = batch_first and not unbatched
        sizes = (seq_len,) if unbatched else (batch_size, seq_len) if turned else (seq_len, batch_size)
        resets = resets_of(self.resets, sizes, turned, gpu)
        return (
            lengths_of(self.lengths, batch_size, seq_len, unbatched, gpu),
            start_of(self.start, batch_size, numbered),
            resets.unsqueeze(1) if unbatched and resets is not None else resets,
        )


class TracedLayers(Recurrent):
    """The calls of layers that are traced."""

    def _by_torch(self, input: Any, hx: Any, rows: Rows) -> Output:
        """By PyTorch's operators."""
        raise NotImplementedError

    def _compiled(self, input: Any, hx: Any, rows: Rows) -> Output:
        """What torch.compile and torch.export trace. An exported program has PyTorch's operators, and runs anywhere."""
        if not (private.is_exporting() or isinstance(input, PackedSequence) or torch.is_autocast_enabled("cpu")):
            found = self._by_our_operator(input, hx, rows)
            if found is not None:
                return found
        return self._by_torch(input, hx, rows)

    def _operators(self, each: bool) -> Operators:
        """The name of the operator of all layers, or those of each layer; names and shapes of the parameters; the units
        of states, and what stands in empty ones; whether the cell numbers its steps. No operators where there are none
        for this module."""
        layout = self._layout()
        if layout is None:
            return [], [], [], [], False
        sizes = (layout.input_size, layout.hidden_size, layout.proj_size, layout.num_layers, layout.directions)
        found: Operators = _operators_of(each, layout.cell, *sizes, layout.bias, layout.values, layout.drops)
        return found

    def _by_our_operator(self, input: Any, hx: Any, rows: Rows) -> Output | None:
        """By an operator that is traced as one call; None where it does not take the arguments."""
        dropout = self.dropout if self.training and self.num_layers > 1 else 0.0
        seeded = self._drops[1] != NONE and self.training
        found = self._operators(each=True) if dropout and not seeded else self._operators(each=False)
        operators, expected, units, empty, numbered = found
        x, states = input, states_of(hx, len(units))
        parameters = [getattr(self, name) for name, _ in expected]
        if not operators or x.dim() not in (2, 3) or not (hx is None or are_tensors(states, len(units))):
            return None
        unbatched, D = x.dim() == 2, 1 + bool(self.bidirectional)
        turned = self.batch_first and not unbatched
        B = 1 if unbatched else x.shape[0] if turned else x.shape[1]
        lead = (self.num_layers * D,) if unbatched else (self.num_layers * D, B)
        states = states_with_resets(states, rows.reset_state, units, empty, lead, not unbatched, x)
        if unbatched:
            x, states = x.unsqueeze(1), [s.unsqueeze(1) for s in states]
        elif turned:
            x = x.transpose(0, 1)
        each = len(parameters) // len(operators)
        sizes: list[Any] = [(self.num_layers * D, B, u) for u in units] * (len(states) // len(units))
        sizes += [shape for _, shape in expected]
        if x.shape[2] != self.input_size or x.numel() == 0 or x.dtype not in DTYPES:
            return None
        tensors = [*states, *parameters]
        if any(t.dtype != x.dtype or t.device.type != "cpu" for t in (x, *tensors)):
            return None
        if any(t.shape != size for t, size in zip(tensors, sizes, strict=True)):
            return None
        wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *tensors))
        if wanted and self._drops[0] != NONE and not self.training:
            return None  # as there is no kernel for it
        about = *rows.read(B, x.shape[0], unbatched, self.batch_first, numbered), new_seed() if seeded else None
        lasts = []
        for n, operator in enumerate(operators):
            first: Any = [*states, *[None] * (2 * len(units) - len(states))]
            if len(operators) > 1:
                first = [None if s is None else s[n * D : (n + 1) * D] for s in first]
            call = getattr(torch.ops.fusedrnn, operator).default
            of_call = parameters[n * each : (n + 1) * each]
            x, *last = call(x, *about, *first, *of_call, dropout if seeded else 0.0, False)
            lasts.append(last[:-1])
            if n + 1 < len(operators):
                x = F.dropout(x, dropout, True)
        last = lasts[0] if len(lasts) == 1 else [torch.cat(of_state) for of_state in zip(*lasts, strict=True)]
        if unbatched:
            x, last = x.squeeze(1), [s.squeeze(1) for s in last]
        elif turned:
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
        return [], [], [], [], False
    layouts = [layout.layer(n) for n in range(layout.num_layers)] if each else [layout]
    parameters = list(zip(layout.names(), layout.shapes(), strict=True))
    return (
        [operator_of(of).name for of in layouts],
        parameters,
        layout.units,
        layout.empty,
        layout.spec.numbered is not None,
    )
