"""How far results may be from the reference's, in one table; and whether results have the same bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import fusedrnn
from cases import Array, Problem


@dataclass(frozen=True)
class Bound:
    """Multiples of the unit roundoff times the square root of the number of roundings: see `roundings`."""

    element: float  # of the largest entry of the array, for each of its elements
    norm: float  # of the array's norm, for the norm of all errors


# The roundings on the way to a result are independent and have no bias, as far as random data can tell. So n of them
# come to about sqrt(n) * u of what they are taken of, and to L * sqrt(n) * u with a probability that falls as
# exp(-L^2 / 2) (Higham and Mary 2019, theorem 2.4). L = 4 for the worst of many elements, 1 for a norm, which averages
# over them. For float64 twice that, as the reference rounds as well. A worst case, n * u, would let float32 gradients
# pass that are wrong in 2 parts of a thousand.
BOUNDS = {"float32": Bound(4, 1), "float64": Bound(8, 2)}

# Sums of random terms are about as large as the largest of their array. In an array of fewer elements than this, all of
# them may be small differences of larger terms: there the scale is the largest entry of all arrays of the result.
FEW_ELEMENTS = 30


def roundings(problem: Problem, *, gradients: bool) -> int:
    """On the way to an output or a gradient: the longest chain of multiply-adds, and 20 more (five activations of at
    most 2 ulp), in each step; a step of the tests' problems does not magnify what it is given."""
    (T, B, _), w = problem.x.shape, problem.w
    shapes = problem.cell.shapes(w.input_size, w.hidden_size).values()
    terms: int = sum(shape[1] for shape in shapes if len(shape) == 2)
    if gradients:  # they sum over gates and units, and for weights over steps and rows
        terms += problem.cell.gates * w.hidden_size + T * B
    return (terms + 20) * max(int(T), 1)


def named(results: Any) -> list[tuple[str, Array]]:
    """The arrays of a result, with their names."""
    return [(name, a) for name, a in zip(results._fields, results, strict=True) if a is not None]


def assert_close(got: Any, want: Any, dtype: str, n: float, context: str = "") -> None:
    """Two results, as named tuples: `got` after n roundings in `dtype`, `want` from the reference in float64."""
    bound, unit = BOUNDS[dtype], float(np.sqrt(n) * np.finfo(dtype).eps / 2)
    largest = max(float(np.abs(b).max(initial=0)) for _, b in named(want))
    assert [name for name, _ in named(got)] == [name for name, _ in named(want)], context
    for (name, a), (_, b) in zip(named(got), named(want), strict=True):
        assert a.shape == b.shape, f"{context} {name}"
        few = b.size < FEW_ELEMENTS
        scale = largest if few else float(np.abs(b).max())
        np.testing.assert_allclose(a, b, rtol=0, atol=bound.element * unit * scale, err_msg=f"{context} {name}")
        if not few:
            error, norm = np.linalg.norm((a - b).ravel()), np.linalg.norm(b.ravel())
            assert error <= bound.norm * unit * norm, f"{context} {name}: norm of the errors {error} of {norm}"


def assert_agrees(problem: Problem, got: tuple[Any, Any], want: tuple[Any, Any] | None = None) -> None:
    """The outputs and gradients of a problem, against the reference's (`want`, or found here)."""
    want = want or problem.as_float64().run(fusedrnn.reference)
    dtype = str(problem.x.dtype)
    for gradients in (False, True):
        assert all(a.dtype == dtype for _, a in named(got[gradients]))
        assert_close(got[gradients], want[gradients], dtype, roundings(problem, gradients=gradients))


def lost_to_flushing(problem: Problem) -> float:
    """How far an element may be from the reference where all numbers are subnormal or little more.

    An operation whose operands or result count as zeros loses less than twice the smallest normal number (a product's
    other factor is at most 2 here); rounding loses less. Losses add up over all operations, and a step does not magnify
    what it is given.
    """
    return 2 * roundings(problem, gradients=True) * float(np.finfo(problem.x.dtype).smallest_normal)


def assert_same_bits(a: Any, b: Any, context: str = "") -> None:
    """Two results, as named tuples. A NaN is as good as another: payloads and signs are not promised."""
    for (name, x), (_, y) in zip(named(a), named(b), strict=True):
        assert x.dtype == y.dtype, f"{context} {name}"
        assert x.shape == y.shape, f"{context} {name}"
        bits = f"u{x.dtype.itemsize}"
        different = np.ascontiguousarray(x).view(bits) != np.ascontiguousarray(y).view(bits)
        different &= ~(np.isnan(x) & np.isnan(y))
        assert not different.any(), f"{context} {name}: {different.sum()} of {x.size} elements differ"


def run_everywhere(problem: Problem) -> tuple[Any, Any]:
    """The outputs and gradients of a problem on the ISA in use; on every other ISA they have the same bits."""
    got, current = problem.run(), fusedrnn.isa()
    try:
        for isa in fusedrnn.available_isas():
            if isa == current:
                continue
            fusedrnn.set_isa(isa)
            for a, b in zip(problem.run(), got, strict=True):
                assert_same_bits(a, b, f"{isa} and {current}:")
    finally:
        fusedrnn.set_isa(current)
    return got
