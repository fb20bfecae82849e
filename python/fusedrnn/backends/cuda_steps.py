"""The stepwise driver of the CUDA backend: any cell, by some launches for each step.

It runs what the persistent kernels of `cuda` do not: all other cells, float64, resets, regularisation, heads,
projections, chosen activations. All is computed by kernels of this package, no product by the array library. Results
of float32 and float64 have the bits of the CPU. Nothing here waits for the GPU, unless lengths, masks, or rows' own
numbers of steps come from NumPy and must be copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from .. import _core, cuda
from ..cells.spec import HEADS, CellSpec, Parameter
from ..masks import NAMES, Sizes, Source, of_seed, scale_of
from .arrays import Buffers, Library
from .checked import Arguments, CheckedWeights

DTYPES = ("float32", "float64", "bfloat16", "float16")
PRE_BYTES = 1 << 28  # of W x: as many steps at once as fit

Results = dict[str, Any]


class CudaSteps(CheckedWeights):
    """Copies of a cell's weights on one GPU, as the stepwise kernels read them, made on the current stream. Calls on
    other streams wait for it."""

    def __init__(
        self,
        library: Library,
        spec: CellSpec[Any, Any],
        arrays: Mapping[str, Any],
        values: Mapping[str, Any],
        format: str,
    ) -> None:
        self.facts: dict[str, Any] = _core.describe_cell(spec.cell)
        super().__init__(library, spec, arrays, DTYPES, values.get(HEADS, 1))
        self.format = format
        self.computed = "float64" if self.dtype == "float64" else "float32"
        self.itemsize = 8 if self.computed == "float64" else 4
        self.periods: tuple[int, ...] = values.get("periods", ())
        self.options = {name: values[name] for name in NAMES if name in values}
        sizes = self.input_size, self.hidden_size, self.proj_size, self.num_heads
        epsilon = float(values.get("epsilon", 0.0))
        place = *cuda.paths(), self.device
        self.kernels = _core.make_cuda_steps(*place, spec.cell, str(self.dtype), *sizes, epsilon, dict(values))
        with library.current(self.device):
            self.read = self._as_kernels_read()
            self.buffers = self.made(*self.arrays.values(), *self.read.values())

    def steps(self) -> CudaSteps:
        """Itself, as those of `cuda` have such weights beside their own."""
        return self

    def _as_kernels_read(self) -> dict[tuple[str, int], Any]:
        """The weights by the fields of the kernels' arguments: of the dtype in which they compute, matrices transposed
        too."""
        read: dict[tuple[str, int], Any] = {}
        for p in self.spec.parameters:
            if p.role in ("weight_ih", "bias_ih", "bias_hh"):
                read[p.role, 0] = self._wide(p)
        vectors = [p for p in self.spec.parameters if p.role == "vector"]
        if vectors:
            read["vectors", 0] = self._joined(vectors)
        if self.periods:
            each = self.hidden_size // len(self.periods)
            read["periods", 0] = of_units = self.library.zeros((self.hidden_size,), "int64", self.device)
            for i, period in enumerate(self.periods):
                of_units[i * each : (i + 1) * each] = period
        for m, parameters in enumerate(self._matrices()):
            read["matrix", m] = self._joined(parameters) if len(parameters) > 1 else self._wide(parameters[0])
        for name in ("weight_ih", "matrix"):
            for (field, m), a in list(read.items()):
                if field == name:
                    read[f"{name}_t", m] = self.library.contiguous(a.T)
        return read

    def _matrices(self) -> list[list[Parameter]]:
        """The parameters that make up each native matrix."""
        left = [p for p in self.spec.parameters if p.role == "matrix"]
        matrices = []
        for blocks, _ in self.facts["matrices"]:
            taken: list[Parameter] = []
            while sum(p.gates for p in taken) < blocks:
                taken.append(left.pop(0))
            matrices.append(taken)
        return matrices

    def _wide(self, p: Parameter) -> Any:
        a = self.arrays[p.name]
        return a if a is None or self.dtype == self.computed else self.library.cast(a, self.computed)

    def _joined(self, parameters: list[Parameter]) -> Any:
        """One after the other; zeros for a parameter that is None."""
        shapes = [self.shape_of(p) for p in parameters]
        joined = self.library.zeros((sum(s[0] for s in shapes), *shapes[0][1:]), self.computed, self.device)
        first = 0
        for p, shape in zip(parameters, shapes, strict=True):
            if self.arrays[p.name] is not None:
                joined[first : first + shape[0]] = self._wide(p)
            first += shape[0]
        return joined

    def shape_of(self, p: Parameter) -> tuple[int, ...]:
        return p.shape(self.input_size, self.hidden_size, self.proj_size, self.num_heads)

    def stored(self, *shape: int) -> Any:
        return self.library.empty(shape, self.dtype, self.device)

    def empty(self, *shape: int, dtype: str | None = None) -> Any:
        return self.library.empty(shape, dtype or self.computed, self.device)

    def made(self, *arrays: Any) -> Buffers:
        return Buffers(self.library, self.device, arrays)

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Around all work on the weights."""
        with self.library.current(self.device), self.library.exact(), self.buffers.used():
            yield

    def infer(self, *arguments: Any) -> Results:
        with self._running():
            return Forward(self, Arguments(self, *arguments), None).run()

    def forward(
        self, x: Any, states: Any, lengths: Any, reverse: bool, inputs: dict[str, Any]
    ) -> tuple[Results, Kept, int]:
        source: Source = inputs.get("masks")
        inputs = {name: value for name, value in inputs.items() if name != "masks"}
        with self._running():
            call = Arguments(self, x, states, lengths, reverse, inputs)
            run = Forward(self, call, self._masks(source, call))
            results = run.run()
            kept = run.kept(results["y"])
        return results, kept, kept.nbytes

    def _masks(self, source: Source, call: Arguments) -> dict[str, Any]:
        """On the GPU."""
        if isinstance(source, int):
            sizes = Sizes(self.input_size, self.hidden_size, self.proj_size, call.T, call.B, self.num_heads)
            source = of_seed(self.spec, self.options, sizes, source)
        return {name: self.library.from_numpy(mask, self.device) for name, mask in (source or {}).items()}

    def backward(self, kept: Kept, dy: Any, dstates: tuple[Any, ...], dabove: Any) -> Results:
        assert kept.buffers is not None
        with self._running(), kept.buffers.used():
            return Backward(kept).run(dy, dstates, dabove)

    def step(self, x: Any, states: Any, out: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[Any, ...]:
        x, below, resets = self.one_step(x), self.spec.below, inputs.get("resets")
        if resets is not None and self.library.owns(resets):
            if tuple(resets.shape) != (x.shape[1],):
                raise ValueError(_core.wrong_shape("resets", "(batch_size,)", (x.shape[1],), tuple(resets.shape)))
            inputs = inputs | {"resets": resets[None]}
        if below and inputs[below] is not None:
            shape = (x.shape[1], self.hidden_size)
            one = self.checked(below, "(batch_size, hidden_size)", shape, inputs[below])
            inputs = inputs | {below: one[None]}
        with self._running():
            call = Arguments(self, x, states, None, False, inputs, form="{}")
            results = Forward(self, call, None).run(self.outputs(call.B, out))
        return tuple(results[f"{s.name}_n"] for s in self.spec.states)


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

    @property
    def stream(self) -> int:
        return self.w.library.stream(self.w.device)


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
            self.native.forward(first, end, self.stream)
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
        w, T, B = self.w, self.call.T, self.call.B
        vectors = sum(w.facts["slots"] if name == "slots" else 1 for name, _ in self.kept_fields)
        nbytes = T * B * (vectors * w.hidden_size * w.itemsize + w.proj_size * ITEMSIZES[w.dtype])
        call = self.call
        states = *call.states, *call.reset_state
        others = call.x, call.lengths, call.resets, call.below, *states, *self.masks.values(), *self.read.values()
        return Kept(call, self.read, arrays, self.masks, nbytes, w.made(*arrays.values(), *others))


ITEMSIZES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}


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
        self.native.backward(self.stream)
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
            counts=w.empty(T + 2, dtype="int64"),
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
