"""What is measured: cases and suites."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
MODES = ("infer", "train", "step")

GRID = [
    (1, 1, 32, 32),
    (100, 1, 64, 64),
    (100, 1, 256, 256),
    (100, 1, 512, 512),
    (100, 1, 1024, 1024),
    (100, 16, 256, 256),
    (100, 64, 128, 128),
    (100, 64, 512, 512),
    (1000, 16, 128, 128),
    (25, 128, 1024, 1024),
]
ODD = [(100, 1, 100, 100), (50, 5, 1, 257), (50, 9, 650, 200), (20, 512, 16, 16)]
QUICK = [(1, 1, 32, 32), (100, 1, 64, 64), (100, 1, 256, 256), (100, 16, 256, 256), (100, 64, 128, 128)]


@dataclass(frozen=True)
class Case:
    """One op on one size. Modes: infer; train (pack new weights, forward, backward); step (one cell call, `out=`)."""

    op: str
    mode: str
    dtype: str
    T: int
    B: int
    I: int
    H: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.T, self.B, self.I, self.H

    @property
    def itemsize(self) -> int:
        return 4 if self.dtype == "float32" else 8

    @property
    def flops(self) -> float:
        """Multiply-adds count twice; backward is two products for each of forward's."""
        return 2.0 * self.T * self.B * GATES[self.op] * self.H * (self.I + self.H) * (3 if self.mode == "train" else 1)

    @property
    def weight_bytes(self) -> int:
        """What every step has to read at least: the recurrent weights."""
        return GATES[self.op] * self.H * self.H * self.itemsize

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.op} {self.mode} {self.dtype} ({self.T},{self.B},{self.I},{self.H})"


def cases(suite: str, ops: list[str], modes: list[str], dtypes: list[str], sizes: list[tuple[int, ...]]) -> list[Case]:
    shapes = sizes or (QUICK if suite == "quick" else GRID + ODD)
    chosen = []
    for dtype in dtypes:
        for op in ops:
            for mode in modes:
                for shape in [(1, 1, 32, 32)] if mode == "step" and not sizes else shapes:
                    chosen.append(Case(op, mode, dtype, *shape))
    return chosen


def random_case(rng: np.random.Generator, modes: list[str], most: dict[str, int], most_flops: float) -> Case:
    """Any op, one of the modes; T, B, I and H log-uniform from 1 to `most`. Cases of more FLOPs are drawn again."""
    while True:
        op, mode = str(rng.choice(list(GATES))), str(rng.choice(modes))
        sizes = {name: round(math.exp(rng.uniform(0, math.log(n)))) for name, n in most.items()}
        case = Case(op, mode, "float32", **sizes)
        if case.flops <= most_flops:
            return case
