// sigmoid and tanh over the math policy (math.hpp): at most 2 ulp, right at +-inf, NaN in gives NaN out.
//
// Both rest on expm1(r) = r + r^2 q(r) for |r| <= ln(2)/2; tools/expm1_coefficients.py prints the constants.
// The tests run all 2^32 float32 inputs.
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
  static constexpr int kDegree = 4;
  static constexpr float kQ[kDegree + 1] = {0.5f, 0x1.5554acp-3f, 0x1.5554f0p-5f, 0x1.1229fcp-7f, 0x1.6d436ep-10f};
  static constexpr float kTanhOne = 0x1.26p3f;      // tanh rounds to 1 from 9.01 on
  static constexpr float kSigmoidZero = 0x1.a4p6f;  // exp(-105) rounds to 0
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
  static constexpr double kQ[kDegree + 1] = {
      0.5, 0x1.5555555555559p-3, 0x1.5555555555557p-5, 0x1.111111110f65p-7, 0x1.6c16c16c1577dp-10,
      0x1.a01a01b00610cp-13, 0x1.a01a01ab13cadp-16, 0x1.71ddf808b6aep-19, 0x1.27e4d14428d45p-22,
      0x1.af5f37267188dp-26, 0x1.1f83e1c58be04p-29};
  static constexpr double kTanhOne = 0x1.38p4;       // 19.5; tanh rounds to 1 from 19.07 on
  static constexpr double kSigmoidZero = 0x1.75p9;   // exp(-746) rounds to 0
  static constexpr int kHalfRange = 512;
  static constexpr double kHalfScale = 0x1p-512;
};

// y = n ln(2) + r with |r| <= ln(2)/2 (and a rounding): magic is n + kRoundMagic, p is expm1(r).
template <class V>
struct ReducedExp {
  V magic, p;
};

template <class V>
RNN_INLINE ReducedExp<V> reduced_expm1(V y) {
  using C = ExpConstants<typename V::value_type>;
  const V magic = fma(y, V(C::kLog2e), V(C::kRoundMagic));
  const V n = magic - V(C::kRoundMagic);
  const V r = fma(n, V(-C::kLn2Lo), fma(n, V(-C::kLn2Hi), y));
  V q = V(C::kQ[C::kDegree]);
#pragma GCC unroll 16
  for (int j = C::kDegree - 1; j >= 0; --j) q = fma(q, r, V(C::kQ[j]));
  return {magic, fma(r * r, q, r)};
}

// With t = exp(-|x|): 1 / (1 + t) for x >= 0, t / (1 + t) for x < 0. The scaling by 2^n is done in two steps, so that a
// subnormal t is rounded once.
template <class V>
RNN_INLINE V sigmoid(V x) {
  using C = ExpConstants<typename V::value_type>;
  const V y = V(0) - min(V(C::kSigmoidZero), abs(x));
  const auto e = reduced_expm1(y);
  const V t = (e.p + V(1)) * V::template exp2_int<C::kHalfRange>(e.magic) * V(C::kHalfScale);
  return if_negative(x, t, V(1)) / (V(1) + t);
}

// With m = expm1(2|x|): m / (m + 2). Growing m damps its own error, and n = 0 keeps small x exact to the last bits.
template <class V>
RNN_INLINE V tanh(V x) {
  using C = ExpConstants<typename V::value_type>;
  const V y = min(V(C::kTanhOne), abs(x));
  const auto e = reduced_expm1(y + y);
  const V scale = V::template exp2_int<0>(e.magic);
  const V m = fma(scale, e.p, scale - V(1));
  return copysign(m / (m + V(2)), x);
}

}  // namespace
