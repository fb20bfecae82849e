// The order in which a product passes over rows and tiles, and the interface of an Op, which describes the product.
//
// An Op has
//   Storage, Compute, kColumns (gemm.hpp)
//   gates, WeightMatrix<Storage, Compute> weights, std::int64_t depth     depth = K
//   sources(row), source_stride, source_offset   kColumns false (gemm.hpp): where element 0 of a row is
//   columns(row, k), column_stride               kColumns true
//   Start<Compute> start    what the sums of all rows begin with, from tile 0 on
//   kFills                  where the product is one part of several: if it `continues`, it adds to the sums so far,
//                           which fill(area, sums) gives
//   kDirect                 whether the kernel itself stores the sums where they belong: in `to`, from row 0, tile 0 on
//   end(area, sums)         else: takes the sums [row][tile][gate][lane]
//   kCold                   whether the memory that end touches is far away
//   fetch_end(area)         prefetches it
//   kNewRows                kColumns false: whether a sweep's rows were not used before
#pragma once

#include <cassert>
#include <cstdint>

#include "gemm.hpp"

namespace {

// Groups of rows that pass over a tile's weights together keep their sums on the stack, in L1.
using fusedrnn::kGroupsTogether;
// Sums of one group: kernels of more gates than accumulators have one row and one tile.
constexpr int kMostSums = kAccumulators > kMaxGates ? kAccumulators : kMaxGates;
// Bytes of weights that stay in L1 while these rows pass over them.
constexpr std::size_t kNearestBytes = 32 * 1024;
// Weights that a sweep finds in L2 without fetching them ahead of time.
constexpr std::int64_t kNearBytes = 1 << 20;
// New rows of more bytes are fetched ahead. Fewer of them are often in a private cache, and then fetching them again
// costs 10%.
constexpr std::int64_t kFarBytes = 4 << 20;

struct Span {
  std::int64_t first, last;  // first..last-1
  RNN_INLINE std::int64_t size() const { return last - first; }
};

// The rows and tiles of one kernel.
struct Area {
  std::int64_t row, rows, tile, tiles;
};

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

// Whether the sums of an Op go on from what fill_sums gives.
template <class Op>
RNN_INLINE bool continues(const Op& op) {
  if constexpr (Op::kFills) return op.continues;
  return false;
}
template <class Op>
RNN_INLINE void fill_sums(const Op& op, const Area& area, typename Op::Compute* sums) {
  if constexpr (Op::kFills) {
    if (op.continues) op.fill(area, sums);
  }
}

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
  std::int64_t new_at;  // the tile at which the sweep first comes to rows that are far away, or -1

  // How many k of so many bytes each stay in L1: whole blocks.
  static std::int64_t near_depth(std::size_t bytes) {
    const auto blocks = static_cast<std::int64_t>(kNearestBytes / (bytes * kBlock));
    return (blocks > 1 ? blocks : 1) * kBlock;
  }

  // What all kernels of a sweep have in common.
  Part<S, C> part_of(std::int64_t line, std::int64_t width) const {
    Part<S, C> part;
    if constexpr (Op::kColumns)
      part.column_stride = op.column_stride;
    else
      part.source_stride = op.source_stride;
    if constexpr (Op::kDirect)
      part.to = op.to;
    else
      part.to = {nullptr, width, line};
    return part;
  }
  // Sets where the rows of a part lie, from this row and k on.
  RNN_INLINE void find_rows(Part<S, C>& part, std::int64_t row, std::int64_t k) const {
    if constexpr (Op::kColumns) {
      part.columns = op.columns(row, k);
    } else {
      part.sources = op.sources(row);
      part.source_offset = op.source_offset + k;
    }
  }
  RNN_INLINE void find_sums(Part<S, C>& part, std::int64_t row, std::int64_t tile, C* sums) const {
    if constexpr (Op::kDirect)
      part.to.at = op.to.of(row, tile);
    else
      part.to.at = sums;
  }
  // Prefetches elements [k0, k1) of these rows.
  RNN_INLINE void fetch_rows(std::int64_t row, std::int64_t rows, std::int64_t k0, std::int64_t k1) const {
    if constexpr (Op::kNewRows) {
      for (std::int64_t r = row; r < row + rows; ++r) {
        const C* const source = *op.sources(r) + op.source_offset;
        for (std::int64_t k = k0; k < k1; k += kCacheLine / sizeof(C)) prefetch(source + k);
      }
    }
  }
  // [group0, group1) begin at `row`; `tile` is 1 << log tiles wide; tile_after is the one whose turn comes next.
  void run(std::int64_t row, std::int64_t group0, std::int64_t group1, std::int64_t tile, int log,
           std::int64_t tile_after) const {
    const std::int64_t gates = op.gates, line = gates * V::width, width = line << log;
    const std::int64_t most = group1 - group0 == 1 ? op.depth : near_depth(static_cast<std::size_t>(width) * sizeof(S));
    const KernelRow<S, C>* const kernels = kernels_of<S, C, Op::kColumns>(static_cast<int>(gates));
    alignas(64) C sums[kGroupsTogether * kMostSums * V::width];
    Part<S, C> part = part_of(line, width);
    for (std::int64_t k0 = 0;; k0 += most) {
      const std::int64_t k1 = op.depth - k0 <= most ? op.depth : k0 + most;
      const bool first = k0 == 0, last = k1 == op.depth, goes_on = first && continues(op);
      part.depth = k1 - k0;
      part.weights = moved(op.weights.packed, tile, k0 * line);
      part.start = first ? op.start.of(tile) : Start<C>{};
      part.adds = !first || goes_on;
      const PackedMatrix<S> ahead = moved(op.weights.packed, last ? tile_after : tile, last ? 0 : k1 * line);
      std::int64_t at = row, next_tile = 0, next_gate = 0;
      for (std::int64_t group = group0; group < group1; ++group) {
        const std::int64_t n = groups.rows(group);
        assert(n >= 1 && n <= kMostKernelRows);
        const Area area{at, n, tile, 1 << log};
        C* const at_sums = sums + (at - row) * width;
        const bool fetch_weights = fetch && next_tile < 1 << log;
        if (fetch) {
          part.next = moved(ahead, next_tile, next_gate * part.depth * V::width).first;
          if (++next_gate == gates) next_gate = 0, ++next_tile;
        }
        if ((fetch || Op::kCold) && last) op.fetch_end(area);
        if (Op::kNewRows && tile == new_at) {
          if (group + 1 < group1)
            fetch_rows(at + n, groups.rows(group + 1), k0, k1);
          else if (!last)
            fetch_rows(row, groups.rows(group0), k1, k1 + most < op.depth ? k1 + most : op.depth);
        }
        if (goes_on) fill_sums(op, area, at_sums);
        find_rows(part, at, k0);
        find_sums(part, at, tile, at_sums);
        kernels[n - 1].by_tiles[fetch_weights][log](part);
        if constexpr (!Op::kDirect) {
          if (last) op.end(area, at_sums);
        }
        at += n;
      }
      if (last) return;
    }
  }

  // The same for a few rows and tiles that one kernel covers: in small steps `run` itself would take as long as it.
  void run_once(std::int64_t row, std::int64_t rows, std::int64_t tile, int log) const {
    assert(rows >= 1 && rows <= kMostKernelRows && log >= 0 && log <= fusedrnn::kLogKernelTiles);
    const std::int64_t gates = op.gates, line = gates * V::width;
    const Area area{row, rows, tile, std::int64_t{1} << log};
    alignas(64) C sums[kMostSums * V::width];
    Part<S, C> part = part_of(line, line << log);
    part.weights = moved(op.weights.packed, tile, 0);
    part.depth = op.depth;
    part.start = op.start.of(tile);
    part.adds = continues(op);
    fill_sums(op, area, sums);
    find_rows(part, row, 0);
    find_sums(part, row, tile, sums);
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
  const Groups groups(rows.size(), kShapes.most_rows(op.gates, tiles.size()));
  const std::int64_t bytes = tiles.size() * op.depth * op.gates * V::width * static_cast<std::int64_t>(sizeof(S));
  const bool fetch = bytes > kNearBytes;
  const std::int64_t row_bytes = op.depth * static_cast<std::int64_t>(sizeof(typename Op::Compute));
  const std::int64_t new_at = Op::kNewRows && rows.size() * row_bytes > kFarBytes ? tiles.first : -1;
  const int widest = kShapes.log_tiles[op.gates][groups.rows(0)];
  if (groups.count == 1 && !fetch && (tiles.size() & (tiles.size() - 1)) == 0 && tiles.size() <= 1 << widest) {
    int log = 0;
    while (1 << log < tiles.size()) ++log;
    return TileSweep<Op>{op, groups, fetch, new_at}.run_once(rows.first, rows.size(), tiles.first, log);
  }
  const std::int64_t whole = tiles.size() >> widest, tail = tiles.first + (whole << widest);

  const auto run_tiles = [&](const Groups& some, std::int64_t tile, int log, std::int64_t after) {
    const TileSweep<Op> sweep_of_some{op, some, fetch, new_at};
    std::int64_t row = rows.first;
    for (std::int64_t group = 0; group < some.count; group += kGroupsTogether) {
      const std::int64_t end = group + kGroupsTogether < some.count ? group + kGroupsTogether : some.count;
      sweep_of_some.run(row, group, end, tile, log, after);
      for (std::int64_t g = group; g < end; ++g) row += some.rows(g);
    }
  };
  // Narrower kernels have registers for more rows.
  const auto run_tail = [&] {
    std::int64_t tile = tail;
    for (int log = widest - 1; tile < tiles.last; --log) {
      if (1 << log > tiles.last - tile) continue;
      run_tiles(Groups(rows.size(), kShapes.most_rows(op.gates, 1 << log)), tile, log, tile);
      tile += 1 << log;
    }
  };
  if (backwards) run_tail();
  for (std::int64_t i = 0; i < whole; ++i) {
    const std::int64_t at = backwards ? whole - 1 - i : i, after = i + 1 == whole ? at : backwards ? at - 1 : at + 1;
    run_tiles(groups, tiles.first + (at << widest), widest, tiles.first + (after << widest));
  }
  if (!backwards) run_tail();
}

}  // namespace
