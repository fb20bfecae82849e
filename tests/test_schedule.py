"""What a call costs by the model, the schedules that follow from it, and meetings of threads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedrnn
from cases import CELLS, Cell, make_problem
from fusedrnn import _core


def lstm(H: int, I: int = 40) -> Any:
    w = fusedrnn.LSTMWeights(np.zeros((4 * H, I), "float32"), np.zeros((4 * H, H), "float32"))
    fusedrnn.lstm(np.zeros((1, 1, I), "float32"), w)
    return w._loaded


@pytest.mark.parametrize("threads", [1, 2, 3, 5, 16])
def test_meetings(threads: int) -> None:
    """Nobody leaves a meeting before all have come, also where there are more threads than CPUs."""
    met, nanoseconds = _core.probe_meeting(threads, 200)
    assert met == threads
    assert nanoseconds > 0
    for arguments in ((0, 1), (1025, 1), (1, 0)):
        with pytest.raises(ValueError, match="expected"):
            _core.probe_meeting(*arguments)


@pytest.mark.parametrize("cell", CELLS, ids=str)
@pytest.mark.parametrize("backward", [False, True])
def test_costs_grow_with_work(cell: Cell, backward: bool, rng: np.random.Generator) -> None:
    def cost(T: int, B: int, H: int) -> float:
        problem = make_problem(cell, (1, 1, 40, H), "float32", rng)
        problem.run()
        return float(problem.w._loaded.cost(T, B, 1, 1, 1, backward))

    least = cost(10, 4, 84)
    assert least > 0
    assert cost(20, 4, 84) > 1.5 * least
    assert cost(10, 16, 84) > least
    assert cost(10, 4, 168) > least


def test_costs_of_workers() -> None:
    w = lstm(512)
    one, rows, units = (w.cost(50, 64, *parts, 4, False) for parts in ((1, 1), (4, 1), (1, 4)))
    assert rows < one
    assert units < one
    _core.set_machine([("meeting", 1e9)])
    assert w.cost(50, 64, 1, 1, 1, False) < w.cost(50, 64, 1, 2, 2, False)


@pytest.mark.parametrize("threads", [2, 8, 96])
@pytest.mark.parametrize("backward", [False, True])
def test_choices_follow_costs(threads: int, backward: bool, rng: np.random.Generator) -> None:
    """For random sizes, no grid is cheaper by the model than the chosen one, but for the 3% that more threads than one
    must gain."""
    for _ in range(10):
        H, B = (int(np.exp(rng.uniform(np.log(least), np.log(700)))) for least in (17, 1))
        T = 1 << int(rng.integers(0, 9))  # lengths that stand for themselves
        w = lstm(H)
        rows, units, workers = w.schedule(T, B, threads, backward)
        chosen = w.cost(T, B, rows, units, workers, backward)
        n = threads
        while n > 1:
            for parts in range(1, min(n, -(-H // 16)) + 1):  # no ISA has wider vectors
                of_rows = max(1, min(n // parts, B))
                count = n if backward else of_rows * parts
                assert 0.969 * chosen <= w.cost(T, B, of_rows, parts, count, backward)
            n //= 2
        assert chosen <= w.cost(T, B, 1, 1, 1, backward)


def test_the_machine_decides() -> None:
    w = lstm(256)
    values = dict(_core.machine())
    _core.set_machine([("start", 1e12)])
    assert w.schedule(50, 32, 2) == (1, 1, 1)
    _core.set_machine([("start", 1.0), ("meeting", 1e9)])
    assert w.schedule(50, 32, 2) == (2, 1, 2)
    _core.set_machine([("meeting", 1.0), ("shared_line", 1e-3), ("l2_bytes", 1e5), ("l3_line", 1e3)])
    assert w.schedule(50, 2, 2) == (1, 2, 2)
    _core.set_machine(list(values.items()))
    assert dict(_core.machine()) == values


def test_grids_of_rows_and_units_share_the_work() -> None:
    _core.set_schedule("3x2")
    fusedrnn.set_num_threads(6)
    assert lstm(256).schedule(50, 32) == (3, 2, 6)
    assert lstm(256).schedule(50, 2) == (2, 2, 4)
    assert lstm(8).schedule(50, 32)[0] == 3
    fusedrnn.set_num_threads(2)  # no more workers than threads
    assert lstm(256).schedule(50, 32)[2] <= 2


def run_with(path: Path) -> subprocess.CompletedProcess[str]:
    code = "import fusedrnn, sys; print(dict(fusedrnn._core.machine()))"
    env = os.environ | {"FUSEDRNN_MACHINE": str(path)}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


def test_costs_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "machine.txt"
    path.write_text("# a comment\n\nmeeting 77.5\r\n\t l2_bytes\t +3e5 \nstart 1e3")
    done = run_with(path)
    assert done.returncode == 0, done.stderr
    assert "'meeting': 77.5" in done.stdout
    assert "'l2_bytes': 300000.0" in done.stdout
    assert "'start': 1000.0" in done.stdout


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("meetings 3", "expected names among l1_bytes, .*, got 'meetings'"),
        ("meeting", "expected lines of a name and a number, got 'meeting'"),
        ("meeting 3 4", "expected lines of a name and a number, got 'meeting 3 4'"),
        ("meeting x", "expected lines of a name and a number, got 'meeting x'"),
        ("meeting 3,5", "expected lines of a name and a number, got 'meeting 3,5'"),
        ("meeting 3us", "expected lines of a name and a number, got 'meeting 3us'"),
        ("meeting inf", "expected lines of a name and a number, got 'meeting inf'"),
        ("meeting -3", "meeting: expected a positive number, got -3"),
        ("meeting 0", "meeting: expected a positive number, got 0"),
    ],
)
def test_a_file_that_makes_no_sense(text: str, error: str, tmp_path: Path) -> None:
    path = tmp_path / "machine.txt"
    path.write_text(text)
    done = run_with(path)
    assert done.returncode == 1
    assert re.search(f"ValueError: FUSEDRNN_MACHINE: {error}", done.stderr)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.txt", tmp_path):  # a folder cannot be read either
        done = run_with(path)
        assert done.returncode == 1
        assert f"FUSEDRNN_MACHINE: expected a file that can be read, got '{path}'" in done.stderr


def test_values_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="set_machine: expected names among .*, got 'speed'"):
        _core.set_machine([("speed", 1.0)])
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"set_machine: fma: expected a positive number, got {value}"):
            _core.set_machine([("fma", value)])
