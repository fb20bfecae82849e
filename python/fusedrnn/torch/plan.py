"""What calls of a module need beside its tensors: the cell, sizes, names of parameters, and the native runner."""

from __future__ import annotations

import ast
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _core
from ..backends import native_cell
from ..cells.families import SPECS
from ..cells.spec import HEADS, CellSpec, Parameter
from ..layers.config import name_of
from . import private
from .tensors import BITS

MOST_SHAPES = 256  # of calls, that a plan remembers
DTYPES = {dtype: str(dtype).removeprefix("torch.") for dtype in BITS}  # and the formats of kernels
NONE = "{}"  # of the options that `text_of` writes


def text_of(values: dict[str, Any]) -> str:
    """Options as a text: Dynamo watches texts, and takes floats for numbers that change."""
    return repr(values)


@private.constant_to_compiler
def values_of(text: str) -> tuple[tuple[str, Any], ...]:
    """The options, by name: the items of a dict."""
    return tuple(ast.literal_eval(text).items())


@dataclass(frozen=True)
class Layout:
    """The layers of a module, but for the values of parameters. A *run* is a direction of a layer."""

    cell: str
    input_size: int
    hidden_size: int
    proj_size: int  # 0 for none
    num_layers: int
    directions: int
    bias: bool
    values: str = NONE  # of the options that belong to weights, as `text_of` writes them
    drops: str = NONE  # the probabilities of regularisation that are not 0, written alike

    @property
    def spec(self) -> CellSpec[Any, Any]:
        return SPECS[self.cell]

    @property
    def runs(self) -> int:
        return self.num_layers * self.directions

    @property
    def width(self) -> int:
        """The numbers of a step of a row of y."""
        return self.directions * (self.proj_size or self.hidden_size)

    @property
    def units(self) -> list[int]:
        """Of each state."""
        return [s.length(self.hidden_size, self.proj_size or self.hidden_size) for s in self.spec.states]

    @property
    def empty(self) -> list[float]:
        """What stands in each state that is not given."""
        return [s.empty for s in self.spec.states]

    @property
    def num_heads(self) -> int:
        return int(dict(values_of(self.values)).get(HEADS, 1))

    @property
    def places(self) -> list[tuple[int, int]]:
        return [(layer, d) for layer in range(self.num_layers) for d in range(self.directions)]

    @property
    def parameters(self) -> list[Parameter]:
        """Of a run."""
        return [p for p in self.spec.parameters if self.bias or not p.is_bias]

    @property
    def names_of_run(self) -> list[str]:
        """Of the parameters of a run, as the modules of cells have them."""
        return [p.name for p in self.parameters]

    def names(self) -> list[str]:
        """Of all parameters, a run after the other, as the modules of layers have them."""
        return [name_of(name, *place) for place in self.places for name in self.names_of_run]

    def shapes(self) -> list[tuple[int, ...]]:
        """Of the parameters of `names`."""
        below, num_heads = self.width, self.num_heads
        return [
            p.shape(below if layer else self.input_size, self.hidden_size, self.proj_size or None, num_heads)
            for layer, _ in self.places
            for p in self.parameters
        ]

    def layer(self, number: int) -> Layout:
        """One layer alone."""
        input_size = self.width if number else self.input_size
        fields = (self.hidden_size, self.proj_size, 1, self.directions, self.bias, self.values, self.drops)
        return Layout(self.cell, input_size, *fields)


class Places:
    """The places of the tensors that are saved, in the order of the call, and of the others."""

    def __init__(self, saved: list[bool]) -> None:
        self.saved = [i for i, s in enumerate(saved) if s]
        self.others = [i for i, s in enumerate(saved) if not s]
        order = [*self.saved, *self.others]
        self._places = [order.index(i) for i in range(len(order))]

    def together(self, saved: Sequence[Any], others: Sequence[Any]) -> list[Any]:
        """All tensors, in the order of the call."""
        every = [*saved, *others]
        return [every[i] for i in self._places] if others else every


class BasePlan:
    """A layout in a dtype, ready to be called; of what calls need, the part that is the same everywhere."""

    on_gpu = False

    def __init__(self, layout: Layout, dtype: torch.dtype, bits: int) -> None:
        self.layout, self.dtype = layout, dtype
        self.bits = bits  # of the floats that `read` finds
        self.spec = layout.spec
        self.drops = layout.drops != NONE
        self.width, self.units, self.runs = layout.width, layout.units, layout.runs
        self.shapes = tuple(layout.shapes())
        self._shapes: dict[Any, tuple[tuple[int, ...], ...]] = {}

    def shapes_of(self, shape: Any, lead: Any, states: int) -> tuple[tuple[int, ...], ...]:
        """Of x, which has this one, so many states (none; the first ones; or those before episodes too), and the
        parameters."""
        key = shape, lead, states
        found = self._shapes.get(key)
        if found is None:
            if len(self._shapes) > MOST_SHAPES:
                self._shapes.clear()
            of_states = [(*lead, units) for units in self.units] * (states // len(self.units))
            found = self._shapes[key] = (shape, *of_states, *self.shapes)
        return found

    def places(self, states: int, x_wanted: bool, parameters_wanted: bool) -> Places:
        """Which tensors of a call are saved for backward."""
        raise NotImplementedError

    def layer(self, number: int) -> BasePlan:
        """That of one layer alone."""
        raise NotImplementedError


class Plan(BasePlan):
    """On the CPU, by a native runner."""

    def __init__(self, layout: Layout, dtype: torch.dtype) -> None:
        super().__init__(layout, dtype, BITS[dtype])
        values = dict(values_of(layout.values))
        self.runner = _core.make_runner(
            native_cell(self.spec),
            DTYPES[dtype],
            layout.input_size,
            layout.hidden_size,
            layout.proj_size or layout.hidden_size,
            layout.num_layers,
            layout.directions,
            values.get("epsilon", 0.0),
            list(values.get("periods", ())),
            layout.num_heads,
            values | dict(values_of(layout.drops)),
        )
        self.itemsize = self.bits // 8
        given = [layout.bias or not p.is_bias for p in self.spec.parameters] * layout.runs
        self.given = None if all(given) else given
        self.roles = [p.role for p in layout.parameters] * layout.runs
        self._places: dict[Any, Places] = {}

    def places(self, states: int, x_wanted: bool, parameters_wanted: bool) -> Places:
        """Which tensors of a call backward reads. Biases are none of them; nor weights of the input, where its gradient
        is not wanted; nor the input, where those of parameters are not."""
        key = states, x_wanted, parameters_wanted
        found = self._places.get(key)
        if found is None:
            lowest = len(self.roles) // self.layout.num_layers
            read = [parameters_wanted] + [True] * states
            for i, role in enumerate(self.roles):
                of_input = role == "weight_ih" and i < lowest
                read.append(role not in ("bias_ih", "bias_hh") and (x_wanted or not of_input))
            found = self._places[key] = Places(read)
        return found

    def layer(self, number: int) -> Plan:
        found = plan_of(self.layout.layer(number), self.dtype)
        assert found is not None
        return found

    def packed(self, parameters: Sequence[Tensor]) -> _core.Stack:
        """Packed weights, which a call takes in place of the parameters."""
        layout, each, stack = self.layout, len(parameters) // self.runs, []
        values = dict(values_of(layout.values)) | dict(values_of(layout.drops))
        for i in range(self.runs):
            arrays = [p.detach().contiguous().numpy() for p in parameters[i * each : (i + 1) * each]]
            given = dict.fromkeys(self.spec.names) | dict(zip(layout.names_of_run, arrays, strict=True))
            stack.append(_core.make_weights(native_cell(self.spec), given, values, DTYPES[self.dtype]))
        return _core.make_stack(tuple(stack), layout.directions)

    def slots(self, addresses: tuple[int, ...]) -> tuple[int, ...]:
        """An address for each parameter that the cell has: 0 for biases that the layers lack."""
        if self.given is None:
            return addresses
        every = iter(addresses)
        return tuple(next(every) if given else 0 for given in self.given)

    @functools.cached_property
    def reserve_bytes_per_row(self) -> int:
        """A reserve is a number of arrays, each of which has as many elements for each row of each step."""
        return self.runner.reserve_bytes(64, 1, 0, 0, self.drops) // 64

    def most_reserve_elements(self, rows: Any) -> Any:
        """At least the elements of a reserve of this many rows of all steps, which may be a symbol; each of the arrays
        may begin at a multiple of 64 bytes."""
        return (rows * self.reserve_bytes_per_row + 64 * 6 * self.runs) // self.itemsize


@functools.lru_cache(maxsize=1024)
def plan_of(layout: Layout, dtype: torch.dtype) -> Plan | None:
    """None where no kernel takes these sizes or this dtype."""
    if dtype not in DTYPES:
        return None
    try:
        return Plan(layout, dtype)
    except ValueError:  # sizes beyond the kernels' bounds
        return None


class Steps:
    """The rows of a call: padded or packed, with their lengths, the numbers of their first steps, and where their
    episodes begin; and how it is regularised: the seed of all masks, or None for expectations, and the dropout between
    layers whose masks have that seed. `lead` are the sizes of a state as the caller has it, but for its units:
    (L*D, B), or (B,) of a cell, each without B for one row."""

    __slots__ = (
        "batch_size",
        "batch_sizes",
        "dropout",
        "lead",
        "lengths",
        "of_cell",
        "offsets",
        "resets",
        "seed",
        "seq_len",
        "start",
    )

    def __init__(
        self,
        seq_len: int,
        batch_size: int,
        lead: tuple[int, ...],
        lengths: Tensor | None = None,
        start: Tensor | None = None,
        of_cell: bool = False,
        resets: Tensor | None = None,
    ) -> None:
        self.seq_len, self.batch_size, self.lead, self.of_cell = seq_len, batch_size, lead, of_cell
        self.lengths, self.start = lengths, start  # (B,), int64
        self.resets = resets  # (T, B) bool, or of packed rows
        self.seed: int | None = None
        self.dropout = 0.0
        self.batch_sizes: Tensor | None = None  # of packed rows
        self.offsets: Tensor | None = None

    @classmethod
    def packed(cls, batch_sizes: Any, runs: int, rows: int) -> Steps | None:
        """Of so many rows one step after the other, as PackedSequence has them; None if these are no sizes of its
        steps."""
        if type(batch_sizes) is not Tensor or not batch_sizes.is_cpu or batch_sizes.dtype is not torch.int64:
            return None
        if batch_sizes.dim() != 1 or not len(batch_sizes):
            return None
        sizes = batch_sizes.numpy().copy()  # as kernels read them without the GIL, and in backward again
        ends = sizes.cumsum()
        if sizes[-1] < 1 or (sizes[1:] > sizes[:-1]).any() or ends[-1] != rows:
            return None
        steps = cls(len(sizes), int(sizes[0]), (runs, int(sizes[0])))
        steps.batch_sizes, steps.offsets = torch.from_numpy(sizes), torch.from_numpy(ends - sizes)
        # A row ends where so many steps have more rows than it has before it.
        lengths = np.searchsorted(-sizes, -np.arange(steps.batch_size), "left")
        steps.lengths = torch.from_numpy(lengths.astype(np.int64))
        return steps

    def addresses(self) -> tuple[int, int, int, int, int, int]:
        """The first arguments of the runner."""
        if self.lengths is None and self.start is None and self.resets is None:
            return self.seq_len, self.batch_size, 0, 0, 0, 0
        every = (self.lengths, self.offsets, self.start, self.resets)
        lengths, offsets, start, resets = [0 if t is None else t.data_ptr() for t in every]
        return self.seq_len, self.batch_size, lengths, offsets, start, resets

    def whole(self, x: Tensor, states: list[Tensor | None], runs: int) -> tuple[Tensor, list[Tensor | None]]:
        """x as (T, B, I), or packed rows, and states as (L*D, B, units)."""
        if self.batch_sizes is None and x.dim() < 3:
            x = x.reshape(self.seq_len, self.batch_size, -1)
        if len(self.lead) < 2 or self.of_cell:
            states = [None if s is None else s.reshape(runs, self.batch_size, -1) for s in states]
        return x, states

    def as_given(self, outputs: list[Tensor], x: Tensor) -> list[Tensor]:
        """y and last states of whole layers as the caller has them, whose x this is."""
        y, *last = outputs
        last = [s.reshape(*self.lead, s.shape[-1]) for s in last]
        return last if self.of_cell else [y.reshape(*x.shape[:-1], y.shape[-1]), *last]
