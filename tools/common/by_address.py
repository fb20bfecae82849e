"""Calls of the native runner, as front ends make them: on NumPy's arrays, by address."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

import fusedrnn
from cases import Array
from fusedrnn import _core
from fusedrnn.backends import native_cell


def address(a: Any) -> int:
    return 0 if a is None or a.size == 0 else int(a.ctypes.data)


@dataclass
class ByAddress:
    """The layers of a layer object, whose parameters are read where they lie. `gap` elements lie between rows of y and
    dy; `packed` says that sequences have only live rows."""

    layer: fusedrnn.Layer
    gap: int = 0
    packed: bool = False
    threads: int = 0
    runner: Any = field(init=False)
    parameters: tuple[Array | None, ...] = field(init=False)

    def __post_init__(self) -> None:
        layer = self.layer
        layer._stack()
        runs = layer._weights
        w, options = runs[0], runs[0]._values
        periods = [int(period) for period in options.get("periods", ())]
        self.runner = _core.make_runner(
            native_cell(w.spec),
            str(w.dtype),
            layer.input_size,
            layer.hidden_size,
            w.proj_size,
            layer.num_layers,
            layer.num_directions,
            options.get("epsilon", 0.0),
            periods,
            w.num_heads,
            dict(options),
        )
        self.parameters = tuple(w._loaded.array(name) for w in runs for name in w.spec.names)

    @property
    def states(self) -> list[int]:
        """The units of each state."""
        w = self.layer._weights[0]
        return [s.length(w.hidden_size, w.proj_size) for s in w.spec.states]

    def common(
        self, x: Array, states: Any, lengths: Any, start: Any, resets: Any = None, reset_states: Any = None
    ) -> tuple[tuple[Any, ...], list[Any]]:
        """The first arguments of all calls, and the arrays behind them."""
        before = reset_states or [None] * len(self.states)
        kept = [x, *states, resets, *before]
        T, B = (len(self.offsets(lengths)), len(lengths)) if self.packed else x.shape[:2]
        integers = [None if a is None else np.asarray(a, np.int64) for a in (lengths, start)]
        offsets = self.offsets(lengths) if self.packed else None
        kept += [*integers, offsets]
        arrays = (integers[0], offsets, integers[1], resets, x)
        tuples = (states, before, self.parameters)
        return (T, B, *map(address, arrays), *(tuple(map(address, every)) for every in tuples)), kept

    @staticmethod
    def offsets(lengths: Any) -> Array:
        live = [int((np.asarray(lengths) > t).sum()) for t in range(max([0, *lengths]))]
        return np.concatenate([[0], np.cumsum(live)])[:-1].astype(np.int64) if live else np.zeros(0, np.int64)

    def rows(self, count: Any, dtype: Any) -> tuple[Array, Array]:
        """Rows of y, and the memory that they are part of."""
        memory = np.full((*count, self.layer.output_size + self.gap), np.nan, dtype)
        return memory[..., : self.layer.output_size], memory

    def infer(
        self, x: Array, states: Any, lengths: Any = None, start: Any = None, weights: Any = None, **resets: Any
    ) -> list[Array]:
        """`weights`: packed ones, in place of the parameters."""
        common, kept = self.common(x, states, lengths, start, **resets)
        common = common if weights is None else (*common[:-1], weights)
        y, memory = self.rows(x.shape[:-1], x.dtype)
        last = self.new_states(common[1], x.dtype)
        self.runner.infer(*common, address(memory), memory.shape[-1], tuple(map(address, last)), self.threads)
        assert np.isnan(memory[..., self.layer.output_size :]).all()
        del kept
        return [y, *last]

    def new_states(self, batch_size: int, dtype: Any) -> list[Array]:
        runs = self.layer.num_layers * self.layer.num_directions
        return [np.full((runs, batch_size, units), np.nan, dtype) for units in self.states]

    def forward(
        self,
        x: Array,
        states: Any,
        lengths: Any = None,
        start: Any = None,
        dropout: float = 0.0,
        seed: int = 0,
        **resets: Any,
    ) -> tuple[list[Array], Any]:
        common, kept = self.common(x, states, lengths, start, **resets)
        y, memory = self.rows(x.shape[:-1], x.dtype)
        last = self.new_states(common[1], x.dtype)
        nbytes = self.runner.reserve_bytes(common[0], common[1], common[2], common[3], dropout > 0)
        raw = np.zeros(nbytes + 64, np.uint8)
        reserve = raw[-address(raw) % 64 :][:nbytes]
        self.runner.forward(
            *common, address(memory), memory.shape[-1], tuple(map(address, last)), address(reserve), dropout, seed,
            self.threads,
        )  # fmt: skip
        return [y, *last], (common, [*kept, reserve], reserve, dropout, seed)

    def backward(
        self, tape: Any, dy: Any, dlast: Any = None, dx: Any = None, wanted: Any = None, first: Any = None
    ) -> dict[str, Any]:
        """`dx` is added to, if it is given; `wanted` says of each parameter whether its gradient is, `first` of each
        state."""
        common, kept, reserve, dropout, seed = tape
        x, dtype = kept[0], kept[0].dtype
        memory = None
        if dy is not None:
            rows, memory = self.rows(dy.shape[:-1], dtype)
            rows[...] = dy
        dlast = dlast or [None] * len(self.states)
        add, dx = dx is not None, np.full(x.shape, np.nan, dtype) if dx is None else dx
        dfirst: list[Any] = self.new_states(common[1], dtype)
        dfirst = [d if first is None or first[i] else None for i, d in enumerate(dfirst)]
        dreset = [d if before else None for d, before in zip(self.new_states(common[1], dtype), common[8], strict=True)]
        dparameters = [
            None if a is None or not (wanted is None or wanted[i]) else np.full(a.shape, np.nan, dtype)
            for i, a in enumerate(self.parameters)
        ]
        self.runner.backward(
            *common, address(reserve), dropout, seed, address(memory), self.layer.output_size + self.gap,
            tuple(map(address, dlast)), address(dx), add, tuple(map(address, dfirst)), tuple(map(address, dreset)),
            tuple(map(address, dparameters)), self.threads,
        )  # fmt: skip
        return {"dx": dx, "dfirst": dfirst, "dreset": dreset, "dparameters": dparameters}
