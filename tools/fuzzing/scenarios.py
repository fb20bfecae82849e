"""What may kill a process or stop it for ever. Each scenario is played in a process of its own, for so many seconds at
least; it raises where something is wrong, and the process must end by itself afterwards."""

from __future__ import annotations

import atexit
import copy
import faulthandler
import os
import pickle
import resource
import select
import shutil
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

import fusedrnn
from agreement import assert_same_bits
from cases import CELLS
from fusedrnn import _core

from . import floats, scarcity
from .drawn import SCHEDULES
from .known import Known, Rng, known, require_all, some_known
from .playing import LARGE, MEDIUM, PACKING, Skipped, daemons, in_a_fork, many_threads, no_warning_of_forks, until

Scenario = Callable[[Rng, float], None]


# Ends


def exit_while_daemons_call(rng: Rng, seconds: float) -> None:
    """The process ends while daemon threads are inside calls, some of which pack weights, or make many short steps."""
    problems = [*some_known(rng, 3, LARGE), *some_known(rng, 3, (1, 1, 3, 4))]

    def repeat(task: Callable[[], object]) -> None:
        while True:
            task()

    for k in problems:
        for task in (k.holds, k.fresh().holds, lambda k=k: k.fresh().holds()):
            threading.Thread(target=repeat, args=(task,), daemon=True).start()
    time.sleep(rng.uniform(0, min(seconds, 0.3)))


def calls_at_exit(rng: Rng, seconds: float) -> None:
    """Calls from atexit, and from a __del__ that runs when modules are torn down."""
    many_threads(rng)
    problems = some_known(rng, 4, MEDIUM)

    def check() -> None:
        for k in problems:
            if not k.holds():
                os._exit(3)

    class Last:
        def __del__(self) -> None:
            check()

    atexit.register(check)
    sys.modules["a module that keeps the last object"] = Last()  # type: ignore[assignment]


# Forks


def fork_while_packing(rng: Rng, seconds: float) -> None:
    """Forks while other threads pack fresh weights; the child calls with the same weights."""
    fusedrnn.set_num_threads(2)
    shared = some_known(rng, 3, PACKING)

    def pack(i: int) -> None:
        shared[i] = shared[i].fresh()
        shared[i].require("packed by a thread")

    with no_warning_of_forks(), daemons(*(lambda i=i: pack(i) for i in range(3))):
        for _ in until(seconds):
            time.sleep(rng.uniform(0, 0.01))
            in_a_fork(lambda: require_all(shared, "in a fork"), "weights that another thread may be packing")


def fork_while_calling(rng: Rng, seconds: float) -> None:
    """Forks, from any thread, while others call on several threads; parent and child go on."""
    many_threads(rng)
    problems = some_known(rng, 3, MEDIUM)

    def fork() -> None:
        in_a_fork(lambda: require_all(problems, "in a fork"), "weights in use")

    with no_warning_of_forks(), daemons(*(lambda k=k: k.require("beside forks") for k in problems), fork) as raised:
        for _ in until(seconds):
            fork()
            if raised:
                break


# Signals


def sigusr1_is_waited_for(rng: Rng, seconds: float) -> None:
    """A signal that all Python threads block stays for sigtimedwait: no thread of the library takes it."""
    many_threads(rng)
    problems = some_known(rng, 3, MEDIUM)
    blocked = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    with daemons(*(lambda k=k: k.require("beside signals") for k in problems[:2])):
        for _ in until(seconds):
            sent = sorted(blocked)[rng.integers(len(blocked))]
            os.kill(os.getpid(), sent)
            got = signal.sigtimedwait(blocked, 10)
            if got is None or got.si_signo != sent:
                raise AssertionError(f"sent {sent!r}, waited and got {got}")
            problems[2].require("after a signal")


class Alarm(Exception):
    pass


def handlers_that_raise(rng: Rng, seconds: float) -> None:
    """Handlers of timers raise during calls; calls before and after are right."""
    many_threads(rng)
    problems = some_known(rng, 4, MEDIUM)
    timers = ((signal.ITIMER_REAL, signal.SIGALRM), (signal.ITIMER_PROF, signal.SIGPROF))
    armed = [False]

    def ring(*_: Any) -> None:
        if armed[0]:
            armed[0] = False
            raise Alarm

    for timer, number in timers:
        signal.signal(number, ring)
        signal.setitimer(timer, 1e-3, float(rng.uniform(3e-4, 3e-3)))
    rings = 0
    for _ in until(seconds, 20):
        try:
            armed[0] = True
            require_all(problems, "beside timers")
            armed[0] = False
        except Alarm:
            rings += 1
    for timer, _ in timers:
        signal.setitimer(timer, 0)
    if rings == 0:
        raise AssertionError("no timer rang: this scenario has tested nothing")
    require_all(problems, "after timers")


def processes_end_meanwhile(rng: Rng, seconds: float) -> None:
    """Other children of the process end, and SIGCHLD comes, during calls."""
    many_threads(rng)
    problems = some_known(rng, 3, MEDIUM)
    ended = []
    signal.signal(signal.SIGCHLD, lambda *_: ended.append(1))
    true = shutil.which("true")
    if true is None:
        raise Skipped("there is no program `true`")
    for _ in until(seconds):
        child = os.posix_spawn(true, ["true"], dict(os.environ))
        require_all(problems, "beside children")
        if os.waitpid(child, 0) != (child, 0):
            raise AssertionError("another child of the process ended wrongly")
    if not ended:
        raise AssertionError("SIGCHLD did not come")


def stopped_and_continued(rng: Rng, seconds: float) -> None:
    """The process is stopped and continued during calls."""
    many_threads(rng)
    problems, parent = some_known(rng, 3, MEDIUM), os.getpid()
    read, write = os.pipe()
    stopper = os.fork()
    if stopper == 0:
        os.close(write)
        with suppress(ProcessLookupError):
            while not select.select([read], [], [], 0.005)[0]:  # until the other end is closed
                os.kill(parent, signal.SIGSTOP)
                time.sleep(0.003)
                os.kill(parent, signal.SIGCONT)
        os._exit(0)
    try:
        for _ in until(seconds):
            require_all(problems, "beside stops")
    finally:
        os.close(write)
        os.waitpid(stopper, 0)


# Threads


def settings_change_beneath(rng: Rng, seconds: float) -> None:
    """Many Python threads call, on weights that are packed by whichever comes first, while settings change."""
    shared = some_known(rng, 6, MEDIUM)
    isas = fusedrnn.available_isas()

    def call(i: int) -> None:
        k = shared[i % len(shared)]
        shared[i % len(shared)] = k.fresh()
        k.require("while settings change")

    def change() -> None:
        fusedrnn.set_num_threads(int(rng.integers(1, 9)))
        fusedrnn.set_isa(isas[rng.integers(len(isas))])
        _core.set_schedule(SCHEDULES[rng.integers(4)])
        fusedrnn.release_memory()
        time.sleep(0.001)

    with daemons(*(lambda i=i: call(i) for i in range(9)), change) as raised:
        for _ in until(seconds):
            time.sleep(0.01)
            if raised:
                break


def one_reserve_for_many(rng: Rng, seconds: float) -> None:
    """Threads that use the same reserve at once get the same gradients."""
    many_threads(rng)
    problems = some_known(rng, 4, MEDIUM)
    for _ in until(seconds):
        p = problems[rng.integers(len(problems))].problem
        _, forward, backward, _ = p.cell.functions()
        _, reserve = forward(p.x, p.w, *p.states, **p.kwargs)
        start, got = threading.Barrier(4), list[Any]()

        def use(start: Any = start, got: Any = got, args: Any = (reserve, p.dy), backward: Any = backward) -> None:
            start.wait()
            got.append(backward(*args))

        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(got) != 4:
            raise AssertionError(f"{p.cell.name}: one reserve gave {len(got)} gradients for 4 threads")
        for other in got[1:]:
            assert_same_bits(other, got[0], f"{p.cell.name}: one reserve for many threads")


def copies_beside_calls(rng: Rng, seconds: float) -> None:
    """Weights are copied and pickled while other threads call on them, or pack them; a fork unpickles them."""
    many_threads(rng)
    shared = some_known(rng, 6, MEDIUM)
    ways: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy, lambda w: pickle.loads(pickle.dumps(w))]

    def call(i: int) -> None:
        k = shared[i]
        if rng_of[i].random() < 0.3:
            shared[i] = k = k.fresh()
        k.require("beside copies")

    def unpickle(k: Known, pickled: bytes) -> None:
        k.with_weights(lambda w: pickle.loads(pickled)).require("unpickled in a fork")

    rng_of = [np.random.default_rng(int(n)) for n in rng.integers(2**32, size=3)]  # one for each thread
    with no_warning_of_forks(), daemons(*(lambda i=i: call(i) for i in range(3))) as raised:
        for count in until(seconds, 6):
            k = shared[count % 6].with_weights(ways[rng.integers(len(ways))])
            k.require("with weights that were copied beside calls")
            if rng.random() < 0.3:
                shared[count % 6] = k
            if count % 10 == 0:
                in_a_fork(partial(unpickle, k, pickle.dumps(k.problem.w)), "weights that were pickled")
            if raised:
                break


def one_cpu(rng: Rng, seconds: float) -> None:
    """Many threads of the library on one CPU, then on all, then on one again."""
    cpus = os.sched_getaffinity(0)
    problems = some_known(rng, 4, MEDIUM)
    for count in until(seconds):
        os.sched_setaffinity(0, cpus if count % 3 == 2 else {min(cpus)})
        many_threads(rng)
        require_all(problems, "on one CPU")


def small_stacks(rng: Rng, seconds: float) -> None:
    """Python threads with small stacks call every cell."""
    many_threads(rng)
    problems = [known(cell, MEDIUM, rng) for cell in CELLS]
    threading.stack_size(160 << 10)
    for _ in until(seconds):
        with daemons(*(lambda k=k: k.require("on a small stack") for k in problems[:: max(1, len(problems) // 4)])):
            time.sleep(0.02)
        problems = problems[1:] + problems[:1]


# Sizes


def no_rows(rng: Rng, seconds: float) -> None:
    """Sequences of 2^40 steps without rows, and of 2^34 rows without steps, end at once or are refused."""
    faulthandler.dump_traceback_later(8, exit=True)
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for cell in CELLS:
        k = known(cell, (1, 1, 2, 3), rng)
        infer, forward, backward, step = cell.functions()
        width = k.problem.x.shape[2]
        for shape in ((2**40, 0, width), (0, 2**34, width)):
            x = np.empty(shape, "f4")
            print(f"{cell.name}, x of shape {shape}", flush=True)  # the last line of a scenario that does not end
            with suppress(MemoryError):
                infer(x, k.problem.w)
                _, reserve = forward(x, k.problem.w)
                backward(reserve, None)
        step(np.empty((0, width), "f4"), k.problem.w)
        k.require("after calls without rows")
    faulthandler.cancel_dump_traceback_later()


SCENARIOS: dict[str, Scenario] = {
    f.__name__: f
    for f in (
        exit_while_daemons_call,
        calls_at_exit,
        fork_while_packing,
        fork_while_calling,
        sigusr1_is_waited_for,
        handlers_that_raise,
        processes_end_meanwhile,
        stopped_and_continued,
        settings_change_beneath,
        one_reserve_for_many,
        copies_beside_calls,
        one_cpu,
        small_stacks,
        no_rows,
        floats.flags_stay,
        floats.rounding_does_not_matter,
        floats.traps_do_not_spring,
        scarcity.little_memory,
        scarcity.no_memory_for_threads,
        scarcity.no_right_to_threads,
    )
}


def play(name: str, seed: int, seconds: float) -> int:
    """In the child: plays a scenario and says so. The process then ends as any Python program does."""
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    try:
        SCENARIOS[name](np.random.default_rng([seed, 3, zlib.crc32(name.encode())]), seconds)
    except Skipped as e:
        print(f"skipped {name}: {e}", flush=True)
    else:
        print(f"ok {name}", flush=True)
    return 0
