"""The CUDA backend: weights that lie on a GPU, and the calls on them. The native module calls this for such weights.

The recurrence is one launch of a kernel for a whole sequence; products over all steps at once (of the inputs, and of
the weights' gradients) are the array library's matmul. Nothing here waits for the GPU, unless lengths come from NumPy
and must be copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from . import _core, cuda
from ._cuda_arrays import Library

Shape = tuple[int, ...]

DTYPES = ("float32", "bfloat16", "float16")
PRE_BYTES = 1 << 28  # of W x, which is made for so many steps at once as fit
STATES = ("h", "c")
INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))  # dtypes


class DeviceWeights:
    """Copies of a cell's weights on one GPU, and the recurrent ones packed for the kernels, made on the current stream:
    other streams must wait for it before they use them, as for any array.

    ``vectors`` are ``(name, how many vectors of H elements, array or None)``.
    """

    def __init__(
        self, library: Library, cell: str, common: dict[str, Any], vectors: list[tuple[str, int, Any]]
    ) -> None:
        self.library, self.cell = library, cell
        self.facts: dict[str, Any] = _core.describe_cell(cell)
        first = common["weight_ih"]
        if not self.facts["known"]:
            raise NotImplementedError(f"cell {cell!r} does not run on CUDA: it runs on NumPy arrays")
        self.device = library.device(first)
        self.dtype = library.dtype(first)
        if self.dtype not in DTYPES:
            raise TypeError(f"weight_ih: expected {', '.join(DTYPES)}, got {self.dtype}")
        rows, self.input_size = self._rank("weight_ih", first, 2)
        gates = self.facts["gates"]
        if rows == 0 or rows % gates or self.input_size == 0:
            raise ValueError(
                f"weight_ih: expected shape ({gates}*hidden_size, input_size) with hidden_size and input_size at least "
                f"1, got {tuple(first.shape)}"
            )
        self.hidden_size = H = rows // gates
        recurrent = self.facts["recurrent_gates"] * H
        shapes = {"weight_ih": (rows, self.input_size), "bias_ih": (rows,)}
        if recurrent:
            shapes |= {"weight_hh": (recurrent, H), "bias_hh": (recurrent,)}
        for name, a in common.items():
            if a is not None and name not in shapes:
                raise ValueError(f"{name}: expected None for cell {cell!r}, got {type(a).__name__}")
            if a is None and name in shapes and name.startswith("weight"):
                raise TypeError(f"{name}: expected a CUDA array, got NoneType")
        self.arrays: dict[str, Any] = {
            name: None if a is None else library.copy(self.checked(name, a, shapes[name])) for name, a in common.items()
        }
        self.named_vectors = [(name, max(1, n), a) for name, n, a in vectors]
        self.vectors = self._joined_vectors()
        self.format = cuda.get_float32_products() if self.dtype == "float32" else self.dtype
        self.kernels = _core.CudaCell(*cuda.paths(), self.device, cell, self.format, H)
        self.packed = self._packed(backward=False)
        self._transposed: list[Any] | None = None

    def _rank(self, name: str, a: Any, rank: int) -> Shape:
        if len(a.shape) != rank:
            raise ValueError(f"{name}: expected {rank} dimensions, got shape {tuple(a.shape)}")
        return tuple(a.shape)

    def _joined_vectors(self) -> Any:
        """All vectors, one after the other; zeros for those that are None."""
        H = self.hidden_size
        total = sum(n for _, n, _ in self.named_vectors)
        if total == 0:
            return None
        joined, first = self.library.zeros((total * H,), self.dtype, self.device), 0
        for name, n, a in self.named_vectors:
            if a is not None:
                joined[first : first + n * H] = self.checked(name, a, (n * H,))
            first += n * H
        return joined

    def checked(self, name: str, a: Any, shape: Shape) -> Any:
        """The array, C-contiguous, if it is of this library, device, dtype and shape."""
        if not self.library.is_cuda(a):
            raise TypeError(
                f"{name}: expected a CUDA array of {self.library.name}, as the weights, got {type(a).__name__}"
            )
        if self.library.device(a) != self.device:
            raise ValueError(
                f"{name}: expected an array on cuda:{self.device}, as the weights, got one on "
                f"cuda:{self.library.device(a)}"
            )
        if self.library.dtype(a) != self.dtype:
            raise TypeError(f"{name}: expected {self.dtype}, as the weights, got {self.library.dtype(a)}")
        if tuple(a.shape) != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(a.shape)}")
        return self.library.contiguous(a)

    def array(self, name: str) -> Any:
        return self.arrays[name]

    def vector(self, k: int) -> Any:
        if k >= len(self.named_vectors) or self.named_vectors[k][2] is None:
            return None
        first = sum(n for _, n, _ in self.named_vectors[:k]) * self.hidden_size
        return self.vectors[first : first + self.named_vectors[k][1] * self.hidden_size]

    def empty(self, *shape: int, dtype: str | None = None) -> Any:
        return self.library.empty(shape, dtype or self.dtype, self.device)

    def stream(self) -> int:
        return self.library.stream(self.device)

    def _packed(self, backward: bool) -> list[Any]:
        to = [self.empty(size, dtype="uint8") for size in self.kernels.packed_sizes(backward)]
        if self.arrays["weight_hh"] is not None:
            from_ = self.library.pointer(self.arrays["weight_hh"])
            self.kernels.pack(backward, from_, [self.library.pointer(a) for a in to], self.stream())
        return to

    def transposed(self) -> list[Any]:
        """Packed for backward: made when training begins, so on the stream of forward, which backward follows."""
        if self._transposed is None:
            self._transposed = self._packed(backward=True)
        return self._transposed

    @property
    def input_blocks(self) -> list[int]:
        """Which block of H rows of weight_ih the j-th of the gradients that the input sees belongs to."""
        return list(self.facts["input_gates"])

    # What the native module calls.

    def infer(self, x: Any, states: tuple[Any, ...], lengths: Any, reverse: bool) -> tuple[Any, ...]:
        return Sequence(self, x, states, lengths, reverse).forward(None)

    def forward(
        self, weights_object: Any, x: Any, states: tuple[Any, ...], lengths: Any, reverse: bool
    ) -> tuple[Any, ...]:
        call = Sequence(self, x, states, lengths, reverse)
        self.transposed()
        slots = self.empty(call.T, call.B, self.facts["slots"], self.hidden_size)
        y, *last = call.forward(slots)
        return y, *last, Reserve(weights_object, call, y, slots)

    def step(self, x: Any, states: tuple[Any, ...], out: tuple[Any, ...]) -> Any:
        B, _ = self._rank("x", x, 2)
        x = self.checked("x", x, (B, self.input_size))
        for name, a in zip(STATES, out, strict=False):
            if a is None:
                continue
            self.checked(f"out ({name})", a, (B, self.hidden_size))
            if not self.library.is_contiguous(a):
                raise ValueError(f"out ({name}): expected a C-contiguous array")
        y, _, *last = Sequence(self, x[None], states, None, False, STATES).forward(None, out)
        results = (y[0] if out[0] is None else out[0], *last)
        return results[0] if len(results) == 1 else results


class Sequence:
    """The checked arguments of one call."""

    def __init__(
        self,
        w: DeviceWeights,
        x: Any,
        states: tuple[Any, ...],
        lengths: Any,
        reverse: bool,
        names: tuple[str, ...] = ("h0", "c0"),
    ) -> None:
        self.w = w
        if not isinstance(reverse, bool):
            raise TypeError(f"reverse: expected bool, got {type(reverse).__name__}")
        self.reverse = reverse
        if not w.library.is_cuda(x):
            raise TypeError(f"x: expected a CUDA array of {w.library.name}, as the weights, got {type(x).__name__}")
        self.T, self.B, _ = w._rank("x", x, 3)
        self.x = w.checked("x", x, (self.T, self.B, w.input_size))
        self.states = [
            None if s is None else w.checked(name, s, (self.B, w.hidden_size))
            for name, s in zip(names, states, strict=False)
        ]
        self.lengths = self._checked_lengths(lengths)

    def _checked_lengths(self, lengths: Any) -> Any:
        """On the GPU, int64 in 0..T. Values from the CPU are checked. Looking at values on a GPU would mean waiting:
        there a length beyond the sequence counts as its end, and a negative one as 0."""
        library = self.w.library
        if lengths is None:
            return None
        if not library.is_cuda(lengths):
            return library.from_numpy(_core.read_lengths(lengths, self.B, self.T), self.w.device)
        if library.device(lengths) != self.w.device:
            raise ValueError(
                f"lengths: expected an array on cuda:{self.w.device}, as the weights, got one on "
                f"cuda:{library.device(lengths)}"
            )
        if library.dtype(lengths) not in INTEGERS:
            raise TypeError(f"lengths: expected integers, got dtype {library.dtype(lengths)}")
        if tuple(lengths.shape) != (self.B,):
            raise ValueError(f"lengths: expected shape ({self.B},), got {tuple(lengths.shape)}")
        return library.contiguous(library.cast(lengths, "int64").clip(0, self.T))

    def launcher(self, backward: bool, packed: list[Any]) -> Launcher:
        run = Launcher(self.w, backward, self.T, self.B)
        run.give(lengths=self.lengths, vectors=self.w.vectors)
        run.give(**{f"packed{p}": a for p, a in enumerate(packed)})
        run.give(**dict(zip(("h0", "c0"), self.states, strict=False)))
        return run

    def forward(self, slots: Any, out: tuple[Any, ...] = (None, None)) -> tuple[Any, ...]:
        """y and the last states; `out` are arrays for h and c of a sequence of one step."""
        w, T, B, H = self.w, self.T, self.B, self.w.hidden_size
        run = self.launcher(False, w.packed)
        y = w.empty(T, B, H) if out[0] is None else out[0]
        last = [w.empty(B, H) if s == 0 or out[s] is None else out[s] for s in range(w.facts["states"])]
        slots_step = B * w.facts["slots"] * H
        if slots is None and w.facts["phases"] > 1:
            slots, slots_step = w.empty(B, w.facts["slots"], H), 0
        run.give(y=y, slots=slots, bias_ih=w.arrays["bias_ih"], bias_hh=w.arrays["bias_hh"])
        weight = w.arrays["weight_ih"].T
        for first, end in self._parts():
            times = (T - end, T - first) if self.reverse else (first, end)
            pre = self.x[times[0] : times[1]].reshape(-1, w.input_size) @ weight
            run.give(pre=pre)
            if end == T:
                run.give(**{f"{name}_n": a for name, a in zip(STATES, last, strict=False)})
            run.launch(first, end, times[0], self.reverse, slots_step)
        return y, *last

    def _parts(self) -> Iterator[tuple[int, int]]:
        """Steps, in the order in which they run, for which W x is made at once."""
        if self.B == 0:
            return
        each = self.B * self.w.facts["gates"] * self.w.hidden_size * (4 if self.w.dtype == "float32" else 2)
        steps = max(1, PRE_BYTES // each)
        for first in range(0, max(1, self.T), steps):
            yield first, min(self.T, first + steps)


class Launcher:
    """One kernel in the making, with scratch of its own. Arrays are kept until it has been launched; the libraries free
    memory in the order of the stream."""

    def __init__(self, w: DeviceWeights, backward: bool, T: int, B: int) -> None:
        self.w = w
        self.run = _core.CudaRun(w.kernels, backward, T, B)
        self.kept: dict[str, Any] = {}
        for p, size in enumerate(self.run.exchange_sizes()):
            self.give(**{f"exchange{p}": w.empty(size, dtype="uint8")})
        self.give(counters=w.empty(4 * self.run.batch_groups, dtype="uint8"))
        for s in range(w.facts["states"]):
            self.give(**{f"run{s}": w.empty(B, w.hidden_size, dtype="float32")})

    def give(self, **arrays: Any) -> None:
        for name, a in arrays.items():
            self.run.set(name, 0 if a is None else self.w.library.pointer(a))
            self.kept[name] = a

    def launch(self, first: int, last: int, pre_first: int, reverse: bool, slots_step: int) -> None:
        self.run.launch(first, last, pre_first, reverse, slots_step, self.w.stream())


class Reserve:
    """What forward keeps for backward, on the GPU."""

    def __init__(self, weights_object: Any, call: Sequence, y: Any, slots: Any) -> None:
        self.weights_object, self.call, self.y, self.slots = weights_object, call, y, slots
        w = call.w
        self.dtype, self.seq_len, self.batch_size = w.dtype, call.T, call.B
        self.launched = False  # whether a kernel may have overwritten the slots
        self.nbytes = call.T * call.B * w.facts["slots"] * w.hidden_size * (4 if w.dtype == "float32" else 2)

    def backward(self, dy: Any, dstates: tuple[Any, ...], dc: Any) -> list[Any]:
        """dx, the gradients of the initial states, of weight_ih, weight_hh, bias_ih, bias_hh, and of the vectors."""
        call, w = self.call, self.call.w
        T, B, H = call.T, call.B, w.hidden_size
        if dc is not None:
            raise ValueError(f"dc: expected None for cell {w.cell!r}, got {type(dc).__name__}")
        if dy is not None:
            dy = w.checked("dy", dy, (T, B, H))
        given = {
            name: None if a is None else w.checked(name, a, (B, H))
            for name, a in zip(("dh_n", "dc_n"), dstates, strict=False)
        }
        run = call.launcher(True, w.transposed())
        dstates0 = [w.empty(B, H) for _ in range(w.facts["states"])]
        run.give(dy=dy, h=self.y, slots=self.slots, **given)
        run.give(**{f"d{name}0": a for name, a in zip(STATES, dstates0, strict=False)})
        if B > 0:
            self.launched = True
            run.launch(0, T, 0, call.reverse, B * w.facts["slots"] * H)
        return [self._dx(), *dstates0, *self._weights(), *self._vectors()]

    def _columns(self, first: int, count: int = 1) -> Any:
        """Gradients that stand in some slots, ``(T, B, count*H)``."""
        H = self.call.w.hidden_size
        flat = self.slots.reshape(self.call.T, self.call.B, self.call.w.facts["slots"] * H)
        return flat[:, :, first * H : (first + count) * H]

    def _input_columns(self) -> Any:
        w = self.call.w
        columns = self._columns(w.facts["input_column"], w.facts["gates"])
        return columns.reshape(-1, w.facts["gates"] * w.hidden_size)

    def _blocks(self, weight: Any, blocks: list[int]) -> Any:
        """Blocks of H rows in another order."""
        if blocks == list(range(len(blocks))):
            return weight
        H = self.call.w.hidden_size
        return weight.reshape(len(blocks), H, -1)[blocks].reshape(weight.shape)

    def _dx(self) -> Any:
        w = self.call.w
        dx = self._input_columns() @ self._blocks(w.arrays["weight_ih"], w.input_blocks)
        return dx.reshape(self.call.T, self.call.B, w.input_size)

    def _read_x(self) -> Any:
        """x, with zeros past the rows' lengths, whatever stands there."""
        call, library = self.call, self.call.w.library
        if call.lengths is None:
            return call.x
        times = library.arange(call.T, call.w.device)
        return library.where((times[:, None] < call.lengths[None, :])[:, :, None], call.x)

    def _weights(self) -> list[Any]:
        w, f = self.call.w, self.call.w.facts
        H = w.hidden_size
        inverse = [w.input_blocks.index(gate) for gate in range(f["gates"])]
        columns = self._input_columns()
        x = self._read_x().reshape(-1, w.input_size)
        dweight_ih = self._blocks(columns.T @ x, inverse)
        dbias_ih = None if w.arrays["bias_ih"] is None else self._blocks(self._sum(columns), inverse)
        if f["recurrent_gates"] == 0:
            return [dweight_ih, None, dbias_ih, None]
        dweight_hh = w.empty(f["recurrent_gates"] * H, H)
        dbias_hh = None if w.arrays["bias_hh"] is None else w.empty(f["recurrent_gates"] * H)
        for column, gates, block, source, slot in f["products"]:
            rows = slice(block * H, (block + gates) * H)
            gradients = self._columns(column, gates)
            if source == "slots":
                pairs = [(gradients, self._columns(slot))]
            else:
                pairs = self._with_before(gradients, self.y, self.call.states[0])
            total = None
            for d, operand in pairs:
                part = d.reshape(-1, gates * H).T @ operand.reshape(-1, H)
                total = part if total is None else total + part
            dweight_hh[rows] = total
            if dbias_hh is not None:
                dbias_hh[rows] = self._sum(gradients.reshape(-1, gates * H))
        return [dweight_ih, dweight_hh, dbias_ih, dbias_hh]

    def _sum(self, columns: Any) -> Any:
        """Over rows, in float32."""
        library = self.call.w.library
        return library.cast(library.cast(columns, "float32").sum(0), self.call.w.dtype)

    def _with_before(self, gradients: Any, sequence: Any, first_state: Any) -> list[tuple[Any, Any]]:
        """Gradients of steps next to what the step before gave, then those of first steps next to the initial state."""
        T, reverse = self.call.T, self.call.reverse
        pairs = [(gradients[:-1], sequence[1:])] if reverse else [(gradients[1:], sequence[:-1])]
        if first_state is None or T == 0:
            return pairs
        if reverse and self.call.lengths is not None:
            library, device = self.call.w.library, self.call.w.device
            # A row of length 0 takes its last step, whose gradients are zeros.
            return [*pairs, (gradients[self.call.lengths - 1, library.arange(self.call.B, device)], first_state)]
        return [*pairs, (gradients[T - 1 if reverse else 0], first_state)]

    def _vectors(self) -> list[Any]:
        w, f, H = self.call.w, self.call.w.facts, self.call.w.hidden_size
        if w.vectors is None:
            return []
        cast = w.library.cast
        gradients = []
        for column, source, slot in f["vectors"]:
            d = self._columns(column)
            if source == "slots":
                pairs = [(d, self._columns(slot))]
            elif source == "c_prev":
                pairs = self._with_before(d, self._columns(f["state_slot"]), self.call.states[1])
            else:
                pairs = self._with_before(d, self.y, self.call.states[0])
            total = None
            for a, b in pairs:
                part = (cast(a, "float32") * cast(b, "float32")).reshape(-1, H).sum(0)
                total = part if total is None else total + part
            gradients.append(cast(total, w.dtype))
        results, first = [], 0
        for _, n, given in w.named_vectors:
            joined = w.empty(n * H)
            for k in range(n):
                joined[k * H : (k + 1) * H] = gradients[first + k]
            results.append(joined if given is not None else None)
            first += n
        return results
