"""Coefficients of the polynomial behind `sigmoid` and `tanh` (csrc/cells/activations.hpp).

Fits q in  expm1(r) = r + r^2 * q(r)  on -1/2 ln(2) <= r <= 3/4 ln(2) (plus a little, for the rounding of the range
reduction) so that the error relative to r is smallest, then rounds one coefficient at a time to the target precision
and fits the rest again. Prints C++ literals and the error that is left.

    python tools/expm1_coefficients.py        # needs mpmath
"""

from __future__ import annotations

import struct

from mpmath import mp, mpf

mp.prec = 200
LOW, HIGH = -mp.log(2) / 2 * mpf("1.0001"), mp.log(2) * 3 / 4 * mpf("1.0001")


def round_to(value: mpf, fmt: str) -> mpf:
    return mpf(struct.unpack(fmt, struct.pack(fmt, float(value)))[0])


def target(r: mpf) -> mpf:
    return mpf("0.5") if r == 0 else (mp.expm1(r) - r) / (r * r)


def fit(fixed: list[mpf], degree: int) -> list[mpf]:
    """Least squares of the error relative to r at 64 Chebyshev nodes: within a bit of minimax."""
    nodes = [(LOW + HIGH) / 2 + (HIGH - LOW) / 2 * mp.cos(mp.pi * (2 * k + 1) / 128) for k in range(64)]
    rows = [[r ** (j + 1) for j in range(len(fixed), degree + 1)] for r in nodes]
    rhs = [(target(r) - sum((c * r**j for j, c in enumerate(fixed)), mpf(0))) * r for r in nodes]
    solution = mp.lu_solve(mp.matrix(rows), mp.matrix(rhs))
    return fixed + list(solution)


def worst(q: list[mpf]) -> mpf:
    """Largest |error of expm1(r)| / |r|."""
    points = [LOW + (HIGH - LOW) * k / 4000 for k in range(4001)]
    return max(abs((target(r) - mp.polyval(q[::-1], r)) * r) for r in points)


def main() -> None:
    for name, fmt, degree in (("float32", "f", 5), ("float64", "d", 10)):
        q: list[mpf] = [mpf("0.5")]
        while len(q) <= degree:
            q.append(round_to(fit(q, degree)[len(q)], fmt))
        print(f"{name}: degree {degree}, error relative to r 2^{float(mp.log(worst(q), 2)):.1f}")
        for c in q:
            print("   ", float(c).hex(), float(c))
        ln2 = mp.log(2)
        hi = mpf(int(ln2 * 2 ** (15 if fmt == "f" else 42))) / 2 ** (15 if fmt == "f" else 42)
        print("    ln2_hi", float(hi).hex(), "ln2_lo", float(round_to(ln2 - hi, fmt)).hex())


if __name__ == "__main__":
    main()
