// The micro-kernel: R rows times NT tiles of G gates, accumulated in registers over k = 0..K-1 in that order, each
// output element one chain of fused multiply-adds. How the sums start and what becomes of them is the Op's affair, so
// that the pointwise step of a cell runs on the registers that the product ends in.
//
// An Op has
//   value_type T, kGates, kColumns
//   const T* weights; std::int64_t tile_stride, depth     [tile][k][gate][lane], depth = K
//   source(row)            kColumns false: the row's K elements
//   column(k)              kColumns true: element k of all rows, row 0 first
//   init(row, tile, gate)  the sum to start from
//   finish(row, tile, a)   takes the kGates sums of one row and tile
//   kUnrolledFinish        up to so many (row, tile) pairs, finish is unrolled onto the registers; beyond, the sums
//                          pass through the stack, which keeps the code of large tiles small
#pragma once

#include <cstdint>
#include <utility>

#include "vec.hpp"

namespace {

constexpr int kCacheLine = 64;

// Which R and NT are compiled for G gates.
template <int G>
struct Plan {
  static constexpr int kMainTiles = G >= 3 ? 1 : G == 2 ? 2 : 4;
  static constexpr int kMaxRows = kAccumulators / (G * kMainTiles);

  // The most tiles that fit the registers beside R rows. One row alone needs about 8 chains to hide the latency of
  // its multiply-adds; more than 8 streams of weights help nobody.
  static constexpr int max_tiles(int rows) {
    int tiles = 1;
    const int limit = rows > 1 || G > 2 ? 4 : 8;
    while (2 * tiles <= limit && 2 * tiles * rows * G <= kAccumulators) tiles *= 2;
    return tiles;
  }
};

// `next` is memory that is wanted soon: one cache line of it is fetched into L2 with each k.
template <class Op, int R, int NT>
void micro_kernel(const Op& op, std::int64_t row, std::int64_t tile, const typename Op::value_type* next) {
  using T = typename Op::value_type;
  using V = Vec<T>;
  constexpr int G = Op::kGates, N = NT * G;

  V acc[R * N];
  RNN_UNROLL for (int j = 0; j < R * N; ++j) acc[j] = op.init(row + j / N, tile + (j % N) / G, j % G);

  const T* w = op.weights + tile * op.tile_stride;
  const std::int64_t stride = op.tile_stride, depth = op.depth;
  const T* source[R];
  RNN_UNROLL for (int r = 0; r < R; ++r) source[r] = Op::kColumns ? nullptr : op.source(row + r);

  for (std::int64_t k = 0; k < depth; ++k) {
    const T* column = Op::kColumns ? op.column(k) + row : nullptr;
    if (R < N) {
      V a[R];
      RNN_UNROLL for (int r = 0; r < R; ++r) a[r] = V(Op::kColumns ? column[r] : source[r][k]);
      RNN_UNROLL for (int j = 0; j < N; ++j) {
        const V b = V::load(w + (j / G) * stride + (j % G) * V::width);
        RNN_UNROLL for (int r = 0; r < R; ++r) acc[r * N + j] = fma(a[r], b, acc[r * N + j]);
      }
    } else {
      V b[N];
      RNN_UNROLL for (int j = 0; j < N; ++j) b[j] = V::load(w + (j / G) * stride + (j % G) * V::width);
      RNN_UNROLL for (int r = 0; r < R; ++r) {
        const V a(Op::kColumns ? column[r] : source[r][k]);
        RNN_UNROLL for (int j = 0; j < N; ++j) acc[r * N + j] = fma(a, b[j], acc[r * N + j]);
      }
    }
    w += G * V::width;
    __builtin_prefetch(next, 0, 2);
    next += kCacheLine / sizeof(T);
  }

  if constexpr (R * NT <= Op::kUnrolledFinish) {
    RNN_UNROLL for (int j = 0; j < R * NT; ++j) op.finish(row + j / NT, tile + j % NT, acc + j * G);
  } else {
    V sums[R * N];
    RNN_UNROLL for (int j = 0; j < R * N; ++j) sums[j] = acc[j];
#pragma GCC unroll 1
    for (int j = 0; j < R * NT; ++j) op.finish(row + j / NT, tile + j % NT, sums + j * G);
  }
}

template <class Op>
using MicroKernel = void (*)(const Op&, std::int64_t row, std::int64_t tile, const typename Op::value_type* next);

template <class Op, int R, int NT>
constexpr MicroKernel<Op> micro_kernel_or_null() {
  if constexpr (NT <= Plan<Op::kGates>::max_tiles(R))
    return micro_kernel<Op, R, NT>;
  else
    return nullptr;
}

template <class Op>
struct KernelRow {
  MicroKernel<Op> by_tiles[4];  // 1, 2, 4, 8 tiles: max_tiles is at most 8
};

template <class Op, class Rows>
struct KernelTable;

template <class Op, int... R>
struct KernelTable<Op, std::integer_sequence<int, R...>> {
  static constexpr KernelRow<Op> rows[] = {
      {{micro_kernel_or_null<Op, R + 1, 1>(), micro_kernel_or_null<Op, R + 1, 2>(),
        micro_kernel_or_null<Op, R + 1, 4>(), micro_kernel_or_null<Op, R + 1, 8>()}}...};
};

struct Span {
  std::int64_t first, last;  // first..last-1
};

// Runs the Op over rows x tiles. A tile's weights stay in cache while all rows pass over it; the rows are dealt out
// evenly, so that no group is much smaller than the registers allow.
template <class Op>
void sweep(const Op& op, Span rows, Span tiles) {
  using P = Plan<Op::kGates>;
  using Table = KernelTable<Op, std::make_integer_sequence<int, P::kMaxRows>>;
  const std::int64_t count = rows.last - rows.first;
  if (count <= 0) return;
  const std::int64_t groups = (count + P::kMaxRows - 1) / P::kMaxRows;
  const std::int64_t size = count / groups, larger = count % groups;
  int width = P::max_tiles(static_cast<int>(size + (larger != 0))), log = 0;
  while ((2 << log) <= width) ++log;
  for (std::int64_t tile = tiles.first; tile < tiles.last; tile += width) {
    while (width > tiles.last - tile) width /= 2, --log;
    using T = typename Op::value_type;
    const std::int64_t part = op.depth * kCacheLine / static_cast<std::int64_t>(sizeof(T));
    const std::int64_t parts = width * Op::kGates * Vec<T>::width * sizeof(T) / kCacheLine;
    const T* const next = op.weights + (tile + width < tiles.last ? tile + width : tiles.first) * op.tile_stride;
    std::int64_t row = rows.first;
    for (std::int64_t group = 0; group < groups; ++group) {
      const std::int64_t n = size + (group < larger);
      Table::rows[n - 1].by_tiles[log](op, row, tile, next + (group < parts ? group : 0) * part);
      row += n;
    }
  }
}

}  // namespace
