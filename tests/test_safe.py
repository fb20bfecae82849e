"""Promise 5, safe: the GIL is released, many threads may call at once, a fork is survived."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import fusedrnn
from cases import CELLS, Cell, assert_same_bits, make_problem, remade
from fusedrnn import _core

cells = pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.name)


@cells
def test_many_python_threads(cell: Cell, rng: np.random.Generator) -> None:
    """Eight threads at once, on weights that are packed by whoever comes first."""
    fusedrnn.set_num_threads(2)
    problems = [make_problem(cell, (10, 4, 8, 100 + i), "float32", rng) for i in range(4)]
    want = [p.run() for p in problems]
    fresh = [make_problem(cell, (1, 1, 8, 1), "float32", rng) for _ in problems]  # replaced below
    for p, q in zip(fresh, problems, strict=True):
        p.__dict__.update(q.__dict__)
        p.w = remade(cell, q.w)

    def work(i: int) -> None:
        for _ in range(20):
            for got, expected in zip(fresh[i % 4].run(), want[i % 4], strict=True):
                assert_same_bits(got, expected)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, i) for i in range(8)]:
            future.result()


def test_the_gil_is_released(rng: np.random.Generator) -> None:
    """While a kernel runs, another Python thread goes on."""
    problem = make_problem(CELLS[0], (400, 16, 128, 128), "float64", rng)
    fusedrnn.set_num_threads(1)
    running, done, ticks = threading.Event(), threading.Event(), 0

    def call() -> None:
        running.set()
        fusedrnn.lstm(problem.x, problem.w)
        done.set()

    thread = threading.Thread(target=call)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        thread.start()
        running.wait()
        while not done.is_set():
            ticks += 1
            time.sleep(0.001)
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert ticks > 5  # the call takes some 100 ms; with the GIL held there would be one or two


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@cells
def test_fork_after_use(cell: Cell, rng: np.random.Generator) -> None:
    """The child has none of the parent's workers; it makes its own and gets the same bits."""
    fusedrnn.set_num_threads(2)
    problem = make_problem(cell, (20, 4, 16, 200), "float32", rng)
    want = problem.run()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for got, expected in zip(problem.run(), want, strict=True):
                assert_same_bits(got, expected)
            status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + 60
    while (finished := os.waitpid(child, os.WNOHANG))[0] == 0:
        assert time.monotonic() < deadline, "the child hangs"
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(finished[1]) == 0
    for got, expected in zip(problem.run(), want, strict=True):
        assert_same_bits(got, expected)


def test_workers_rest_when_idle(rng: np.random.Generator) -> None:
    """No CPU time is used 50 ms after a call."""
    fusedrnn.set_num_threads(2)
    problem = make_problem(CELLS[0], (20, 4, 64, 256), "float32", rng)
    fusedrnn.lstm(problem.x, problem.w)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.03


def test_a_process_may_end_while_workers_run() -> None:
    code = (
        "import numpy as np, fusedrnn as f; f.set_num_threads(4); H = 256; z = lambda *s: np.ones(s, 'f4');"
        "f.lstm(z(20, 4, H), f.LSTMWeights(z(4 * H, H), z(4 * H, H)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("variable", "value", "threads"),
    [("FUSEDRNN_NUM_THREADS", "3", "3"), ("OMP_NUM_THREADS", "5", "5"), ("OMP_NUM_THREADS", "4,2", None)],
)
def test_threads_by_environment(variable: str, value: str, threads: str | None) -> None:
    env = {k: v for k, v in os.environ.items() if k not in ("FUSEDRNN_NUM_THREADS", "OMP_NUM_THREADS")}
    code = "import fusedrnn; print(fusedrnn.get_num_threads())"
    got = subprocess.run(
        [sys.executable, "-c", code], env=env | {variable: value}, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert threads is None or got == threads
    assert 1 <= int(got) <= 1024


def test_a_bad_environment_raises() -> None:
    code = "import fusedrnn; fusedrnn.get_num_threads()"
    env = os.environ | {"FUSEDRNN_NUM_THREADS": "many"}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert "ValueError: FUSEDRNN_NUM_THREADS: expected an integer in 1..1024, got 'many'" in run.stderr


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_kept_memory_is_bounded_and_can_be_given_back(rng: np.random.Generator) -> None:
    problem = make_problem(CELLS[0], (200, 64, 16, 200), "float32", rng)  # a reserve of 51 MB
    for _ in range(8):
        problem.run()
    fusedrnn.release_memory()
    gc.collect()
    before = resident_bytes()
    reserves = [fusedrnn.lstm_forward(problem.x, problem.w)[1] for _ in range(8)]
    del reserves
    # Beside the 2^28 bytes, what the allocator may keep of the eight y that were freed too; 10 MB for all else.
    others = 8 * problem.dy.nbytes + 10_000_000
    assert resident_bytes() - before < 2**28 + others  # of 410 MB and y that were freed
    fusedrnn.release_memory()
    assert resident_bytes() - before < others


def test_waiting_costs_nothing(rng: np.random.Generator) -> None:
    """50 ms after a call no thread burns CPU; nor do threads that an earlier call needed and later ones do not."""
    problem = make_problem(CELLS[0], (20, 16, 32, 64), "float32", rng)
    _core.set_schedule("rows")
    fusedrnn.set_num_threads(8)
    problem.run()
    fusedrnn.set_num_threads(2)
    problem.run()
    time.sleep(0.05)
    start = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - start < 0.02
