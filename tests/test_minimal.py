"""If only one file is run, then this one: each cell forward and backward, once."""

from __future__ import annotations

import numpy as np
import pytest

from agreement import assert_agrees, run_everywhere
from cases import CELLS, Cell, make_problem


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_forward_and_backward(cell: Cell, rng: np.random.Generator) -> None:
    problem = make_problem(cell, (4, 3, 5, 6), "float64", rng, lengths=True)
    assert_agrees(problem, run_everywhere(problem))
