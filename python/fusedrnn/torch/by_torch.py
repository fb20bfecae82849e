"""The same layers by PyTorch's operators: for derivatives of a higher order, and where no kernel takes a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..cells.families import SPECS
from ..cells.spec import DEFAULTS
from ..layers.masks import between as masks_between
from ..masks import Mask, Sizes, of_seed, scale_of
from ..reference import EQUATIONS
from ..reference.regularised import Regularised
from . import private
from .drop_ins import PackedSequence, operator_of, pack_padded_sequence, pad_packed_sequence
from .plan import NONE, Layout, Steps, values_of
from .tensors import Maybe


def run(
    layout: Layout, steps: Steps, x: Tensor, states: Sequence[Maybe], parameters: Sequence[Tensor], dropout: float = 0.0
) -> list[Tensor]:
    """y and the last states, with graphs of any order. x is ``(T, B, I)``, or packed rows; states are those of
    `Layout`, and as many before episodes, or none for empty ones. `dropout` between layers is PyTorch's own, other
    than that of the steps, whose masks follow from their seed."""
    plain = steps.resets is None and layout.drops == layout.values == NONE
    operator = operator_of(layout.cell, x) if plain else None
    traced = torch.compiler.is_compiling() or private.are_transforms_active()
    if operator is None or (traced and steps.lengths is not None and steps.batch_sizes is None):
        # What is traced cannot see how rows are packed, which the operator needs for lengths.
        return by_equations(layout, steps, x, states, parameters, dropout)
    return _by_operator(operator, layout, steps, x, states, parameters, dropout)


def _first_states(layout: Layout, steps: Steps, x: Tensor, states: Sequence[Maybe]) -> list[Tensor]:
    """The first states, with empty ones for those that are None."""
    return _whole_states(layout, steps, x, states[: len(layout.units)])


def _whole_states(layout: Layout, steps: Steps, x: Tensor, states: Sequence[Maybe]) -> list[Tensor]:
    given = list(states) or [None] * len(layout.units)
    sizes = [(layout.runs, steps.batch_size, units) for units in layout.units]
    every = zip(given, sizes, layout.spec.states, strict=True)
    return [x.new_full(size, state.empty) if s is None else s for s, size, state in every]


def _by_operator(
    operator: Any, layout: Layout, steps: Steps, x: Tensor, states: Sequence[Maybe], parameters: Any, dropout: float
) -> list[Tensor]:
    """By the operator that torch.nn's module calls."""
    first = _first_states(layout, steps, x, states)
    batch_sizes, restore = steps.batch_sizes, None
    if batch_sizes is None and steps.lengths is not None:
        # The operator knows packed rows alone, each of one step at least.
        packed = pack_padded_sequence(x, steps.lengths.clamp(min=1).cpu(), enforce_sorted=False)
        x, batch_sizes, order, restore = packed
        first = [s.index_select(1, order) for s in first]
    hx: Any = first if len(first) > 1 else first[0]
    sizes = () if batch_sizes is None else (batch_sizes,)
    train = dropout > 0 or (x.is_cuda and torch.is_grad_enabled())  # without which cuDNN has no backward
    settings = (layout.bias, layout.num_layers, dropout, train, layout.directions == 2)
    y, *last = operator(x, *sizes, hx, list(parameters), *settings, *(() if sizes else (False,)))
    if restore is None:
        return [y, *last]
    padded = PackedSequence(y, batch_sizes, order, restore)
    return _without_empty_rows(steps, pad_packed_sequence(padded, total_length=steps.seq_len)[0],
                               [s.index_select(1, restore) for s in last],
                               [s.index_select(1, restore) for s in first])  # fmt: skip


def _without_empty_rows(steps: Steps, y: Tensor, last: list[Tensor], first: list[Tensor]) -> list[Tensor]:
    """Rows of no steps, which ran for one, put right."""
    empty = (steps.lengths == 0).unsqueeze(1)  # type: ignore[union-attr]
    return [y.masked_fill(empty, 0), *(torch.where(empty, f, s) for f, s in zip(first, last, strict=True))]


def by_equations(
    layout: Layout, steps: Steps, x: Tensor, states: Sequence[Maybe], parameters: Sequence[Tensor], dropout: float = 0.0
) -> list[Tensor]:
    """What `run` does, by the equations of the reference, step by step."""
    if steps.batch_sizes is not None:
        return _padded(layout, steps, x, states, parameters, dropout)
    first = _first_states(layout, steps, x, states)
    before = None if steps.resets is None else _whole_states(layout, steps, x, states[len(layout.units) :])
    each = len(parameters) // layout.runs
    last: list[list[Tensor]] = [[] for _ in first]
    below: list[Maybe] = [None] * layout.directions
    for number in range(layout.num_layers):
        ys = []
        for d in range(layout.directions):
            run = number * layout.directions + d
            w = _weights(layout, parameters[run * each : (run + 1) * each])
            of_run = [s[run] for s in first], None if before is None else [s[run] for s in before]
            equations = None if layout.drops == NONE else _regularised(layout, w, steps, number, d, x.device)
            y, ends, below[d] = _walk(layout, w, equations, steps, x, *of_run, below[d], d == 1)
            ys.append(y)
            for of_state, end in zip(last, ends, strict=True):
                of_state.append(end)
        x = ys[0] if len(ys) == 1 else torch.cat(ys, -1)
        if steps.dropout and number + 1 < layout.num_layers:
            x = dropped(layout, steps, x, number)
        elif dropout and number + 1 < layout.num_layers:
            x = F.dropout(x, dropout, True)
    return [x, *map(torch.stack, last)]


class _Weights:
    """What the equations read."""

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, name, value)


def _weights(layout: Layout, parameters: Sequence[Tensor]) -> _Weights:
    spec = layout.spec
    names = dict.fromkeys(name for s in SPECS.values() if s.family == spec.family for name in s.names)
    given = dict(zip(layout.names_of_run, parameters, strict=True))
    values = dict(values_of(layout.values))
    if spec.mask and spec.recurrence:  # what lies outside has no effect, whatever its values
        name = spec.recurrence.name
        mask = torch.as_tensor(spec.mask(layout.hidden_size, values), device=given[name].device)
        given[name] = torch.where(mask, given[name], torch.zeros_like(given[name]))
    return _Weights(
        **{**dict.fromkeys(names), **DEFAULTS, **given, **spec.options, **values},
        gates=spec.gates,
        hidden_size=layout.hidden_size,
    )


def _regularised(
    layout: Layout, w: Any, steps: Steps, number: int, direction: int, device: torch.device
) -> Regularised:
    """The equations of a run under its masks, or their expectation."""
    options, masks = dict(values_of(layout.drops)), None
    if steps.seed is not None:
        found = _masks(layout.layer(number), options, steps.seq_len, steps.batch_size, steps.seed, number, direction)
        masks = {name: mask.to(device) for name, mask in found.items()}
    return Regularised(EQUATIONS[layout.spec.family], layout.spec, w, options, masks)


def masks_of(layout: Layout, options: dict[str, float], T: int, B: int, seed: int, *place: int) -> dict[str, Mask]:
    """The masks of a run in its place, of a layer alone."""
    h = layout.proj_size or layout.hidden_size
    sizes = Sizes(layout.input_size, layout.hidden_size, h, T, B, layout.num_heads)
    return of_seed(layout.spec, options, sizes, seed, *place)


@private.disabled_in_compiler
def _masks(*arguments: Any) -> dict[str, Tensor]:
    return {name: torch.from_numpy(mask.copy()) for name, mask in masks_of(*arguments).items()}


def dropped(layout: Layout, steps: Steps, x: Tensor, number: int) -> Tensor:
    """The outputs of a layer after the dropout of the steps, or the gradients before it."""
    mask = _mask_between(steps, number, layout.directions, x.shape[-1]).to(x.device)
    return torch.where(mask, torch.zeros_like(x), x * scale_of(steps.dropout))


@private.disabled_in_compiler
def _mask_between(steps: Steps, number: int, directions: int, width: int) -> Tensor:
    assert steps.seed is not None
    sizes = steps.seq_len, steps.batch_size, width
    return torch.from_numpy(masks_between(steps.seed, steps.dropout, number, directions, *sizes))


def _begins_anew(steps: Steps, reverse: bool) -> Tensor:
    """``(T, B)``: whether a row's episode begins with a step, in the order in which steps run."""
    anew = steps.resets
    assert anew is not None
    if steps.lengths is not None:
        anew = anew & (torch.arange(steps.seq_len, device="cpu").unsqueeze(1) < steps.lengths)
    return torch.cat([anew[1:], torch.zeros_like(anew[:1])]) if reverse else anew


def _walk(
    layout: Layout,
    w: Any,
    equations: Regularised | None,
    steps: Steps,
    x: Tensor,
    now: list[Tensor],
    before: list[Tensor] | None,
    below: Maybe,
    reverse: bool,
) -> tuple[Tensor, list[Tensor], Maybe]:
    """One run: y, the last states, and the states of every step that the layer above reads. `before` are the states
    before episodes, if there are some."""
    spec, T = layout.spec, steps.seq_len
    step, lengths = EQUATIONS[spec.family].step, steps.lengths
    zeros = x.new_zeros(steps.batch_size, layout.hidden_size) if spec.below else None
    above = [s.name for s in spec.states].index(spec.above) if spec.above else None
    ys: list[Any] = [None] * T
    cs: list[Any] = [None] * T
    anew = None if before is None else _begins_anew(steps, reverse)
    number = _first_numbers(steps) if spec.numbered else None
    for t in reversed(range(T)) if reverse else range(T):
        further = [] if zeros is None else [zeros if below is None else below[t]]
        if before is not None and anew is not None:
            begins = anew[t].unsqueeze(1).to(x.device)
            now = [torch.where(begins, b, s) for b, s in zip(before, now, strict=True)]
        if number is not None:
            number = number if anew is None else torch.where(anew[t], 0, number)
            further.append(number.to(x.device))
            number = number + 1 if lengths is None else number + (lengths > t)
        if equations is None:
            new = step(w, x[t], tuple(now), *further)[0]
        else:
            new = equations.step(t, slice(None), x[t], tuple(now), *further)[0]
        live = None if lengths is None else (lengths > t).unsqueeze(1).to(x.device)
        now = list(new) if live is None else [torch.where(live, n, s) for n, s in zip(new, now, strict=True)]
        ys[t] = now[0] if live is None else torch.where(live, now[0], torch.zeros_like(now[0]))
        if above is not None:
            cs[t] = now[above]
    return torch.stack(ys), now, torch.stack(cs) if above is not None else None


def _first_numbers(steps: Steps) -> Tensor:
    """Of each row's first step."""
    zeros = torch.zeros(steps.batch_size, dtype=torch.int64, device="cpu")
    return zeros if steps.start is None else steps.start


def _padded(
    layout: Layout, steps: Steps, rows: Tensor, states: Sequence[Maybe], parameters: Sequence[Tensor], dropout: float
) -> list[Tensor]:
    """Of packed rows."""
    assert steps.batch_sizes is not None
    x, lengths = pad_packed_sequence(PackedSequence(rows, steps.batch_sizes))
    resets = None
    if steps.resets is not None:
        resets = pad_packed_sequence(PackedSequence(steps.resets, steps.batch_sizes))[0]
    padded = Steps(steps.seq_len, steps.batch_size, steps.lead, lengths, steps.start, resets=resets)
    padded.seed, padded.dropout = steps.seed, steps.dropout
    y, *last = by_equations(layout, padded, x, states, parameters, dropout)
    return [pack_padded_sequence(y, lengths).data, *last]
