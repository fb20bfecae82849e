"""What weights on a GPU have in common, whatever kernels run their calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .arrays import Buffers
from .checked import CheckedWeights


class WeightsOnGpu(CheckedWeights):
    """Made on the current stream. Calls on other streams wait for that."""

    buffers: Buffers  # all arrays that calls read

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
