// Brings weights into the order in which the micro-kernel reads them (problem.hpp, PackedWeights), a range of tiles at
// a time. Both directions read whole rows and write whole vectors, so that training, which packs in every step, pays
// little more than a copy.
#pragma once

#include "driver.hpp"

namespace {

// rows[j][lane] becomes rows[lane][j]: log2(width) rounds of interleaving each row with the one half the rows further.
template <class V>
RNN_INLINE void transpose(V* rows) {
  V next[V::width];
  RNN_UNROLL for (int round = 1; round < V::width; round *= 2) {
    RNN_UNROLL for (int j = 0; j < V::width / 2; ++j) {
      next[2 * j] = V::zip_low(rows[j], rows[j + V::width / 2]);
      next[2 * j + 1] = V::zip_high(rows[j], rows[j + V::width / 2]);
    }
    RNN_UNROLL for (int j = 0; j < V::width; ++j) rows[j] = next[j];
  }
}

template <class F>
std::size_t packed_bytes(int64_t tiles, int64_t depth, int gates) {
  constexpr std::size_t kEach = Vec<typename F::Compute>::width * sizeof(typename F::Storage);
  return static_cast<std::size_t>(tiles * depth * gates) * kEach;
}

template <class F>
PackedMatrix<typename F::Storage> packed_at(const char* memory, int64_t, int64_t depth, int gates) {
  return {reinterpret_cast<const typename F::Storage*>(memory), depth * gates * Vec<typename F::Compute>::width};
}

template <class F>
void pack_interleaved(char* memory, const typename F::Compute* from, const int* block, int gates, int64_t hidden,
                      int64_t depth, int64_t tile0, int64_t tile1) {
  using C = typename F::Compute;
  using S = typename F::Storage;
  using V = Vec<C>;
  S* const to = reinterpret_cast<S*>(memory);
  for (int64_t tile = tile0; tile < tile1; ++tile) {
    const int64_t unit0 = tile * V::width, used = hidden - unit0 < V::width ? hidden - unit0 : V::width;
    for (int64_t k0 = 0; k0 < depth; k0 += V::width) {
      const int64_t count = depth - k0 < V::width ? depth - k0 : V::width;
      const auto lanes = lanes_of<V>(k0 / V::width, depth);
      for (int gate = 0; gate < gates; ++gate) {
        const C* rows = from + (block[gate] * hidden + unit0) * depth + k0;
        V square[V::width];
        for (int64_t j = 0; j < V::width; ++j) square[j] = j < used ? V::load(rows + j * depth, lanes) : V(0);
        transpose(square);
        S* target = to + ((tile * depth + k0) * gates + gate) * V::width;
        for (int64_t k = 0; k < count; ++k) store_stored(square[k], target + k * gates * V::width);
      }
    }
  }
}

template <class F>
void pack_transposed(char* memory, const typename F::Compute* from, const int* block, int gates, int64_t hidden,
                     int64_t width, int64_t stride, int64_t tile0, int64_t tile1) {
  using C = typename F::Compute;
  using S = typename F::Storage;
  using V = Vec<C>;
  S* const to = reinterpret_cast<S*>(memory);
  constexpr int64_t kRows = 16;
  const int64_t depth = gates * hidden;
  for (int j = 0; j < gates; ++j) {
    for (int64_t unit0 = 0; unit0 < hidden; unit0 += kRows) {
      const int64_t unit1 = unit0 + kRows < hidden ? unit0 + kRows : hidden;
      for (int64_t tile = tile0; tile < tile1; ++tile) {
        const auto lanes = lanes_of<V>(tile, width);
        const C* row = from + (block[j] * hidden + unit0) * stride + tile * V::width;
        S* target = to + (tile * depth + j * hidden + unit0) * V::width;
        for (int64_t unit = unit0; unit < unit1; ++unit, row += stride, target += V::width) {
          store_stored(V::load(row, lanes), target);
        }
      }
    }
  }
}

}  // namespace
