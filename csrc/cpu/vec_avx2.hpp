// Vec<T> for AVX2 with FMA: 8 floats or 4 doubles. See vec_portable.hpp for the interface.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "../cells/math.hpp"

namespace {

constexpr char kIsaName[] = "avx2";
constexpr int kAccumulators = 12;  // of 16 registers
constexpr int kSideBySide = 2;     // tiles of pointwise steps (several.hpp)

template <class T>
struct Vec;

template <>
struct Vec<float> {
  using value_type = float;
  static constexpr int width = 8;
  __m256 v;

  Vec() = default;
  RNN_INLINE Vec(__m256 value) : v(value) {}
  RNN_INLINE explicit Vec(float value) : v(_mm256_set1_ps(value)) {}

  struct Lanes {
    __m256i mask;
    Lanes() = default;
    RNN_INLINE explicit Lanes(int n)
        : mask(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))) {}
  };

  static RNN_INLINE Vec load(const float* p) { return _mm256_loadu_ps(p); }
  static RNN_INLINE Vec load(const float* p, Lanes n) { return _mm256_maskload_ps(p, n.mask); }
  RNN_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
  RNN_INLINE void store(float* p, Lanes n) const { _mm256_maskstore_ps(p, n.mask, v); }

  friend RNN_INLINE Vec operator+(Vec a, Vec b) { return _mm256_add_ps(a.v, b.v); }
  friend RNN_INLINE Vec operator-(Vec a, Vec b) { return _mm256_sub_ps(a.v, b.v); }
  friend RNN_INLINE Vec operator*(Vec a, Vec b) { return _mm256_mul_ps(a.v, b.v); }
  friend RNN_INLINE Vec operator/(Vec a, Vec b) { return _mm256_div_ps(a.v, b.v); }
  friend RNN_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
  friend RNN_INLINE Vec fnma(Vec a, Vec b, Vec c) { return _mm256_fnmadd_ps(a.v, b.v, c.v); }
  friend RNN_INLINE Vec min(Vec a, Vec b) { return _mm256_min_ps(a.v, b.v); }
  friend RNN_INLINE Vec max(Vec a, Vec b) { return _mm256_max_ps(a.v, b.v); }
  friend RNN_INLINE Vec if_positive(Vec s, Vec a) {
    return _mm256_and_ps(_mm256_cmp_ps(s.v, _mm256_setzero_ps(), _CMP_NLE_UQ), a.v);
  }
  friend RNN_INLINE Vec choose(Vec s, Vec a, Vec b) {
    return _mm256_blendv_ps(b.v, a.v, _mm256_cmp_ps(s.v, _mm256_setzero_ps(), _CMP_GT_OQ));
  }
  friend RNN_INLINE Vec abs(Vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v); }
  friend RNN_INLINE Vec copysign(Vec a, Vec s) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_andnot_ps(sign, a.v), _mm256_and_ps(sign, s.v));
  }
  static RNN_INLINE Vec zip_low(Vec a, Vec b) {
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v), 0x20);
  }
  static RNN_INLINE Vec zip_high(Vec a, Vec b) {
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v), 0x31);
  }
  static RNN_INLINE Vec exp2_int(Vec magic) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(magic.v), 23));
  }
};

template <>
struct Vec<double> {
  using value_type = double;
  static constexpr int width = 4;
  __m256d v;

  Vec() = default;
  RNN_INLINE Vec(__m256d value) : v(value) {}
  RNN_INLINE explicit Vec(double value) : v(_mm256_set1_pd(value)) {}

  struct Lanes {
    __m256i mask;
    Lanes() = default;
    RNN_INLINE explicit Lanes(int n)
        : mask(_mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3))) {}
  };

  static RNN_INLINE Vec load(const double* p) { return _mm256_loadu_pd(p); }
  static RNN_INLINE Vec load(const double* p, Lanes n) { return _mm256_maskload_pd(p, n.mask); }
  RNN_INLINE void store(double* p) const { _mm256_storeu_pd(p, v); }
  RNN_INLINE void store(double* p, Lanes n) const { _mm256_maskstore_pd(p, n.mask, v); }

  friend RNN_INLINE Vec operator+(Vec a, Vec b) { return _mm256_add_pd(a.v, b.v); }
  friend RNN_INLINE Vec operator-(Vec a, Vec b) { return _mm256_sub_pd(a.v, b.v); }
  friend RNN_INLINE Vec operator*(Vec a, Vec b) { return _mm256_mul_pd(a.v, b.v); }
  friend RNN_INLINE Vec operator/(Vec a, Vec b) { return _mm256_div_pd(a.v, b.v); }
  friend RNN_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_pd(a.v, b.v, c.v); }
  friend RNN_INLINE Vec fnma(Vec a, Vec b, Vec c) { return _mm256_fnmadd_pd(a.v, b.v, c.v); }
  friend RNN_INLINE Vec min(Vec a, Vec b) { return _mm256_min_pd(a.v, b.v); }
  friend RNN_INLINE Vec max(Vec a, Vec b) { return _mm256_max_pd(a.v, b.v); }
  friend RNN_INLINE Vec if_positive(Vec s, Vec a) {
    return _mm256_and_pd(_mm256_cmp_pd(s.v, _mm256_setzero_pd(), _CMP_NLE_UQ), a.v);
  }
  friend RNN_INLINE Vec choose(Vec s, Vec a, Vec b) {
    return _mm256_blendv_pd(b.v, a.v, _mm256_cmp_pd(s.v, _mm256_setzero_pd(), _CMP_GT_OQ));
  }
  friend RNN_INLINE Vec abs(Vec a) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), a.v); }
  friend RNN_INLINE Vec copysign(Vec a, Vec s) {
    const __m256d sign = _mm256_set1_pd(-0.0);
    return _mm256_or_pd(_mm256_andnot_pd(sign, a.v), _mm256_and_pd(sign, s.v));
  }
  static RNN_INLINE Vec zip_low(Vec a, Vec b) {
    return _mm256_permute2f128_pd(_mm256_unpacklo_pd(a.v, b.v), _mm256_unpackhi_pd(a.v, b.v), 0x20);
  }
  static RNN_INLINE Vec zip_high(Vec a, Vec b) {
    return _mm256_permute2f128_pd(_mm256_unpacklo_pd(a.v, b.v), _mm256_unpackhi_pd(a.v, b.v), 0x31);
  }
  static RNN_INLINE Vec exp2_int(Vec magic) {
    return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(magic.v), 52));
  }
};

}  // namespace
