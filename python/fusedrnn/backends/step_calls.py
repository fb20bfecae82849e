"""Calls of the stepwise driver (cuda_steps.py): the arguments of its kernels, and their memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core
from ..cells.spec import Parameter
from ..masks import NAMES, scale_of
from .arrays import Buffers
from .checked import Arguments
from .on_gpu import ITEMSIZES

if TYPE_CHECKING:
    from .cuda_steps import CudaSteps

PRE_BYTES = 1 << 28  # of W x: as many steps at once as fit

Results = dict[str, Any]


class Kept(NamedTuple):
    """What forward keeps for backward, on the GPU: the call, and arrays by the fields of the kernels' arguments."""

    call: Arguments
    read: dict[tuple[str, int], Any]  # weights
    arrays: dict[tuple[str, int], Any]
    masks: dict[str, Any]
    nbytes: int
    buffers: Buffers | None  # all of these arrays

    def laid_out(self) -> list[Any]:
        """The arrays that backward reads, None among them, but for the weights'."""
        return [*self.call.arrays(), *self.arrays.values(), *self.masks.values()]

    def emptied(self) -> Kept:
        """Without arrays and weights, for a caller that keeps them elsewhere until it calls `filled`."""
        call = self.call.on(None, [None] * len(self.call.arrays()))
        return Kept(call, {}, dict.fromkeys(self.arrays), dict.fromkeys(self.masks), self.nbytes, None)

    def filled(self, w: Any, arrays: Sequence[Any]) -> Kept:
        """With these arrays, in the order of `laid_out`, on weights of the same values."""
        w, each = w.steps(), iter(arrays)
        call = self.call.on(w, [next(each) for _ in self.call.arrays()])
        kept, masks = {field: next(each) for field in self.arrays}, {name: next(each) for name in self.masks}
        read = dropped(w, masks)
        return Kept(call, read, kept, masks, self.nbytes, w.made(*arrays, *read.values()))


class Call:
    """A call in the making: its native arguments. Arrays are kept until its kernels have been launched; the libraries
    free memory in the order of the stream."""

    def __init__(self, w: CudaSteps, call: Arguments, train: bool, read: dict[tuple[str, int], Any]) -> None:
        self.w, self.call = w, call
        self.native = _core.make_cuda_steps_call(w.kernels, call.T, call.B, call.reverse, train)
        self.held: dict[tuple[str, int], Any] = {}
        states = w.spec.states
        self.give_all(read)
        self.give(x=call.x, lengths=call.lengths, below=call.below)
        if call.resets is not None:
            self.give(resets=w.library.contiguous(call.resets))
        if w.periods:
            self.give(start=self._start(), counted=w.empty(call.T, call.B, dtype="int64"))
        for i, s in enumerate(states):
            self.set("state0", i, call.states[i])
            self.set("reset_state", i, self._for_rows(call.reset_state[i], w.length_of(s)))

    def _start(self) -> Any:
        """The numbers of rows' first steps: None for zeros, and copied from the CPU only if they differ."""
        start, w = np.asarray(self.call.start), self.w
        if not start.any():
            return None
        if (start != start[0]).any():
            return w.library.from_numpy(start, w.device)
        return w.library.zeros(start.shape, "int64", w.device) + int(start[0])

    def _for_rows(self, a: Any, units: int) -> Any:
        """A state before episodes, ``(B, units)``."""
        if a is None or len(a.shape) == 2:
            return a
        rows = self.w.stored(self.call.B, units)
        rows[...] = a[None]
        return rows

    def set(self, name: str, i: int, a: Any) -> None:
        self.native.set(name, i, 0 if a is None else self.w.library.pointer(a))
        self.held[name, i] = a

    def give(self, **arrays: Any) -> None:
        for name, a in arrays.items():
            self.set(name, 0, a)

    def give_all(self, arrays: dict[tuple[str, int], Any]) -> None:
        for (name, i), a in arrays.items():
            self.set(name, i, a)

    def give_masks(self, masks: dict[str, Any]) -> None:
        for name, mask in masks.items():
            self.set("mask", NAMES.index(name), mask)


class Forward(Call):
    """One forward; `masks` is None in inference."""

    def __init__(self, w: CudaSteps, call: Arguments, masks: dict[str, Any] | None) -> None:
        train = masks is not None
        self.masks = masks or {}
        self.read = dropped(w, self.masks)
        super().__init__(w, call, train, self.read)
        self.give_masks(self.masks)
        self._give_memory(train)

    def _give_memory(self, train: bool) -> None:
        w, (T, B, H) = self.w, (self.call.T, self.call.B, self.w.hidden_size)
        facts, steps = w.facts, T if train else 2
        keeps_slots = facts["slots"] > 0 and (train or facts["scratch_slots"])
        self.kept_fields: list[tuple[str, int]] = []
        if keeps_slots:
            self.give(slots=w.empty(steps, B, facts["slots"] * H))
            self.kept_fields.append(("slots", 0))
            if "zoneout_c" in w.options:
                self.give(zoned_c=w.empty(steps, B, H))
                self.kept_fields.append(("zoned_c", 0))
        for i, slot in enumerate(facts["state_slots"]):
            if i > 0 and (slot < 0 or not keeps_slots):
                self.set("run", i, w.empty(B, w.length_of(w.spec.states[i])))
        self.give(sums=w.empty(B, facts["gates"] * H), row_sums=w.empty(B, _core.CUDA_ROW_SUMS))

    def run(self, out: tuple[Any, ...] | None = None) -> Results:
        """The results; `out` are arrays for the last states, or None for each that shall be made."""
        w, spec, (T, B) = self.w, self.w.spec, (self.call.T, self.call.B)
        results = {"y": w.stored(T, B, w.length_of(spec.states[0]))}
        self.give(y=results["y"])
        for i, (s, given) in enumerate(zip(spec.states, out or (None,) * len(spec.states), strict=True)):
            last = results[f"{s.name}_n"] = w.stored(B, w.length_of(s)) if given is None else given
            self.set("state_n", i, last)
        if spec.above:
            results[spec.above] = w.stored(T, B, w.length_of(w.above))
            self.give(c=results[spec.above])
        for first, end in self._parts():
            self.native.forward(first, end, w.stream())
        return results

    def _parts(self) -> Iterator[tuple[int, int]]:
        """Steps, in the order in which they run, for which W x is made at once."""
        w, T = self.w, self.call.T
        each = max(1, self.call.B) * w.facts["gates"] * w.hidden_size * w.itemsize
        steps = max(1, min(T, PRE_BYTES // each))
        self.give(pre=w.empty(steps, self.call.B, w.facts["gates"] * w.hidden_size))
        for first in range(0, max(1, T), steps):
            yield first, min(T, first + steps)

    def kept(self, y: Any) -> Kept:
        """After `run`."""
        arrays = {field: self.held[field] for field in self.kept_fields}
        arrays["y", 0] = self.w.library.copy(y)
        w, call, T, B = self.w, self.call, self.call.T, self.call.B
        vectors = sum(w.facts["slots"] if name == "slots" else 1 for name, _ in self.kept_fields)
        nbytes = T * B * (vectors * w.hidden_size * w.itemsize + w.proj_size * ITEMSIZES[w.dtype])
        made = w.made(*arrays.values(), *call.arrays(), *self.masks.values(), *self.read.values())
        return Kept(call, self.read, arrays, self.masks, nbytes, made)


def dropped(w: CudaSteps, masks: dict[str, Any]) -> dict[tuple[str, int], Any]:
    """The weights of a call, as kernels read them: under dropout of weight_hh, what it leaves."""
    if "weight_dropout" not in masks:
        return w.read
    left = _left(w, masks["weight_dropout"], w.read["matrix", 0])
    return w.read | {("matrix", 0): left, ("matrix_t", 0): w.library.contiguous(left.T)}


def _left(w: CudaSteps, mask: Any, weights: Any) -> Any:
    """What dropout by a mask leaves of weights or their gradient."""
    return w.library.where(~mask, weights * scale_of(w.options["weight_dropout"]))


class Backward(Call):
    """One backward from what forward kept."""

    def __init__(self, kept: Kept) -> None:
        w: Any = kept.call.w
        super().__init__(w, kept.call, True, kept.read)
        self.kept = kept
        self.give_all(kept.arrays)
        self.give_masks(kept.masks)

    def run(self, dy: Any, dstates: tuple[Any, ...], dabove: Any) -> Results:
        w, call, spec = self.w, self.call, self.w.spec
        T, B = call.T, call.B
        self.give(dy=w.sequence("dy", spec.states[0], T, B, dy))
        if spec.above:
            self.give(dc=w.sequence(f"d{spec.above}", w.above, T, B, dabove))
        elif dabove is not None:
            raise ValueError(_core.not_taken("dc", spec.cell, type(dabove).__name__))
        for i, d in enumerate(w.states("d{}_n", B, dstates)):
            self.set("dstate_n", i, d)
        self._give_memory()
        results = self._give_results()
        self.native.backward(w.stream())
        return results | self._parameters()

    def _give_memory(self) -> None:
        w, (T, B, H) = self.w, (self.call.T, self.call.B, self.w.hidden_size)
        facts = w.facts
        for i, s in enumerate(w.spec.states):
            units = w.length_of(s)
            self.set("run", i, w.empty(B, units))
            if self.call.reset_state[i] is not None:
                self.set("reset_sum", i, w.empty(B, units))
        for i, name in enumerate(("zoneout_h", "zoneout_c")):
            if name in self.kept.masks:
                self.set("kept", i, w.empty(B, H))
        widest = max(w.input_size, max(facts["state_units"].values()) * H)
        self.give(
            gradients=w.empty(T, B, facts["columns"] * H),
            stage_sums=w.empty(1 + facts["extras"], B, H),
            row_sums=w.empty(B, _core.CUDA_ROW_SUMS),
            operand=w.empty(T * B, widest),
            pairs=w.empty(max(1, T * B), dtype="int64"),
            stretch_ends=w.empty(T + T * B // _core.CUDA_CHUNK_PAIRS + 1, dtype="int64"),
            counts=w.empty(T + 1, dtype="int64"),
        )

    def _give_results(self) -> Results:
        w, call, spec = self.w, self.call, self.w.spec
        results: Results = {"dx": w.stored(*call.x.shape)}
        self.give(dx=results["dx"])
        for i, s in enumerate(spec.states):
            units = w.length_of(s)
            results[f"d{s.name}0"] = w.stored(call.B, units)
            self.set("dstate0", i, results[f"d{s.name}0"])
            given = call.reset_state[i]
            if given is not None:
                shared = len(given.shape) == 1
                reset = results[f"dreset_{s.name}"] = w.stored(*([] if shared else [call.B]), units)
                self.set("dreset_of_all" if shared else "dreset", i, reset)
        if spec.below:
            results[f"d{spec.below}"] = None if call.below is None else w.stored(*call.below.shape)
            self.give(dbelow=results[f"d{spec.below}"])
        self._give_parameters()
        return results

    def _give_parameters(self) -> None:
        """Memory for the gradients of weights, of the dtype in which kernels compute."""
        fields = {("weight_ih", 0): "dweight_ih", ("bias_ih", 0): "dbias_ih", ("bias_hh", 0): "dbias_hh"}
        fields |= {("vectors", 0): "dvectors"} | {
            ("matrix", m): "dmatrix" for m in range(len(self.w.facts["matrices"]))
        }
        for (name, i), field in fields.items():
            weights = self.w.read.get((name, i))
            if weights is not None:  # what a unit does not see has no gradient, and is not written
                zeros = self.w.library.zeros(tuple(weights.shape), self.w.computed, self.w.device)
                self.set(field, i, zeros)

    def _parameters(self) -> Results:
        """The gradients of parameters, after backward."""
        w = self.w
        if "weight_dropout" in self.kept.masks:
            self.held["dmatrix", 0] = _left(w, self.kept.masks["weight_dropout"], self.held["dmatrix", 0])
        gradients: Results = {}
        for role, field in (("weight_ih", "dweight_ih"), ("bias_ih", "dbias_ih"), ("bias_hh", "dbias_hh")):
            for p in w.spec.parameters:
                if p.role == role:
                    gradients[f"d{p.name}"] = self._of([p], self.held.get((field, 0)))[0]
        vectors = [p for p in w.spec.parameters if p.role == "vector"]
        groups = [(("dmatrix", m), group) for m, group in enumerate(w._matrices())] + [(("dvectors", 0), vectors)]
        for field_of, group in groups:
            for p, d in zip(group, self._of(group, self.held.get(field_of)), strict=True):
                gradients[f"d{p.name}"] = d
        return gradients

    def _of(self, parameters: list[Parameter], joined: Any) -> list[Any]:
        """The gradients of parameters that lie one after the other."""
        w, first, parts = self.w, 0, []
        for p in parameters:
            rows = w.shape_of(p)[0]
            given = w.arrays[p.name] is not None
            part = joined[first : first + rows] if given and len(parameters) > 1 else joined
            parts.append(w.library.cast(w.library.contiguous(part), w.dtype) if given else None)
            first += rows
        return parts
