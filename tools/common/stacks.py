"""Layers in terms of the functions of one layer: what a layer's calls must give, wired by hand."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

import fusedrnn
from cases import CELLS, Array, Cell, make_weights
from fusedrnn.cells.families import LAYERS

BETWEEN_LAYERS = 2  # the kind of dropout's numbers


def layer_class(cell: Cell) -> tuple[type[fusedrnn.Layer], dict[str, Any]] | None:
    """The class of layers of a cell under test, and the options that choose the cell; None for a cell that no layer
    has."""
    w = make_weights(cell, 3, 12, "float32", np.random.default_rng(0))
    options = w.spec.layer_options
    if options is None:
        return None
    values = {name: getattr(w, name) for name in w.spec.values}
    return LAYERS[type(w).__name__.removesuffix("Weights")], {**options, **values}


STACKED = [cell for cell in CELLS if layer_class(cell)]


def make_layer(cell: Cell, input_size: int, hidden_size: int, num_layers: int, **arguments: Any) -> fusedrnn.Layer:
    found = layer_class(cell)
    assert found
    kind, options = found
    if cell.projects:
        arguments["proj_size"] = cell.proj_size(hidden_size)
    if cell.clocked:
        options["periods"] = (1, 2, 3)
    layer = kind(input_size, hidden_size, num_layers, **arguments, **options)
    if cell.kink:  # as in cases.make_weights: on one side of it
        for name, a in layer.parameters.items():
            if name.startswith("bias_ih"):
                a += np.where(np.arange(a.size) % 2, 4, -4).astype(a.dtype)
            elif name.startswith("weight_hh"):
                a *= 0.25
    return layer


class Run(NamedTuple):
    """One direction of one layer: its reserve."""

    reserve: Any
    takes_below: bool


class Composed:
    """Calls of a layer, by functions of `module` on its parameters."""

    def __init__(
        self, cell: Cell, layer: fusedrnn.Layer, module: ModuleType = fusedrnn, dtype: str | None = None
    ) -> None:
        self.cell, self.layer, self.module = cell, layer, module
        self.dtype = dtype or str(layer.dtype)
        _, self.forward, self.backward, _ = (
            getattr(module, cell.op + suffix) for suffix in ("", "_forward", "_backward", "_cell")
        )
        self.D, self.L = layer.num_directions, layer.num_layers
        values = {name: layer.options[name] for name in layer.spec.values}
        kind = getattr(fusedrnn, type(layer).__name__ + "Weights")
        arrays = {name: a.astype(self.dtype) for name, a in layer.state_dict().items()}
        self.weights = [
            kind(**self._of(arrays, place), **layer.spec.options, **values) for place in range(self.L * self.D)
        ]

    def _suffix(self, place: int) -> str:
        return f"_l{place // self.D}{'_reverse' if place % self.D else ''}"

    def _of(self, arrays: dict[str, Array], place: int) -> dict[str, Array]:
        suffix = self._suffix(place)
        found = ((p.name, arrays.get(p.name + suffix)) for p in self.layer.spec.parameters)
        return {name: a for name, a in found if a is not None}

    def run(
        self, x: Array, states: list[Array], mask: Any = None, reset_states: list[Array] | None = None, **kwargs: Any
    ) -> tuple[Any, list[Run]]:
        """y and the last states; and what `gradients` needs. mask(layer, y) is what the layer above gets."""
        x = x.astype(self.dtype)
        runs, last = [], []
        below: list[Any] = [None] * self.D
        for layer in range(self.L):
            outs = []
            for d in range(self.D):
                place = layer * self.D + d
                given = [s[place].astype(self.dtype) for s in states]
                further: list[Any] = [below[d]] if self.cell.below else []
                if reset_states:
                    before = tuple(s[place].astype(self.dtype) for s in reset_states)
                    kwargs["reset_state"] = before if len(before) > 1 else before[0]
                out, reserve = self.forward(x, self.weights[place], *further, *given, reverse=d > 0, **kwargs)
                outs.append(out)
                runs.append(Run(reserve, below[d] is not None))
            last.append([list(out[1 : 1 + self.cell.states]) for out in outs])
            below = [out.c if self.cell.below else None for out in outs]
            x = np.concatenate([out.y for out in outs], axis=2)
            if mask is not None and layer + 1 < self.L:
                x = mask(layer, x)
        states_n = [np.stack([s[i] for of_layer in last for s in of_layer]) for i in range(self.cell.states)]
        return self.layer.spec.of_layer(x, *states_n), runs

    def gradients(self, runs: list[Run], dy: Array, dstates: list[Array], mask: Any = None) -> dict[str, Array]:
        """By the names of a layer's results and parameters."""
        dy = dy.astype(self.dtype)
        found: dict[str, Any] = {}
        first: list[Any] = [None] * len(runs)
        reset: list[Any] = [None] * len(runs)
        dbelow: list[Any] = [None] * self.D
        for layer in reversed(range(self.L)):
            dxs, down = [], []
            for d, part in enumerate(np.split(dy, self.D, axis=2)):
                place = layer * self.D + d
                given = [s[place].astype(self.dtype) for s in dstates]
                further = {"dc": dbelow[d]} if self.cell.below and dbelow[d] is not None else {}
                g = self.backward(runs[place].reserve, np.ascontiguousarray(part), *given, **further)
                dxs.append(g.dx)
                down.append(g.dc_below if runs[place].takes_below else None)
                first[place] = [getattr(g, f"d{s.name}0") for s in self.layer.spec.states]
                reset[place] = [getattr(g, f"dreset_{s.name}") for s in self.layer.spec.states]
                for name in self._of(self.layer.state_dict(), place):
                    found[name + self._suffix(place)] = getattr(g, f"d{name}")
            dbelow = down
            dy = dxs[0] if self.D == 1 else dxs[0] + dxs[1]
            if mask is not None and layer > 0:
                dy = mask(layer - 1, dy)
        found["dx"] = dy
        for i, s in enumerate(self.layer.spec.states):
            found[f"d{s.name}0"] = np.stack([of_place[i] for of_place in first])
            if all(of_place[i] is not None for of_place in reset):
                found[f"dreset_{s.name}"] = np.stack([of_place[i] for of_place in reset])
        return found


def dropout_mask(layer: fusedrnn.Layer, seed: int) -> Any:
    """Dropout between layers as docs/layers.md describes it, by NumPy's generator."""
    p, D = layer.dropout, layer.num_directions
    units = layer.output_size // D

    def mask(number: int, a: Array) -> Array:
        T, B, _ = a.shape
        keep = np.empty((T, B, D, units), bool)
        for t in range(T):
            for b in range(B):
                for d in range(D):
                    place = BETWEEN_LAYERS << 32 | number << 1 | d
                    words = np.random.Philox(key=seed, counter=[0, b, t, place]).random_raw(-(-units // 8) * 4)
                    halves = np.asarray(words, "<u8").view("<u4")[:units]
                    keep[t, b, d] = halves >= round(p * 2**32)
        with np.errstate(divide="ignore"):
            scale = a.dtype.type(np.float64(1) / (1 - p))
        return np.where(keep.reshape(a.shape), a * scale if p < 1 else a, a.dtype.type(0))

    return mask


def by_name(gradients: Any) -> dict[str, Array]:
    """A layer's gradients, flat, but for those that there are none of."""
    found = {name: a for name, a in zip(gradients._fields, gradients, strict=True) if a is not None}
    return {**found.pop("parameters"), **found}
