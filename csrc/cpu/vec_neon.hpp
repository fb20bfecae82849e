// Vec<T> for NEON (64-bit ARM): 4 floats or 2 doubles. See vec_portable.hpp for the interface.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "../cells/math.hpp"

namespace {

constexpr char kIsaName[] = "neon";
constexpr int kAccumulators = 24;  // of 32 registers; the rest holds one step of weights and factors
constexpr int kSideBySide = 2;     // tiles of pointwise steps (several.hpp)

template <class T>
struct Vec;

// There are no loads and stores under a mask. Those of a part of a vector are out of line, as pointwise steps have
// dozens of them, and need them for their last tile alone.
RNN_SELDOM float32x4_t load_some(const float* p, int n) {
  if (n == 1) return vsetq_lane_f32(*p, vdupq_n_f32(0), 0);
  const float32x4_t two = vcombine_f32(vld1_f32(p), vdup_n_f32(0));
  return n == 2 ? two : vsetq_lane_f32(p[2], two, 2);
}
RNN_SELDOM void store_some(float* p, float32x4_t v, int n) {
  if (n == 1) return vst1q_lane_f32(p, v, 0);
  vst1_f32(p, vget_low_f32(v));
  if (n == 3) vst1q_lane_f32(p + 2, v, 2);
}

// Minima and maxima are comparisons: vminq and vmaxq have another answer for NaN, and for zeros of both signs.
template <>
struct Vec<float> {
  using value_type = float;
  static constexpr int width = 4;
  float32x4_t v;

  Vec() = default;
  RNN_INLINE Vec(float32x4_t value) : v(value) {}
  RNN_INLINE explicit Vec(float value) : v(vdupq_n_f32(value)) {}

  struct Lanes {
    int count;
    Lanes() = default;
    RNN_INLINE explicit Lanes(int n) : count(n) {}
  };

  static RNN_INLINE Vec load(const float* p) { return vld1q_f32(p); }
  static RNN_INLINE Vec load(const float* p, Lanes n) {
    return n.count == width ? vld1q_f32(p) : load_some(p, n.count);
  }
  RNN_INLINE void store(float* p) const { vst1q_f32(p, v); }
  RNN_INLINE void store(float* p, Lanes n) const {
    if (n.count == width)
      vst1q_f32(p, v);
    else
      store_some(p, v, n.count);
  }

  friend RNN_INLINE Vec operator+(Vec a, Vec b) { return vaddq_f32(a.v, b.v); }
  friend RNN_INLINE Vec operator-(Vec a, Vec b) { return vsubq_f32(a.v, b.v); }
  friend RNN_INLINE Vec operator*(Vec a, Vec b) { return vmulq_f32(a.v, b.v); }
  friend RNN_INLINE Vec operator/(Vec a, Vec b) { return vdivq_f32(a.v, b.v); }
  friend RNN_INLINE Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c.v, a.v, b.v); }
  friend RNN_INLINE Vec fnma(Vec a, Vec b, Vec c) { return vfmsq_f32(c.v, a.v, b.v); }
  friend RNN_INLINE Vec min(Vec a, Vec b) { return vbslq_f32(vcltq_f32(a.v, b.v), a.v, b.v); }
  friend RNN_INLINE Vec max(Vec a, Vec b) { return vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v); }
  friend RNN_INLINE Vec if_positive(Vec s, Vec a) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a.v), vclezq_f32(s.v)));
  }
  friend RNN_INLINE Vec choose(Vec s, Vec a, Vec b) { return vbslq_f32(vcgtzq_f32(s.v), a.v, b.v); }
  friend RNN_INLINE Vec abs(Vec a) { return vabsq_f32(a.v); }
  friend RNN_INLINE Vec copysign(Vec a, Vec s) { return vbslq_f32(vdupq_n_u32(0x80000000u), s.v, a.v); }
  static RNN_INLINE Vec zip_low(Vec a, Vec b) { return vzip1q_f32(a.v, b.v); }
  static RNN_INLINE Vec zip_high(Vec a, Vec b) { return vzip2q_f32(a.v, b.v); }
  static RNN_INLINE Vec exp2_int(Vec magic) {
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(magic.v), 23));
  }
};

template <>
struct Vec<double> {
  using value_type = double;
  static constexpr int width = 2;
  float64x2_t v;

  Vec() = default;
  RNN_INLINE Vec(float64x2_t value) : v(value) {}
  RNN_INLINE explicit Vec(double value) : v(vdupq_n_f64(value)) {}

  struct Lanes {
    int count;
    Lanes() = default;
    RNN_INLINE explicit Lanes(int n) : count(n) {}
  };

  static RNN_INLINE Vec load(const double* p) { return vld1q_f64(p); }
  static RNN_INLINE Vec load(const double* p, Lanes n) {
    return n.count == width ? vld1q_f64(p) : vcombine_f64(vld1_f64(p), vdup_n_f64(0));
  }
  RNN_INLINE void store(double* p) const { vst1q_f64(p, v); }
  RNN_INLINE void store(double* p, Lanes n) const {
    if (n.count == width)
      vst1q_f64(p, v);
    else
      vst1q_lane_f64(p, v, 0);
  }

  friend RNN_INLINE Vec operator+(Vec a, Vec b) { return vaddq_f64(a.v, b.v); }
  friend RNN_INLINE Vec operator-(Vec a, Vec b) { return vsubq_f64(a.v, b.v); }
  friend RNN_INLINE Vec operator*(Vec a, Vec b) { return vmulq_f64(a.v, b.v); }
  friend RNN_INLINE Vec operator/(Vec a, Vec b) { return vdivq_f64(a.v, b.v); }
  friend RNN_INLINE Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f64(c.v, a.v, b.v); }
  friend RNN_INLINE Vec fnma(Vec a, Vec b, Vec c) { return vfmsq_f64(c.v, a.v, b.v); }
  friend RNN_INLINE Vec min(Vec a, Vec b) { return vbslq_f64(vcltq_f64(a.v, b.v), a.v, b.v); }
  friend RNN_INLINE Vec max(Vec a, Vec b) { return vbslq_f64(vcgtq_f64(a.v, b.v), a.v, b.v); }
  friend RNN_INLINE Vec if_positive(Vec s, Vec a) {
    return vreinterpretq_f64_u64(vbicq_u64(vreinterpretq_u64_f64(a.v), vclezq_f64(s.v)));
  }
  friend RNN_INLINE Vec choose(Vec s, Vec a, Vec b) { return vbslq_f64(vcgtzq_f64(s.v), a.v, b.v); }
  friend RNN_INLINE Vec abs(Vec a) { return vabsq_f64(a.v); }
  friend RNN_INLINE Vec copysign(Vec a, Vec s) { return vbslq_f64(vdupq_n_u64(std::uint64_t{1} << 63), s.v, a.v); }
  static RNN_INLINE Vec zip_low(Vec a, Vec b) { return vzip1q_f64(a.v, b.v); }
  static RNN_INLINE Vec zip_high(Vec a, Vec b) { return vzip2q_f64(a.v, b.v); }
  static RNN_INLINE Vec exp2_int(Vec magic) {
    return vreinterpretq_f64_u64(vshlq_n_u64(vreinterpretq_u64_f64(magic.v), 52));
  }
};

}  // namespace
