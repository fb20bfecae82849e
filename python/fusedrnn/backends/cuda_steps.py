"""The stepwise driver of the CUDA backend: any cell, by some launches for each step.

It runs what the persistent kernels of `cuda` do not: all other cells, float64, resets, regularisation, heads,
projections, chosen activations. All is computed by kernels of this package, no product by the array library. Results
of float32 and float64 have the bits of the CPU. Nothing here waits for the GPU, unless lengths, masks, or rows' own
numbers of steps come from NumPy and must be copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import _core, cuda
from ..cells.spec import HEADS, CellSpec, Parameter
from ..masks import NAMES, Sizes, Source, of_seed
from .arrays import Library
from .checked import Arguments
from .on_gpu import ITEMSIZES, WeightsOnGpu
from .step_calls import Backward, Forward, Kept, Results

DTYPES = ("float32", "float64", "bfloat16", "float16")


class CudaSteps(WeightsOnGpu):
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
        self.itemsize = ITEMSIZES[self.computed]
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
                read[p.role, 0] = self.cast(p, self.computed)
        vectors = [p for p in self.spec.parameters if p.role == "vector"]
        if vectors:
            read["vectors", 0] = self.joined(vectors, self.computed)
        if self.periods:
            each = self.hidden_size // len(self.periods)
            read["periods", 0] = of_units = self.library.zeros((self.hidden_size,), "int64", self.device)
            for i, period in enumerate(self.periods):
                of_units[i * each : (i + 1) * each] = period
        for m, parameters in enumerate(self._matrices()):
            alone, dtype = len(parameters) == 1, self.computed
            read["matrix", m] = self.cast(parameters[0], dtype) if alone else self.joined(parameters, dtype)
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

    def stored(self, *shape: int) -> Any:
        return self.library.empty(shape, self.dtype, self.device)

    def empty(self, *shape: int, dtype: str | None = None) -> Any:
        return self.library.empty(shape, dtype or self.computed, self.device)

    def infer(self, *arguments: Any) -> Results:
        with self.running():
            return Forward(self, Arguments(self, *arguments), None).run()

    def forward(
        self, x: Any, states: Any, lengths: Any, reverse: bool, inputs: dict[str, Any]
    ) -> tuple[Results, Kept, int]:
        source: Source = inputs.get("masks")
        inputs = {name: value for name, value in inputs.items() if name != "masks"}
        with self.running():
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
        with self.running(), kept.buffers.used():
            return Backward(kept).run(dy, dstates, dabove)

    def step(self, x: Any, states: Any, out: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[Any, ...]:
        x, inputs = self.one_step(x), self.inputs_of_step(x, inputs)
        with self.running():
            call = Arguments(self, x, states, None, False, inputs, form="{}")
            results = Forward(self, call, None).run(self.outputs(call.B, out))
        return tuple(results[f"{s.name}_n"] for s in self.spec.states)
