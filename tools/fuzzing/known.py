"""Problems whose right bits are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from agreement import named
from cases import CELLS, DTYPES, Cell, Problem, make_problem, remade

Rng = np.random.Generator


def results(problem: Problem) -> list[bytes]:
    """The bits of all outputs and gradients."""
    out, gradients = problem.run()
    return [a.tobytes() for _, a in (*named(out), *named(gradients))]


@dataclass
class Known:
    problem: Problem
    want: list[bytes]

    def holds(self) -> bool:
        return results(self.problem) == self.want

    def require(self, context: str = "") -> None:
        if not self.holds():
            raise AssertionError(f"{self.problem.cell.name} gives other bits than before: {context}")

    def with_weights(self, change: Callable[[Any], Any]) -> Known:
        """With what becomes of the weights."""
        return Known(Problem(**vars(self.problem) | {"w": change(self.problem.w)}), self.want)

    def fresh(self) -> Known:
        """With weights that nobody has packed yet."""
        return self.with_weights(lambda w: remade(self.problem.cell, w))


def known(cell: Cell, shape: tuple[int, int, int, int], rng: Rng, dtype: str = "float32") -> Known:
    problem = make_problem(cell, shape, dtype, rng, lengths=True)
    return Known(problem, results(problem))


def require_all(every: list[Known], context: str) -> None:
    for k in every:
        k.require(context)


def some_known(rng: Rng, count: int, shape: tuple[int, int, int, int]) -> list[Known]:
    """Of different cells."""
    cells = [CELLS[i] for i in rng.permutation(len(CELLS))[:count]]
    return [known(cell, shape, rng, DTYPES[rng.integers(2)]) for cell in cells]
