// The machine's ceilings, for the benchmarks: how fast it can multiply and add, and read.
#pragma once

#include "driver.hpp"

namespace {

// `rounds` times kChains independent multiply-adds on registers; returns the operations done.
template <class C>
double probe_fma(int64_t rounds, C* sink) {
  using V = Vec<C>;
  constexpr int kChains = 12;
  V acc[kChains];
  RNN_UNROLL for (int j = 0; j < kChains; ++j) acc[j] = V(C(j));
  const V a(C(0.999)), b(C(1e-3));
  for (int64_t i = 0; i < rounds; ++i) {
    RNN_UNROLL for (int j = 0; j < kChains; ++j) acc[j] = fma(acc[j], a, b);
  }
  V sum = acc[0];
  for (int j = 1; j < kChains; ++j) sum = sum + acc[j];
  sum.store(sink);
  return 2.0 * static_cast<double>(rounds) * kChains * V::width;
}

// Reads n elements (a multiple of 8 vectors), as the micro-kernel reads weights; returns the bytes read.
template <class C>
double probe_read(const C* from, int64_t n, int64_t rounds, C* sink) {
  using V = Vec<C>;
  constexpr int kChains = 8;
  V acc[kChains];
  RNN_UNROLL for (int j = 0; j < kChains; ++j) acc[j] = V(0);
  const V half(C(0.5));
  for (int64_t round = 0; round < rounds; ++round) {
    for (int64_t i = 0; i + kChains * V::width <= n; i += kChains * V::width) {
      RNN_UNROLL for (int j = 0; j < kChains; ++j) acc[j] = fma(V::load(from + i + j * V::width), half, acc[j]);
    }
  }
  V sum = acc[0];
  for (int j = 1; j < kChains; ++j) sum = sum + acc[j];
  sum.store(sink);
  return static_cast<double>(rounds) * static_cast<double>(n) * sizeof(C);
}

}  // namespace
