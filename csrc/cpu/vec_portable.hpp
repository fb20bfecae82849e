// Vec<T> of width 1: the interface that every ISA's vector header gives, in plain C++.
//
// Besides the math policy (cells/math.hpp) a Vec has loads and stores, whole and of the first n lanes. Lanes beyond n
// read as zero and are not touched by stores.
#pragma once

#include <math.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../cells/math.hpp"

namespace {

constexpr char kIsaName[] = "portable";
constexpr int kAccumulators = 4;  // the micro-kernel's budget
constexpr int kSideBySide = 1;    // tiles of pointwise steps (several.hpp)

#if defined(__FMA__) || defined(__aarch64__)
RNN_INLINE float scalar_fma(float a, float b, float c) { return ::fmaf(a, b, c); }
#else
// Without an instruction: the product is exact in double; its sum with c is rounded to odd there (the last bit is set
// where anything was cut off), so that the rounding to float sees on which side of a tie the exact sum lies.
RNN_NOINLINE float scalar_fma(float a, float b, float c) {
  const double product = static_cast<double>(a) * b, addend = c;
  double sum = product + addend;
  const double back = sum - product;
  const double error = (product - (sum - back)) + (addend - back);
  std::int64_t bits;
  std::memcpy(&bits, &sum, sizeof bits);
  if (error != 0.0 && (bits & 1) == 0 && std::fabs(sum) <= 0x1.fffffffffffffp1023) {
    bits += (error > 0.0) == (sum > 0.0) ? 1 : -1;
    std::memcpy(&sum, &bits, sizeof sum);
  }
  return static_cast<float>(sum);
}
#endif
RNN_INLINE double scalar_fma(double a, double b, double c) { return ::fma(a, b, c); }

template <class T>
struct ScalarBits;
template <>
struct ScalarBits<float> {
  using type = std::uint32_t;
  static constexpr int kMantissa = 23;
};
template <>
struct ScalarBits<double> {
  using type = std::uint64_t;
  static constexpr int kMantissa = 52;
};

template <class T>
struct Vec {
  using value_type = T;
  using Bits = typename ScalarBits<T>::type;
  static constexpr int width = 1;
  T v;

  Vec() = default;
  RNN_INLINE explicit Vec(T value) : v(value) {}

  // The first n lanes, 1 <= n <= width.
  struct Lanes {
    Lanes() = default;
    RNN_INLINE explicit Lanes(int) {}
  };

  static RNN_INLINE Vec load(const T* p) { return Vec(*p); }
  static RNN_INLINE Vec load(const T* p, Lanes) { return Vec(*p); }
  RNN_INLINE void store(T* p) const { *p = v; }
  RNN_INLINE void store(T* p, Lanes) const { *p = v; }

  friend RNN_INLINE Vec operator+(Vec a, Vec b) { return Vec(a.v + b.v); }
  friend RNN_INLINE Vec operator-(Vec a, Vec b) { return Vec(a.v - b.v); }
  friend RNN_INLINE Vec operator*(Vec a, Vec b) { return Vec(a.v * b.v); }
  friend RNN_INLINE Vec operator/(Vec a, Vec b) { return Vec(a.v / b.v); }
  friend RNN_INLINE Vec fma(Vec a, Vec b, Vec c) { return Vec(scalar_fma(a.v, b.v, c.v)); }
  friend RNN_INLINE Vec fnma(Vec a, Vec b, Vec c) { return Vec(scalar_fma(-a.v, b.v, c.v)); }
  friend RNN_INLINE Vec min(Vec a, Vec b) { return a.v < b.v ? a : b; }
  friend RNN_INLINE Vec max(Vec a, Vec b) { return a.v > b.v ? a : b; }
  friend RNN_INLINE Vec if_positive(Vec s, Vec a) { return s.v <= T(0) ? Vec(T(0)) : a; }
  friend RNN_INLINE Vec choose(Vec s, Vec a, Vec b) { return s.v > T(0) ? a : b; }
  friend RNN_INLINE Vec abs(Vec a) { return Vec(std::fabs(a.v)); }
  friend RNN_INLINE Vec copysign(Vec a, Vec s) { return Vec(std::copysign(a.v, s.v)); }

  // The lanes of a and b in turn: the first half of that, and the second.
  static RNN_INLINE Vec zip_low(Vec a, Vec) { return a; }
  static RNN_INLINE Vec zip_high(Vec, Vec b) { return b; }

  static RNN_INLINE Vec exp2_int(Vec magic) {
    Bits bits;
    std::memcpy(&bits, &magic.v, sizeof bits);
    bits <<= ScalarBits<T>::kMantissa;
    Vec result;
    std::memcpy(&result.v, &bits, sizeof bits);
    return result;
  }
};

}  // namespace
