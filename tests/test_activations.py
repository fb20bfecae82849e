"""Promise 3, bounded activations: all 2^32 float32 inputs (a thinned run by default), float64 sampled. Subnormals count
as zeros (csrc/platform/float_environment.hpp), so a result that would be subnormal is 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import pytest

import fusedrnn
from cases import Array
from fusedrnn import _core

MAX_ULP = 2.0
BLOCK = 1 << 16


def sigmoid64(x: Array) -> Array:
    with np.errstate(under="ignore"):
        t = np.exp(-np.abs(x))
        return np.asarray(np.where(np.signbit(x), t, 1) / (1 + t))


def log_sigmoid64(x: Array) -> Array:
    with np.errstate(under="ignore"):
        return np.asarray(np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x))))


def exp64(x: Array) -> Array:
    with np.errstate(under="ignore"):
        return np.asarray(np.exp(x))


FUNCTIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "sigmoid": (_core.sigmoid, sigmoid64),
    "tanh": (_core.tanh, np.tanh),
    "exp_nonpositive": (_core.exp_nonpositive, exp64),
    "log_sigmoid": (_core.log_sigmoid, log_sigmoid64),
}
functions = pytest.mark.parametrize("name", FUNCTIONS)
isas = pytest.mark.parametrize("isa", fusedrnn.available_isas())


def domain(name: str, x: Array) -> Array:
    return x[~(x > 0)] if name == "exp_nonpositive" else x


def blocks(name: str, step: int) -> Iterator[Array]:
    """float32 values of the function's domain by their bits: every `step`-th block of all."""
    for first in range(0, 1 << 32, BLOCK * step):
        x = domain(name, np.arange(first, first + BLOCK, dtype=np.uint64).astype(np.uint32).view(np.float32))
        if x.size:
            yield x


def ulp32(want: Array) -> Array:
    exponent = np.floor(np.log2(np.maximum(np.abs(want), 2.0**-126)))
    return np.asarray(np.exp2(exponent - 23))


def check_float32(name: str, step: int) -> float:
    kernel, exact = FUNCTIONS[name]
    worst = 0.0
    for x in blocks(name, step):
        nan = np.isnan(x)
        got = kernel(x)
        assert np.isnan(got[nan]).all()
        # NumPy's float64 functions err by less than 2^-50, nothing on this scale.
        want, got = exact(x[~nan].astype(np.float64)), got[~nan]
        infinite = np.isinf(want)
        np.testing.assert_array_equal(got[infinite], want[infinite])
        want, got = want[~infinite], got[~infinite]
        error = np.abs(got - want) / ulp32(want)
        flushed = (np.abs(want) < 2.0**-126) & (got == 0)
        worst = max(worst, float(error[~flushed].max(initial=0)))
    assert worst <= MAX_ULP
    return worst


@functions
@isas
def test_float32_thinned(name: str, isa: str) -> None:
    fusedrnn.set_isa(isa)
    check_float32(name, 101)


@pytest.mark.exhaustive
@functions
def test_float32_all(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    worst = check_float32(name, 1)
    with capsys.disabled():
        print(f"\n{name}, all 2^32 float32 inputs: at most {worst:.3f} ulp")


@functions
def test_every_isa_gives_the_same_bits(name: str) -> None:
    kernel = FUNCTIONS[name][0]
    for x in blocks(name, 211):
        want = None
        for isa in fusedrnn.available_isas():
            fusedrnn.set_isa(isa)
            got = kernel(x[~np.isnan(x)]).view(np.uint32)
            want = got if want is None else want
            np.testing.assert_array_equal(got, want)


def exact_sigmoid(x: float) -> Fraction:
    t = exact_exp(-abs(x))
    return (t if x < 0 else Fraction(1)) / (1 + t)


def exact_tanh(x: float) -> Fraction:
    t = exact_exp(-2 * abs(x))
    return math.copysign(1, x).__trunc__() * (1 - t) / (1 + t)


def exact_exp(x: float) -> Fraction:
    """exp to some 2^-140, by halving the argument until a short series serves. For x <= 0."""
    halvings = max(0, math.frexp(x)[1] + 8)
    y = Fraction(x) / 2**halvings
    term = total = Fraction(1)
    for k in range(1, 22):
        term = _rounded(term * y / k)
        total += term
    for _ in range(halvings):
        total = _rounded(total * total)
    return total


def _rounded(value: Fraction) -> Fraction:
    """To about 200 significant bits, so that numerators stay short."""
    if value == 0:
        return value
    shift = 200 - value.numerator.bit_length() + value.denominator.bit_length()
    scaled = Fraction(round(value * Fraction(2) ** shift))
    return scaled / Fraction(2) ** shift


def exact_log_sigmoid(x: float) -> Fraction:
    """log1p(t) as 2 * atanh(u), by its series: u is at most 1/3."""
    t = exact_exp(-abs(x))
    u = _rounded(t / (2 + t))
    term, total = u, u
    for k in range(1, 50):
        term = _rounded(term * u * u)
        total += term / (2 * k + 1)
    return min(Fraction(x), Fraction(0)) - 2 * total


EXACT = {
    "sigmoid": exact_sigmoid,
    "tanh": exact_tanh,
    "exp_nonpositive": exact_exp,
    "log_sigmoid": exact_log_sigmoid,
}


@pytest.mark.parametrize(("name", "exact"), EXACT.items(), ids=EXACT)
@isas
def test_float64_sampled(name: str, exact: Callable[[float], Fraction], isa: str, rng: np.random.Generator) -> None:
    fusedrnn.set_isa(isa)
    edges = [-745.1, -744.4, -708.5, -37.5, 1e-300, 2.0**-1074, 18.99, 19.06, 19.49, 0.2599, 0.5493]
    x = np.concatenate([rng.standard_normal(150) * s for s in (1e-8, 1e-3, 0.1, 0.5, 1, 4, 20, 300)] + [edges])
    x = domain(name, x)
    got = FUNCTIONS[name][0](x)
    for a, b in zip(x.tolist(), got.tolist(), strict=True):
        want = exact(a)
        if abs(want) < 2.0**-1022 and b == 0:
            continue
        error = abs(Fraction(b) - want) / Fraction(math.ulp(float(want)))
        assert error <= MAX_ULP, f"{name}({a!r}) = {b!r}, off by {float(error):.2f} ulp"


@isas
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_saturation(isa: str, dtype: str) -> None:
    fusedrnn.set_isa(isa)
    x = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e30, -1e30], dtype)
    np.testing.assert_array_equal(_core.sigmoid(x), np.array([1, 0, np.nan, 0.5, 0.5, 1, 0], dtype))
    t = _core.tanh(x)
    np.testing.assert_array_equal(t, np.array([1, -1, np.nan, 0, 0, 1, -1], dtype))
    assert np.signbit(t[4])
    assert not np.signbit(t[3])
    exp = _core.exp_nonpositive(np.array([-np.inf, np.nan, 0.0, -0.0, -1e30], dtype))
    np.testing.assert_array_equal(exp, np.array([0, np.nan, 1, 1, 0], dtype))
    log = _core.log_sigmoid(x)
    np.testing.assert_array_equal(log[[0, 1, 2, 5, 6]], np.array([0, -np.inf, np.nan, 0, -1e30], dtype))
    np.testing.assert_allclose(log[3:5], -np.log(2.0), rtol=float(np.finfo(dtype).eps))


@functions
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tails_give_the_bits_of_whole_vectors(name: str, dtype: str, rng: np.random.Generator) -> None:
    kernel = FUNCTIONS[name][0]
    x = domain(name, (rng.standard_normal(140) * 3).astype(dtype))[:70]
    whole = kernel(x)
    for first in range(33):
        for last in range(first, 70, 3):
            np.testing.assert_array_equal(kernel(x[first:last]), whole[first:last])
