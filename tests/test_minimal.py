"""If only one file is run, then this one: each cell forward and backward, once."""

from __future__ import annotations

import numpy as np
import pytest

import fusedrnn
from cases import CELLS, Cell, make_problem, named, tolerance


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.name)
def test_forward_and_backward(cell: Cell, rng: np.random.Generator) -> None:
    problem = make_problem(cell, (4, 3, 5, 6), "float64", rng)
    for got, want in zip(problem.run(), problem.run(fusedrnn.reference), strict=True):
        for (name, a), (_, b) in zip(named(got), named(want), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance("float64", 40, 4, 10), err_msg=name)
