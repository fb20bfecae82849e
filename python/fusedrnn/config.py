"""Threads, instruction sets, and the state of this installation."""

from __future__ import annotations

import os
import platform

import numpy as np

from . import _core
from ._version import __version__


def get_num_threads() -> int:
    """How many threads a call may use: `set_num_threads`, else ``FUSEDRNN_NUM_THREADS``, else ``OMP_NUM_THREADS``, else
    the CPUs that affinity and cgroup leave this process. Raises ValueError if ``FUSEDRNN_NUM_THREADS`` is no integer
    in 1..1024."""
    return _core.num_threads()


def set_num_threads(n: int) -> None:
    """Sets how many threads a call may use, for the whole process. Results do not depend on it. No call uses more than
    there are CPUs for (the process's affinity and cgroup, as they are when this is called).

    Raises:
        TypeError: n is no int.
        ValueError: n is not in 1..1024.
    """
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"n: expected int, got {type(n).__name__}")
    if not 1 <= n <= 1024:
        raise ValueError(f"n: expected an integer in 1..1024, got {n}")
    _core.set_num_threads(n)


def get_thread_source() -> str:
    """Where calls take their threads: `set_thread_source`, else ``FUSEDRNN_THREAD_SOURCE``, else "auto". Raises
    ValueError if ``FUSEDRNN_THREAD_SOURCE`` is none of its names."""
    return _core.thread_source()


def set_thread_source(source: str) -> None:
    """Chooses where calls take their threads, for the whole process. Results do not depend on it.

    Args:
        source: "pool", the threads of this package, which sleep between calls; "openmp", those of the OpenMP runtime
            that another library has loaded (libgomp, libiomp5 or libomp; the pool where there is none, and in the child
            of a process that had imported this package); or "auto": the pool for NumPy, OpenMP for front ends, whose
            operators leave their threads spinning. A call inside of a parallel region of OpenMP has one thread.

    Raises:
        TypeError: source is no str.
        ValueError: source is none of these.
    """
    if not isinstance(source, str):
        raise TypeError(f"source: expected str, got {type(source).__name__}")
    _core.set_thread_source(source)


def available_isas() -> list[str]:
    """The instruction sets that this build and this CPU have in common, best first."""
    return _core.available_isas()


def isa() -> str:
    """The instruction set in use: `set_isa`, else ``FUSEDRNN_ISA``, else the best. Raises ValueError if the one that
    ``FUSEDRNN_ISA`` names is not available."""
    return _core.isa()


def set_isa(name: str) -> None:
    """Chooses the instruction set, for the whole process. Results do not depend on it.

    Raises:
        TypeError: name is no str.
        ValueError: name is not one of `available_isas`.
    """
    if not isinstance(name, str):
        raise TypeError(f"isa: expected str, got {type(name).__name__}")
    _core.set_isa(name)


def release_memory() -> None:
    """Gives back the memory that is kept for the next call: blocks of 128 KB and more that weights, reserves and
    results have freed, at most 256 MB of them."""
    _core.release_memory()


def show_config() -> None:
    """Prints versions, instruction set, threads and their source, and the state of CUDA."""
    from .cuda import status  # loaded when it is first needed

    print(f"fusedrnn {__version__}, Python {platform.python_version()}, NumPy {np.__version__}, {platform.platform()}")
    print(f"ISA {isa()} (available: {', '.join(available_isas())}), {get_num_threads()} threads")
    runtime = os.fsdecode(_core.openmp_file()) or "none in this process"
    print(f"threads from: {get_thread_source()} (OpenMP runtime: {runtime})")
    print(f"CUDA: {status()}")
