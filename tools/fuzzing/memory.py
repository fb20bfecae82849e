"""Memory in use, and whether a call that is repeated uses more and more of it."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import fusedrnn

# What a call may add that is no leak: caches of NumPy fill slowly, pages are touched for the first time.
ALLOWED = {"Python objects": 0.9, "bytes of heap": 47.0, "bytes resident": 80e3}


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    ]


def _heap_reader() -> Callable[[], int] | None:
    """The bytes that malloc has handed out; None where the C library is not glibc 2.33 or later."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return None
    mallinfo2.restype = _Mallinfo2

    def heap() -> int:
        info = mallinfo2()
        return int(info.uordblks + info.hblkhd)

    return heap


_heap = _heap_reader()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def in_use() -> dict[str, int]:
    """After all garbage is collected, and what the library keeps has been given back."""
    gc.collect()
    fusedrnn.release_memory()
    heap = {} if _heap is None else {"bytes of heap": _heap()}
    return {"Python objects": sys.getallocatedblocks(), **heap, "bytes resident": resident_bytes()}


def growth(call: Callable[[], object], times: int = 100) -> str | None:
    """What grows with each of two rounds of calls, after two rounds that do not count; None if nothing does."""
    rounds = []
    for _ in range(4):
        for _ in range(times):
            call()
        rounds.append(in_use())
    _, *counted = rounds
    for what, allowed in ALLOWED.items():
        grown = [after[what] - before[what] for before, after in pairwise(counted) if what in after]
        if grown and min(grown) > allowed * times:
            return f"{what} grow by {grown[0]} and {grown[1]} in {times} calls each"
    return None


class Watch:
    """Holds that a process that makes ever new calls does not grow, once it has made many."""

    WARM, EVERY, MOST = 500, 250, 128 << 20  # calls, calls, bytes: the allocator keeps holes between blocks in use

    def __init__(self) -> None:
        self.calls = self.warm = 0

    def grown(self) -> str | None:
        """After each call; what has grown, or None."""
        self.calls += 1
        if self.calls < self.WARM or self.calls % self.EVERY != 0:
            return None
        now = in_use()["bytes resident"]
        self.warm = self.warm or now
        if now <= self.warm + self.MOST:
            return None
        return f"bytes resident grew from {self.warm} after {self.WARM} calls to {now} after {self.calls}"
