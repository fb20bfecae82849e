"""How far results may be from the reference's, in one table; and whether results have the same bits."""

from __future__ import annotations

from collections.abc import Iterable
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
# them may be small differences of larger terms: there the scale is the largest entry of all arrays of the result, and
# of the states, or gradients, that these terms begin with.
FEW_ELEMENTS = 30

# The step of a central difference that balances its truncation error, ~ step^2, against rounding, ~ u / step.
STEP = float(np.finfo("float64").eps) ** (1 / 3)
# Both errors are then of the order of step^2 = eps^(2/3), times the loss's third derivative or its value: below 100 for
# these sizes, where at most some 200 outputs of order 1 and of random signs are summed.
DIFFERENCE_TOLERANCE = 100 * STEP**2


def roundings(problem: Problem, *, gradients: bool) -> int:
    """On the way to an output or a gradient: the longest chain of multiply-adds, and 20 more (five activations of at
    most 2 ulp), in each step; a step of the tests' problems does not magnify what it is given."""
    (T, B, _), w = problem.x.shape, problem.w
    return roundings_of(problem.cell.shapes(w.input_size, w.hidden_size).values(), 1, 1, T, B, gradients)


def roundings_of_layers(layer: fusedrnn.Layer, seq_len: int, batch_size: int, *, gradients: bool) -> int:
    """As `roundings`: layer after layer, whose directions meet in the next one."""
    shapes = [a.shape for a in layer.state_dict().values()]
    return roundings_of(shapes, layer.num_layers, layer.num_directions, seq_len, batch_size, gradients)


def roundings_of(shapes: Iterable[Any], layers: int, directions: int, T: int, B: int, gradients: bool) -> int:
    """The same, of parameters of these shapes."""
    matrices = [shape for shape in shapes if len(shape) == 2]
    terms: int = sum(columns for _, columns in matrices) + 20 * layers * directions
    if gradients:  # they sum over gates and units, and for weights over steps and rows
        terms += layers * (max(rows for rows, _ in matrices) + T * B)
    return terms * max(T, 1)


def named(results: Any) -> list[tuple[str, Array]]:
    """The arrays of a result, with their names."""
    return [(name, a) for name, a in zip(results._fields, results, strict=True) if a is not None]


def rounding(dtype: str, n: float) -> float:
    """Of n roundings in `dtype`, as a share of the numbers that they are taken of."""
    return float(np.sqrt(n) * np.finfo(dtype).eps / 2)


def element_bound(dtype: str, n: float) -> float:
    """How far an element may be after n roundings, as a share of the largest of its array."""
    return BOUNDS[dtype].element * rounding(dtype, n)


def assert_close(got: Any, want: Any, dtype: str, n: float, context: str = "", given: Iterable[Array] = ()) -> None:
    """Two results, as named tuples: `got` after n roundings in `dtype`, `want` from the reference in float64."""
    assert_arrays_close(dict(named(got)), dict(named(want)), dtype, n, context, given)


def assert_arrays_close(
    got: dict[str, Array],
    want: dict[str, Array],
    dtype: str,
    n: float,
    context: str = "",
    given: Iterable[Array] = (),
) -> None:
    """As `assert_close`, of arrays by their names."""
    bound, norm_bound = element_bound(dtype, n), BOUNDS[dtype].norm * rounding(dtype, n)
    largest = max(float(np.abs(b).max(initial=0)) for b in [*want.values(), *given])
    assert got.keys() == want.keys(), context
    for name, b in want.items():
        a = got[name]
        assert a.shape == b.shape, f"{context} {name}"
        few = b.size < FEW_ELEMENTS
        scale = largest if few else float(np.abs(b).max())
        np.testing.assert_allclose(a, b, rtol=0, atol=bound * scale, err_msg=f"{context} {name}")
        if not few:
            error, norm = np.linalg.norm((a - b).ravel()), np.linalg.norm(b.ravel())
            assert error <= norm_bound * norm, f"{context} {name}: norm of the errors {error} of {norm}"


def assert_agrees(problem: Problem, got: tuple[Any, Any], want: tuple[Any, Any] | None = None) -> None:
    """The outputs and gradients of a problem, against the reference's (`want`, or found here)."""
    want = want or problem.as_float64().run(fusedrnn.reference)
    dtype = str(problem.x.dtype)
    for gradients, given in ((False, problem.states), (True, problem.dstates)):
        assert all(a.dtype == dtype for _, a in named(got[gradients]))
        assert_close(got[gradients], want[gradients], dtype, roundings(problem, gradients=gradients), given=given)


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
