// Brings weights into the order in which the micro-kernel reads them (problem.hpp, PackedWeights), a range of tiles at
// a time. Both directions read whole rows and write whole vectors, so that training, which packs in every step, pays
// little more than a copy.
#pragma once

#include "../heads.hpp"
#include "lanes.hpp"

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

// Part of a matrix: these tiles, over these k.
struct PackedPart {
  int64_t tile0, tile1, k0, k1;
};

// `used` rows of `count` elements each, of which row(j) is one, as squares of a tile's rows and V::width columns, which
// are transposed: column k goes to `to` + k * line.
template <class S, class C, class Row>
RNN_INLINE void pack_squares(S* to, int64_t line, Row&& row, int64_t used, int64_t count) {
  using V = Vec<C>;
  int64_t k = 0;
  if (used == V::width) {
    for (; k + V::width <= count; k += V::width) {
      V square[V::width];
      RNN_UNROLL for (int64_t j = 0; j < V::width; ++j) square[j] = V::load(row(j) + k);
      transpose(square);
      RNN_UNROLL for (int64_t i = 0; i < V::width; ++i) store_stored(square[i], to + (k + i) * line);
    }
  }
  for (; k < count; k += V::width) {
    const int64_t some = count - k < V::width ? count - k : V::width;
    const auto lanes = lanes_of<V>(k / V::width, count);
    V square[V::width];
    for (int64_t j = 0; j < V::width; ++j) square[j] = j < used ? V::load(row(j) + k, lanes) : V(0);
    transpose(square);
    for (int64_t i = 0; i < some; ++i) store_stored(square[i], to + (k + i) * line);
  }
}

// Packs a part to [tile - tile0][k - k0][gate][lane].
template <class S, class C>
void pack_interleaved(S* to, const RowMatrix<C>& m, const PackedPart& part) {
  using V = Vec<C>;
  const int64_t count = part.k1 - part.k0, line = m.blocks * V::width;
  const Heads heads(m.units, m.heads, V::width);
  for (int64_t tile = part.tile0; tile < part.tile1; ++tile) {
    const int64_t unit0 = heads.unit_of(tile), used = heads.unit_of(tile + 1) - unit0;
    S* const tile_to = to + (tile - part.tile0) * count * line;
    for (int64_t k = 0; k < count; k += V::width) {
      const int64_t some = count - k < V::width ? count - k : V::width;
      for (int gate = 0; gate < m.blocks; ++gate) {
        const C* const rows = m.from + (m.block[gate] * m.units + unit0) * m.stride + part.k0 + k;
        const auto row = [&](int64_t j) { return rows + j * m.stride; };
        pack_squares<S, C>(tile_to + k * line + gate * V::width, line, row, used, some);
      }
    }
  }
}

// Packs the short tiles of heads [tile0, tile1) to [head - tile0][k - k0][vector][lane], with their blocks joined.
template <class S, class C>
void pack_joined(S* to, const RowMatrix<C>& m, const PackedPart& part) {
  using V = Vec<C>;
  const int64_t count = part.k1 - part.k0, line = m.joined * V::width;
  const int64_t units = m.units / m.heads, used = units % V::width, all = m.blocks * used;
  for (int64_t head = part.tile0; head < part.tile1; ++head, to += count * line) {
    const C* const first = m.from + ((head + 1) * units - used) * m.stride + part.k0;
    for (int64_t row = 0; row < all; row += V::width) {
      const C* rows[V::width];
      const int64_t some = all - row < V::width ? all - row : V::width;
      for (int64_t j = 0; j < some; ++j) {
        rows[j] = first + (m.block[(row + j) / used] * m.units + (row + j) % used) * m.stride;
      }
      const auto row_of = [&](int64_t j) { return rows[j]; };
      pack_squares<S, C>(to + row, line, row_of, some, count);
    }
  }
}

// A part of a transposed matrix, all of its tiles of this head, to [tile - tile0][k - k0][lane].
template <class S, class C>
void pack_head_transposed(S* to, const RowMatrix<C>& m, int64_t head, const PackedPart& part) {
  using V = Vec<C>;
  constexpr int64_t kRows = 16;
  const int64_t count = part.k1 - part.k0, units = m.units / m.heads;
  for (int64_t k = part.k0; k < part.k1;) {
    const int64_t block = k / units, unit = k % units;
    int64_t rows = units - unit < kRows ? units - unit : kRows;
    if (part.k1 - k < rows) rows = part.k1 - k;
    const C* const first = m.from + (m.block[block] * m.units + head * units + unit) * m.stride;
    for (int64_t tile = part.tile0; tile < part.tile1; ++tile) {
      const auto lanes = lanes_of<V>(tile, m.width);
      const C* row = first + tile * V::width;
      S* target = to + ((tile - part.tile0) * count + k - part.k0) * V::width;
      for (int64_t i = 0; i < rows; ++i, row += m.stride, target += V::width) {
        store_stored(V::load(row, lanes), target);
      }
    }
    k += rows;
  }
}

template <class S, class C>
void pack_transposed(S* to, const RowMatrix<C>& m, const PackedPart& part) {
  using V = Vec<C>;
  const int64_t tiles = tiles_of<V>(m.width), line = (part.k1 - part.k0) * V::width;
  for (int64_t head = part.tile0 / tiles; head * tiles < part.tile1; ++head) {
    const int64_t start = head * tiles;
    const int64_t tile0 = part.tile0 > start ? part.tile0 - start : 0;
    const int64_t tile1 = part.tile1 - start < tiles ? part.tile1 - start : tiles;
    pack_head_transposed(to + (start + tile0 - part.tile0) * line, m, head, {tile0, tile1, part.k0, part.k1});
  }
}

template <class S, class C>
void pack_part(S* to, const RowMatrix<C>& m, const PackedPart& part) {
  if (m.transposed)
    pack_transposed(to, m, part);
  else if (m.joined)
    pack_joined(to, m, part);
  else
    pack_interleaved(to, m, part);
}

template <class F>
void pack_tiles(char* memory, const RowMatrix<typename F::Compute>& m, int64_t tile0, int64_t tile1) {
  using S = typename F::Storage;
  using C = typename F::Compute;
  S* const to = reinterpret_cast<S*>(memory) + tile0 * m.depth() * m.gates() * Vec<C>::width;
  pack_part(to, m, {tile0, tile1, 0, m.depth()});
}

}  // namespace
