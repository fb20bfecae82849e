// The machine's ceilings, for the benchmarks: how fast it can multiply and add, and read.
#pragma once

#include "driver.hpp"

namespace {

// `rounds` times kChains independent multiply-adds on registers; returns the operations done.
template <class T>
double probe_fma(int64_t rounds, T* sink) {
  using V = Vec<T>;
  constexpr int kChains = 12;
  V acc[kChains];
  RNN_UNROLL for (int j = 0; j < kChains; ++j) acc[j] = V(T(j));
  const V a(T(0.999)), b(T(1e-3));
  for (int64_t i = 0; i < rounds; ++i) {
    RNN_UNROLL for (int j = 0; j < kChains; ++j) acc[j] = fma(acc[j], a, b);
  }
  V sum = acc[0];
  for (int j = 1; j < kChains; ++j) sum = sum + acc[j];
  sum.store(sink);
  return 2.0 * static_cast<double>(rounds) * kChains * V::width;
}

// Reads n elements (a multiple of 8 vectors), as the micro-kernel reads weights; returns the bytes read.
template <class T>
double probe_read(const T* from, int64_t n, int64_t rounds, T* sink) {
  using V = Vec<T>;
  constexpr int kChains = 8;
  V acc[kChains];
  RNN_UNROLL for (int j = 0; j < kChains; ++j) acc[j] = V(0);
  const V half(T(0.5));
  for (int64_t round = 0; round < rounds; ++round) {
    for (int64_t i = 0; i + kChains * V::width <= n; i += kChains * V::width) {
      RNN_UNROLL for (int j = 0; j < kChains; ++j) acc[j] = fma(V::load(from + i + j * V::width), half, acc[j]);
    }
  }
  V sum = acc[0];
  for (int j = 1; j < kChains; ++j) sum = sum + acc[j];
  sum.store(sink);
  return static_cast<double>(rounds) * static_cast<double>(n) * sizeof(T);
}

}  // namespace
