"""The walk over time, the same for every cell, as one more backend.

The equations of a cell are ``step(w, x, states, drop)``, with one step of each further sequence that it reads before
`drop`, and ``step_backward(w, saved, dstates, drop)``; `regularised` runs them under masks. Rows of a batch know
nothing of each other, so each step takes the rows that are still within their length, and leaves the others as they
are.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from ..aliases import Array
from ..backends.arrays import NumPy
from ..backends.checked import Arguments, CheckedWeights
from ..cells.families import SPECS
from ..cells.spec import DEFAULTS, HEADS, CellSpec
from ..masks import NAMES, Sizes, Source, of_seed
from .regularised import Regularised

Results = dict[str, Any]
EQUATIONS: dict[str, Any] = {}  # by the names of families: an object with `step` and `step_backward`


class Step(NamedTuple):
    """One step of forward, for backward."""

    t: int
    rows: np.ndarray[Any, np.dtype[np.intp]]
    anew: np.ndarray[Any, np.dtype[np.bool_]]  # rows whose episode begins with this step
    saved: dict[str, Array]


class Kept(NamedTuple):
    """What forward keeps for backward."""

    call: Arguments
    equations: Regularised
    steps: list[Step]


class ReferenceWeights(CheckedWeights):
    """Weights that the equations read: by `w`, which has arrays, options and sizes."""

    def __init__(
        self, spec: CellSpec[Any, Any], arrays: Mapping[str, Any], values: Mapping[str, Any], format: str | None = None
    ) -> None:
        super().__init__(NumPy(np), spec, arrays, ("float32", "float64"), values.get(HEADS, 1))
        for a in self.arrays.values():
            if a is not None:
                a.flags.writeable = False
        self.dtype, self.format = np.dtype(self.dtype), self.dtype
        others = {name: None for s in SPECS.values() if s.family == spec.family for name in s.names}
        given = {**others, **DEFAULTS, **self.arrays, **spec.options, **values}
        self.w = SimpleNamespace(**given, gates=spec.gates, hidden_size=self.hidden_size, dtype=self.dtype)
        self.equations = EQUATIONS[spec.family]
        self.regularisation = {name: values[name] for name in NAMES if name in values}

    def infer(self, *arguments: Any) -> Results:
        return self.forward(*arguments)[0]

    def _regularised(self, call: Arguments, source: Source) -> Regularised:
        if isinstance(source, int):
            sizes = Sizes(self.input_size, self.hidden_size, self.proj_size, call.T, call.B, self.num_heads)
            source = of_seed(self.spec, self.regularisation, sizes, source)
        return Regularised(self.equations, self.spec, self.w, self.regularisation, source)

    def forward(
        self, x: Any, states: Any, lengths: Any, reverse: bool, inputs: dict[str, Any], form: str = "{}0"
    ) -> tuple[Results, Kept, int]:
        """Without masks, inference."""
        call = Arguments(self, x, states, lengths, reverse, inputs, form)
        equations = self._regularised(call, inputs.get("masks"))
        spec, T, B = self.spec, call.T, call.B
        now = self._copies(B, call.states, [s.empty for s in spec.states])
        ends = np.full(B, T) if call.lengths is None else call.lengths
        anew, reset = self._begins_anew(call, ends), self._before_episodes(call)
        sequences = self._sequences(call, ends, anew)
        of = {"y": spec.states[0], **({spec.above: self.above} if spec.above else {})}
        every = {name: np.zeros((T, B, self.length_of(s)), self.dtype) for name, s in of.items()}  # of every step
        steps = []
        for t in reversed(range(T)) if call.reverse else range(T):
            rows = np.flatnonzero(t < ends)
            for s, value in zip(now, reset, strict=True):
                s[anew[t]] = value[anew[t]]
            before = tuple(s[rows] for s in now)
            new, saved = equations.step(t, rows, call.x[t, rows], before, *(s[t, rows] for s in sequences))
            for i, value in enumerate(new):
                now[i][rows] = value
            every["y"][t, rows] = new[0]
            if spec.above:
                every[spec.above][t, rows] = new[self._index(spec.above)]
            steps.append(Step(t, rows, anew[t], saved))
        results = every | {f"{s.name}_n": value for s, value in zip(spec.states, now, strict=True)}
        return results, Kept(call, equations, steps), sum(a.nbytes for step in steps for a in step.saved.values())

    def backward(self, kept: Kept, dy: Any, dstates: tuple[Any, ...], dabove: Any) -> Results:
        call, equations, steps = kept
        spec, T, B = self.spec, call.T, call.B
        dy = self.sequence("dy", spec.states[0], T, B, dy)
        if dabove is not None:
            dabove = self.sequence(f"d{spec.above}", self.above, T, B, dabove)
        d = self._copies(B, self.states("d{}_n", B, dstates), [0.0] * len(spec.states))
        dreset = [np.zeros_like(a) for a in d]
        dx = np.zeros(call.x.shape, self.dtype)
        dbelow = None if call.below is None else np.zeros(call.below.shape, self.dtype)
        total = {name: np.zeros_like(a) for name, a in self.arrays.items() if a is not None}
        for step in reversed(steps):
            t, rows = step.t, step.rows
            if dy is not None:
                d[0][rows] += dy[t, rows]
            if dabove is not None:
                d[self._index(spec.above)][rows] += dabove[t, rows]
            after = tuple(s[rows] for s in d)
            dx[t, rows], new, dweights = equations.step_backward(t, rows, step.saved, after)
            for i, value in enumerate(new):
                d[i][rows] = value
                dreset[i][step.anew] += d[i][step.anew]
                d[i][step.anew] = 0
            if dbelow is not None and spec.below:
                dbelow[t, rows] = dweights[spec.below]
            for name in total.keys() & dweights.keys():
                total[name] += dweights[name]
        gradients = {f"d{name}": total.get(name) for name in spec.names}
        for s, given, initial, before in zip(spec.states, call.reset_state, d, dreset, strict=True):
            gradients[f"d{s.name}0"] = initial
            gradients[f"dreset_{s.name}"] = None if given is None else before if given.ndim == 2 else before.sum(axis=0)
        return {"dx": dx} | gradients | ({f"d{spec.below}": dbelow} if spec.below else {})

    def step(self, x: Any, states: Any, out: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[Any, ...]:
        x, inputs = self.one_step(x), self.inputs_of_step(x, inputs)
        results = self.forward(x, states, None, False, inputs, form="{}")[0]
        new = [results[f"{s.name}_n"] for s in self.spec.states]
        for target, value in zip(self.outputs(x.shape[1], out), new, strict=True):
            if target is not None:
                target[...] = value
        return tuple(value if target is None else target for target, value in zip(out, new, strict=True))

    def _index(self, state: str | None) -> int:
        return [s.name for s in self.spec.states].index(str(state))

    def _copies(self, batch_size: int, states: list[Any], otherwise: list[float]) -> list[Array]:
        """Copies of states or their gradients, filled with the last argument's numbers where there are none."""
        return [
            np.full((batch_size, self.length_of(s)), empty, self.dtype) if given is None else np.array(given)
            for s, given, empty in zip(self.spec.states, states, otherwise, strict=True)
        ]

    @staticmethod
    def _begins_anew(call: Arguments, ends: Any) -> Any:
        """``(T, B)``: whether a row's episode begins with a step, in the order in which steps run."""
        anew = np.zeros((call.T, call.B), bool)
        if call.resets is not None:
            within = call.resets & (np.arange(call.T)[:, None] < ends)
            if call.reverse:
                anew[:-1] = within[1:]
            else:
                anew |= within
        return anew

    def _before_episodes(self, call: Arguments) -> list[Any]:
        """``(B, units)`` each: the states before episodes."""
        shapes = [(call.B, self.length_of(s)) for s in self.spec.states]
        given = [None if a is None else np.broadcast_to(a, n) for a, n in zip(call.reset_state, shapes, strict=True)]
        return self._copies(call.B, given, [s.empty for s in self.spec.states])

    def _sequences(self, call: Arguments, ends: Any, anew: Any) -> list[Any]:
        """The further sequences that a step reads: the layer below, and the numbers of each row's steps, in the order
        in which they run."""
        sequences: list[Any] = []
        if self.spec.below:
            zeros = np.zeros((call.T, call.B, self.hidden_size), self.dtype)
            sequences.append(zeros if call.below is None else call.below)
        if self.spec.numbered:
            t = np.arange(call.T)[:, None]
            numbers = (ends - 1 - t if call.reverse else t + np.zeros_like(ends)) + call.start
            for step in reversed(range(call.T)) if call.reverse else range(call.T):
                after = slice(0, step + 1) if call.reverse else slice(step, None)
                numbers[after, anew[step]] -= numbers[step, anew[step]]  # an episode's first step is number 0
            sequences.append(numbers)
        return sequences
