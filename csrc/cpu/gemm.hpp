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
//   kPointwise             whether the sums go to `pointwise`, or straight from their registers to `finish`
//   kCold                  whether what init and the end of a kernel read and write has to be fetched from afar
//   fetch_init(area), fetch_end(area)   prefetch it
//   finish(row, tile, a)   takes the kGates sums of one row and tile
//   pointwise(rows, tiles, sums)  takes the sums [row][tile][gate] of a kernel
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

// Rows that pass over a tile's weights together. Their sums stay on the stack, in L1.
constexpr int kBlockGroups = 8;
// Weights that stay in L1 while those rows pass over them.
constexpr std::int64_t kBlockBytes = 32 * 1024;
// Weights that a sweep finds in L2 without being asked for ahead of time.
constexpr std::int64_t kNearBytes = 1 << 20;

struct Span {
  std::int64_t first, last;  // first..last-1
  RNN_INLINE std::int64_t size() const { return last - first; }
};

// What one kernel covers.
struct Area {
  std::int64_t row, rows, tile, tiles;
};

template <class T>
RNN_INLINE void prefetch_write(const T* p) {
  __builtin_prefetch(p, 1);
}

// The part of a product that one kernel does: k0..k0+depth-1. The sums before the first part come from the Op; after
// the last they go to it, or stay in `sums` for its pointwise step. With kFetch, `next` is memory that is wanted soon:
// one cache line of it is fetched into L2 with each k.
template <class T>
struct Part {
  std::int64_t k0, depth;
  bool first, last;
  Vec<T>* sums;
  const T* next;
};

template <class Op, int R, int NT, bool kFetch>
void micro_kernel(const Op& op, std::int64_t row, std::int64_t tile, const Part<typename Op::value_type>& part) {
  using T = typename Op::value_type;
  using V = Vec<T>;
  constexpr int G = Op::kGates, N = NT * G;

  V acc[R * N];
  if (part.first) {
    RNN_UNROLL for (int j = 0; j < R * N; ++j) acc[j] = op.init(row + j / N, tile + (j % N) / G, j % G);
  } else {
    RNN_UNROLL for (int j = 0; j < R * N; ++j) acc[j] = part.sums[j];
  }

  const std::int64_t stride = op.tile_stride, k1 = part.k0 + part.depth;
  const T* w = op.weights + tile * stride + part.k0 * G * V::width;
  const T* next = part.next;
  const T* source[R];
  RNN_UNROLL for (int r = 0; r < R; ++r) source[r] = Op::kColumns ? nullptr : op.source(row + r);

  for (std::int64_t k = part.k0; k < k1; ++k) {
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
    if (kFetch) {
      __builtin_prefetch(next, 0, 2);
      next += kCacheLine / sizeof(T);
    }
  }

  if (Op::kPointwise || !part.last) {
    RNN_UNROLL for (int j = 0; j < R * N; ++j) part.sums[j] = acc[j];
  } else if constexpr (!Op::kPointwise) {
    RNN_UNROLL for (int j = 0; j < R * NT; ++j) op.finish(row + j / NT, tile + j % NT, acc + j * G);
  }
}

template <class Op>
using MicroKernel = void (*)(const Op&, std::int64_t row, std::int64_t tile, const Part<typename Op::value_type>&);

template <class Op, int R, int NT, bool kFetch>
constexpr MicroKernel<Op> micro_kernel_or_null() {
  if constexpr (NT <= Plan<Op::kGates>::max_tiles(R))
    return micro_kernel<Op, R, NT, kFetch>;
  else
    return nullptr;
}

template <class Op>
struct KernelRow {
  MicroKernel<Op> by_tiles[2][4];  // [fetch][1, 2, 4, 8 tiles]: max_tiles is at most 8
};

template <class Op, class Rows>
struct KernelTable;

template <class Op, int... R>
struct KernelTable<Op, std::integer_sequence<int, R...>> {
  static constexpr KernelRow<Op> rows[] = {
      {{{micro_kernel_or_null<Op, R + 1, 1, false>(), micro_kernel_or_null<Op, R + 1, 2, false>(),
         micro_kernel_or_null<Op, R + 1, 4, false>(), micro_kernel_or_null<Op, R + 1, 8, false>()},
        {micro_kernel_or_null<Op, R + 1, 1, true>(), micro_kernel_or_null<Op, R + 1, 2, true>(),
         micro_kernel_or_null<Op, R + 1, 4, true>(), micro_kernel_or_null<Op, R + 1, 8, true>()}}}...};
};

// Rows cut evenly into groups of at most kMaxRows, so that no group is much smaller than the registers allow.
struct Groups {
  std::int64_t count, size, larger;  // the first `larger` groups have size + 1 rows
  Groups(std::int64_t rows, std::int64_t most)
      : count((rows + most - 1) / most), size(rows / count), larger(rows % count) {}
  std::int64_t rows(std::int64_t group) const { return size + (group < larger); }
};

// One block of rows and one tile, or a few side by side, over all k.
template <class Op>
struct BlockSweep {
  using T = typename Op::value_type;
  using V = Vec<T>;
  using P = Plan<Op::kGates>;
  using Table = KernelTable<Op, std::make_integer_sequence<int, P::kMaxRows>>;

  const Op& op;
  const Groups& groups;
  bool fetch;

  // [group0, group1) begin at `row`; `tile` is 1 << log tiles wide; tile_after is the one whose turn comes next.
  void run(std::int64_t row, std::int64_t group0, std::int64_t group1, std::int64_t tile, int log,
           std::int64_t tile_after) const {
    const std::int64_t line = Op::kGates * V::width, width = line << log;
    const std::int64_t most = kBlockBytes / (width * static_cast<std::int64_t>(sizeof(T)));
    const bool single = group1 - group0 == 1;
    const std::int64_t parts = single || op.depth == 0 ? 1 : (op.depth + most - 1) / most;
    V sums[kBlockGroups * kAccumulators];
    for (std::int64_t i = 0; i < parts; ++i) {
      Part<T> part{};
      part.k0 = op.depth * i / parts;
      const std::int64_t k1 = op.depth * (i + 1) / parts;
      part.depth = k1 - part.k0;
      part.first = i == 0;
      part.last = i + 1 == parts;
      part.sums = sums;
      const T* const ahead = op.weights + (part.last ? tile_after * op.tile_stride : tile * op.tile_stride + k1 * line);
      std::int64_t at = row;
      for (std::int64_t group = group0; group < group1; ++group) {
        const std::int64_t n = groups.rows(group), share = group - group0;
        const bool fetch_weights = fetch && share < Op::kGates << log;
        part.next = ahead + share / Op::kGates * op.tile_stride + share % Op::kGates * part.depth * V::width;
        if (fetch || Op::kCold) {
          if (part.first && group + 1 < group1) op.fetch_init(Area{at + n, groups.rows(group + 1), tile, 1 << log});
          if (part.last) op.fetch_end(Area{at, n, tile, 1 << log});
        }
        Table::rows[n - 1].by_tiles[fetch_weights][log](op, at, tile, part);
        if constexpr (Op::kPointwise) {
          if (part.last) op.pointwise({at, at + n}, {tile, tile + (1 << log)}, part.sums);
        }
        at += n;
        part.sums += n * (Op::kGates << log);
      }
    }
  }
};

// Runs the Op over rows x tiles, in an order in which weights stay in L1 while rows pass over them. Whoever sweeps the
// same weights again and again goes `backwards` every other time: what a cache smaller than they are still holds is
// then what is wanted first.
template <class Op>
void sweep(const Op& op, Span rows, Span tiles, bool backwards = false) {
  using P = Plan<Op::kGates>;
  using T = typename Op::value_type;
  if (rows.size() <= 0 || tiles.size() <= 0) return;
  const Groups groups(rows.size(), P::kMaxRows);
  const std::int64_t bytes = tiles.size() * op.depth * Op::kGates * Vec<T>::width * sizeof(T);
  const BlockSweep<Op> block{op, groups, bytes > kNearBytes};
  const int widest = P::max_tiles(static_cast<int>(groups.rows(0)));
  const std::int64_t whole = tiles.size() / widest, tail = tiles.first + whole * widest;

  const auto run_tiles = [&](std::int64_t tile, int width, std::int64_t after) {
    const int log = width >= 8 ? 3 : width >= 4 ? 2 : width >= 2 ? 1 : 0;
    std::int64_t row = rows.first;
    for (std::int64_t group = 0; group < groups.count; group += kBlockGroups) {
      const std::int64_t end = group + kBlockGroups < groups.count ? group + kBlockGroups : groups.count;
      block.run(row, group, end, tile, log, after);
      for (std::int64_t g = group; g < end; ++g) row += groups.rows(g);
    }
  };
  const auto run_tail = [&] {
    std::int64_t tile = tail;
    for (int width = widest / 2; tile < tiles.last; width /= 2) {
      if (width > tiles.last - tile) continue;
      run_tiles(tile, width, tile);
      tile += width;
    }
  };
  if (backwards) run_tail();
  for (std::int64_t i = 0; i < whole; ++i) {
    const std::int64_t at = backwards ? whole - 1 - i : i, after = i + 1 == whole ? at : backwards ? at - 1 : at + 1;
    run_tiles(tiles.first + at * widest, widest, tiles.first + after * widest);
  }
  if (!backwards) run_tail();
}

}  // namespace
