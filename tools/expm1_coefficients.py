"""Coefficients of the polynomials behind `sigmoid` and `tanh` (csrc/cells/activations.hpp).

Fits q in  expm1(r) = r + r^2 * q(r)  on -1/2 ln(2) <= r <= 1/2 ln(2), for tanh 3/4 ln(2) (plus a little, for the
rounding of the range reduction) so that the error relative to r is smallest, then rounds one coefficient at a time to
the target precision and fits the rest again. Prints C++ literals and the error that is left.

    python tools/expm1_coefficients.py        # needs mpmath
"""

from __future__ import annotations

import struct

from mpmath import mp, mpf

mp.prec = 200
LOW = -mp.log(2) / 2 * mpf("1.0001")
HIGH = {"sigmoid": -LOW, "tanh": -LOW * 3 / 2}


def round_to(value: mpf, fmt: str) -> mpf:
    return mpf(struct.unpack(fmt, struct.pack(fmt, float(value)))[0])


def target(r: mpf) -> mpf:
    return mpf("0.5") if r == 0 else (mp.expm1(r) - r) / (r * r)


def fit(fixed: list[mpf], degree: int, high: mpf) -> list[mpf]:
    """Least squares of the error relative to r at 64 Chebyshev nodes: within a bit of minimax."""
    nodes = [(LOW + high) / 2 + (high - LOW) / 2 * mp.cos(mp.pi * (2 * k + 1) / 128) for k in range(64)]
    rows = [[r ** (j + 1) for j in range(len(fixed), degree + 1)] for r in nodes]
    rhs = [(target(r) - sum((c * r**j for j, c in enumerate(fixed)), mpf(0))) * r for r in nodes]
    solution = mp.lu_solve(mp.matrix(rows), mp.matrix(rhs))
    return fixed + list(solution)


def worst(q: list[mpf], high: mpf) -> mpf:
    """Largest |error of expm1(r)| / |r|."""
    points = [LOW + (high - LOW) * k / 4000 for k in range(4001)]
    return max(abs((target(r) - mp.polyval(q[::-1], r)) * r) for r in points)


def main() -> None:
    for name, fmt, degree in (("sigmoid", "f", 4), ("tanh", "f", 5), ("sigmoid", "d", 9), ("tanh", "d", 10)):
        q: list[mpf] = [mpf("0.5")]
        while len(q) <= degree:
            q.append(round_to(fit(q, degree, HIGH[name])[len(q)], fmt))
        error = float(mp.log(worst(q, HIGH[name]), 2))
        print(f"{name}, {'float32' if fmt == 'f' else 'float64'}: degree {degree}, error relative to r 2^{error:.1f}")
        for c in q:
            print("   ", float(c).hex(), float(c))
    ln2 = mp.log(2)
    for fmt, bits in (("f", 15), ("d", 42)):
        hi = mpf(int(ln2 * 2**bits)) / 2**bits
        print("ln2_hi", float(hi).hex(), "ln2_lo", float(round_to(ln2 - hi, fmt)).hex())


if __name__ == "__main__":
    main()
