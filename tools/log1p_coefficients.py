"""Coefficients of the polynomial behind `log_sigmoid` (csrc/cells/activations.hpp).

Fits q in  log1p(t) = u + u^3 * q(u^2)  with u = t / (1 + t/2), for 0 <= t <= 1, so that the error relative to u is
smallest, then rounds one coefficient at a time to the target precision and fits the rest again. q is the series of
2 * atanh(u/2), whose first coefficient is 1/12. Prints C++ literals and the error that is left.

    python tools/log1p_coefficients.py        # needs mpmath
"""

from __future__ import annotations

import struct

from mpmath import mp, mpf

mp.prec = 200
HIGH = mpf(4) / 9  # u^2 where t is 1


def round_to(value: mpf, fmt: str) -> mpf:
    return mpf(struct.unpack(fmt, struct.pack(fmt, float(value)))[0])


def target(v: mpf) -> mpf:
    if v < mpf(2) ** -60:
        return mpf(1) / 12
    u = mp.sqrt(v)
    return (2 * mp.atanh(u / 2) - u) / (u * v)


def fit(fixed: list[mpf], degree: int) -> list[mpf]:
    """Least squares of the error relative to u at 64 Chebyshev nodes: within a bit of minimax."""
    nodes = [HIGH / 2 + HIGH / 2 * mp.cos(mp.pi * (2 * k + 1) / 128) for k in range(64)]
    rows = [[v ** (j + 1) for j in range(len(fixed), degree + 1)] for v in nodes]
    rhs = [(target(v) - sum((c * v**j for j, c in enumerate(fixed)), mpf(0))) * v for v in nodes]
    return fixed + list(mp.lu_solve(mp.matrix(rows), mp.matrix(rhs)))


def worst(q: list[mpf]) -> mpf:
    """Largest |error of log1p(t)| / u."""
    points = [HIGH * k / 4000 for k in range(4001)]
    return max(abs((target(v) - mp.polyval(q[::-1], v)) * v) for v in points)


def main() -> None:
    for fmt, degree in (("f", 3), ("d", 9)):
        q: list[mpf] = []
        while len(q) <= degree:
            q.append(round_to(fit(q, degree)[len(q)], fmt))
        error = float(mp.log(worst(q), 2))
        print(f"{'float32' if fmt == 'f' else 'float64'}: degree {degree}, error relative to u 2^{error:.1f}")
        for c in q:
            print("   ", float(c).hex(), float(c))


if __name__ == "__main__":
    main()
