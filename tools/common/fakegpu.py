"""An array library for tests: NumPy's arrays under the manners of one for GPUs. Its "GPU" is the emulator of
tests/cuda, whose memory is this process's own. Work is done at once, and is an AssertionError on arrays of another
GPU than the current one, or of another stream that the current one does not wait for."""

from __future__ import annotations

import ctypes
import itertools
import math
import mmap
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn.backends import arrays
from fusedrnn.backends.dlpack import CUDA

SOURCES = Path(__file__).parents[2] / "tests" / "cuda"
STREAM = 0x5EED
DRIVER = "libcuda.so.1"


def numpy_dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes  # which tests of a wheel do without

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(name)


class Stream:
    """The time up to which its work comes after that of each stream."""

    def __init__(self, handle: int, capturing: bool = False) -> None:
        self.handle, self.capturing = handle, capturing
        self.after: dict[Stream, int] = {}

    def record_event(self) -> dict[Stream, int]:
        return self.after | {self: next(_clock)}

    def wait_event(self, event: dict[Stream, int]) -> None:
        assert all(stream.capturing == self.capturing for stream in event), "CUDA: an order in and out of a graph"
        self.after = {s: max(t.get(s, 0) for t in (self.after, event)) for s in self.after | event}

    def synchronize(self) -> None:
        """Work has been done already."""


_clock = itertools.count(1)
_device = 0  # the current GPU
_current = Stream(STREAM)
lent: list[tuple[Stream, int]] = []  # to streams that other streams' arrays were lent to: their addresses


@contextmanager
def on_stream(stream: Stream) -> Iterator[None]:
    global _current
    before, _current = _current, stream
    try:
        yield
    finally:
        _current = before


class Array:
    """What the backend uses of PyTorch's tensors and CuPy's arrays."""

    def __init__(self, data: np.ndarray[Any, Any], device: int = 0) -> None:
        self.data, self.device = data, device
        self.made = _current, next(_clock)

    def read(self) -> np.ndarray[Any, Any]:
        """The data, for work on the current stream."""
        assert self.device == _device, "an array of another GPU than the current one"
        stream, time = self.made
        if stream is not _current and stream.capturing == _current.capturing:  # else the order is the caller's
            assert time <= _current.after.get(stream, 0), "a race: nothing waits for this array"
        return self.data

    def __reduce__(self) -> Any:
        return Array, (self.read(), self.device)

    shape = property(lambda self: self.data.shape)
    dtype = property(lambda self: self.data.dtype)
    T = property(lambda self: Array(self.read().T, self.device))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        a = self.data
        strides = None if a.flags.c_contiguous else a.strides
        return {"data": (a.ctypes.data, False), "shape": a.shape, "strides": strides, "typestr": "", "version": 3}

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.device

    def __dlpack__(self, **options: Any) -> Any:
        return self.read().__dlpack__(**options)

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        """NumPy's functions of arrays, or of sequences of them, such as np.concatenate and np.split."""
        found = function(*(_read(a) for a in arguments), **options)
        return [Array(a, self.device) for a in found] if isinstance(found, list) else Array(found, self.device)

    def reshape(self, *shape: Any) -> Array:
        return Array(self.read().reshape(*shape), self.device)

    def copy(self) -> Array:
        return Array(_copied(self.read()), self.device)

    def astype(self, dtype: str) -> Array:
        return Array(_copied(self.read().astype(numpy_dtype(dtype))), self.device)

    def clip(self, least: int, most: int) -> Array:
        return Array(self.read().clip(least, most), self.device)

    def sum(self, axis: int) -> Array:
        return Array(self.read().sum(axis, dtype=self.dtype), self.device)

    def __getitem__(self, key: Any) -> Array:
        return Array(self.read()[_plain(key)], self.device)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.data[_plain(key)] = _plain(value)

    def __matmul__(self, other: Array) -> Array:
        """With float32 sums, rounded once."""
        product = self.read().astype("float32") @ other.read().astype("float32")
        return Array(product.astype(self.dtype), self.device)

    def __add__(self, other: Any) -> Array:
        return Array(self.read() + _plain(other), self.device)

    def __sub__(self, other: Any) -> Array:
        return Array(self.read() - _plain(other), self.device)

    def __mul__(self, other: Any) -> Array:
        return Array(self.read() * _plain(other), self.device)

    def __invert__(self) -> Array:
        return Array(~self.read(), self.device)

    def __lt__(self, other: Any) -> Array:
        return Array(self.read() < _plain(other), self.device)


def _read(a: Any) -> Any:
    return [_read(one) for one in a] if isinstance(a, list) else _plain(a)


def _plain(a: Any) -> Any:
    assert not isinstance(a, list), "an index that must be copied to the GPU, which waits for it"
    if isinstance(a, tuple):
        return tuple(_plain(one) for one in a)
    return a.read() if isinstance(a, Array) else a


ALIGNMENT = 16  # which kernels rely on; allocators of GPUs give more


def new(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """An array that ends, but for its alignment, at a page that nobody may touch: a kernel that goes beyond it ends the
    process."""
    nbytes = math.prod(shape) * dtype.itemsize
    taken, page = -(-nbytes // ALIGNMENT) * ALIGNMENT, mmap.PAGESIZE
    if taken == 0:
        return np.empty(shape, dtype)
    pages = -(-taken // page)
    memory = mmap.mmap(-1, (pages + 1) * page)
    end = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + pages * page
    assert _libc.mprotect(ctypes.c_void_p(end), ctypes.c_size_t(page), 0) == 0
    return np.frombuffer(memory, dtype, math.prod(shape), pages * page - taken).reshape(shape)


def _copied(a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    copy = new(a.shape, a.dtype)
    copy[...] = a
    return copy


_libc = ctypes.CDLL(None)


def asarray(a: Any, dtype: str | None = None, device: int = 0) -> Any:
    """A copy, as on a real GPU. (Any, as the signatures of fusedrnn name NumPy's arrays alone.)"""
    return Array(_copied(np.array(a, dtype and numpy_dtype(dtype))), device)


def from_dlpack(a: Any) -> Array:
    """On the same memory: that of the emulator is NumPy's."""
    kind, device = a.__dlpack_device__()
    assert kind == CUDA
    return Array(np.from_dlpack(a), device)


def asnumpy(a: Array) -> np.ndarray[Any, Any]:
    return a.data.copy()


class Library(arrays.Library):
    name = "fakegpu"

    def owns(self, a: Any) -> bool:
        return isinstance(a, Array)

    def device(self, a: Any) -> int:
        return int(a.device)

    def current_stream(self, device: int) -> Stream:
        return _current

    def stream(self, device: int) -> int:
        return _current.handle

    @contextmanager
    def current(self, device: int) -> Iterator[None]:
        global _device
        before, _device = _device, device
        try:
            yield
        finally:
            _device = before

    def capturing(self, device: int) -> bool:
        return _current.capturing

    def record(self, device: int) -> Any:
        return _current.record_event()

    def lend(self, arrays: Iterable[Array], device: int) -> Any:
        lent.extend((_current, self.pointer(a)) for a in arrays)

    def pointer(self, a: Array) -> int:
        """0 for an array without elements, as PyTorch has it."""
        return super().pointer(a) if a.read().size else 0

    def contiguous(self, a: Any) -> Any:
        return a if self.is_contiguous(a) else Array(_copied(a.read()), a.device)

    def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> Array:
        a = new(shape, numpy_dtype(dtype))
        a.view("uint8").reshape(-1)[:] = 0xFF  # NaN, if anybody reads what nobody wrote
        return Array(a, _device)

    def zeros(self, shape: tuple[int, ...], dtype: str, device: int) -> Array:
        a = new(shape, numpy_dtype(dtype))
        a[...] = 0
        return Array(a, _device)

    def from_numpy(self, a: np.ndarray[Any, Any], device: int) -> Array:
        return Array(_copied(a), _device)

    def where(self, condition: Any, a: Any) -> Array:
        return Array(np.where(condition.read(), a.read(), np.zeros((), a.dtype)), a.device)

    def arange(self, n: int, device: int) -> Array:
        return Array(np.arange(n), _device)


# Multiprocessors and shared memory: weights in one block, over several, and mostly streamed from L2.
MACHINES = {"roomy": (5, 49152), "narrow": (9, 12288), "streaming": (3, 9216)}


def compiler() -> str | None:
    return shutil.which("c++") or shutil.which("g++")


def build_driver(folder: Path, *flags: str) -> Path:
    """The driver of tests/cuda, compiled from the kernels' own source."""
    to, part = folder / DRIVER, folder / "part.so"  # which gets its name when it is whole
    found = compiler()
    assert found is not None
    source = SOURCES / "fake_driver.cpp"
    flags += tuple(os.environ.get("FUSEDRNN_TEST_CXXFLAGS", "").split())
    command = [found, "-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-fvisibility=hidden", *flags]
    subprocess.run([*command, f"-I{SOURCES}", "-x", "c++", str(source), "-o", str(part)], check=True)
    part.rename(to)
    return to


@contextmanager
def installed(driver: Path, machine: str) -> Iterator[ctypes.CDLL]:
    """Makes an emulated GPU the one that fusedrnn sees, and this library one that it knows."""
    kernels = driver.with_name(f"{machine}.fatbin")
    if not kernels.exists():
        part = kernels.with_suffix(f".{os.getpid()}")  # which gets its name when it is whole
        part.write_text("run by the emulator")
        part.rename(kernels)
    multiprocessors, shared = MACHINES[machine]
    with pytest.MonkeyPatch.context() as m:
        m.setenv("FAKE_CUDA_MULTIPROCESSORS", str(multiprocessors))
        m.setenv("FAKE_CUDA_SHARED", str(shared))
        m.setenv("FUSEDRNN_CUDA_DRIVER", str(driver))
        m.setenv("FUSEDRNN_CUDA_NVML", str(driver))
        m.setenv("FUSEDRNN_CUDA_KERNELS", str(kernels))
        m.setitem(arrays.LIBRARIES, "fakegpu", Library)
        assert fusedrnn.cuda.status().startswith("ok: Emulated GPU")
        yield ctypes.CDLL(str(driver))
