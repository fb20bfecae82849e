// One thread block of a persistent kernel: the weights that it keeps, its share of a product, its elements, and how it
// meets the thread blocks that share its rows.
#pragma once

#include "../cells/cells.hpp"
#include "../cells/facts_of_cell.hpp"
#include "product.hpp"

namespace {

using fusedrnn::cuda::Arguments;
using fusedrnn::cuda::kChunkBytes;
using fusedrnn::cuda::Plan;
using fusedrnn::cuda::ProductPlan;

// A unit and a row of the batch, always in the hands of the same thread.
struct Element {
  int64_t unit, row;
  int member, octet;          // among the groups that are worked on at once, and in its group
  int unit_place, row_place;  // in the octet, and among the rows that are worked on at once
};

template <class Format>
struct ThreadBlock {
  using Storage = typename Format::Storage;
  using Operand = decltype(Format::operand(0.0f));

  const Arguments& a;
  float* const partial;  // [warp][half][row / 8][unit][row % 8]
  char* const weights;   // [group][product][chunk][half][512 bytes]
  const int unit_block, batch_group;
  const int64_t row0, row1;
  unsigned target = 0;

  RNN_DEVICE explicit ThreadBlock(const Arguments& arguments)
      : a(arguments),
        partial(reinterpret_cast<float*>(shared_memory())),
        weights(shared_memory() + a.plan.warps * kMaxHalves * kHalfSums * static_cast<int>(sizeof(float))),
        unit_block(thread_block_index() % a.plan.unit_blocks),
        batch_group(thread_block_index() / a.plan.unit_blocks),
        row0(static_cast<int64_t>(batch_group) * a.plan.rows_per_group),
        row1(row0 + a.plan.rows_per_group < a.batch ? row0 + a.plan.rows_per_group : a.batch) {}

  RNN_DEVICE int first_group() const { return unit_block * a.plan.groups_per_block; }
  RNN_DEVICE int group_count() const {
    const int left = a.plan.groups - first_group();
    return left < a.plan.groups_per_block ? left : a.plan.groups_per_block;
  }
  RNN_DEVICE int at_once() const { return a.plan.warps / a.plan.splits; }
  RNN_DEVICE int halves(int product) const { return a.plan.octets_per_group * a.plan.product[product].gates; }
  RNN_DEVICE int resident_bytes(int product) const {
    return a.plan.product[product].resident * halves(product) * kHalfBytes;
  }
  RNN_DEVICE const char* resident(int group, int product) const {
    int each = 0, before = 0;
    for (int p = 0; p < a.plan.products; ++p) {
      if (p < product) before += resident_bytes(p);
      each += resident_bytes(p);
    }
    return weights + group * each + before;
  }
  RNN_DEVICE const char* packed(int group, int product, int chunk, int half) const {
    const ProductPlan& p = a.plan.product[product];
    const int64_t octet = static_cast<int64_t>(first_group() + group) * a.plan.octets_per_group + half / p.gates;
    return static_cast<const char*>(a.packed[product]) +
           ((octet * p.chunks + chunk) * p.gates + half % p.gates) * kHalfBytes;
  }

  // Brings in the weights that stay.
  RNN_DEVICE void load_weights() const {
    for (int group = 0; group < group_count(); ++group) {
      for (int product = 0; product < a.plan.products; ++product) {
        char* const to = const_cast<char*>(resident(group, product));
        const int pieces = resident_bytes(product) / 16;
        for (int i = thread_index(); i < pieces; i += thread_count()) {
          const int chunk = i / (32 * halves(product)), half = i / 32 % halves(product);
          *reinterpret_cast<Words*>(to + i * 16) = load_constant(packed(group, product, chunk, half) + i % 32 * 16);
        }
      }
    }
  }

  // All that thread blocks of the same rows wrote before is there for all of them afterwards.
  RNN_DEVICE void meet_group() {
    meet_thread_block();
    if (!fusedrnn::cuda::blocks_meet(a.plan)) return;
    target += static_cast<unsigned>(a.plan.unit_blocks);
    if (thread_index() == 0) {
      arrive(a.counters + batch_group);
      wait_for(a.counters + batch_group, target);
    }
    meet_thread_block();
  }

  RNN_DEVICE int64_t row_bytes(int product) const {
    return static_cast<int64_t>(a.plan.product[product].chunks) * kChunkBytes;
  }
  // Where row `row` of a product's operands lies; there are two copies of all, written and read in turn.
  RNN_DEVICE char* operands(int product, int64_t copy, int64_t row) const {
    const int64_t rows = static_cast<int64_t>(a.plan.batch_groups) * a.plan.rows_per_group;
    return static_cast<char*>(a.exchange[product]) + (copy * rows + row) * row_bytes(product);
  }
  RNN_DEVICE void give(int product, int64_t copy, int64_t row, int64_t k, float v) const {
    if (a.plan.product[product].chunks == 0) return;
    reinterpret_cast<Operand*>(operands(product, copy, row))[k] = Format::operand(v);
  }

  // Partial sums of the groups from `group` on, for the rows from `row` on, into `partial`.
  RNN_DEVICE void multiply(int product, int64_t copy, int group, int64_t row) const {
    const ProductPlan& p = a.plan.product[product];
    const int warp = thread_index() / 32, lane = thread_index() % 32, slice = warp % a.plan.splits;
    group += warp / a.plan.splits;
    if (group < group_count() && p.chunks > 0) {
      const int64_t left = (row1 - row + kOctet - 1) / kOctet;
      const int count = halves(product), tiles = left < kTiles ? static_cast<int>(left) : kTiles;
      const char* const from = operands(product, copy, row);
      const char* const kept = resident(group, product);
      float* const mine = partial + warp * kMaxHalves * kHalfSums;
      char* const scratch = reinterpret_cast<char*>(mine);
      WarpSums sums = {};
      for (int first = slice; first < p.chunks; first += kChunksAhead * a.plan.splits) {
        Operands x[kChunksAhead];
        RNN_UNROLL for (int i = 0; i < kChunksAhead; ++i) {
          const int chunk = first + i * a.plan.splits;
          if (chunk < p.chunks) load_operands(x[i], tiles, from + chunk * kChunkBytes, row_bytes(product));
        }
        RNN_UNROLL for (int i = 0; i < kChunksAhead; ++i) {
          const int chunk = first + i * a.plan.splits;
          if (chunk >= p.chunks) break;
          if (chunk < p.resident) {
            Format::add_chunk(sums, count, tiles, x[i], scratch, [&](int half, int slot) {
              return load_shared(kept + (chunk * count + half) * kHalfBytes + slot * 16);
            });
          } else {
            Format::add_chunk(sums, count, tiles, x[i], scratch, [&](int half, int slot) {
              return load_constant(packed(group, product, chunk, half) + slot * 16);
            });
          }
        }
      }
      meet_warp();  // the scratch has been read
      float* const to = mine + lane * 2;
      RNN_UNROLL for (int half = 0; half < kMaxHalves; ++half) {
        RNN_UNROLL for (int n = 0; n < kTiles; ++n) {
          if (half >= count || n >= tiles) break;
          float* const at = to + half * kHalfSums + n * kOctet * kOctet;
          at[0] = sums[half / 2][n][half % 2 * 2];
          at[1] = sums[half / 2][n][half % 2 * 2 + 1];
        }
      }
    }
    meet_thread_block();
  }
  // The sum of a gate of a product, after `multiply`: always in the same order.
  RNN_DEVICE float sum(int product, const Element& e, int gate) const {
    const ProductPlan& p = a.plan.product[product];
    if (p.chunks == 0) return 0.0f;
    const float* from = partial + (e.member * a.plan.splits * kMaxHalves + e.octet * p.gates + gate) * kHalfSums +
                        e.row_place / kOctet * kOctet * kOctet + e.unit_place * kOctet + e.row_place % kOctet;
    float total = 0.0f;
    RNN_ROLLED for (int s = 0; s < a.plan.splits; ++s, from += kMaxHalves * kHalfSums) total += *from;
    return total;
  }

  // run(group, row) for all that is worked on at once; all threads alike.
  template <class Run>
  RNN_DEVICE void for_each_part(Run&& run) const {
    for (int group = 0; group < group_count(); group += at_once()) {
      for (int64_t row = row0; row < row1; row += kRowsAtOnce) run(group, row);
    }
  }
  // run(element) for this thread's elements of a part.
  template <class Run>
  RNN_DEVICE void for_each_element(int group, int64_t row, Run&& run) const {
    const int left = group_count() - group, members = left < at_once() ? left : at_once();
    const int each = a.plan.octets_per_group * kOctet, units = members * each;
    const int rows = row1 - row < kRowsAtOnce ? static_cast<int>(row1 - row) : kRowsAtOnce;
    RNN_ROLLED for (int i = thread_index(); i < units * rows; i += thread_count()) {
      const int u = i % units, r = i / units;
      const Element e{
          static_cast<int64_t>(first_group() + group) * each + u, row + r, u / each, u % each / kOctet, u % kOctet, r};
      if (e.unit < a.hidden) run(e);
    }
  }
  // run(element) for all elements of this thread.
  template <class Run>
  RNN_DEVICE void for_all_elements(Run&& run) const {
    for_each_part([&](int group, int64_t row) { for_each_element(group, row, run); });
  }

  RNN_DEVICE int64_t time_of(int64_t step) const { return a.reverse ? a.seq_len - 1 - step : step; }
  RNN_DEVICE int64_t length_of(int64_t row) const { return a.lengths ? a.lengths[row] : a.seq_len; }
  // Whether any row of a part takes part at this time; the same for all threads.
  RNN_DEVICE bool any_active(int64_t t, int64_t row) const {
    const int64_t mine = row + thread_index() % 32;
    return any_lane(mine < row1 && t < length_of(mine));
  }
  RNN_DEVICE float optional(const void* from, int64_t i) const { return from ? load_element<Storage>(from, i) : 0.0f; }
  // Where a row's slots of a step begin in the reserve.
  RNN_DEVICE int64_t slot_place(int64_t t, int64_t row) const {
    return t * a.slots_step + row * a.slot_count * a.hidden;
  }
};

// run(Cell()) with this cell. The host launches only cells that run here (launch.cpp).
template <class Run>
RNN_DEVICE void with_cell(fusedrnn::CellId cell, Run&& run) {
  switch (cell) {
#define RNN_RUN_CELL(name, Cell)                                           \
  case fusedrnn::CellId::name:                                             \
    if constexpr (fusedrnn::cuda::runs(facts<Cell>())) return run(Cell()); \
    break;
    RNN_CELLS(RNN_RUN_CELL)
#undef RNN_RUN_CELL
    case fusedrnn::CellId::count:
      break;
  }
  trap();
}

}  // namespace
