"""Episodes and regularisation in valid calls: the same bits under all settings, by a seed or by its masks, and of a row
alone."""

from __future__ import annotations

from typing import Any

import numpy as np

import fusedrnn
from cases import Array, options_of, possible, remade
from fusedrnn.cells.families import SPECS

from .drawn import Case, Settings, draw_settings, settings
from .layouts import Rng, with_special_values
from .promises import require_same

PROBABILITIES = (0.0, 0.01, 0.3, 0.9, 1.0)


class Call:
    """A call of functions with what a case lacks: options, resets, and states before episodes."""

    def __init__(self, case: Case, rng: Rng) -> None:
        self.cell, (T, B, _, H) = case.cell, case.shape
        self.functions = case.cell.functions()
        special = rng.random() < 0.2

        def normal(*shape: int) -> Array:
            a = rng.standard_normal(shape).astype(case.dtype)
            return with_special_values(a, rng) if special else a

        options = {name: PROBABILITIES[rng.integers(len(PROBABILITIES))] for name in options_of(case.cell, 0.5)}
        self.w = remade(case.cell, case.inputs.w, replaced=options)
        spec, sizes = SPECS[case.cell.native], case.cell.state_sizes(H)
        self.x = normal(T, B, case.shape[2] + (H if case.cell.below else 0))
        self.states = possible(spec, [normal(B, size) for size in sizes])
        self.dy = normal(T, B, case.cell.proj_size(H) * (2 if case.cell.below else 1))
        self.kwargs: dict[str, Any] = {"reverse": case.inputs.reverse, "lengths": case.inputs.lengths}
        if case.cell.clocked:
            self.kwargs["start"] = case.inputs.start
        if rng.random() < 0.7:
            self.kwargs["resets"] = rng.random((T, B)) < rng.choice([0.05, 0.5, 1.0])
        if rng.random() < 0.5:
            shared = rng.random(len(sizes)) < 0.5
            before = [normal(*(() if one else (B,)), size) for one, size in zip(shared, sizes, strict=True)]
            before = possible(spec, before)
            self.kwargs["reset_state"] = tuple(before) if len(before) > 1 else before[0]
        self.seed = int(rng.integers(2**64, dtype=np.uint64))
        self.masks = self.w.masks(T, B, self.seed)

    def infer(self) -> list[Any]:
        return list(self.functions[0](self.x, self.w, *self.states, **self.kwargs))

    def train(self, row: int | None = None, **source: Any) -> list[Any]:
        """The outputs and gradients; of one row alone, of whose weights no gradients are told."""
        one = slice(None) if row is None else slice(row, row + 1)
        kwargs, B = self.kwargs | source, self.x.shape[1]
        if row is not None:
            for name in ("lengths", "start"):
                if isinstance(kwargs.get(name), np.ndarray):
                    kwargs[name] = kwargs[name][one]
            if "resets" in kwargs:
                kwargs["resets"] = kwargs["resets"][:, one]
            before = kwargs.get("reset_state")
            if before is not None:
                each = [s[one] if s.ndim == 2 else s for s in (before if isinstance(before, tuple) else (before,))]
                kwargs["reset_state"] = tuple(each) if len(each) > 1 else each[0]
        out, reserve = self.functions[1](self.x[:, one], self.w, *(s[one] for s in self.states), **kwargs)
        g = self.functions[2](reserve, self.dy[:, one])
        assert B == 0 or reserve.masks.keys() == self.masks.keys()
        of_row = 1 + len(self.states)
        return [*out, *(list(g) if row is None else list(g)[:of_row])]

    def masks_of(self, row: int) -> dict[str, Array]:
        one = slice(row, row + 1)
        return {
            name: m if name == "weight_dropout" else m[one] if m.ndim == 2 else m[:, one]
            for name, m in self.masks.items()
        }


def check_regularised(case: Case, rng: Rng) -> None:
    call, plain = Call(case, rng), Settings(fusedrnn.available_isas()[-1], 1, "auto")
    what = ", ".join(f"{name}={p}" for name, p in call.w.regularisation.items()) + (
        "; resets" if "resets" in call.kwargs else ""
    )
    source = {"seed": call.seed} if call.masks else {}
    with settings(plain):
        want, inferred = call.train(**source), call.infer()
    with settings(draw_settings(rng)):
        require_same(call.infer(), inferred, f"expectations: {what}")
        require_same(call.train(**source), want, f"under a seed: {what}")
    if call.masks:
        with settings(draw_settings(rng)):
            require_same(call.train(masks=call.masks), want, f"under the masks of a seed: {what}")
    if call.x.shape[1]:
        row = int(rng.integers(call.x.shape[1]))
        one = slice(row, row + 1)
        with settings(draw_settings(rng)):
            alone = call.train(row, **({"masks": call.masks_of(row)} if call.masks else {}))
        of_row = [None if a is None else a[:, one] if a.ndim == 3 else a[one] for a in want[: len(alone)]]
        require_same(alone, of_row, f"a row alone: {what}")
