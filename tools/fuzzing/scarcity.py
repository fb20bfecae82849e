"""Scenarios where memory or threads are scarce: calls answer or raise MemoryError, and the next one is right."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import fusedrnn
from fusedrnn import _core

from .known import Known, Rng, require_all, results, some_known
from .playing import LARGE, MEDIUM, Skipped, in_a_fork, many_threads, no_warning_of_forks, until

MAPPED_FROM = -3  # M_MMAP_THRESHOLD of mallopt
NOBODY = 65534


def address_space() -> int:
    """In bytes, of this process."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def thread_count() -> int:
    return len(os.listdir("/proc/self/task"))


@contextmanager
def room_for(more: int) -> Iterator[None]:
    """Lets the process have so many more bytes of addresses than it has now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = address_space() + more, hard
    try:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def try_with_room(k: Known, room: int) -> bool:
    """Whether there was an answer; it must be right, and so must the next call's, with all the room there is."""
    answered = True
    gc.collect()
    fusedrnn.release_memory()
    try:
        with room_for(room):
            got = results(k.problem)
    except MemoryError:
        answered = False
    else:
        if got != k.want:
            raise AssertionError(f"{k.problem.cell.name} gives other bits when there are {room} bytes of room")
    k.require(f"after there were {room} bytes of room")
    return answered


def little_memory(rng: Rng, seconds: float) -> None:
    """Allocations fail here and there: with threads that are there, or yet to be made in a fork; weights are fresh."""
    mallopt: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MAPPED_FROM, 4096)  # so that most allocations ask the system, and may fail
    many_threads(rng)
    problems = [*some_known(rng, 3, MEDIUM), *some_known(rng, 3, LARGE), *some_known(rng, 2, (300, 20, 30, 100))]
    answers, deadline = [0, 0], time.monotonic() + seconds
    with no_warning_of_forks():
        for done in until(seconds, 40):
            if done >= 4 and 0 not in answers and time.monotonic() > deadline:
                break  # beside busy neighbours, eight threads on two cores take a second a round
            many_threads(rng)
            k = problems[rng.integers(len(problems))].fresh()
            room = int(4096 * 2 ** rng.uniform(0, 14))
            if rng.random() < 0.2:
                in_a_fork(partial(try_with_room, k, room), f"{room} bytes of room")
            else:
                answers[try_with_room(k, room)] += 1
    if 0 in answers:
        raise AssertionError(
            f"{answers[1]} answers, {answers[0]} MemoryErrors: this scenario has tested only one of them"
        )


def require_alone(rng: Rng, seconds: float, context: str) -> None:
    """Calls for many threads are right where none can be made."""
    problems = some_known(rng, 4, MEDIUM)
    for _ in until(seconds):
        many_threads(rng)
        require_all(problems, context)
    if thread_count() != 1:
        raise AssertionError(f"{thread_count()} threads could be made: this scenario has tested nothing")


def no_memory_for_threads(rng: Rng, seconds: float) -> None:
    """There are addresses for calls, but not for the stack of a thread."""
    fusedrnn.set_num_threads(1)
    some_known(rng, 4, MEDIUM)  # so that memory for calls is there
    if thread_count() > 1:
        raise Skipped(f"other libraries have made {thread_count() - 1} threads")
    with room_for(6 << 20):  # a stack is 8 MB
        require_alone(rng, seconds, "without memory for threads")


def no_right_to_threads(rng: Rng, seconds: float) -> None:
    """The limit of the user's threads is reached. It does not bind root, who becomes nobody."""
    if thread_count() > 1:
        raise Skipped(f"other libraries have made {thread_count() - 1} threads")
    if os.geteuid() == 0:
        try:
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        except OSError as e:
            raise Skipped(f"RLIMIT_NPROC does not bind root, who cannot become nobody: {e}") from None
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    fusedrnn.set_num_threads(1)
    _core.set_schedule("auto")
    require_alone(rng, seconds, "without a right to threads")
