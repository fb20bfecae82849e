"""An array library for tests: NumPy's arrays under the manners of one for GPUs. Its "GPU" is the emulator of
tests/cuda, whose memory is this process's own."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusedrnn
from fusedrnn.backends import arrays

SOURCES = Path(__file__).parents[2] / "tests" / "cuda"
STREAM = 0x5EED
DRIVER = "libcuda.so.1"
DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16)}


def numpy_dtype(name: str) -> np.dtype[Any]:
    return DTYPES.get(name) or np.dtype(name)


class Array:
    """What the backend uses of PyTorch's tensors and CuPy's arrays."""

    def __init__(self, data: np.ndarray[Any, Any], device: int = 0) -> None:
        self.data, self.device = data, device

    shape = property(lambda self: self.data.shape)
    dtype = property(lambda self: self.data.dtype)
    T = property(lambda self: Array(self.data.T, self.device))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        a = self.data
        strides = None if a.flags.c_contiguous else a.strides
        return {"data": (a.ctypes.data, False), "shape": a.shape, "strides": strides, "typestr": "", "version": 3}

    def reshape(self, *shape: Any) -> Array:
        return Array(self.data.reshape(*shape), self.device)

    def copy(self) -> Array:
        return Array(self.data.copy(), self.device)

    def astype(self, dtype: str) -> Array:
        return Array(self.data.astype(numpy_dtype(dtype)), self.device)

    def clip(self, least: int, most: int) -> Array:
        return Array(self.data.clip(least, most), self.device)

    def sum(self, axis: int) -> Array:
        return Array(self.data.sum(axis, dtype=self.data.dtype), self.device)

    def __getitem__(self, key: Any) -> Array:
        return Array(self.data[_plain(key)], self.device)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.data[_plain(key)] = _plain(value)

    def __matmul__(self, other: Array) -> Array:
        """With float32 sums, rounded once."""
        product = self.data.astype("float32") @ other.data.astype("float32")
        return Array(product.astype(self.data.dtype), self.device)

    def __add__(self, other: Any) -> Array:
        return Array(self.data + _plain(other), self.device)

    def __sub__(self, other: Any) -> Array:
        return Array(self.data - _plain(other), self.device)

    def __mul__(self, other: Any) -> Array:
        return Array(self.data * _plain(other), self.device)

    def __lt__(self, other: Any) -> Array:
        return Array(self.data < _plain(other), self.device)


def _plain(a: Any) -> Any:
    if isinstance(a, tuple):
        return tuple(_plain(one) for one in a)
    return a.data if isinstance(a, Array) else a


def asarray(a: Any, dtype: str | None = None, device: int = 0) -> Any:
    """A copy, as on a real GPU. (Any, as the signatures of fusedrnn name NumPy's arrays alone.)"""
    return Array(np.array(a, dtype and numpy_dtype(dtype)), device)


def asnumpy(a: Array) -> np.ndarray[Any, Any]:
    return a.data.copy()


class Library(arrays.Library):
    name = "fakegpu"

    def owns(self, a: Any) -> bool:
        return isinstance(a, Array)

    def device(self, a: Any) -> int:
        return int(a.device)

    def stream(self, device: int) -> int:
        return STREAM

    def contiguous(self, a: Any) -> Any:
        return Array(np.ascontiguousarray(a.data), a.device)

    def empty(self, shape: tuple[int, ...], dtype: str, device: int) -> Array:
        a = np.empty(shape, numpy_dtype(dtype))
        a.view("uint8").reshape(-1)[:] = 0xFF  # NaN, if anybody reads what nobody wrote
        return Array(a, device)

    def zeros(self, shape: tuple[int, ...], dtype: str, device: int) -> Array:
        return Array(np.zeros(shape, numpy_dtype(dtype)), device)

    def from_numpy(self, a: np.ndarray[Any, Any], device: int) -> Array:
        return Array(a.copy(), device)

    def where(self, condition: Any, a: Any) -> Array:
        return Array(np.where(condition.data, a.data, np.zeros((), a.data.dtype)), a.device)

    def arange(self, n: int, device: int) -> Array:
        return Array(np.arange(n), device)


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
    command = [found, "-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-fvisibility=hidden", *flags]
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
        m.setenv("FUSEDRNN_CUDA_KERNELS", str(kernels))
        m.setitem(arrays.LIBRARIES, "fakegpu", Library)
        assert fusedrnn.cuda.status().startswith("ok: Emulated GPU")
        yield ctypes.CDLL(str(driver))
