"""Runs the code of `python bench --device cuda` on an emulated GPU: all but its clock, whose times mean nothing there.

python tools/check_bench_gpu.py          # needs PyTorch, rich and a C++ compiler
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.extend(str(Path(__file__).parents[1] / folder) for folder in ("tools/common", "bench"))

import pytest
import torch
from rich.console import Console

import fakegpu
import gpu
from cuda_cases import FORMATS, TensorsOnCpu
from fusedrnn.backends import arrays


class Calls:
    """A clock that counts."""

    made = 0

    def ms(self, run: Callable[[], Any]) -> float:
        run()
        self.made += 1
        return 1.0


def check_that_it_verifies_and_counts(format: str) -> None:
    clock = Calls()
    ceilings = gpu.Ceilings(torch, "cpu", clock, size=16)
    cases = [gpu.Case(op, mode, format, 3, 2, 5, 40) for op in ("lstm", "gru", "rnn") for mode in ("infer", "train")]
    results = [gpu.measure(case, torch, "cpu", clock, ceilings, 2) for case in cases]
    assert clock.made == 6 * 4 + 3 * (1 + 2) + 2  # ours and PyTorch's twice, exchanges, two ceilings
    assert cases[0].multiply_adds == 3 * 2 * 4 * 40 * 45
    assert any("1.00x" in line for line in gpu.print_table(results, Console(quiet=True)))


def check_that_it_refuses(ours: float, text: str) -> None:
    case = gpu.Case("lstm", "infer", "float16", 1, 1, 1, 1)
    with pytest.raises(AssertionError, match=text):
        gpu.verify(case, (torch.full((9,), ours), None), (torch.ones(9), None))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, fakegpu.installed(fakegpu.build_driver(Path(folder)), "roomy"):
        arrays.LIBRARIES["torch"] = TensorsOnCpu
        for format in FORMATS:
            check_that_it_verifies_and_counts(format)
            print(f"{format}: verified and counted")
        check_that_it_refuses(1.1, "0.1 away from PyTorch")
        check_that_it_refuses(float("nan"), "nan away")


if __name__ == "__main__":
    main()
