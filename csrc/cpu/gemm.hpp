// The micro-kernel: R rows times NT tiles of G gates, accumulated in registers over k = 0..K-1 in *blocks* of kBlock.
// Each output element is, block after block, one chain of fused multiply-adds from zero, which is added to the sum.
// Weights are stored as S, all else is C. It knows neither cells nor the purpose of the product: sums come from memory
// and go to memory, so that one set of kernels serves every cell.
#pragma once

#include <cstdint>
#include <utility>

#include "storage.hpp"

namespace {

using fusedrnn::kBlock;
using fusedrnn::kMaxGates;
using fusedrnn::kMostKernelRows;
using fusedrnn::prefetch;
using fusedrnn::prefetch_into_l2;
using fusedrnn::prefetch_write;

constexpr int kCacheLine = 64;

// Which R and NT are compiled for G gates: as many as their sums fit the registers.
struct Shapes {
  static constexpr int log_main(int gates) { return gates >= 3 ? 0 : gates == 2 ? 1 : 2; }
  static constexpr bool fits(int gates, int rows, int tiles) { return rows * tiles * gates <= kAccumulators; }

  static constexpr int max_rows(int gates, int tiles) {
    int rows = 1;
    while (rows < kMostKernelRows && fits(gates, rows + 1, tiles)) ++rows;
    return rows;
  }
  // One row alone needs about 8 chains to hide the latency of its multiply-adds; more than 8 streams of weights do not
  // help.
  static constexpr int max_tiles(int gates, int rows) {
    int tiles = 1;
    const int limit = rows > 1 || gates > 2 ? 4 : 8;
    while (2 * tiles <= limit && fits(gates, rows, 2 * tiles)) tiles *= 2;
    return tiles;
  }
  static constexpr bool has(int gates, int rows, int tiles) {
    return rows <= max_rows(gates, tiles) && tiles <= max_tiles(gates, rows);
  }
};

// The same as tables, for callers that know gates and rows only when they run.
constexpr fusedrnn::KernelShapes shape_tables() {
  fusedrnn::KernelShapes tables{};
  for (int gates = 1; gates <= kMaxGates; ++gates) {
    tables.log_main[gates] = Shapes::log_main(gates);
    for (int log = 0; log <= fusedrnn::kLogKernelTiles; ++log) {
      tables.rows[gates][log] = Shapes::max_rows(gates, 1 << log);
    }
    for (int rows = 1; rows <= kMostKernelRows; ++rows) {
      while (2 << tables.log_tiles[gates][rows] <= Shapes::max_tiles(gates, rows)) ++tables.log_tiles[gates][rows];
    }
  }
  return tables;
}
constexpr fusedrnn::KernelShapes kShapes = shape_tables();

template <class T>
alignas(64) constexpr T kZeros[kMaxGates * Vec<T>::width] = {};

// Sums in memory: [gate][lane] of row r and tile t are at `at + r * row + t * tile`.
template <class T>
struct Sums {
  T* at;
  std::int64_t row, tile;
  RNN_INLINE T* of(std::int64_t r, std::int64_t t) const { return at + r * row + t * tile; }
};

// What the sums of all rows begin with: [gate][lane] of tile t is at `at + t * tile`.
template <class C>
struct Start {
  const C* at = kZeros<C>;
  std::int64_t tile = 0;
  RNN_INLINE Start of(std::int64_t t) const { return {at + t * tile, tile}; }
};

// One kernel's part of a product: `depth` steps of k, from the first of a block on. The rows' elements are found
// through an array whose entries hold a pointer each, `source_stride` bytes apart; with kColumns they lie side by side,
// one row after the other at `columns + k * column_stride`. `next` is memory that is wanted soon: with kFetch, one
// cache line of it is fetched into L2 with each k.
//
// Everything that differs from kernel to kernel is plain arithmetic here, no loop or branch of the caller's: after a
// long loop over k the branch predictor remembers nothing of what went before.
template <class S, class C>
struct Part {
  PackedMatrix<S> weights;  // from the first tile and k on
  std::int64_t depth;
  const C* const* sources;  // the first row's
  std::int64_t source_stride, source_offset;
  const C* columns;
  std::int64_t column_stride;
  Start<C> start;  // of the first block, from the first tile on
  Sums<C> to;      // from the first row and tile on
  bool adds;       // to the sums that are there; else they are overwritten
  const S* next;
};

template <class S, class C, int G, int R, int NT, bool kColumns, bool kFetch>
void micro_kernel(const Part<S, C>& part) {
  using V = Vec<C>;
  constexpr int N = NT * G;
  constexpr std::int64_t kLine = kCacheLine / sizeof(S);  // elements

  const WeightReader<V, S> weights(part.weights);
  const std::int64_t stride = part.weights.tile_stride, depth = part.depth, column_stride = part.column_stride;
  const S* line = part.weights.first;
  const S* next = part.next;
  const C* column = part.columns;
  const C* source[R];
  if constexpr (!kColumns) {
    RNN_UNROLL for (int r = 0; r < R; ++r) {
      const char* const entry = reinterpret_cast<const char*>(part.sources) + r * part.source_stride;
      source[r] = *reinterpret_cast<const C* const*>(entry) + part.source_offset;
    }
  }
  const Sums<C> to = part.to;
  Start<C> start = part.start;
  bool adds = part.adds;
  for (std::int64_t k = 0;;) {
    const std::int64_t end = depth - k < kBlock ? depth : k + kBlock;
    V acc[R * N];
    RNN_UNROLL for (int j = 0; j < N; ++j) {
      const V first = V::load(start.at + j / G * start.tile + j % G * V::width);
      RNN_UNROLL for (int r = 0; r < R; ++r) acc[r * N + j] = first;
    }
    for (; k < end; ++k) {
      if (R < N) {
        V a[R];
        RNN_UNROLL for (int r = 0; r < R; ++r) a[r] = V(kColumns ? column[r] : source[r][k]);
        RNN_UNROLL for (int j = 0; j < N; ++j) {
          const V b = weights.load(line + (j / G) * stride + (j % G) * V::width, j / G, j % G, k);
          RNN_UNROLL for (int r = 0; r < R; ++r) acc[r * N + j] = fma(a[r], b, acc[r * N + j]);
        }
      } else {
        V b[N];
        RNN_UNROLL for (int j = 0; j < N; ++j) b[j] =
            weights.load(line + (j / G) * stride + (j % G) * V::width, j / G, j % G, k);
        RNN_UNROLL for (int r = 0; r < R; ++r) {
          const V a(kColumns ? column[r] : source[r][k]);
          RNN_UNROLL for (int j = 0; j < N; ++j) acc[r * N + j] = fma(a, b[j], acc[r * N + j]);
        }
      }
      line += G * V::width;
      if (kColumns) column += column_stride;
      if (kFetch) {
        prefetch_into_l2(next);
        next += kLine;
      }
    }
    C* at = to.at;
    std::int64_t row = to.row;
    RNN_HERE(at, row);
    RNN_UNROLL for (int r = 0; r < R; ++r, at += row) {
      RNN_UNROLL for (int j = 0; j < N; ++j) {
        C* const sum = at + j / G * to.tile + j % G * V::width;
        (adds ? V::load(sum) + acc[r * N + j] : acc[r * N + j]).store(sum);
      }
    }
    if (k == depth) return;
    adds = true;
    start = Start<C>{};
  }
}

template <class S, class C>
using MicroKernel = void (*)(const Part<S, C>&);

template <class S, class C, int G, int R, int NT, bool kColumns, bool kFetch>
constexpr MicroKernel<S, C> micro_kernel_or_null() {
  if constexpr (Shapes::has(G, R, NT) && (!kColumns || G == 1))
    return micro_kernel<S, C, G, R, NT, kColumns, kFetch>;
  else
    return nullptr;
}

// Kernels by [fetch][log2 of tiles].
template <class S, class C>
struct KernelRow {
  MicroKernel<S, C> by_tiles[2][fusedrnn::kLogKernelTiles + 1];
};

template <class S, class C, int G, int R, bool kColumns>
constexpr KernelRow<S, C> kernel_row() {
  return {
      {{micro_kernel_or_null<S, C, G, R, 1, kColumns, false>(), micro_kernel_or_null<S, C, G, R, 2, kColumns, false>(),
        micro_kernel_or_null<S, C, G, R, 4, kColumns, false>(), micro_kernel_or_null<S, C, G, R, 8, kColumns, false>()},
       {micro_kernel_or_null<S, C, G, R, 1, kColumns, true>(), micro_kernel_or_null<S, C, G, R, 2, kColumns, true>(),
        micro_kernel_or_null<S, C, G, R, 4, kColumns, true>(), micro_kernel_or_null<S, C, G, R, 8, kColumns, true>()}}};
}

template <class S, class C, int G, bool kColumns, class Rows = std::make_integer_sequence<int, kMostKernelRows>>
struct GateKernels;

template <class S, class C, int G, bool kColumns, int... R>
struct GateKernels<S, C, G, kColumns, std::integer_sequence<int, R...>> {
  static constexpr KernelRow<S, C> rows[] = {kernel_row<S, C, G, R + 1, kColumns>()...};
};

// The kernels for this number of gates, by [rows - 1].
template <class S, class C, bool kColumns>
const KernelRow<S, C>* kernels_of(int gates) {
  if constexpr (kColumns) {
    return GateKernels<S, C, 1, true>::rows;
  } else {
    static constexpr const KernelRow<S, C>* by_gates[] = {
        GateKernels<S, C, 1, false>::rows, GateKernels<S, C, 2, false>::rows, GateKernels<S, C, 3, false>::rows,
        GateKernels<S, C, 4, false>::rows, GateKernels<S, C, 5, false>::rows};
    static_assert(sizeof by_gates / sizeof *by_gates == kMaxGates);
    return by_gates[gates - 1];
  }
}

}  // namespace
