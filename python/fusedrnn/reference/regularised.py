"""Zoneout and dropout around a step of any cell. With ``d(v) = 0`` where a mask is True, else ``v / (1 - p)``::

h~, c~ = step(d(x), h_prev, c_prev)       with d(U) in place of U, and inside of it d(h_prev), d(candidate)
h = h_prev where the mask is True, else h~        c = c_prev where the mask is True, else c~
h = z * h_prev + (1 - z) * h~             c alike, in inference, where d changes nothing

Zoneout: Krueger et al. 2017, equations 5 and 6; h~ is made of c~. Dropout of x and h_prev: Gal & Ghahramani 2016; of
the candidate: Semeniuta et al. 2016; of U, weight_hh: Merity et al. 2018.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from ..aliases import Array
from ..cells.spec import CellSpec
from ..masks import scale_of
from .common import Arrays, Drop, Drops, States, library


class Regularised:
    """The equations of a cell under the masks of a call; without masks, those of inference. Forward runs on PyTorch's
    tensors too."""

    def __init__(
        self,
        equations: Any,
        spec: CellSpec[Any, Any],
        w: Any,
        options: Mapping[str, float],
        masks: Mapping[str, Any] | None,
    ) -> None:
        """`options` are the probabilities that are not 0, by name."""
        self.equations, self.w, self.masks = equations, w, masks or {}
        self.scales = {name: scale_of(p) for name, p in options.items()}
        self.zoneout = [options.get(f"zoneout_{s.name}", 0.0) for s in spec.states]
        self.zoneout_masks = [self.masks.get(f"zoneout_{s.name}") for s in spec.states]
        self.recurrence, self.weight = spec.recurrence, self._drop("weight_dropout")
        if self.weight.mask is not None and self.recurrence is not None:
            self.w = copy.copy(w)
            setattr(self.w, self.recurrence.name, self.weight(getattr(w, self.recurrence.name)))

    def _drop(self, name: str, *place: Any) -> Drop:
        """The dropout of this name, at a place in its mask."""
        mask = self.masks.get(name)
        return Drop() if mask is None else Drop(mask[place] if place else mask, self.scales[name])

    def _drops(self, t: int, rows: Any) -> Drops:
        return Drops(self._drop("recurrent_dropout", rows), self._drop("candidate_dropout", t, rows))

    def step(self, t: int, rows: Any, x: Array, states: States, *further: Any) -> tuple[States, Arrays]:
        """The step of these rows at time t. Returns the new states and the saved arrays."""
        x = self._drop("input_dropout", rows)(x)
        new, saved = self.equations.step(self.w, x, states, *further, drop=self._drops(t, rows))
        every = zip(states, new, self.zoneout, self.zoneout_masks, strict=True)
        return tuple(_zoned(old, s, z, None if m is None else m[t, rows]) for old, s, z, m in every), saved

    def step_backward(self, t: int, rows: Any, saved: Arrays, dstates: States) -> tuple[Array, States, Arrays]:
        """Gradients of a step, as the equations' `step_backward` gives them."""
        masks = [None if m is None else m[t, rows] for m in self.zoneout_masks]
        through = tuple(d if m is None else library(d).where(m, 0, d) for d, m in zip(dstates, masks, strict=True))
        dx, before, dweights = self.equations.step_backward(self.w, saved, through, drop=self._drops(t, rows))
        if self.weight.mask is not None and self.recurrence is not None:
            dweights[self.recurrence.name] = self.weight(dweights[self.recurrence.name])
        every = zip(before, dstates, masks, strict=True)
        before = tuple(b if m is None else b + library(d).where(m, d, 0) for b, d, m in every)
        return self._drop("input_dropout", rows)(dx), before, dweights


def _zoned(old: Array, new: Array, z: float, mask: Any) -> Array:
    """A state after a step: under a mask, or as expected."""
    if mask is not None:
        return library(new).where(mask, old, new)  # type: ignore[no-any-return]
    return z * old + (1 - z) * new if z else new
