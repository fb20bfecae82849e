// sigmoid, tanh, log(sigmoid) and exp of what is not positive, over the math policy (math.hpp): at most 2 ulp, right at
// +-inf, NaN in gives NaN out; results that would be subnormal are 0.
//
// All rest on expm1(r) = r + r^2 q(r), and log(sigmoid) on log1p too; tools/expm1_coefficients.py and
// tools/log1p_coefficients.py print the constants. The tests run all 2^32 float32 inputs.
#pragma once

#include "math.hpp"

namespace {

template <class T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  // x + magic - magic rounds |x| < 2^21 to an integer, and the last bits of x + magic hold it as a biased exponent.
  static constexpr float kRoundMagic = 0x1.8p23f + 127;
  static constexpr float kLog2e = 0x1.715476p0f;
  static constexpr float kLn2Hi = 0x1.62e4p-1f;  // 15 bits: n * kLn2Hi is exact for |n| < 2^9
  static constexpr float kLn2Lo = 0x1.7f7d1cp-20f;
  static constexpr int kDegree = 4, kTanhDegree = 5;
  static constexpr float kQ[] = {0.5f, 0x1.5554acp-3f, 0x1.5554fp-5f, 0x1.1229fcp-7f, 0x1.6d436ep-10f};
  static constexpr float kTanhQ[] = {0.5f,           0x1.555566p-3f,  0x1.555516p-5f,
                                     0x1.10f7d4p-7f, 0x1.6d0e02p-10f, 0x1.c35212p-13f};
  static constexpr float kTanhOne = 0x1.26p3f;        // tanh rounds to 1 from 9.01 on
  static constexpr float kExpMost = 88;               // next to 127 ln(2), and exp(-88) is subnormal
  static constexpr float kLargest = 0x1.fffffep127f;  // finite number
  static constexpr float kHalf = 0.5f, kThird = 0x1.555556p-2f;
  static constexpr int kLog1pDegree = 3;
  static constexpr float kLog1pQ[] = {0x1.5555p-4f, 0x1.99d27ep-7f, 0x1.1eb6cap-9f, 0x1.1ef28p-11f};
};

template <>
struct ExpConstants<double> {
  static constexpr double kRoundMagic = 0x1.8p52 + 1023;
  static constexpr double kLog2e = 0x1.71547652b82fep0;
  static constexpr double kLn2Hi = 0x1.62e42fefa38p-1;  // 42 bits: n * kLn2Hi is exact for |n| < 2^11
  static constexpr double kLn2Lo = 0x1.ef35793c7673p-45;
  static constexpr int kDegree = 9, kTanhDegree = 10;
  static constexpr double kQ[] = {0.5,
                                  0x1.5555555555559p-3,
                                  0x1.55555555539efp-5,
                                  0x1.111111110f650p-7,
                                  0x1.6c16c17a577d0p-10,
                                  0x1.a01a01b00610cp-13,
                                  0x1.a019b28c415d8p-16,
                                  0x1.71ddf808b6ae0p-19,
                                  0x1.28986e831fb2ep-22,
                                  0x1.af5f37267188dp-26};
  static constexpr double kTanhQ[] = {0.5,
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
  static constexpr double kTanhOne = 0x1.38p4;  // 19.5; tanh rounds to 1 from 19.07 on
  static constexpr double kExpMost = 709;       // next to 1023 ln(2), and exp(-709) is subnormal
  static constexpr double kLargest = 0x1.fffffffffffffp1023;
  static constexpr double kHalf = 0.5, kThird = 0x1.5555555555555p-2;
  static constexpr int kLog1pDegree = 9;
  static constexpr double kLog1pQ[] = {0x1.5555555555534p-4,  0x1.99999999a0933p-7,  0x1.2492492081d79p-9,
                                       0x1.c71c742024665p-12, 0x1.745cb3a1d3d9bp-14, 0x1.3b1de1054a633p-16,
                                       0x1.10679371b2df3p-18, 0x1.efda2e963675ep-21, 0x1.55ad18c1716aap-23,
                                       0x1.5c793826fa058p-24};
};

// q(r) of sigmoid, and the one of tanh for half of r, from the coefficient of r^J on. A recursion: code for GPUs may
// read elements of such tables as constants alone.
template <class V, int J = 0>
RNN_INLINE V sigmoid_q(V r) {
  using C = ExpConstants<typename V::value_type>;
  constexpr auto coefficient = C::kQ[J];
  if constexpr (J < C::kDegree) return fma(sigmoid_q<V, J + 1>(r), r, V(coefficient));
  return V(coefficient);
}

template <class V, int J = 0>
RNN_INLINE V tanh_q(V r) {
  using T = typename V::value_type;
  using C = ExpConstants<T>;
  constexpr T coefficient = C::kTanhQ[J] * T(2 << J);
  if constexpr (J < C::kTanhDegree) return fma(tanh_q<V, J + 1>(r), r, V(coefficient));
  return V(coefficient);
}

template <class V, int J = 0>
RNN_INLINE V log1p_q(V v) {
  using C = ExpConstants<typename V::value_type>;
  constexpr auto coefficient = C::kLog1pQ[J];
  if constexpr (J < C::kLog1pDegree) return fma(log1p_q<V, J + 1>(v), v, V(coefficient));
  return V(coefficient);
}

// exp(y) for |y| <= kExpMost; 0 at -kExpMost.
template <class V>
RNN_INLINE V exp_within(V y) {
  using C = ExpConstants<typename V::value_type>;
  const V magic = fma(y, V(C::kLog2e), V(C::kRoundMagic)), n = magic - V(C::kRoundMagic);
  const V r = fnma(n, V(C::kLn2Lo), fnma(n, V(C::kLn2Hi), y));
  const V q = sigmoid_q(r);
  const V scale = V::exp2_int(magic);
  return fma(scale, fma(r * r, q, r), scale);
}

// exp(x) for x <= 0: at most 1, and 1 at 0.
template <class V>
RNN_INLINE V exp_nonpositive(V x) {
  using C = ExpConstants<typename V::value_type>;
  return exp_within(max(V(-C::kExpMost), x));
}

// With t = exp(-x): h = 1 / (1 + t). The rounding of 1 + t alone can cost an ulp, so the quotient's residual is added
// back. Where t is cut off, 1 + t is 1, or the quotient is subnormal, which is to say 0.
template <class V>
RNN_INLINE V sigmoid(V x) {
  using C = ExpConstants<typename V::value_type>;
  const V one(1), t = exp_within(min(V(C::kExpMost), max(V(-C::kExpMost), V(0) - x)));
  const V h = one / (one + t);
  return fma(fnma(h, t, one - h), h, h);
}

// With m = expm1(2|x|) / 2: h = m / (m + 1), which damps the error of a growing m. n = 0 keeps small x exact; rounding
// n down by a quarter more keeps 2^n (p + 1/2) - 1/2 from losing bits where n = 1. r is half of the rest of 2|x|,
// and p half of its expm1. The rounding of m + 1 alone would cost an ulp where m is small, so the quotient's residual
// is added back, over m + 1 = 1 / (1 - h); one more 1 - h takes it out where m is large, and the residual nothing but
// the rounding of m - h.
template <class V>
RNN_INLINE V tanh(V x) {
  using T = typename V::value_type;
  using C = ExpConstants<T>;
  const V half(C::kHalf), a = min(V(C::kTanhOne), abs(x));
  const V magic = fma(a, V(2 * C::kLog2e), V(-C::kHalf * C::kHalf)) + V(C::kRoundMagic), n = magic - V(C::kRoundMagic);
  const V r = fnma(n, V(C::kHalf * C::kLn2Lo), fnma(n, V(C::kHalf * C::kLn2Hi), a));
  const V q = tanh_q(r);
  const V scale = V::exp2_int(magic), m = fma(scale, fma(r * r, q, r), fma(scale, half, V(-C::kHalf)));
  const V h = m / (m + V(1)), rest = V(1) - h;
  return copysign(fma(fnma(h, m, m - h), rest * rest, h), x);
}

// log(sigmoid(x)), and its slope sigmoid(-x), which is within some ulp.
template <class V>
struct LogSigmoid {
  V value, slope;
};

// With t = exp(-|x|): min(x, 0) - log1p(t). With u = t / (1 + t/2), log1p(t) = 2 atanh(u/2) = u + u^3 q(u^2). The
// rounding of 1 + t/2 and of the quotient would cost an ulp, so the quotient's residual is added back, times
// 1 - t/3, which is near enough to 1 / (1 + t/2). t - u is exact.
template <class V>
RNN_INLINE LogSigmoid<V> log_sigmoid(V x) {
  using C = ExpConstants<typename V::value_type>;
  const V one(1), half(C::kHalf), t = exp_nonpositive(V(0) - abs(x));
  const V u = t / fma(t, half, one), v = u * u;
  const V residual = fnma(u * half, t, t - u) * fnma(t, V(C::kThird), one);
  const V log1p = u + fma(u * v, log1p_q(v), residual);
  return {min(V(0), x) - log1p, max(if_positive(V(0) - x, one), t) / (one + t)};
}

}  // namespace
