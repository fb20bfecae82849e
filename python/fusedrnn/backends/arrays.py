"""Arrays of the libraries that backends written in Python compute with.

A library of arrays on GPUs is added by a class like `CuPy` here, in `LIBRARIES`. Arrays of all libraries have slices,
``reshape``, ``@``, ``+``, ``*``, ``.T``, ``sum(axis)`` and indexing by arrays.
"""

from __future__ import annotations

import sys
import weakref
from _thread import get_ident  # which is threading's, without that module
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np


class Library:
    """The operations that differ between libraries. Needs ``__cuda_array_interface__`` and the array API standard."""

    name = ""
    waits = True  # reading a value means to wait for a GPU

    def __init__(self, module: Any) -> None:
        self.module = module

    @property
    def kind(self) -> str:
        """Its arrays, in an error."""
        return f"a CUDA array of {self.name}"

    def owns(self, a: Any) -> bool:
        """Whether it is an array of this library, in its place."""
        return hasattr(a, "__cuda_array_interface__")

    def device(self, a: Any) -> int:
        """The GPU's number."""
        raise NotImplementedError

    def current_stream(self, device: int) -> Any:
        raise NotImplementedError

    def stream(self, device: int) -> int:
        """The current stream's handle."""
        raise NotImplementedError

    def capturing(self, device: int) -> bool:
        """Whether the current stream's work goes into a CUDA graph."""
        raise NotImplementedError

    def record(self, device: int) -> Any:
        """An event: the end of the work that the current stream has by now."""
        raise NotImplementedError

    def wait(self, event: Any, device: int) -> None:
        """Makes the current stream wait for an event."""
        self.current_stream(device).wait_event(event)

    def lend(self, arrays: Iterable[Any], device: int) -> Any:
        """Says that arrays of another stream are used by the current stream's work by now. Returns what `take_back`
        needs of it, or None."""
        raise NotImplementedError

    def take_back(self, lent: dict[Any, Any], stream: Any, device: int) -> None:
        """Before arrays of this stream are freed, which were lent to others."""

    def dtype(self, a: Any) -> str:
        return str(a.dtype)

    def pointer(self, a: Any) -> int:
        return int(a.__cuda_array_interface__["data"][0])

    def contiguous(self, a: Any) -> Any:
        """The array itself, or a copy, C-contiguous and without gradients."""
        return self.module.ascontiguousarray(a)

    def copy(self, a: Any) -> Any:
        return a.copy()

    def is_contiguous(self, a: Any) -> bool:
        return a.__cuda_array_interface__.get("strides") is None

    def current(self, device: int) -> AbstractContextManager[Any]:
        """A context for all that makes arrays on this device, or computes with them."""
        return nullcontext()

    def exact(self) -> AbstractContextManager[Any]:
        """A context in which operations keep the dtype of their operands, whatever the caller has set."""
        return nullcontext()

    def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> Any:
        return self.module.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: str, device: int) -> Any:
        return self.module.zeros(shape, dtype)

    def cast(self, a: Any, dtype: str) -> Any:
        return a.astype(dtype)

    def from_numpy(self, a: np.ndarray[Any, Any], device: int) -> Any:
        return self.module.asarray(a)

    def where(self, condition: Any, a: Any) -> Any:
        """a, and 0 where the condition does not hold."""
        return self.module.where(condition, a, self.module.zeros((), a.dtype))

    def arange(self, n: int, device: int) -> Any:
        return self.module.arange(n)


class NumPy(Library):
    name, kind, waits = "numpy", "a numpy.ndarray", False

    def owns(self, a: Any) -> bool:
        return isinstance(a, np.ndarray)

    def device(self, a: Any) -> int:
        return 0

    def is_contiguous(self, a: Any) -> bool:
        return bool(a.flags.c_contiguous)


class CuPy(Library):
    name = "cupy"

    def owns(self, a: Any) -> bool:
        return isinstance(a, self.module.ndarray)

    def device(self, a: Any) -> int:
        return int(a.device.id)

    def current_stream(self, device: int) -> Any:
        return self.module.cuda.get_current_stream(device)

    def stream(self, device: int) -> int:
        return int(self.current_stream(device).ptr)

    def capturing(self, device: int) -> bool:
        return bool(self.current_stream(device).is_capturing())

    def record(self, device: int) -> Any:
        return self.current_stream(device).record(self.module.cuda.Event(disable_timing=True))

    def lend(self, arrays: Iterable[Any], device: int) -> Any:
        return self.record(device)

    def take_back(self, lent: dict[Any, Any], stream: Any, device: int) -> None:
        # Memory goes back to the stream that it came from, and the pool knows of no other (cupy#8068).
        with self.current(device):
            for event in lent.values():
                stream.wait_event(event)

    def current(self, device: int) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self.module.cuda.Device(device)
        return context


class Torch(Library):
    name = "torch"
    device_type = "cuda"

    def owns(self, a: Any) -> bool:
        return isinstance(a, self.module.Tensor) and a.device.type == self.device_type

    def device(self, a: Any) -> int:
        return int(a.device.index or 0)

    def current_stream(self, device: int) -> Any:
        return self.module.cuda.current_stream(device)

    def stream(self, device: int) -> int:
        return int(self.current_stream(device).cuda_stream)

    def capturing(self, device: int) -> bool:
        with self.module.cuda.device(device):
            return bool(self.module.cuda.is_current_stream_capturing())

    def record(self, device: int) -> Any:
        return self.current_stream(device).record_event()

    def lend(self, arrays: Iterable[Any], device: int) -> Any:
        stream = self.current_stream(device)
        for a in arrays:
            a.record_stream(stream)

    def dtype(self, a: Any) -> str:
        return str(a.dtype).removeprefix("torch.")

    def pointer(self, a: Any) -> int:
        return int(a.data_ptr())

    def contiguous(self, a: Any) -> Any:
        return a.detach().contiguous()

    def copy(self, a: Any) -> Any:
        return a.detach().clone()

    def is_contiguous(self, a: Any) -> bool:
        return bool(a.is_contiguous())

    def exact(self) -> AbstractContextManager[Any]:
        torch = self.module
        if not torch.is_autocast_enabled(self.device_type):
            return nullcontext()
        context: AbstractContextManager[Any] = torch.autocast(self.device_type, enabled=False)
        return context

    def _options(self, dtype: str, device: int) -> dict[str, Any]:
        return {"dtype": getattr(self.module, dtype), "device": f"{self.device_type}:{device}"}

    def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> Any:
        return self.module.empty(shape, **self._options(dtype, device))

    def zeros(self, shape: tuple[int, ...], dtype: str, device: int) -> Any:
        return self.module.zeros(shape, **self._options(dtype, device))

    def cast(self, a: Any, dtype: str) -> Any:
        return a.to(getattr(self.module, dtype))

    def from_numpy(self, a: np.ndarray[Any, Any], device: int) -> Any:
        return self.module.tensor(a, device=f"{self.device_type}:{device}")

    def where(self, condition: Any, a: Any) -> Any:
        return a.masked_fill(~condition, 0)

    def arange(self, n: int, device: int) -> Any:
        return self.module.arange(n, device=f"{self.device_type}:{device}")


PER_THREAD = 2  # cudaStreamPerThread: one handle, for a stream of each thread


class Buffers:
    """Arrays that callers do not hold, which the current stream has made by now, for use on any stream of the GPU."""

    def __init__(self, library: Library, device: int, arrays: Iterable[Any]) -> None:
        self.library, self.device = library, device
        self.arrays = [a for a in arrays if a is not None]
        self.stream, self.captured = library.current_stream(device), library.capturing(device)
        self.made_by, self.made = self._here(), library.record(device)
        self.lent: dict[Any, Any] = {}  # by stream

    def _here(self) -> tuple[int, int]:
        handle = self.library.stream(self.device)
        return handle, get_ident() if handle == PER_THREAD else 0

    @contextmanager
    def used(self) -> Iterator[None]:
        """Around calls whose work reads the arrays. On another stream, that work waits until they are made, and their
        memory is not reused before it ends. CUDA knows no such order between work in a graph and work outside it: there
        it is the caller's."""
        here = self._here()
        if here == self.made_by:
            yield
            return
        capturing = self.library.capturing(self.device)
        if capturing == self.captured:
            self.library.wait(self.made, self.device)
        try:
            yield
        finally:
            if not capturing:
                self._lend(here)

    def _lend(self, here: tuple[int, int]) -> None:
        event = self.library.lend(self.arrays, self.device)
        if event is None:
            return
        if not self.lent:
            weakref.finalize(self, self.library.take_back, self.lent, self.stream, self.device).atexit = False
        self.lent[here] = event


LIBRARIES: dict[str, type[Library]] = {"torch": Torch, "cupy": CuPy}


def _root(a: Any) -> str:
    """The package of its class."""
    return type(a).__module__.partition(".")[0]


def is_foreign(a: Any) -> bool:
    """Whether it is an array of a library that is not known here, and has the array API standard's namespace."""
    known = type(a) is np.ndarray or not hasattr(type(a), "__array_namespace__")
    return not (known or isinstance(a, (np.ndarray, np.generic)) or _root(a) in LIBRARIES)


def library_of(a: Any) -> Library | None:
    """The library of an array on a GPU; None for all else. Imports nothing, as an array's library has been imported.

    Raises:
        TypeError: an array on a GPU, of a library that is not known here.
    """
    if type(a) is np.ndarray or a is None:
        return None
    root = _root(a)
    if root in LIBRARIES:
        library = LIBRARIES[root](sys.modules[root])
        return library if library.owns(a) else None
    if hasattr(a, "__cuda_array_interface__"):
        known = " or ".join(LIBRARIES)
        raise TypeError(f"expected CUDA arrays of {known} (which make theirs by from_dlpack), got {type(a).__name__}")
    return None
