// A product that adds to gradients which are carried on: through time, to an initial state, or to an input.
#pragma once

#include "driver.hpp"

namespace {

// to[row] += U^T d[row], or = if not `add`, for units from `first` on.
template <class T>
struct CarryOp {
  using value_type = T;
  using V = Vec<T>;
  static constexpr bool kColumns = false, kFills = true, kDirect = false, kCold = false;
  static constexpr int64_t gates = 1, source_stride = sizeof(const T*);
  const T* weights;  // transposed (problem.hpp, PackedWeights)
  int64_t tile_stride, depth;
  const T* const* d;
  int64_t source_offset;
  T* const* to;
  int64_t units;  // of `to`
  bool add;
  int64_t first;

  RNN_INLINE const T* const* sources(int64_t row) const { return d + row; }
  RNN_INLINE void fetch_start(const Area&) const {}
  RNN_INLINE void fetch_end(const Area&) const {}
  RNN_INLINE void fill(const Area& area, T* sums) const {
    for (int64_t r = area.row; r < area.row + area.rows; ++r) {
      for (int64_t tile = area.tile; tile < area.tile + area.tiles; ++tile, sums += V::width) {
        (add ? V::load(to[r] + tile * V::width, lanes_of<V>(tile, units)) : V(0)).store(sums);
      }
    }
  }
  RNN_INLINE void end(const Area& area, const T* sums) const {
    for (int64_t r = area.row; r < area.row + area.rows; ++r) {
      for (int64_t tile = area.tile; tile < area.tile + area.tiles; ++tile, sums += V::width) {
        const int64_t unit = tile * V::width;
        if (first <= unit) {
          V::load(sums).store(to[r] + unit, lanes_of<V>(tile, units));
        } else {
          const int64_t last = unit + V::width < units ? unit + V::width : units;
          for (int64_t u = first; u < last; ++u) to[r][u] = sums[u - unit];
        }
      }
    }
  }
};

}  // namespace
