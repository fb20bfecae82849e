"""How far the kernels are from the float64 reference, over all cells and sizes of the tests: the largest error of an
output, and the largest error of a gradient relative to the largest gradient of its problem.

    python bench/accuracy.py
"""

from __future__ import annotations

import numpy as np

import _common  # noqa: F401
import fusedrnn
from agreement import named
from cases import CELLS, DTYPES, SHAPES, make_problem


def main() -> None:
    for dtype in DTYPES:
        outputs = gradients = 0.0
        for cell in CELLS:
            for shape in SHAPES:
                problem = make_problem(cell, shape, dtype, np.random.default_rng(0))
                (out, grads), (want_out, want_grads) = problem.run(), problem.as_float64().run(fusedrnn.reference)
                for (_, a), (_, b) in zip(named(out), named(want_out), strict=True):
                    outputs = max(outputs, float(np.abs(a - b).max(initial=0)))
                largest = max(1e-30, *(float(np.abs(b).max(initial=0)) for _, b in named(want_grads)))
                for (_, a), (_, b) in zip(named(grads), named(want_grads), strict=True):
                    gradients = max(gradients, float(np.abs(a - b).max(initial=0)) / largest)
        print(f"{dtype}: outputs within {outputs:.1e}, gradients within {gradients:.1e} of the largest")


if __name__ == "__main__":
    main()
