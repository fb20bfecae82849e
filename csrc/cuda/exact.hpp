// The math policy (cells/math.hpp) of one unit with the bits of the CPU, in float and in double: divisions are IEEE's.
// Compiled without contraction (-fmad=false), and floats with subnormals as zeros (-ftz=true); doubles keep theirs.
#pragma once

#include "../cells/activations.hpp"
#include "device.hpp"

namespace {

RNN_INLINE float fused_exactly(float a, float b, float c) { return fmaf(a, b, c); }
RNN_INLINE double fused_exactly(double a, double b, double c) { return ::fma(a, b, c); }
RNN_INLINE float absolute(float a) { return fabsf(a); }
RNN_INLINE double absolute(double a) { return ::fabs(a); }
RNN_INLINE float with_sign(float a, float s) { return copysignf(a, s); }
RNN_INLINE double with_sign(double a, double s) { return ::copysign(a, s); }

template <class T>
struct Exact {
  using value_type = T;
  T v;

  Exact() = default;
  RNN_INLINE explicit Exact(T value) : v(value) {}

  friend RNN_INLINE Exact operator+(Exact a, Exact b) { return Exact(a.v + b.v); }
  friend RNN_INLINE Exact operator-(Exact a, Exact b) { return Exact(a.v - b.v); }
  friend RNN_INLINE Exact operator*(Exact a, Exact b) { return Exact(a.v * b.v); }
  friend RNN_INLINE Exact operator/(Exact a, Exact b) { return Exact(a.v / b.v); }
  friend RNN_INLINE Exact fma(Exact a, Exact b, Exact c) { return Exact(fused_exactly(a.v, b.v, c.v)); }
  friend RNN_INLINE Exact fnma(Exact a, Exact b, Exact c) { return Exact(fused_exactly(-a.v, b.v, c.v)); }
  friend RNN_INLINE Exact min(Exact a, Exact b) { return a.v < b.v ? a : b; }
  friend RNN_INLINE Exact max(Exact a, Exact b) { return a.v > b.v ? a : b; }
  friend RNN_INLINE Exact if_positive(Exact s, Exact a) { return s.v <= T(0) ? Exact(T(0)) : a; }
  friend RNN_INLINE Exact choose(Exact s, Exact a, Exact b) { return s.v > T(0) ? a : b; }
  friend RNN_INLINE Exact abs(Exact a) { return Exact(absolute(a.v)); }
  friend RNN_INLINE Exact copysign(Exact a, Exact s) { return Exact(with_sign(a.v, s.v)); }
  static RNN_INLINE Exact exp2_int(Exact magic) { return Exact(shifted(magic.v)); }

  // Chosen before the templates of activations.hpp, which they are: once in a program, as all cells call them.
  friend RNN_CALLED Exact sigmoid(Exact x) { return sigmoid<Exact>(x); }
  friend RNN_CALLED Exact tanh(Exact x) { return tanh<Exact>(x); }
  friend RNN_CALLED Exact exp_nonpositive(Exact x) { return exp_nonpositive<Exact>(x); }
  friend RNN_CALLED LogSigmoid<Exact> log_sigmoid(Exact x) { return log_sigmoid<Exact>(x); }

 private:
  static RNN_INLINE float shifted(float magic) {
    union {
      float f;
      unsigned u;
    } bits = {magic};
    bits.u <<= 23;
    return bits.f;
  }
  static RNN_INLINE double shifted(double magic) {
    union {
      double f;
      unsigned long long u;
    } bits = {magic};
    bits.u <<= 52;
    return bits.f;
  }
};

// What dropout by a factor leaves of v: 0 where the factor is 0, whatever v is.
template <class T>
RNN_INLINE T left_by(T factor, T v) {
  return factor <= T(0) ? T(0) : v * factor;
}

}  // namespace
