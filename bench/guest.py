"""Beside an operator library whose threads spin: a program that takes turns with PyTorch's operators, over the sum of
the parts measured apart, by where our threads come from: `python bench/guest.py`."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import _common
import fusedrnn
from by_address import ByAddress, address

assert _common
SIZES = [(100, 16, 256, 256), (20, 1, 256, 256), (100, 64, 128, 128), (1, 16, 512, 512)]


def ours(layer: fusedrnn.Layer, T: int, B: int, train: bool) -> tuple[Callable[[], Any], Any]:
    """A call by address, as a front end makes it, and y."""
    calls = ByAddress(layer)
    x = np.random.default_rng(0).standard_normal((T, B, layer.input_size)).astype("float32")
    states = [np.zeros((1, B, units), "float32") for units in calls.states]
    common, kept = calls.common(x, states, None, None)
    y, last = np.empty((T, B, layer.output_size), "float32"), calls.new_states(B, "float32")
    arguments = (*common, address(y), layer.output_size, tuple(map(address, last)))
    if not train:
        return lambda: (calls.runner.infer(*arguments, 0), kept, last), y
    raw = np.empty(calls.runner.reserve_bytes(T, B, 0, 0, False) + 64, np.uint8)
    reserve = raw[-address(raw) % 64 :]
    dx, dfirst = np.empty_like(x), calls.new_states(B, "float32")
    gradients = [np.empty_like(a) for a in calls.parameters if a is not None]
    rest = iter(gradients)
    dparameters = tuple(0 if a is None else address(next(rest)) for a in calls.parameters)

    def step() -> Any:
        calls.runner.forward(*arguments, address(reserve), 0.0, 0, 0)
        calls.runner.backward(
            *common, address(reserve), 0.0, 0, address(y), layer.output_size, (0,) * len(states), address(dx), False,
            tuple(map(address, dfirst)), (0,) * len(states), dparameters, 0,
        )  # fmt: skip
        return kept, raw, gradients, last

    return step, y


def seconds(run: Callable[[], Any], budget: float = 0.15) -> float:
    run()
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < budget:
        run()
        calls += 1
    return (time.perf_counter() - start) / calls


def measure(source: str, threads: int, rounds: int) -> None:
    """Prints, for each size: ms of our part, of theirs, of both in turn; in a process of its own."""
    import torch

    torch.set_num_threads(threads)
    fusedrnn.set_num_threads(threads)
    fusedrnn.set_thread_source(source)
    for train in (False, True):
        for T, B, I, H in SIZES:
            run, y = ours(fusedrnn.LSTM(I, H, rng=0), T, B, train)
            linear, norm, given = torch.nn.Linear(H, 4 * H), torch.nn.LayerNorm(4 * H), torch.from_numpy(y)

            def operators(linear: Any = linear, norm: Any = norm, given: Any = given) -> Any:
                with torch.inference_mode():
                    return torch.relu(norm(linear(given)))

            def both(run: Any = run, operators: Any = operators) -> None:
                run()
                operators()

            times = [[1e3 * seconds(part) for part in (run, operators, both)] for _ in range(rounds)]
            print(T, B, I, H, int(train), *(statistics.median(t) for t in zip(*times, strict=True)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--source", help="measure this one, in this process")
    args = parser.parse_args()
    if args.source:
        return measure(args.source, args.threads, args.rounds)
    table = Table(title=f"LSTM in turns with Linear, LayerNorm and relu of PyTorch, {args.threads} threads: ms")
    for heading in ("case", "threads from", "ours", "theirs", "in turns", "/ sum"):
        table.add_column(heading, justify="left" if heading in ("case", "threads from") else "right", no_wrap=True)
    rows = []
    for source in ("openmp", "pool"):
        command = [sys.executable, str(Path(__file__)), "--source", source, "--threads", str(args.threads)]
        out = subprocess.run([*command, "--rounds", str(args.rounds)], stdout=subprocess.PIPE, text=True, check=True)
        rows += [(line.split(), source) for line in out.stdout.splitlines()]
    for (T, B, I, H, train, *ms), source in sorted(rows, key=lambda row: (row[0][4], row[0][:4])):
        a, b, both = map(float, ms)
        mode = "train" if train == "1" else "infer"
        table.add_row(
            f"{mode} ({T},{B},{I},{H})", source, f"{a:.3g}", f"{b:.3g}", f"{both:.3g}", f"{both / (a + b):.2f}"
        )
    Console(width=110).print(table)
    return None


if __name__ == "__main__":
    main()
