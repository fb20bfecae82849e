"""Promise 5, safe: what could end or stop a process: exits, forks, signals, traps. Most in a child of its own."""

from __future__ import annotations

import os
import platform
import time

import numpy as np
import pytest

import fusedrnn
from agreement import assert_same_bits
from cases import DISTINCT, Cell, make_problem
from children import child


def wait_for(pid: int, seconds: float = 60) -> int:
    """The exit code of a child, which must end in time."""
    deadline = time.monotonic() + seconds
    while (finished := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            pytest.fail("the child hangs")
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(finished[1])


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_exit_while_daemon_threads_are_in_calls(training: bool) -> None:
    """As with NumPy, silently: a thread that wants the GIL of an interpreter that is gone must not end the process."""
    code = """
        import threading, time
        import numpy as np, fusedrnn
        z = lambda *shape: np.zeros(shape, "f4")
        w, x = fusedrnn.LSTMWeights(z(512, 128), z(512, 128)), z(50, 16, 128)
        fusedrnn.lstm, fusedrnn.lstm_forward, fusedrnn.lstm_backward  # imports, whose locks are Python's
        def calls():
            while True:
                if TRAINING:
                    out, reserve = fusedrnn.lstm_forward(x, w)
                    fusedrnn.lstm_backward(reserve, out.y)
                else:
                    fusedrnn.lstm(x, w)
        for _ in range(4):
            threading.Thread(target=calls, daemon=True).start()
        time.sleep(0.2)
        print("end")
    """
    for _ in range(4):
        assert child(code.replace("TRAINING", str(training))) == "end"


def test_exit_while_workers_are_idle() -> None:
    code = """
        import numpy as np, fusedrnn
        fusedrnn.set_num_threads(4)
        fusedrnn._core.set_schedule("units")
        z = lambda *shape: np.ones(shape, "f4")
        fusedrnn.lstm(z(20, 4, 256), fusedrnn.LSTMWeights(z(1024, 256), z(1024, 256)))
        print("end")
    """
    assert child(code) == "end"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("cell", DISTINCT, ids=str)
def test_fork_after_use(cell: Cell, rng: np.random.Generator) -> None:
    """The child has none of the parent's workers; it makes its own and gets the same bits."""
    fusedrnn.set_num_threads(2)
    problem = make_problem(cell, (20, 4, 16, 200), "float32", rng)
    want = problem.run()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for got, expected in zip(problem.run(), want, strict=True):
                assert_same_bits(got, expected)
            status = 0
        finally:
            os._exit(status)
    assert wait_for(pid) == 0
    for got, expected in zip(problem.run(), want, strict=True):
        assert_same_bits(got, expected)


def test_fork_while_another_thread_packs() -> None:
    """The child's first call with those weights packs them anew, whatever the parent's thread was about to do."""
    code = """
        import os, threading, time
        import numpy as np, fusedrnn
        x, hidden = np.zeros((1, 1, 8), "f4"), 1200
        arrays = np.zeros((4 * hidden, 8), "f4"), np.zeros((4 * hidden, hidden), "f4")
        for i in range(8):
            w = fusedrnn.LSTMWeights(*arrays)
            thread = threading.Thread(target=fusedrnn.lstm, args=(x, w))
            thread.start()
            time.sleep(1e-3 * (i % 4))
            child = os.fork()
            if child == 0:
                fusedrnn.lstm(x, w)
                os._exit(0)
            deadline = time.monotonic() + 20
            while os.waitpid(child, os.WNOHANG)[0] == 0:
                if time.monotonic() > deadline:
                    os.kill(child, 9)
                    print("the child hangs")
                    os._exit(0)
                time.sleep(1e-3)
            thread.join()
        print("end")
    """
    assert child(code, PYTHONWARNINGS="ignore::DeprecationWarning") == "end"


def test_signals_are_not_for_workers() -> None:
    """A signal that all of Python's threads block waits for `sigtimedwait`; a worker that took it would die of it."""
    code = """
        import os, signal
        import numpy as np, fusedrnn
        z = lambda *shape: np.zeros(shape, "f4")
        fusedrnn.set_num_threads(4)
        fusedrnn._core.set_schedule("units")
        fusedrnn.lstm(z(5, 1, 128), fusedrnn.LSTMWeights(z(512, 128), z(512, 128)))
        assert len(os.listdir("/proc/self/task")) == 4
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        os.kill(os.getpid(), signal.SIGUSR1)
        print(signal.sigtimedwait({signal.SIGUSR1}, 10).si_signo == signal.SIGUSR1)
    """
    assert child(code) == "True"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="traps of floating-point exceptions: x86-64 has them")
def test_a_caller_that_traps_floating_point_exceptions() -> None:
    """Kernels overflow, underflow and round; none of that is the caller's."""
    code = """
        import ctypes
        import numpy as np, fusedrnn
        from fusedrnn import _core
        from cases import CELLS, make_problem
        fusedrnn.set_num_threads(3)
        libm = ctypes.CDLL("libm.so.6")
        for cell in CELLS:
            problem = make_problem(cell, (5, 3, 7, 36), "float32", np.random.default_rng(0))
            for schedule in ("auto", "one", "rows", "units"):
                _core.set_schedule(schedule)
                libm.feenableexcept(0x3D)
                problem.run()
                libm.fedisableexcept(0x3D)
        print("end")
    """
    assert child(code) == "end"


@pytest.mark.parametrize(
    ("variable", "value", "threads"),
    [("FUSEDRNN_NUM_THREADS", "3", "3"), ("OMP_NUM_THREADS", "5", "5"), ("OMP_NUM_THREADS", "4,2", None)],
)
def test_threads_by_environment(variable: str, value: str, threads: str | None) -> None:
    settings = {"FUSEDRNN_NUM_THREADS": "", "OMP_NUM_THREADS": ""} | {variable: value}
    got = child("import fusedrnn; print(fusedrnn.get_num_threads())", **settings)
    assert threads is None or got == threads
    assert 1 <= int(got) <= 1024


def test_a_bad_environment_raises() -> None:
    code = """
        import fusedrnn
        try:
            fusedrnn.get_num_threads()
        except ValueError as e:
            print(e)
    """
    want = "FUSEDRNN_NUM_THREADS: expected an integer in 1..1024, got 'many'"
    assert child(code, FUSEDRNN_NUM_THREADS="many") == want
