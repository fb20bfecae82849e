"""The CUDA backend: weights that lie on a GPU, and the calls on them.

The recurrence is one launch of a kernel for a whole sequence; products over all steps at once (of the inputs, and of
the weights' gradients) are the array library's matmul. Nothing here waits for the GPU, unless lengths come from NumPy
and must be copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from .. import _core, cuda
from ..cells.spec import CellSpec
from .arrays import Buffers, Library
from .checked import Arguments
from .cuda_steps import CudaSteps
from .on_gpu import ITEMSIZES, WeightsOnGpu
from .step_calls import Kept as KeptSteps

DTYPES = ("float32", "bfloat16", "float16")
FORMATS = (*DTYPES, "tf32")
PRE_BYTES = 1 << 28  # of W x: as many steps at once as fit
# For benchmarks: octets of units in a group and groups in a thread block (csrc/cuda/plan.hpp) in place of the cost
# model's; 0: the model's.
FORCED_PLAN = (0, 0)

Results = dict[str, Any]


def load_on_gpu(
    library: Library,
    spec: CellSpec[Any, Any],
    arrays: Mapping[str, Any],
    values: Mapping[str, Any],
    format: str | None = None,
) -> CudaWeights | CudaSteps:
    """The weights for the persistent kernels, or for the stepwise ones where those have not all that is asked for."""
    weight_ih: Any = arrays["weight_ih"]
    dtype = library.dtype(weight_ih) if library.owns(weight_ih) else ""
    wanted = format or (cuda.get_float32_products() if dtype == "float32" else dtype)
    if _core.describe_cell(spec.cell)["cuda"] and not values and wanted in FORMATS:
        return CudaWeights(library, spec, arrays, wanted)
    return CudaSteps(library, spec, arrays, values, wanted)


class CudaWeights(WeightsOnGpu):
    """Copies of a cell's weights on one GPU, and the recurrent ones packed for the kernels, made on the current stream.
    Calls on other streams wait for it."""

    def __init__(
        self,
        library: Library,
        spec: CellSpec[Any, Any],
        arrays: Mapping[str, Any],
        format: str,
    ) -> None:
        self.facts: dict[str, Any] = _core.describe_cell(spec.cell)
        super().__init__(library, spec, arrays, DTYPES)
        H = self.hidden_size
        self.itemsize = ITEMSIZES[self.dtype]
        self.format = format
        self.kernels = _core.make_cuda_cell(*cuda.paths(), self.device, spec.cell, self.format, H)
        with library.current(self.device):
            self.vectors = self._joined_vectors()
            self.packed = self._packed(backward=False)
            self.buffers = self.made(*self.arrays.values(), self.vectors, *self.packed)
        self._transposed: Buffers | None = None
        self._steps: CudaSteps | None = None

    def steps(self) -> CudaSteps:
        """The same weights for calls that the persistent kernels do not take: made with the first of them that does not
        go into a CUDA graph, whose memory is the graph's own."""
        if self._steps is not None:
            return self._steps
        with self.running():
            steps = CudaSteps(self.library, self.spec, self.arrays, {}, self.format)
        if not steps.buffers.captured:
            self._steps = steps
        return steps

    def _joined_vectors(self) -> Any:
        vectors = [p for p in self.spec.parameters if p.role == "vector"]
        return self.joined(vectors, self.dtype) if vectors else None

    def empty(self, *shape: int, dtype: str | None = None) -> Any:
        return self.library.empty(shape, dtype or self.dtype, self.device)

    def _packed(self, backward: bool) -> list[Any]:
        to = [self.empty(size, dtype="uint8") for size in self.kernels.packed_sizes(backward)]
        matrices = [self.arrays[p.name] for p in self.spec.parameters if p.role == "matrix"]
        if matrices:
            pointers = [self.library.pointer(a) for a in to]
            self.kernels.pack(backward, self.library.pointer(matrices[0]), pointers, self.stream())
        return to

    def transposed(self) -> Buffers:
        """Packed for backward: made when training begins."""
        if self._transposed is None:
            self._transposed = self.made(*self._packed(backward=True))
        return self._transposed

    def product(self, a: Any, b: Any) -> Any:
        """a @ b in the weights' dtype, which is all that a kernel that takes its address can know of it."""
        made = a @ b
        if self.library.dtype(made) != self.dtype:
            raise RuntimeError(
                f"a product of arrays of dtype {self.dtype} came as {self.library.dtype(made)}: "
                f"{self.library.name} was told to compute in another precision"
            )
        return made

    def infer(self, x: Any, states: Any, lengths: Any, reverse: bool, inputs: dict[str, Any]) -> Results:
        if has_episodes(inputs):
            return self.steps().infer(x, states, lengths, reverse, inputs)
        with self.running():
            return self._run(Arguments(self, x, states, lengths, reverse, inputs), None)

    def forward(
        self, x: Any, states: Any, lengths: Any, reverse: bool, inputs: dict[str, Any]
    ) -> tuple[Results, Kept | KeptSteps, int]:
        if has_episodes(inputs):
            return self.steps().forward(x, states, lengths, reverse, inputs)
        with self.running():
            call = Arguments(self, x, states, lengths, reverse, inputs)
            self.transposed()
            slots = self.empty(call.T, call.B, self.facts["slots"], self.hidden_size)
            results = self._run(call, slots)
            nbytes = call.T * call.B * (self.facts["slots"] + 1) * self.hidden_size * self.itemsize
            y = self.library.copy(results["y"])
            return results, Kept(call, y, slots, self.made(call.x, call.lengths, *call.states, y, slots)), nbytes

    def backward(self, kept: Kept | KeptSteps, dy: Any, dstates: tuple[Any, ...], dabove: Any) -> Results:
        if isinstance(kept, KeptSteps):
            return self.steps().backward(kept, dy, dstates, dabove)
        if dabove is not None:
            raise ValueError(_core.not_taken("dc", self.spec.cell, type(dabove).__name__))
        assert kept.buffers is not None
        with self.running(), kept.buffers.used(), self.transposed().used():
            return Backward(kept).run(dy, dstates)

    def step(self, x: Any, states: Any, out: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[Any, ...]:
        if has_episodes(inputs):
            return self.steps().step(x, states, out, inputs)
        with self.running():
            call = Arguments(self, self.one_step(x), states, None, False, inputs, form="{}")
            results = self._run(call, None, self.outputs(call.B, out))
            h = results["y"][0] if out[0] is None else out[0]
            return (h, *(results[f"{s.name}_n"] for s in self.spec.states[1:]))

    def _run(self, call: Arguments, slots: Any, out: tuple[Any, ...] | None = None) -> Results:
        """A sequence; `out` are arrays for the states after a sequence of one step."""
        T, B, H = call.T, call.B, self.hidden_size
        given = out or (None,) * len(self.spec.states)
        y = self.empty(T, B, H) if given[0] is None else given[0]
        # The last h lies apart from y, which a step writes in its place.
        last = [self.empty(B, H) if i == 0 or a is None else a for i, a in enumerate(given)]
        ends = {f"{s.name}_n": a for s, a in zip(self.spec.states, last, strict=True)}
        keeps_slots = slots is not None
        if slots is None and self.facts["phases"] > 1:
            slots = self.empty(B, self.facts["slots"], H)
        run = self._launcher(call, False, self.packed)
        run.give(y=y, slots=slots, bias_ih=self.arrays["bias_ih"], bias_hh=self.arrays.get("bias_hh"))
        weight = self.arrays["weight_ih"].T
        for first, end in self._parts(T, B):
            times = (T - end, T - first) if call.reverse else (first, end)
            run.give(pre=self.product(call.x[times[0] : times[1]].reshape(-1, self.input_size), weight))
            if end == T:
                run.give(**ends)
            run.launch(first, end, times[0], call.reverse, keeps_slots)
        return {"y": y} | ends

    def _launcher(self, call: Arguments, backward: bool, packed: list[Any]) -> Launcher:
        run = Launcher(self, backward, call.T, call.B)
        run.give(lengths=call.lengths, **{f"packed{p}": a for p, a in enumerate(packed)})
        run.give(**{f"{s.name}0": a for s, a in zip(self.spec.states, call.states, strict=True)})
        return run

    def _parts(self, T: int, B: int) -> Iterator[tuple[int, int]]:
        """Steps, in the order in which they run, for which W x is made at once."""
        if B == 0:
            return
        each = B * self.facts["gates"] * self.hidden_size * self.itemsize
        steps = max(1, PRE_BYTES // each)
        for first in range(0, max(1, T), steps):
            yield first, min(T, first + steps)


def has_episodes(inputs: dict[str, Any]) -> bool:
    return inputs.get("resets") is not None or inputs.get("reset_state") is not None


class Launcher:
    """One kernel in the making, with scratch of its own. Arrays are kept until it has been launched; the libraries free
    memory in the order of the stream."""

    def __init__(self, w: CudaWeights, backward: bool, T: int, B: int) -> None:
        self.w, self.backward = w, backward
        self.run = _core.make_cuda_run(w.kernels, backward, T, B, *FORCED_PLAN)
        self.kept: dict[str, Any] = {}
        for p, size in enumerate(self.run.exchange_sizes()):
            self.give(**{f"exchange{p}": w.empty(size, dtype="uint8")})
        for s in range(len(w.spec.states)):
            self.give(**{f"run{s}": w.empty(B, w.hidden_size, dtype="float32")})
        self.give(vectors=w.vectors)

    def give(self, **arrays: Any) -> None:
        for name, a in arrays.items():
            self.run.set(name, 0 if a is None else self.w.library.pointer(a))
            self.kept[name] = a

    def launch(self, first: int, last: int, pre_first: int, reverse: bool, keeps_slots: bool) -> None:
        self.run.launch(first, last, pre_first, reverse, keeps_slots, self.w.stream())


class Kept(NamedTuple):
    """What forward keeps for backward, on the GPU: the call, a copy of y, and the slots."""

    call: Arguments
    y: Any
    slots: Any
    buffers: Buffers | None  # all of these arrays

    def laid_out(self) -> list[Any]:
        """The arrays that backward reads, None among them, but for the weights'."""
        return [*self.call.arrays(), self.y, self.slots]

    def emptied(self) -> Kept:
        """Without arrays and weights, for a caller that keeps them elsewhere until it calls `filled`."""
        return Kept(self.call.on(None, [None] * len(self.call.arrays())), None, None, None)

    def filled(self, w: CudaWeights, arrays: Sequence[Any]) -> Kept:
        """With these arrays, in the order of `laid_out`, on weights of the same values."""
        *of_call, y, slots = arrays
        return Kept(self.call.on(w, of_call), y, slots, w.made(*arrays))


class Backward:
    """One backward from what forward kept."""

    def __init__(self, kept: Kept) -> None:
        self.call, self.y, self.slots, _ = kept
        w: Any = self.call.w
        self.w, self.gradients = w, w.empty(self.call.T, self.call.B, w.facts["columns"] * w.hidden_size)

    def run(self, dy: Any, dstates: tuple[Any, ...]) -> Results:
        call, w = self.call, self.w
        T, B, H, states = call.T, call.B, w.hidden_size, w.spec.states
        dy = w.sequence("dy", states[0], T, B, dy)
        given = {f"d{s.name}_n": a for s, a in zip(states, w.states("d{}_n", B, dstates), strict=True)}
        run = w._launcher(call, True, w.transposed().arrays)
        dstates0 = {f"d{s.name}0": w.empty(B, H) for s in states}
        run.give(dy=dy, h=self.y, slots=self.slots, gradients=self.gradients, **given, **dstates0)
        if B > 0:
            run.launch(0, T, 0, call.reverse, True)
        return {"dx": self._dx()} | dstates0 | self._parameters()

    def _columns(self, first: int, count: int = 1) -> Any:
        """Gradients that stand in some columns, ``(T, B, count*H)``."""
        H = self.w.hidden_size
        return self.gradients[:, :, first * H : (first + count) * H]

    def _slot(self, slot: int) -> Any:
        H = self.w.hidden_size
        flat = self.slots.reshape(self.call.T, self.call.B, self.w.facts["slots"] * H)
        return flat[:, :, slot * H : (slot + 1) * H]

    def _dx(self) -> Any:
        w, H = self.w, self.w.hidden_size
        terms = [term for term in w.facts["gradients"] if term["of"] == "weight_ih"]
        weight = given = w.arrays["weight_ih"]
        if [term["rows"] for term in terms] != list(range(len(terms))):
            weight = w.empty(*given.shape)  # a list of rows as an index would be copied from the CPU, and waited for
            for to, term in enumerate(terms):
                weight[to * H : (to + 1) * H] = given[term["rows"] * H : (term["rows"] + 1) * H]
        d = self._columns(terms[0]["column"], len(terms)).reshape(-1, len(terms) * H)
        return w.product(d, weight).reshape(self.call.T, self.call.B, w.input_size)

    def _parameters(self) -> Results:
        """The gradients of parameters: each term of the native plan is a sum over steps and rows of a gradient times an
        operand, and gives some rows of H of one parameter."""
        w, H = self.w, self.w.hidden_size
        gradients: Results = {f"d{p.name}": None for p in w.spec.parameters}
        vector = 0
        for p in w.spec.parameters:
            first, vector = (vector, vector + p.gates) if p.role == "vector" else (0, vector)
            if w.arrays[p.name] is None:
                continue
            to = gradients[f"d{p.name}"] = w.empty(*p.shape(w.input_size, H))
            terms = [t for t in w.facts["gradients"] if t["of"] == p.role and first <= t["rows"] < first + p.gates]
            for run in _runs(terms):
                rows = slice((run[0]["rows"] - first) * H, (run[-1]["rows"] - first + 1) * H)
                to[rows] = self._sum(run[0], len(run))
        return gradients

    def _sum(self, term: dict[str, Any], gates: int) -> Any:
        """The sum of a term, and of the gates after it that have the same operand."""
        w, H = self.w, self.w.hidden_size
        cast, d, operand = w.library.cast, self._columns(term["column"], gates), term["from"]
        if operand == "one":
            return cast(cast(d.reshape(-1, gates * H), "float32").sum(0), w.dtype)
        if operand == "x":
            pairs = [(d, self._read_x())]
        elif operand == "slots":
            pairs = [(d, self._slot(term["slot"]))]
        else:
            state, slot = w.facts["states"][operand]
            sequence = self.y if slot < 0 else self._slot(slot)
            pairs = self._with_before(d, sequence, self.call.states[state])
        if term["of"] == "vector":
            products = [(cast(a, "float32") * cast(b, "float32")).reshape(-1, H).sum(0) for a, b in pairs]
        else:
            products = [w.product(a.reshape(-1, gates * H).T, b.reshape(-1, b.shape[-1])) for a, b in pairs]
        total = products[0]
        for product in products[1:]:
            total = total + product
        return cast(total, w.dtype) if term["of"] == "vector" else total

    def _read_x(self) -> Any:
        """x, with zeros past the rows' lengths, whatever stands there."""
        call, library = self.call, self.w.library
        if call.lengths is None:
            return call.x
        times = library.arange(call.T, self.w.device)
        return library.where((times[:, None] < call.lengths[None, :])[:, :, None], call.x)

    def _with_before(self, gradients: Any, sequence: Any, first_state: Any) -> list[tuple[Any, Any]]:
        """Pairs of gradients and states: of each step and the step before, and of the first step and the initial
        state."""
        call, T, reverse = self.call, self.call.T, self.call.reverse
        pairs = [(gradients[:-1], sequence[1:])] if reverse else [(gradients[1:], sequence[:-1])]
        if first_state is None or T == 0:
            return pairs
        if reverse and call.lengths is not None:
            library, device = self.w.library, self.w.device
            # A row of length 0 takes its last step, whose gradients are zeros.
            return [*pairs, (gradients[call.lengths - 1, library.arange(call.B, device)], first_state)]
        return [*pairs, (gradients[T - 1 if reverse else 0], first_state)]


def _runs(terms: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Terms whose gradients lie side by side, as do their rows, and which have the same operand: one sum makes them."""

    def place(item: tuple[int, dict[str, Any]]) -> Any:
        i, t = item
        return t["rows"] - i, t["column"] - i, t["from"], t["slot"], t["of"] == "vector" and i

    for _, run in groupby(enumerate(sorted(terms, key=lambda t: t["rows"])), place):
        yield [t for _, t in run]
