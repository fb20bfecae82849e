// Products of few rows with weights that are read where they lie, row-major: parts of a matrix, a block of k and a few
// tiles, are packed into L1 on the way, so that sums have the order, and the bits, of packed weights. Packing reads
// some 16 rows of the matrix at a time, as memory gives half its rate to a reader of 32 rows side by side
// (bench/NOTES.md).
#pragma once

#include "pack.hpp"
#include "sweep.hpp"

namespace {

template <class Op>
struct InPlaceSweep {
  using S = typename Op::Storage;
  using C = typename Op::Compute;
  using V = Vec<C>;
  static constexpr int kLogTiles = 2;                                          // of a part, at most
  static constexpr std::int64_t kPartSize = (kBlock << kLogTiles) * V::width;  // elements of a packed part
  static constexpr std::int64_t kMostTiles = 64;                               // whose sums are kept

  const Op& op;
  const RowMatrix<C>& m;
  const std::int64_t line;  // of sums of a tile and row
  alignas(64) S packed[kPartSize];
  alignas(64) C sums[kMostKernelRows * kMostTiles * V::width];  // [row][tile][gate][lane] of an area

  explicit InPlaceSweep(const Op& of) : op(of), m(*of.weights.rows), line(of.gates * V::width) {}

  void end(const Area& area) {
    if constexpr (Op::kDirect) {
      const C* from = sums;
      for_each_tile(area, [&](std::int64_t row, std::int64_t tile) {
        for (std::int64_t g = 0; g < op.gates; ++g, from += V::width) {
          V::load(from).store(op.to.of(row, tile) + g * V::width);
        }
      });
    } else {
      op.end(area, sums);
    }
  }

  // Adds a part of the matrix, of one gate, to the area's sums.
  void multiply(const Area& area, const RowMatrix<C>& one, std::int64_t gate, const PackedPart& part, int log) {
    const std::int64_t count = part.k1 - part.k0, width = area.tiles * line;
    assert(count * (part.tile1 - part.tile0) * V::width <= kPartSize);
    const PackedPart of_matrix{op.weights.tile + part.tile0, op.weights.tile + part.tile1, op.weights.k + part.k0,
                               op.weights.k + part.k1};
    pack_part(packed, one, of_matrix);
    C* const at = sums + (part.tile0 - area.tile) * line + gate * V::width;
    Part<S, C> kernel{};
    kernel.weights = {packed, count * V::width};
    kernel.depth = count;
    kernel.sources = op.sources(area.row);
    kernel.source_stride = op.source_stride;
    kernel.source_offset = op.source_offset + part.k0;
    if (part.k0 == 0) kernel.start = {op.start.of(part.tile0).at + gate * V::width, op.start.tile};
    kernel.to = {at, width, line};
    kernel.adds = part.k0 > 0 || continues(op);
    kernels_of<S, C, false>(1)[area.rows - 1].by_tiles[0][log](kernel);
  }

  // A matrix whose rows hold k: a tile at a time, a gate at a time.
  void run_along_rows(const Area& area) {
    for (std::int64_t gate = 0; gate < op.gates; ++gate) {
      RowMatrix<C> one = m;
      one.block[0] = m.block[gate];
      one.blocks = 1;
      std::int64_t k = 0;
      do {
        const std::int64_t end = k + kBlock < op.depth ? k + kBlock : op.depth;
        multiply(area, one, gate, {area.tile, area.tile + 1, k, end}, 0);
        k += kBlock;
      } while (k < op.depth);
    }
  }

  // A matrix whose rows hold units: a few tiles at a time.
  void run_across_rows(const Area& area) {
    const std::int64_t last = area.tile + area.tiles;
    const int widest = kShapes.log_tiles[1][area.rows] < kLogTiles ? kShapes.log_tiles[1][area.rows] : kLogTiles;
    std::int64_t k = 0;
    do {
      const std::int64_t end = k + kBlock < op.depth ? k + kBlock : op.depth;
      for (std::int64_t tile = area.tile; tile < last;) {
        int log = widest;
        while (1 << log > last - tile) --log;
        multiply(area, m, 0, {tile, tile + (1 << log), k, end}, log);
        tile += 1 << log;
      }
      k += kBlock;
    } while (k < op.depth);
  }

  void run(Span rows, Span tiles) {
    const std::int64_t together = m.transposed ? kMostTiles : 1;
    for (std::int64_t tile = tiles.first; tile < tiles.last; tile += together) {
      const std::int64_t left = tiles.last - tile;
      const Area area{rows.first, rows.size(), tile, left < together ? left : together};
      fill_sums(op, area, sums);
      if (m.transposed)
        run_across_rows(area);
      else
        run_along_rows(area);
      end(area);
    }
  }
};

// Out of line, so that a sweep of packed weights does without its memory.
template <class Op>
RNN_NOINLINE void sweep_in_place(const Op& op, Span rows, Span tiles) {
  InPlaceSweep<Op> some(op);
  const int together = kShapes.main_rows(1);
  for (std::int64_t row = rows.first; row < rows.last; row += together) {
    const std::int64_t end = row + together;
    some.run({row, end < rows.last ? end : rows.last}, tiles);
  }
}

}  // namespace
