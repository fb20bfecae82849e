"""Weights that change at every call: read where they lie, or packed before, over reading them from memory once; and
training steps on new weights against PyTorch: `python bench/weights.py`."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import _common
import fusedrnn
from by_address import ByAddress, address
from fusedrnn import _core
from suite import GATES

assert _common
SHAPES = [(1, 1), (1, 4), (1, 8), (2, 1), (4, 1)]
COLD = 120e6  # bytes of weights that take turns, so that none is in cache when its turn comes


def in_turns(runs: list[Callable[[], Any]], rounds: int, budget: float = 0.1) -> list[float]:
    """Median microseconds of each."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, taken in zip(runs, times, strict=True):
            run()
            calls, start = 0, time.perf_counter()
            while time.perf_counter() - start < budget:
                run()
                calls += 1
            taken.append(1e6 * (time.perf_counter() - start) / calls)
    return [statistics.median(t) for t in times]


class Calls:
    """Calls by address, each on the next of several sets of weights; all memory is there before."""

    def __init__(self, op: str, T: int, B: int, H: int) -> None:
        self.layer = getattr(fusedrnn, op.upper())(H, H, rng=0)
        self.calls = calls = ByAddress(self.layer)
        self.bytes = 8 * GATES[op] * H * H
        first = calls.parameters
        self.sets = []
        for _ in range(max(2, int(COLD / self.bytes))):
            calls.parameters = tuple(None if a is None else a.copy() for a in first)
            x = np.ones((T, B, H), "float32")
            states = [np.zeros((1, B, units), "float32") for units in calls.states]
            self.sets.append((*calls.common(x, states, None, None), calls.parameters))
        self.y, self.last = np.empty((T, B, H), "float32"), calls.new_states(B, "float32")
        self.raw = np.empty(calls.runner.reserve_bytes(T, B, 0, 0, False) + 64, np.uint8)
        self.dx, self.dfirst = np.empty((T, B, H), "float32"), calls.new_states(B, "float32")
        self.gradients = [None if a is None else np.empty_like(a) for a in first]
        self.turn, self.width = 0, H

    def _next(self) -> Any:
        self.turn = (self.turn + 1) % len(self.sets)
        return self.sets[self.turn][0]

    def infer(self) -> None:
        last = tuple(map(address, self.last))
        self.calls.runner.infer(*self._next(), address(self.y), self.width, last, 0)

    def train(self) -> None:
        common, last = self._next(), tuple(map(address, self.last))
        reserve = address(self.raw) + -address(self.raw) % 64
        self.calls.runner.forward(*common, address(self.y), self.width, last, reserve, 0.0, 0, 0)
        self.calls.runner.backward(
            *common, reserve, 0.0, 0, address(self.y), self.width, (0,) * len(last), address(self.dx), False,
            tuple(map(address, self.dfirst)), (0,) * len(last), tuple(map(address, self.gradients)), 0,
        )  # fmt: skip


def choosing(way: str, run: Callable[[], Any]) -> Callable[[], Any]:
    def call() -> Any:
        _core.set_in_place(way)
        return run()

    return call


def of_torch(op: str, H: int) -> tuple[Callable[[], Any], Callable[[], Any]] | None:
    """Inference and a training step at T=B=1, of layers that take turns."""
    try:
        import torch
    except ImportError:
        return None
    count = max(2, int(COLD / (8 * GATES[op] * H * H)))
    layers = [getattr(torch.nn, op.upper())(H, H) for _ in range(count)]
    x, turn = torch.ones(1, 1, H), [0]

    def infer() -> Any:
        turn[0] = (turn[0] + 1) % count
        with torch.inference_mode():
            return layers[turn[0]](x)

    def train() -> None:
        turn[0] = (turn[0] + 1) % count
        layer = layers[turn[0]]
        for p in layer.parameters():
            p.grad = None
        given = x.clone().requires_grad_()
        y = layer(given)[0]
        y.backward(y.detach())

    return infer, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", default=",".join(GATES))
    parser.add_argument("--hidden", default="64,256,1024")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    fusedrnn.set_num_threads(threads)
    rate = max(_core.probe_read(False, int(2e8), 2) for _ in range(3))
    console = Console(width=120)
    console.print(f"{fusedrnn.isa()}, {threads} threads; memory is read at {rate:.1f} GB/s")
    table = Table(title="Weights never seen before, us a call; /read: over the time to read them from memory once")
    for heading in (
        "case",
        "infer",
        "/read",
        "packed",
        "in place",
        "train",
        "packed",
        "in place",
        "torch infer",
        "train",
    ):
        table.add_column(heading, justify="left" if heading == "case" else "right", no_wrap=True)
    for op in args.op.split(","):
        for H in map(int, args.hidden.split(",")):
            peers = of_torch(op, H)
            for T, B in SHAPES:
                calls = Calls(op, T, B, H)
                both = (calls.infer, calls.train)
                runs = [choosing(way, run) for run in both for way in ("auto", "never", "always")]
                peer = list(peers) if peers and (T, B) == (1, 1) else []
                us = in_turns([*runs, *peer], args.rounds)
                over = us[0] / (calls.bytes / rate / 1e3)
                cells = [f"{us[0]:.0f}", f"{over:.2f}", *(f"{t:.0f}" for t in us[1:])]
                table.add_row(f"{op} ({T},{B},{H},{H})", *cells)
    _core.set_in_place("auto")
    console.print(table)


if __name__ == "__main__":
    main()
