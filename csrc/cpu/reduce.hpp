// Sums over all units of a row, for cells that normalise. Their order depends on nothing but H: unit u adds to chain
// u mod 16, in the order of u, and the chains are added by halves.
#pragma once

#include "driver.hpp"

namespace {

using fusedrnn::kMaxRounds;
using fusedrnn::kMaxSums;

constexpr int kChains = 16;

// sums[j] = the sum over units of terms(tile, to)'s to[j], j < N.
template <class C, int N, class Terms>
void sum_units(int64_t hidden, C* sums, Terms&& terms) {
  using V = Vec<C>;
  constexpr int kParts = kChains / V::width;
  V chains[kParts][N];
  for (auto& part : chains) {
    for (V& chain : part) chain = V(0);
  }
  for (int64_t tile = 0; tile < tiles_of<V>(hidden); ++tile) {
    const auto lanes = lanes_of<V>(tile, hidden);
    V term[N];
    terms(tile, term);
    for (int j = 0; j < N; ++j) {
      alignas(64) C units[V::width];
      term[j].store(units);  // lanes past the last unit may hold anything
      chains[tile % kParts][j] = chains[tile % kParts][j] + V::load(units, lanes);
    }
  }
  for (int j = 0; j < N; ++j) {
    alignas(64) C all[kChains];
    for (int part = 0; part < kParts; ++part) chains[part][j].store(all + part * V::width);
    for (int half = kChains / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) all[i] = all[i] + all[i + half];
    }
    sums[j] = all[0];
  }
}

// All rounds of a phase or stage for one row; make_at(tile) is the `at` of cell.hpp, and reads `sums`.
template <class Cell, class C, bool kBackward, int Index, int Round = 0, int First = 0, class MakeAt>
void reduce_row(int64_t hidden, C epsilon, C* sums, MakeAt&& make_at) {
  if constexpr (Round < kMaxRounds) {
    constexpr int N = Cell::sums(kBackward, Index, Round);
    static_assert(First + N <= kMaxSums);
    if constexpr (N > 0) {
      sum_units<C, N>(hidden, sums + First, [&](int64_t tile, Vec<C>* to) {
        Cell::template terms<kBackward, Index, Round>(to, make_at(tile));
      });
      Cell::template finish<kBackward, Index, Round>(sums, static_cast<C>(hidden), epsilon);
      reduce_row<Cell, C, kBackward, Index, Round + 1, First + N>(hidden, epsilon, sums, make_at);
    }
  }
}

}  // namespace
