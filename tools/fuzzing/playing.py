"""What scenarios are made of: time, threads, forks."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import fusedrnn
from fusedrnn import _core

from .known import Rng

MEDIUM = (12, 6, 20, 40)  # (T, B, I, H): calls of a fraction of a millisecond
PACKING = (1, 1, 64, 400)  # of which packing fresh weights takes the most
LARGE = (20, 8, 64, 256)  # of some milliseconds, with weights that take as long to pack


class Skipped(Exception):
    """A scenario that cannot be played here."""


def until(seconds: float, least: int = 1) -> Iterator[int]:
    """Counts rounds, so many at least, until the time is over."""
    deadline, count = time.monotonic() + seconds, 0
    while count < least or time.monotonic() < deadline:
        yield count
        count += 1


@contextmanager
def daemons(*tasks: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Threads that repeat tasks, until the end of the block; what they raised."""
    stop, raised = threading.Event(), list[BaseException]()

    def repeat(task: Callable[[], object]) -> None:
        try:
            while not stop.is_set():
                task()
        except BaseException as e:
            raised.append(e)

    threads = [threading.Thread(target=repeat, args=(task,), daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    try:
        yield raised
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
        if any(thread.is_alive() for thread in threads):
            raise AssertionError("a thread does not come back from its call")
    if raised:
        raise raised[0]


def in_a_fork(task: Callable[[], object], what: str, seconds: float = 10) -> None:
    """Runs a task in the child of a fork, which must end in time, without an exception."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            task()
            status = 0
        except BaseException as e:
            os.write(2, f"{type(e).__name__}: {e}\n".encode())
        finally:
            os._exit(status)
    deadline = time.monotonic() + seconds
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGABRT)
            os.waitpid(child, 0)
            raise AssertionError(f"{what}: the child of a fork hangs")
        time.sleep(0.001)
    if (code := os.waitstatus_to_exitcode(ended[1])) != 0:
        raise AssertionError(f"{what}: the child of a fork ended with {code}")


def many_threads(rng: Rng) -> None:
    fusedrnn.set_num_threads(int(rng.integers(2, 9)))
    _core.set_schedule(["rows", "units"][rng.integers(2)])


@contextmanager
def no_warning_of_forks() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's, of forks of processes with threads
        yield
