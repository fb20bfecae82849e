// Sums of the stepwise kernels, in the order of docs/bits.md: k in blocks of 64, each a chain of multiply-adds, and
// the blocks added in order. A thread block takes a tile of 8 rows and 64 columns; each of its warps sums up blocks of
// k, side by side, and then the warps' sums are added.
//
// A sum is told by an object with
//     rows, columns, depth, heads            heads are products of their own, side by side: h counts them
//     row(h, m), left(row, k)                where the operand of row m lies, and its elements
//     column(h, n), start(h, n)              the right side's column, and what block 0 begins with there
//     right(h, k)                            a cursor: .at(column), .next()
//     ranges(), range_end(i)                 k is cut into ranges, whose sums are added in order
//     give(h, m, n, sum)
#pragma once

#include "step_place.hpp"

namespace {

using fusedrnn::cuda::kSumBlock;
using fusedrnn::cuda::kSumColumns;
using fusedrnn::cuda::kSumRows;
using fusedrnn::cuda::kTileElements;

// One tile's work of one thread block. In shared memory: a part for each warp, the sums of a range, and of all ranges.
template <class C, class Of>
struct SumTile {
  static constexpr int kEach = kSumColumns / 32;  // columns of a lane
  const Of& of;
  const int64_t head, row0, column0;
  const int warp, lane, warps;
  C* const parts;
  C* const of_range;
  C* const whole;

  RNN_DEVICE SumTile(const Of& sum, int64_t h, int64_t row, int64_t column)
      : of(sum),
        head(h),
        row0(row),
        column0(column),
        warp(thread_index() / 32),
        lane(thread_index() % 32),
        warps(thread_count() / 32),
        parts(reinterpret_cast<C*>(shared_memory())),
        of_range(parts + warps * kTileElements),
        whole(of_range + kTileElements) {}

  RNN_DEVICE static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

  // The operands of the rows, [k][row].
  RNN_DEVICE void load(C* tile, int64_t k0, int count) const {
    RNN_ROLLED for (int m = 0; m < kSumRows; ++m) {
      const auto row = of.row(head, least(row0 + m, of.rows - 1));
      for (int k = lane; k < count; k += 32) tile[k * kSumRows + m] = of.left(row, k0 + k);
    }
  }

  // The chains of one block of k, by this warp, into its part, [row][column].
  RNN_DEVICE void sum_block(int64_t k0, int count, bool is_first) const {
    C* const tile = parts + warp * kTileElements;
    load(tile, k0, count);
    meet_warp();
    C sums[kSumRows][kEach];
    int64_t columns[kEach];
    RNN_UNROLL for (int j = 0; j < kEach; ++j) {
      const int64_t n = least(column0 + j * 32 + lane, of.columns - 1);
      columns[j] = of.column(head, n);
      const C start = is_first ? of.start(head, n) : C(0);
      RNN_UNROLL for (int m = 0; m < kSumRows; ++m) sums[m][j] = start;
    }
    auto right = of.right(head, k0);
    RNN_ROLLED for (int k = 0; k < count; ++k) {
      C b[kEach];
      RNN_UNROLL for (int j = 0; j < kEach; ++j) b[j] = right.at(columns[j]);
      RNN_UNROLL for (int m = 0; m < kSumRows; ++m) {
        const C left = tile[k * kSumRows + m];
        RNN_UNROLL for (int j = 0; j < kEach; ++j) sums[m][j] = fused_exactly(left, b[j], sums[m][j]);
      }
      if (k + 1 < count) right.next();
    }
    meet_warp();  // all have read the operands
    RNN_UNROLL for (int m = 0; m < kSumRows; ++m) {
      RNN_UNROLL for (int j = 0; j < kEach; ++j) tile[m * kSumColumns + j * 32 + lane] = sums[m][j];
    }
  }

  // The sums of k0..k1-1, into `of_range`.
  RNN_DEVICE void sum_range(int64_t k0, int64_t k1) const {
    RNN_ROLLED for (int64_t first = k0; first < k1; first += int64_t{kSumBlock} * warps) {
      const int64_t mine = first + int64_t{kSumBlock} * warp;
      if (mine < k1) sum_block(mine, static_cast<int>(least(k1 - mine, kSumBlock)), mine == 0);
      meet_thread_block();
      const int blocks = static_cast<int>(least((k1 - first + kSumBlock - 1) / kSumBlock, warps));
      for (int i = thread_index(); i < kTileElements; i += thread_count()) {
        C sum = first == k0 ? parts[i] : of_range[i] + parts[i];
        for (int w = 1; w < blocks; ++w) sum = sum + parts[w * kTileElements + i];
        of_range[i] = sum;
      }
      meet_thread_block();
    }
  }

  RNN_DEVICE void run() const {
    int64_t k0 = 0;
    const int64_t ranges = of.ranges();
    RNN_ROLLED for (int64_t range = 0; range < ranges; ++range) {
      const int64_t k1 = of.range_end(range);
      sum_range(k0, k1);
      for (int i = thread_index(); i < kTileElements; i += thread_count()) {
        whole[i] = range == 0 ? of_range[i] : whole[i] + of_range[i];
      }
      k0 = k1;
    }
    for (int i = thread_index(); i < kTileElements; i += thread_count()) {
      const int64_t m = row0 + i / kSumColumns, n = column0 + i % kSumColumns;
      if (m < of.rows && n < of.columns) of.give(head, m, n, ranges > 0 ? whole[i] : C(0));
    }
    meet_thread_block();
  }
};

template <class C, class Of>
RNN_DEVICE void sum_all(const Of& of) {
  const int64_t columns = (of.columns + kSumColumns - 1) / kSumColumns, rows = (of.rows + kSumRows - 1) / kSumRows;
  RNN_ROLLED for (int64_t i = thread_block_index(); i < of.heads * rows * columns; i += thread_block_count()) {
    SumTile<C, Of>(of, i / columns / rows, i / columns % rows * kSumRows, i % columns * kSumColumns).run();
  }
}

// A matrix on the right side, row after row.
template <class C>
struct RowsOfMatrix {
  const C* row;
  int64_t stride;
  RNN_DEVICE C at(int64_t column) const { return row[column]; }
  RNN_DEVICE void next() { row += stride; }
};

// Common to all sums but those over pairs: one range.
template <class C>
struct OneRange {
  Place<C> place;
  int64_t rows = 0, columns = 0, depth = 0, heads = 1;

  RNN_DEVICE explicit OneRange(const StepArguments& a) : place(a) {}
  RNN_DEVICE int64_t ranges() const { return depth > 0 ? 1 : 0; }
  RNN_DEVICE int64_t range_end(int64_t) const { return depth; }
};

}  // namespace
