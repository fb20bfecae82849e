"""Promise 5, safe: the GIL is released, many threads may call at once, memory is bounded. What may end a process is in
test_process.py."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import fusedrnn
from agreement import assert_same_bits
from cases import CELLS, DISTINCT, Cell, make_problem, remade
from fusedrnn import _core


@pytest.mark.parametrize("cell", DISTINCT, ids=str)
def test_many_python_threads(cell: Cell, rng: np.random.Generator) -> None:
    """Eight threads at once, on weights that nobody has packed yet."""
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


def test_waiting_costs_nothing(rng: np.random.Generator) -> None:
    """50 ms after a call no thread burns CPU; nor do threads that an earlier call needed and later ones do not."""
    problem = make_problem(CELLS[0], (20, 16, 32, 64), "float32", rng)
    _core.set_schedule("rows")
    for threads in (8, 2):
        fusedrnn.set_num_threads(threads)
        problem.run()
        time.sleep(0.05)
        start = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - start < 0.02


def test_freed_memory_is_taken_again(rng: np.random.Generator) -> None:
    """By a block of about the size, and by no other; small blocks are not kept."""
    problem = make_problem(CELLS[0], (100, 16, 8, 100), "float32", rng)
    size = 6 * problem.dy.nbytes  # of a reserve
    fusedrnn.lstm_forward(problem.x, problem.w)  # packs the weights
    fusedrnn.release_memory()
    assert _core.kept_memory() == 0
    out, reserve = fusedrnn.lstm_forward(problem.x, problem.w)
    assert _core.kept_memory() == 0
    del out, reserve
    kept = _core.kept_memory()
    assert size + problem.dy.nbytes <= kept <= size + problem.dy.nbytes + 128  # each of the two in whole cache lines
    for steps in (100, 95):  # a block is at most a quarter larger than what is asked for
        taken = fusedrnn.lstm_forward(problem.x[:steps], problem.w)
        assert _core.kept_memory() == 0
        del taken
        assert _core.kept_memory() == kept
    taken = fusedrnn.lstm_forward(problem.x[:50], problem.w)
    assert _core.kept_memory() == kept
    del taken
    assert _core.kept_memory() > kept
    fusedrnn.release_memory()
    assert _core.kept_memory() == 0
    fusedrnn.lstm_forward(problem.x[:1], problem.w)
    assert _core.kept_memory() == 0


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
