// The order in which a product passes over rows and tiles, and the interface of an Op, which describes the product.
//
// An Op has
//   Storage, Compute, kColumns (gemm.hpp)
//   gates, WeightMatrix<Storage, Compute> weights, std::int64_t depth     depth = K
//   sources(row), source_stride, source_offset   kColumns false (gemm.hpp): where element 0 of a row is
//   columns(row, k), column_stride               kColumns true
//   const Sums<const Compute>* from  where the sums of each gate begin, counted from row 0 and tile 0
//   kFills                  if they lie nowhere: fill(area, sums) makes them
//   kDirect                 whether the kernel itself stores the sums where they belong: in `to`, from row 0, tile 0 on
//   end(area, sums)         else: takes the sums [row][tile][gate][lane]
//   kCold                   whether the memory that fill and end touch is far away
//   fetch_start(area), fetch_end(area)   prefetch it
#pragma once

#include <cassert>
#include <cstdint>

#include "gemm.hpp"

namespace {

// Groups of rows that pass over a tile's weights together. Their sums stay on the stack, in L1.
constexpr int kGroupsTogether = 8;
// Sums of one group: kernels of more gates than accumulators have one row and one tile.
constexpr int kMostSums = kAccumulators > kMaxGates ? kAccumulators : kMaxGates;
// Bytes of weights that stay in L1 while these rows pass over them.
constexpr std::size_t kNearestBytes = 32 * 1024;
// Weights that a sweep finds in L2 without fetching them ahead of time.
constexpr std::int64_t kNearBytes = 1 << 20;

struct Span {
  std::int64_t first, last;  // first..last-1
  RNN_INLINE std::int64_t size() const { return last - first; }
};

// The rows and tiles of one kernel.
struct Area {
  std::int64_t row, rows, tile, tiles;
};

// For the lambdas of these loops. gcc takes a function that does nothing but prefetch for one without effect, and drops
// its calls, unless they are inlined before it looks.
#define RNN_INLINE_LAMBDA __attribute__((always_inline))

// run(row, tile) over an area, row after row.
template <class Run>
RNN_INLINE void for_each_tile(const Area& area, Run&& run) {
  for (std::int64_t row = area.row; row < area.row + area.rows; ++row) {
    for (std::int64_t tile = area.tile; tile < area.tile + area.tiles; ++tile) run(row, tile);
  }
}

// run(of_row(row), row, tile), with one call of of_row for each row.
template <class OfRow, class Run>
RNN_INLINE void for_each_tile(const Area& area, OfRow&& of_row, Run&& run) {
  for (std::int64_t row = area.row; row < area.row + area.rows; ++row) {
    const auto given = of_row(row);
    for (std::int64_t tile = area.tile; tile < area.tile + area.tiles; ++tile) run(given, row, tile);
  }
}

template <class T>
RNN_INLINE void prefetch_write(const T* p) {
  __builtin_prefetch(p, 1);
}

template <class T>
alignas(64) constexpr T kZeroVector[Vec<T>::width] = {};

// For Ops of one gate whose sums begin at zero.
template <class T>
constexpr Sums<const T> kFromZero[1] = {{kZeroVector<T>, 0, 0}};

// Rows cut evenly into groups of at most `most`, so that no group is much smaller than the registers allow.
struct Groups {
  std::int64_t count, size, larger;  // the first `larger` groups have size + 1 rows
  Groups(std::int64_t rows, std::int64_t most) : count(1), size(rows), larger(0) {
    if (rows <= most) return;
    count = (rows + most - 1) / most;
    size = rows / count;
    larger = rows % count;
  }
  RNN_INLINE std::int64_t rows(std::int64_t group) const { return size + (group < larger); }
};

// A sweep of weights that are not packed (in_place.hpp).
template <class Op>
void sweep_in_place(const Op& op, Span rows, Span tiles);

// Some groups of rows and one tile, or a few side by side, over all k.
template <class Op>
struct TileSweep {
  using S = typename Op::Storage;
  using C = typename Op::Compute;
  using V = Vec<C>;

  const Op& op;
  const Groups& groups;
  bool fetch;

  static std::int64_t parts_of(std::size_t bytes) {
    return bytes <= kNearestBytes ? 1 : static_cast<std::int64_t>((bytes + kNearestBytes - 1) / kNearestBytes);
  }

  // [group0, group1) begin at `row`; `tile` is 1 << log tiles wide; tile_after is the one whose turn comes next.
  void run(std::int64_t row, std::int64_t group0, std::int64_t group1, std::int64_t tile, int log,
           std::int64_t tile_after) const {
    const std::int64_t gates = op.gates, line = gates * V::width, width = line << log;
    const std::int64_t parts = group1 - group0 == 1 ? 1 : parts_of(op.depth * width * sizeof(S));
    const KernelRow<S, C>* const kernels = kernels_of<S, C, Op::kColumns>(static_cast<int>(gates));
    alignas(64) C sums[kGroupsTogether * kMostSums * V::width];
    Sums<const C> from_sums[kMaxGates];
    for (std::int64_t g = 0; g < gates; ++g) from_sums[g] = {sums + g * V::width, width, line};
    Part<S, C> part;
    if constexpr (Op::kColumns)
      part.column_stride = op.column_stride;
    else
      part.source_stride = op.source_stride;
    for (std::int64_t i = 0; i < parts; ++i) {
      const std::int64_t k0 = i == 0 ? 0 : op.depth * i / parts;
      const std::int64_t k1 = i + 1 == parts ? op.depth : op.depth * (i + 1) / parts;
      const bool first = i == 0, last = i + 1 == parts, from_op = first && !Op::kFills;
      part.depth = k1 - k0;
      part.weights = moved(op.weights.packed, tile, k0 * line);
      part.from = from_sums;
      part.from_tile = part.to_tile = 0;
      if constexpr (!Op::kFills) {
        if (first) part.from = op.from, part.from_tile = tile;
      }
      part.to = {sums, width, line};
      if constexpr (Op::kDirect) {
        if (last) part.to = op.to, part.to_tile = tile;
      }
      const PackedMatrix<S> ahead = moved(op.weights.packed, last ? tile_after : tile, last ? 0 : k1 * line);
      std::int64_t at = row, next_tile = 0, next_gate = 0;
      for (std::int64_t group = group0; group < group1; ++group) {
        const std::int64_t n = groups.rows(group);
        assert(n >= 1 && n <= kMostRows);
        const Area area{at, n, tile, 1 << log};
        C* const at_sums = sums + (at - row) * width;
        const bool fetch_weights = fetch && next_tile < 1 << log;
        if (fetch) {
          part.next = moved(ahead, next_tile, next_gate * part.depth * V::width).first;
          if (++next_gate == gates) next_gate = 0, ++next_tile;
        }
        if (fetch || Op::kCold) {
          if (first && group + 1 < group1) op.fetch_start(Area{at + n, groups.rows(group + 1), tile, 1 << log});
          if (last) op.fetch_end(area);
        }
        if constexpr (Op::kFills) {
          if (first) op.fill(area, at_sums);
        }
        part.from_row = from_op ? at : at - row;
        part.to_row = Op::kDirect && last ? at : at - row;
        if constexpr (Op::kColumns) {
          part.columns = op.columns(at, k0);
        } else {
          part.sources = op.sources(at);
          part.source_offset = op.source_offset + k0;
        }
        kernels[n - 1].by_tiles[fetch_weights][log](part);
        if constexpr (!Op::kDirect) {
          if (last) op.end(area, at_sums);
        }
        at += n;
      }
    }
  }

  // The same for a few rows and tiles that one kernel covers: in small steps `run` itself would take as long as it.
  void run_once(std::int64_t row, std::int64_t rows, std::int64_t tile, int log) const {
    assert(rows >= 1 && rows <= kMostRows && log >= 0 && log < 4);
    const std::int64_t gates = op.gates, line = gates * V::width, width = line << log;
    const Area area{row, rows, tile, std::int64_t{1} << log};
    alignas(64) C sums[kMostSums * V::width];
    Sums<const C> from_sums[kMaxGates];
    Part<S, C> part;
    part.weights = moved(op.weights.packed, tile, 0);
    part.depth = op.depth;
    if constexpr (Op::kFills) {
      for (std::int64_t g = 0; g < gates; ++g) from_sums[g] = {sums + g * V::width, width, line};
      op.fill(area, sums);
      part.from = from_sums;
      part.from_row = part.from_tile = 0;
    } else {
      part.from = op.from;
      part.from_row = row;
      part.from_tile = tile;
    }
    if constexpr (Op::kColumns) {
      part.columns = op.columns(row, 0);
      part.column_stride = op.column_stride;
    } else {
      part.sources = op.sources(row);
      part.source_stride = op.source_stride;
      part.source_offset = op.source_offset;
    }
    if constexpr (Op::kDirect) {
      part.to = op.to;
      part.to_row = row;
      part.to_tile = tile;
    } else {
      part.to = {sums, width, line};
      part.to_row = part.to_tile = 0;
    }
    kernels_of<S, C, Op::kColumns>(static_cast<int>(gates))[rows - 1].by_tiles[0][log](part);
    if constexpr (!Op::kDirect) op.end(area, sums);
  }
};

// Runs the Op over rows x tiles, in an order in which weights stay in L1 while rows pass over them. A driver that
// sweeps the same weights again and again goes `backwards` every other time: the weights that a cache smaller than all
// of them still holds are then wanted first.
template <class Op>
void sweep(const Op& op, Span rows, Span tiles, bool backwards = false) {
  using S = typename Op::Storage;
  using V = Vec<typename Op::Compute>;
  if (rows.size() <= 0 || tiles.size() <= 0) return;
  assert(op.gates >= 1 && op.gates <= kMaxGates && op.depth >= 0);
  if constexpr (!Op::kColumns) {
    if (op.weights.rows) return sweep_in_place(op, rows, tiles);
  }
  const Groups groups(rows.size(), kShapes.max_rows[op.gates]);
  const std::int64_t bytes = tiles.size() * op.depth * op.gates * V::width * static_cast<std::int64_t>(sizeof(S));
  const TileSweep<Op> some{op, groups, bytes > kNearBytes};
  const int widest = kShapes.log_tiles[op.gates][groups.rows(0)];
  if (groups.count == 1 && !some.fetch && (tiles.size() & (tiles.size() - 1)) == 0 && tiles.size() <= 1 << widest) {
    int log = 0;
    while (1 << log < tiles.size()) ++log;
    return some.run_once(rows.first, rows.size(), tiles.first, log);
  }
  const std::int64_t whole = tiles.size() >> widest, tail = tiles.first + (whole << widest);

  const auto run_tiles = [&](std::int64_t tile, int log, std::int64_t after) {
    std::int64_t row = rows.first;
    for (std::int64_t group = 0; group < groups.count; group += kGroupsTogether) {
      const std::int64_t end = group + kGroupsTogether < groups.count ? group + kGroupsTogether : groups.count;
      some.run(row, group, end, tile, log, after);
      for (std::int64_t g = group; g < end; ++g) row += groups.rows(g);
    }
  };
  const auto run_tail = [&] {
    std::int64_t tile = tail;
    for (int log = widest - 1; tile < tiles.last; --log) {
      if (1 << log > tiles.last - tile) continue;
      run_tiles(tile, log, tile);
      tile += 1 << log;
    }
  };
  if (backwards) run_tail();
  for (std::int64_t i = 0; i < whole; ++i) {
    const std::int64_t at = backwards ? whole - 1 - i : i, after = i + 1 == whole ? at : backwards ? at - 1 : at + 1;
    run_tiles(tiles.first + (at << widest), widest, tiles.first + (after << widest));
  }
  if (!backwards) run_tail();
}

}  // namespace
