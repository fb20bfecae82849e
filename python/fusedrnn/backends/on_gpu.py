"""What weights on a GPU have in common, whatever kernels run their calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..cells.spec import Parameter
from .arrays import Buffers
from .checked import CheckedWeights

ITEMSIZES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}


class WeightsOnGpu(CheckedWeights):
    """Made on the current stream. Calls on other streams wait for that."""

    buffers: Buffers  # all arrays that calls read

    def shape_of(self, p: Parameter) -> tuple[int, ...]:
        return p.shape(self.input_size, self.hidden_size, self.proj_size, self.num_heads)

    def cast(self, p: Parameter, dtype: str) -> Any:
        """A parameter in this dtype, or None."""
        a = self.arrays[p.name]
        return a if a is None or self.dtype == dtype else self.library.cast(a, dtype)

    def joined(self, parameters: list[Parameter], dtype: str) -> Any:
        """One after the other; zeros for a parameter that is None."""
        shapes = [self.shape_of(p) for p in parameters]
        joined, first = self.library.zeros((sum(s[0] for s in shapes), *shapes[0][1:]), dtype, self.device), 0
        for p, shape in zip(parameters, shapes, strict=True):
            if self.arrays[p.name] is not None:
                joined[first : first + shape[0]] = self.cast(p, dtype)
            first += shape[0]
        return joined

    def stream(self) -> int:
        """The current stream's handle."""
        return self.library.stream(self.device)

    def made(self, *arrays: Any) -> Buffers:
        """Arrays that the current stream has made."""
        return Buffers(self.library, self.device, arrays)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around all work on the weights."""
        with self.library.current(self.device), self.library.exact(), self.buffers.used():
            yield
