// sigmoid and tanh over the math policy (math.hpp): at most 2 ulp, right at +-inf, NaN in gives NaN out.
//
// Both rest on expm1(r) = r + r^2 q(r) for -1/2 ln(2) <= r <= 3/4 ln(2); tools/expm1_coefficients.py prints the
// constants. The tests run all 2^32 float32 inputs.
#pragma once

#include "math.hpp"

namespace {

template <class T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float kRoundMagic = 0x1.8p23f;  // x + magic - magic rounds |x| < 2^22 to an integer
  static constexpr float kLog2e = 0x1.715476p0f;
  static constexpr float kLn2Hi = 0x1.62e4p-1f;  // 15 bits: n * kLn2Hi is exact for |n| < 2^9
  static constexpr float kLn2Lo = 0x1.7f7d1cp-20f;
  static constexpr int kDegree = 5;
  static constexpr float kQ[kDegree + 1] = {0.5f,           0x1.555566p-3f,  0x1.555516p-5f,
                                            0x1.10f7d4p-7f, 0x1.6d0e02p-10f, 0x1.c35212p-13f};
  static constexpr float kTanhOne = 0x1.26p3f;      // tanh rounds to 1 from 9.01 on
  static constexpr float kSigmoidZero = 0x1.a4p6f;  // exp(-105) rounds to 0
  static constexpr float kHalf = 0.5f;
  static constexpr int kHalfRange = 64;
  static constexpr float kHalfScale = 0x1p-64f;
};

template <>
struct ExpConstants<double> {
  static constexpr double kRoundMagic = 0x1.8p52;
  static constexpr double kLog2e = 0x1.71547652b82fep0;
  static constexpr double kLn2Hi = 0x1.62e42fefa38p-1;  // 42 bits: n * kLn2Hi is exact for |n| < 2^11
  static constexpr double kLn2Lo = 0x1.ef35793c7673p-45;
  static constexpr int kDegree = 10;
  static constexpr double kQ[kDegree + 1] = {0.5,
                                             0x1.5555555555536p-3,
                                             0x1.5555555555801p-5,
                                             0x1.111111111a0bbp-7,
                                             0x1.6c16c16acc361p-10,
                                             0x1.a01a016fef2a5p-13,
                                             0x1.a01a089167fa2p-16,
                                             0x1.71de8ffeb3039p-19,
                                             0x1.27d54f64ce1cbp-22,
                                             0x1.ae6602f931405p-26,
                                             0x1.3864fb2ecf2b2p-29};
  static constexpr double kTanhOne = 0x1.38p4;      // 19.5; tanh rounds to 1 from 19.07 on
  static constexpr double kSigmoidZero = 0x1.75p9;  // exp(-746) rounds to 0
  static constexpr double kHalf = 0.5;
  static constexpr int kHalfRange = 512;
  static constexpr double kHalfScale = 0x1p-512;
};

// y = n ln(2) + r, where magic is n + kRoundMagic and n an integer next to y / ln(2): p is expm1(r).
template <class V>
struct ReducedExp {
  V magic, p;
};

template <class V>
RNN_INLINE ReducedExp<V> reduced_expm1(V y, V magic) {
  using C = ExpConstants<typename V::value_type>;
  const V n = magic - V(C::kRoundMagic);
  const V r = fma(n, V(-C::kLn2Lo), fma(n, V(-C::kLn2Hi), y));
  V q = V(C::kQ[C::kDegree]);
  RNN_UNROLL for (int j = C::kDegree - 1; j >= 0; --j) q = fma(q, r, V(C::kQ[j]));
  return {magic, fma(r * r, q, r)};
}

// With t = exp(-|x|): h = 1 / (1 + t) for x >= 0, t / (1 + t) for x < 0. The scaling by 2^n is done in two steps, so
// that a subnormal t is rounded once. The rounding of 1 + t alone can cost an ulp, so the quotient's residual is added
// back, times 1 - t/2, which is near enough to 1 / (1 + t).
template <class V>
RNN_INLINE V sigmoid(V x) {
  using C = ExpConstants<typename V::value_type>;
  const V one(1), y = V(0) - min(V(C::kSigmoidZero), abs(x));
  const auto e = reduced_expm1(y, fma(y, V(C::kLog2e), V(C::kRoundMagic)));
  const V t = (e.p + one) * V::template exp2_int<C::kHalfRange>(e.magic) * V(C::kHalfScale);
  const V numerator = if_negative(x, t, one), h = numerator / (one + t);
  const V residual = fma(V(0) - h, t, numerator - h);
  return fma(residual, fma(V(-C::kHalf), t, one), h);
}

// With m = expm1(2|x|): h = m / (m + 2), which damps the error of a growing m. n = 0 keeps small x exact; rounding n
// down by a quarter more keeps 2^n (p + 1) - 1 from losing bits where n = 1. The rounding of m + 2 alone would cost an
// ulp where m is small, so the quotient's residual is added back, over m + 2 = 2 / (1 - h); one more 1 - h takes it out
// where m is large, and the residual nothing but the rounding of m - 2h.
template <class V>
RNN_INLINE V tanh(V x) {
  using C = ExpConstants<typename V::value_type>;
  const V half(C::kHalf), two(2), y = min(V(C::kTanhOne), abs(x)), y2 = y + y;
  const auto e = reduced_expm1(y2, fma(y2, V(C::kLog2e), V(-C::kHalf * C::kHalf)) + V(C::kRoundMagic));
  const V scale = V::template exp2_int<0>(e.magic);
  const V m = fma(scale, e.p, scale - V(1));
  const V h = m / (m + two), minus_h = V(0) - h, rest = V(1) - h;
  const V residual = fma(minus_h, m, fma(minus_h, two, m));
  return copysign(fma(residual, half * rest * rest, h), x);
}

}  // namespace
