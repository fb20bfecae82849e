// Vec<T> for AVX-512 (F, DQ): 16 floats or 8 doubles. See vec_portable.hpp for the interface.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "../cells/math.hpp"

namespace {

constexpr char kIsaName[] = "avx512";
constexpr int kAccumulators = 24;  // of 32 registers; the rest holds one step of weights and a broadcast
constexpr int kSideBySide = 2;     // tiles of pointwise steps (several.hpp)

template <class T>
struct Vec;

template <>
struct Vec<float> {
  using value_type = float;
  static constexpr int width = 16;
  __m512 v;

  Vec() = default;
  RNN_INLINE Vec(__m512 value) : v(value) {}
  RNN_INLINE explicit Vec(float value) : v(_mm512_set1_ps(value)) {}

  struct Lanes {
    __mmask16 mask;
    Lanes() = default;
    RNN_INLINE explicit Lanes(int n) : mask(static_cast<__mmask16>((1u << n) - 1)) {}
  };

  static RNN_INLINE Vec load(const float* p) { return _mm512_loadu_ps(p); }
  static RNN_INLINE Vec load(const float* p, Lanes n) { return _mm512_maskz_loadu_ps(n.mask, p); }
  RNN_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  RNN_INLINE void store(float* p, Lanes n) const { _mm512_mask_storeu_ps(p, n.mask, v); }

  friend RNN_INLINE Vec operator+(Vec a, Vec b) { return _mm512_add_ps(a.v, b.v); }
  friend RNN_INLINE Vec operator-(Vec a, Vec b) { return _mm512_sub_ps(a.v, b.v); }
  friend RNN_INLINE Vec operator*(Vec a, Vec b) { return _mm512_mul_ps(a.v, b.v); }
  friend RNN_INLINE Vec operator/(Vec a, Vec b) { return _mm512_div_ps(a.v, b.v); }
  friend RNN_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
  friend RNN_INLINE Vec fnma(Vec a, Vec b, Vec c) { return _mm512_fnmadd_ps(a.v, b.v, c.v); }
  friend RNN_INLINE Vec min(Vec a, Vec b) { return _mm512_min_ps(a.v, b.v); }
  friend RNN_INLINE Vec max(Vec a, Vec b) { return _mm512_max_ps(a.v, b.v); }
  friend RNN_INLINE Vec if_positive(Vec s, Vec a) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(s.v, _mm512_setzero_ps(), _CMP_NLE_UQ), a.v);
  }
  friend RNN_INLINE Vec choose(Vec s, Vec a, Vec b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(s.v, _mm512_setzero_ps(), _CMP_GT_OQ), b.v, a.v);
  }
  friend RNN_INLINE Vec abs(Vec a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a.v); }
  friend RNN_INLINE Vec copysign(Vec a, Vec s) {
    const __m512i sign = _mm512_castps_si512(_mm512_set1_ps(-0.0f));
    return _mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(sign, _mm512_castps_si512(s.v), _mm512_castps_si512(a.v), 0xCA));  // sign ? s : a
  }
  static RNN_INLINE Vec zip_low(Vec a, Vec b) {
    const __m512i from = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    return _mm512_permutex2var_ps(a.v, from, b.v);
  }
  static RNN_INLINE Vec zip_high(Vec a, Vec b) {
    const __m512i from = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    return _mm512_permutex2var_ps(a.v, from, b.v);
  }
  static RNN_INLINE Vec exp2_int(Vec magic) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(magic.v), 23));
  }
};

template <>
struct Vec<double> {
  using value_type = double;
  static constexpr int width = 8;
  __m512d v;

  Vec() = default;
  RNN_INLINE Vec(__m512d value) : v(value) {}
  RNN_INLINE explicit Vec(double value) : v(_mm512_set1_pd(value)) {}

  struct Lanes {
    __mmask8 mask;
    Lanes() = default;
    RNN_INLINE explicit Lanes(int n) : mask(static_cast<__mmask8>((1u << n) - 1)) {}
  };

  static RNN_INLINE Vec load(const double* p) { return _mm512_loadu_pd(p); }
  static RNN_INLINE Vec load(const double* p, Lanes n) { return _mm512_maskz_loadu_pd(n.mask, p); }
  RNN_INLINE void store(double* p) const { _mm512_storeu_pd(p, v); }
  RNN_INLINE void store(double* p, Lanes n) const { _mm512_mask_storeu_pd(p, n.mask, v); }

  friend RNN_INLINE Vec operator+(Vec a, Vec b) { return _mm512_add_pd(a.v, b.v); }
  friend RNN_INLINE Vec operator-(Vec a, Vec b) { return _mm512_sub_pd(a.v, b.v); }
  friend RNN_INLINE Vec operator*(Vec a, Vec b) { return _mm512_mul_pd(a.v, b.v); }
  friend RNN_INLINE Vec operator/(Vec a, Vec b) { return _mm512_div_pd(a.v, b.v); }
  friend RNN_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_pd(a.v, b.v, c.v); }
  friend RNN_INLINE Vec fnma(Vec a, Vec b, Vec c) { return _mm512_fnmadd_pd(a.v, b.v, c.v); }
  friend RNN_INLINE Vec min(Vec a, Vec b) { return _mm512_min_pd(a.v, b.v); }
  friend RNN_INLINE Vec max(Vec a, Vec b) { return _mm512_max_pd(a.v, b.v); }
  friend RNN_INLINE Vec if_positive(Vec s, Vec a) {
    return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(s.v, _mm512_setzero_pd(), _CMP_NLE_UQ), a.v);
  }
  friend RNN_INLINE Vec choose(Vec s, Vec a, Vec b) {
    return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(s.v, _mm512_setzero_pd(), _CMP_GT_OQ), b.v, a.v);
  }
  friend RNN_INLINE Vec abs(Vec a) { return _mm512_andnot_pd(_mm512_set1_pd(-0.0), a.v); }
  friend RNN_INLINE Vec copysign(Vec a, Vec s) {
    const __m512i sign = _mm512_castpd_si512(_mm512_set1_pd(-0.0));
    return _mm512_castsi512_pd(
        _mm512_ternarylogic_epi64(sign, _mm512_castpd_si512(s.v), _mm512_castpd_si512(a.v), 0xCA));  // sign ? s : a
  }
  static RNN_INLINE Vec zip_low(Vec a, Vec b) {
    return _mm512_permutex2var_pd(a.v, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), b.v);
  }
  static RNN_INLINE Vec zip_high(Vec a, Vec b) {
    return _mm512_permutex2var_pd(a.v, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), b.v);
  }
  static RNN_INLINE Vec exp2_int(Vec magic) {
    return _mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(magic.v), 52));
  }
};

}  // namespace
