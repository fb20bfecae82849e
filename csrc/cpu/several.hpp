// Several vectors that go through a formula side by side, operation by operation. One after the other, formulas are
// chains of operations that wait for each other, and the processor looks only some hundred operations ahead.
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

#include "driver.hpp"
#include "lanes.hpp"
#include "reduce.hpp"
#include "sweep.hpp"

namespace {

// The math policy (cells/math.hpp), for N vectors at once.
template <class V, int N>
struct Several {
  using value_type = typename V::value_type;
  V parts[N];

  Several() = default;
  RNN_INLINE explicit Several(value_type value) { RNN_UNROLL for (V& part : parts) part = V(value); }
  // of(i): the i-th vector.
  template <class Of>
  static RNN_INLINE Several made(Of&& of) {
    Several all;
    RNN_UNROLL for (int i = 0; i < N; ++i) all.parts[i] = of(i);
    return all;
  }

  friend RNN_INLINE Several operator+(const Several& a, const Several& b) {
    return made([&](int i) RNN_INLINE_LAMBDA { return a.parts[i] + b.parts[i]; });
  }
  friend RNN_INLINE Several operator-(const Several& a, const Several& b) {
    return made([&](int i) RNN_INLINE_LAMBDA { return a.parts[i] - b.parts[i]; });
  }
  friend RNN_INLINE Several operator*(const Several& a, const Several& b) {
    return made([&](int i) RNN_INLINE_LAMBDA { return a.parts[i] * b.parts[i]; });
  }
  friend RNN_INLINE Several operator/(const Several& a, const Several& b) {
    return made([&](int i) RNN_INLINE_LAMBDA { return a.parts[i] / b.parts[i]; });
  }
  friend RNN_INLINE Several fma(const Several& a, const Several& b, const Several& c) {
    return made([&](int i) RNN_INLINE_LAMBDA { return fma(a.parts[i], b.parts[i], c.parts[i]); });
  }
  friend RNN_INLINE Several fnma(const Several& a, const Several& b, const Several& c) {
    return made([&](int i) RNN_INLINE_LAMBDA { return fnma(a.parts[i], b.parts[i], c.parts[i]); });
  }
  friend RNN_INLINE Several min(const Several& a, const Several& b) {
    return made([&](int i) RNN_INLINE_LAMBDA { return min(a.parts[i], b.parts[i]); });
  }
  friend RNN_INLINE Several max(const Several& a, const Several& b) {
    return made([&](int i) RNN_INLINE_LAMBDA { return max(a.parts[i], b.parts[i]); });
  }
  friend RNN_INLINE Several if_positive(const Several& s, const Several& a) {
    return made([&](int i) RNN_INLINE_LAMBDA { return if_positive(s.parts[i], a.parts[i]); });
  }
  friend RNN_INLINE Several choose(const Several& s, const Several& a, const Several& b) {
    return made([&](int i) RNN_INLINE_LAMBDA { return choose(s.parts[i], a.parts[i], b.parts[i]); });
  }
  friend RNN_INLINE Several abs(const Several& a) {
    return made([&](int i) RNN_INLINE_LAMBDA { return abs(a.parts[i]); });
  }
  friend RNN_INLINE Several copysign(const Several& a, const Several& s) {
    return made([&](int i) RNN_INLINE_LAMBDA { return copysign(a.parts[i], s.parts[i]); });
  }
  static RNN_INLINE Several exp2_int(const Several& magic) {
    return made([&](int i) RNN_INLINE_LAMBDA { return V::exp2_int(magic.parts[i]); });
  }
};

// The units of N tiles: one vector, or several.
template <class C, int N>
using UnitsOf = std::conditional_t<N == 1, Vec<C>, Several<Vec<C>, N>>;

// of(i): the vector of the i-th tile.
template <class C, int N, class Of>
RNN_INLINE UnitsOf<C, N> units_made(Of&& of) {
  if constexpr (N == 1)
    return of(0);
  else
    return UnitsOf<C, N>::made(of);
}

// take(i, vector of the i-th tile)
template <class C, int N, class Take>
RNN_INLINE void take_units(const UnitsOf<C, N>& units, Take&& take) {
  if constexpr (N == 1) {
    take(0, units);
  } else {
    RNN_UNROLL for (int i = 0; i < N; ++i) take(i, units.parts[i]);
  }
}

struct Place {
  std::int64_t row, tile;
};
template <int N>
using SomePlaces = std::array<Place, N>;

// The tiles of a pointwise step. There is one where each activation is a choice, so that kernels stay small; and for
// the thread sanitizer, which takes long to compile two (RNN_ONE_TILE).
#ifdef RNN_ONE_TILE
template <class Math>
constexpr int kTilesTogether = 1;
#else
template <class Math>
constexpr int kTilesTogether = Math::kChosen ? 1 : kSideBySide;
#endif

// run(places, first) for all tiles of rows, row after row, as their sums lie: kTiles of them at a time, wherever there
// are as many, else one; `first` of them came before.
template <int kTiles, class Run>
RNN_INLINE void run_side_by_side(Span rows, Span tiles, Run&& run) {
  Place next{rows.first, tiles.first};
  const auto take = [&](auto places) RNN_INLINE_LAMBDA {
    RNN_UNROLL for (Place& place : places) {
      place = next;
      if (++next.tile == tiles.last) next = {next.row + 1, tiles.first};
    }
    return places;
  };
  const std::int64_t count = rows.size() * tiles.size();
  std::int64_t first = 0;
  for (; count - first >= kTiles; first += kTiles) run(take(SomePlaces<kTiles>()), first);
  if constexpr (kTiles > 1) {
    for (; first < count; ++first) run(take(SomePlaces<1>()), first);
  }
}

// Where N tiles of rows lie: what the `at` of cell.hpp has in forward and in backward.
template <class C, class RowOf, int N>
struct TilesOfRows {
  using Row = RowOf;
  using Tile = Vec<C>;
  using V = UnitsOf<C, N>;
  const Row* rows[N];
  Place places[N];
  std::int64_t unit[N];  // the first of the tile
  typename Tile::Lanes lanes[N];

  // Only units before `units` are read and written.
  RNN_INLINE TilesOfRows(const Row* all_rows, std::int64_t units, const SomePlaces<N>& some) {
    RNN_UNROLL for (int i = 0; i < N; ++i) {
      places[i] = some[i];
      rows[i] = all_rows + some[i].row;
      unit[i] = some[i].tile * Tile::width;
      lanes[i] = lanes_of<Tile>(some[i].tile, units);
    }
  }

  // array(row): an array of a row, from unit 0 on.
  template <class Array>
  RNN_INLINE V load(Array&& array) const {
    return units_made<C, N>([&](int i) RNN_INLINE_LAMBDA { return Tile::load(array(*rows[i]) + unit[i], lanes[i]); });
  }
  template <class Array>
  RNN_INLINE void store(const V& v, Array&& array) const {
    take_units<C, N>(v, [&](int i, Tile tile) RNN_INLINE_LAMBDA { tile.store(array(*rows[i]) + unit[i], lanes[i]); });
  }
  // The same for an array that a row may lack: zeros are read, and nothing is written.
  template <class Array>
  RNN_INLINE V load_if(Array&& array) const {
    return units_made<C, N>([&](int i) RNN_INLINE_LAMBDA {
      const C* const from = array(*rows[i]);
      return from ? Tile::load(from + unit[i], lanes[i]) : Tile(0);
    });
  }
  template <class Array>
  RNN_INLINE void store_if(const V& v, Array&& array) const {
    take_units<C, N>(v, [&](int i, Tile tile) RNN_INLINE_LAMBDA {
      if (C* const to = array(*rows[i])) tile.store(to + unit[i], lanes[i]);
    });
  }
  // Dropout by the factors of an array.
  template <class Array>
  RNN_INLINE V dropped(const V& v, Array&& array) const {
    return left_by(load(array), v);
  }
  RNN_INLINE V before(int s) const {
    return load([&](const Row& row) RNN_INLINE_LAMBDA { return row.before[s]; });
  }
  RNN_INLINE V h_prev() const { return before(0); }
  RNN_INLINE V c_prev() const { return before(1); }
  RNN_INLINE V below() const {
    return load([](const Row& row) RNN_INLINE_LAMBDA { return row.below; });
  }
  // Of the rows' sums over units.
  RNN_INLINE V sum_of(const C* sums, int j) const {
    return units_made<C, N>([&](int i) RNN_INLINE_LAMBDA { return Tile(sums[places[i].row * kMaxSums + j]); });
  }
};

}  // namespace
