// A product that gives gradients which are carried on: through time, to an initial state, or to an input.
#pragma once

#include "driver.hpp"

namespace {

// to[row] += U^T d[row], or = if not `add`, for units from `first` on. Gradients begin at source_offset in each row of
// d. kFar: rows of `to` are far away.
template <class F, bool kFar = false>
struct CarryOp {
  using Storage = typename F::Storage;
  using Compute = typename F::Compute;
  using C = Compute;
  using V = Vec<C>;
  static constexpr bool kColumns = false, kFills = false, kDirect = false, kCold = kFar, kNewRows = false;
  static constexpr int64_t gates = 1, source_stride = sizeof(const C*);
  static constexpr Start<C> start{};
  WeightMatrix<Storage, Compute> weights;  // transposed (problem.hpp, PackedWeights)
  int64_t depth;
  const C* const* d;
  int64_t source_offset;
  C* const* to;
  int64_t units;  // of `to`
  bool add;
  int64_t first = 0;
  const C* const* factors = nullptr;  // of rows of `to`: those that dropout multiplies the sums by; null: none

  CarryOp(const WeightMatrix<Storage, Compute>& packed, int64_t k_count, const C* const* d_rows, int64_t d_offset,
          C* const* to_rows, int64_t to_units, bool adds)
      : weights(packed), depth(k_count), d(d_rows), source_offset(d_offset), to(to_rows), units(to_units), add(adds) {}

  RNN_INLINE const C* const* sources(int64_t row) const { return d + row; }
  RNN_INLINE void fetch_end(const Area& area) const {
    if (!kFar) return;
    for_each_tile(area,
                  [&](int64_t row, int64_t tile) RNN_INLINE_LAMBDA { prefetch_write(to[row] + tile * V::width); });
  }
  RNN_INLINE void end(const Area& area, const C* sums) const {
    for_each_tile(area, [&](int64_t row, int64_t tile) RNN_INLINE_LAMBDA {
      const auto lanes = lanes_of<V>(tile, units);
      const int64_t unit = tile * V::width;
      V sum = V::load(sums);
      if (factors) sum = left_by(V::load(factors[row] + unit, lanes), sum);
      const V all = add ? V::load(to[row] + unit, lanes) + sum : sum;
      if (first <= unit) {
        all.store(to[row] + unit, lanes);
      } else {
        alignas(64) C some[V::width];
        all.store(some);
        const int64_t last = unit + V::width < units ? unit + V::width : units;
        for (int64_t u = first; u < last; ++u) to[row][u] = some[u - unit];
      }
      sums += V::width;
    });
  }
};

}  // namespace
