// The math policy (cells/math.hpp) of one unit: a float, with the same IEEE operations as on the CPU but for division,
// which may be an ulp off. Compiled without contraction (-fmad=false) and with subnormals as zeros (-ftz=true).
#pragma once

#include "../cells/math.hpp"
#include "device.hpp"

namespace {

struct Scalar {
  using value_type = float;
  float v;

  Scalar() = default;
  RNN_INLINE explicit Scalar(float value) : v(value) {}

  friend RNN_INLINE Scalar operator+(Scalar a, Scalar b) { return Scalar(a.v + b.v); }
  friend RNN_INLINE Scalar operator-(Scalar a, Scalar b) { return Scalar(a.v - b.v); }
  friend RNN_INLINE Scalar operator*(Scalar a, Scalar b) { return Scalar(a.v * b.v); }
  friend RNN_INLINE Scalar operator/(Scalar a, Scalar b) { return Scalar(quotient(a.v, b.v)); }
  friend RNN_INLINE Scalar fma(Scalar a, Scalar b, Scalar c) { return Scalar(fmaf(a.v, b.v, c.v)); }
  friend RNN_INLINE Scalar fnma(Scalar a, Scalar b, Scalar c) { return Scalar(fmaf(-a.v, b.v, c.v)); }
  friend RNN_INLINE Scalar min(Scalar a, Scalar b) { return a.v < b.v ? a : b; }
  friend RNN_INLINE Scalar max(Scalar a, Scalar b) { return a.v > b.v ? a : b; }
  friend RNN_INLINE Scalar if_positive(Scalar s, Scalar a) { return s.v <= 0.0f ? Scalar(0.0f) : a; }
  friend RNN_INLINE Scalar abs(Scalar a) { return Scalar(fabsf(a.v)); }
  friend RNN_INLINE Scalar copysign(Scalar a, Scalar s) { return Scalar(copysignf(a.v, s.v)); }

  static RNN_INLINE Scalar exp2_int(Scalar magic) {
    union {
      float f;
      unsigned u;
    } bits = {magic.v};
    bits.u <<= 23;
    return Scalar(bits.f);
  }
};

}  // namespace
