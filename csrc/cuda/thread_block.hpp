// One thread block of a persistent kernel: the weights and the states that it keeps, its share of a product, its
// elements, and how thread blocks of the same rows give each other operands.
//
// Operands are their own signal. Before a launch all words of `exchange` are kNotYet. A thread that has made an operand
// stores its word; a warp that needs the word loads it until it is there. Nothing else is ordered, counted or waited
// for. Operands come in versions, one for each step; version v lies in copy v % kRing. A thread block that has all of
// version v knows that nobody reads version v - 1 any more: version v of the others was made from it. So it then makes
// its words of old versions kNotYet again (kResetEvery versions at once, with a fence after them), long before anybody
// looks for the versions that will stand there. A version that a part of the rows will not read is not given.
#pragma once

#include "../cells/cells.hpp"
#include "../cells/facts_of_cell.hpp"
#include "product.hpp"

namespace {

using fusedrnn::cuda::Arguments;
using fusedrnn::cuda::kMaxCudaColumns;
using fusedrnn::cuda::kMaxCudaGates;
using fusedrnn::cuda::kMaxCudaSlots;
using fusedrnn::cuda::kMaxWarps;
using fusedrnn::cuda::kResetEvery;
using fusedrnn::cuda::kRing;
using fusedrnn::cuda::padded;
using fusedrnn::cuda::Plan;
using fusedrnn::cuda::ProductPlan;

// A unit and a row of the batch, always in the hands of the same thread. Units past the last fill up an octet: they are
// worked on like the last one, and leave no trace but zeros among the operands.
struct Element {
  int64_t unit, row;
  int64_t column;             // the unit, or the last one in its place
  bool valid;                 // no unit past the last
  int member, octet;          // among the groups that are worked on at once, and in its group
  int unit_place, row_place;  // in the octet, and among the rows that are worked on at once
};

template <class Format>
struct ThreadBlock {
  using Storage = typename Format::Storage;
  using Operand = decltype(Format::operand(0.0f));

  const Arguments& a;
  const int unit_block, batch_group;
  const int64_t row0, row1;
  const int warp_sums, half_sums;  // of `partial`
  float* const partial;            // [warp][half][row / 8][unit][row % 8]
  float* const state;              // [state][row of the group][unit of the block]
  char* const weights;             // [group][product][chunk][half][512 bytes]

  RNN_DEVICE explicit ThreadBlock(const Arguments& arguments)
      : a(arguments),
        unit_block(thread_block_index() % a.plan.unit_blocks),
        batch_group(thread_block_index() / a.plan.unit_blocks),
        row0(static_cast<int64_t>(batch_group) * a.plan.rows_per_group),
        row1(row0 + a.plan.rows_per_group < a.batch ? row0 + a.plan.rows_per_group : a.batch),
        warp_sums(a.plan.halves * a.plan.tiles * kTileSums),
        half_sums(a.plan.tiles * kTileSums),
        partial(reinterpret_cast<float*>(shared_memory())),
        state(partial + a.plan.warps * warp_sums),
        weights(reinterpret_cast<char*>(state + (a.plan.state_shared ? states() * states_each() : 0))) {}

  RNN_DEVICE int states() const { return a.run[1] ? 2 : 1; }
  RNN_DEVICE int block_units() const { return a.plan.groups_per_block * a.plan.octets_per_group * kOctet; }
  RNN_DEVICE int states_each() const { return a.plan.rows_per_group * block_units(); }
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

  // A number that the element keeps from step to step: h, c, or a gradient.
  RNN_DEVICE int state_place(int which, const Element& e) const {
    return which * states_each() + static_cast<int>(e.row - row0) * block_units() +
           static_cast<int>(e.unit - static_cast<int64_t>(unit_block) * block_units());
  }
  RNN_DEVICE float kept(int which, const Element& e) const {
    return a.plan.state_shared ? state[state_place(which, e)] : a.run[which][e.row * a.hidden + e.column];
  }
  RNN_DEVICE void keep(int which, const Element& e, float v) const {
    if (a.plan.state_shared)
      state[state_place(which, e)] = v;
    else if (e.valid)
      a.run[which][e.row * a.hidden + e.unit] = v;
  }
  // Numbers kept for the next launch, or from the one before.
  RNN_DEVICE void save_kept(const Element& e) const {
    for (int s = 0; s < states() && e.valid; ++s) a.run[s][e.row * a.hidden + e.unit] = kept(s, e);
  }
  RNN_DEVICE void restore_kept(const Element& e) const {
    for (int s = 0; s < states(); ++s) keep(s, e, a.run[s][e.row * a.hidden + e.column]);
  }

  RNN_DEVICE int64_t row_bytes(int product) const {
    return static_cast<int64_t>(a.plan.product[product].chunks) * kChunkBytes;
  }
  // Where row `row` of a version of a product's operands lies.
  RNN_DEVICE char* operands(int product, int64_t version, int64_t row) const {
    const int64_t rows = static_cast<int64_t>(a.plan.batch_groups) * a.plan.rows_per_group;
    return static_cast<char*>(a.exchange[product]) + ((version & (kRing - 1)) * rows + row) * row_bytes(product);
  }
  // An element's operand: of the gate's K in backward, where each gate has whole octets. One thread stores a word; of
  // two operands of 16 bits, that of the first.
  RNN_DEVICE bool has_word(int product, const Element& e) const {
    return a.plan.product[product].chunks > 0 && e.unit < padded(a.hidden) && (sizeof(Operand) == 4 || e.unit % 2 == 0);
  }
  RNN_DEVICE void* word(int product, int64_t version, const Element& e, int gate) const {
    const int64_t k = gate * padded(a.hidden) + e.unit;
    return operands(product, version, e.row) + k * static_cast<int64_t>(sizeof(Operand));
  }
  // Gives an operand to all thread blocks of these rows. The threads of an octet call it together.
  RNN_DEVICE void give(int product, int64_t version, const Element& e, int gate, float v) const {
    if (a.plan.product[product].chunks == 0) return;
    unsigned bits = bits_of(Format::operand(e.valid ? v : 0.0f));
    if constexpr (sizeof(Operand) == 2) bits |= of_neighbour(bits) << 16;
    if (has_word(product, e)) store_fresh(word(product, version, e, gate), bits);
  }
  // After a multiplication by this version: makes the element's words of old versions ready to be given anew.
  RNN_DEVICE void reset(int product, int64_t version, const Element& e, int gates) const {
    if (version % kResetEvery != 0 || !has_word(product, e)) return;
    for (int gate = 0; gate < gates; ++gate) {
      RNN_UNROLL for (int i = 1; i <= kResetEvery; ++i) store_fresh(word(product, version - i, e, gate), kNotYet);
    }
    fence();  // before all that this thread will give
  }
  // Zeros, in all copies, for the operands that no thread gives: past the last octet of K.
  RNN_DEVICE void fill_up(int product, int64_t given) const {
    const int64_t first = given * static_cast<int64_t>(sizeof(Operand)) / 4, words = row_bytes(product) / 4 - first;
    const int64_t all = kRing * (row1 - row0) * words;
    for (int64_t i = thread_index(); i < all && unit_block == 0; i += thread_count()) {
      const int64_t row = row0 + i / words % (row1 - row0), copy = i / words / (row1 - row0);
      store_fresh(operands(product, copy, row) + (first + i % words) * 4, 0);
    }
  }

  // Partial sums of the groups from `group` on, for the rows from `row` on, into `partial`.
  template <bool kOnlyReceive = false>
  RNN_DEVICE void multiply(int product, int64_t version, int group, int64_t row) const {
    const ProductPlan& p = a.plan.product[product];
    const int warp = thread_index() / 32, lane = thread_index() % 32, slice = warp % a.plan.splits;
    group += warp / a.plan.splits;
    if (group < group_count() && p.chunks > 0) {
      const int rows = row1 - row < kRowsAtOnce ? static_cast<int>(row1 - row) : kRowsAtOnce;
      const int count = halves(product), tiles = (rows + kOctet - 1) / kOctet;
      const int64_t stride = a.plan.splits * kChunkBytes;
      const char* const from = operands(product, version, row);
      const char* const stays = resident(group, product);
      float* const mine = partial + warp * warp_sums;
      char* const scratch = reinterpret_cast<char*>(mine);
      WarpSums sums = {};
      constexpr int kChunksAhead = Format::kChunksAhead;
      for (int first = slice; first < p.chunks; first += kChunksAhead * a.plan.splits) {
        Operands x[kChunksAhead];
        const int left = (p.chunks - first + a.plan.splits - 1) / a.plan.splits;
        receive(x, left, from + first * kChunkBytes, stride, rows, row_bytes(product));
        RNN_UNROLL for (int i = 0; i < kChunksAhead; ++i) {
          const int chunk = first + i * a.plan.splits;
          if (kOnlyReceive || i >= left) break;
          if (chunk < p.resident) {
            Format::add_chunk(sums, count, tiles, x[i], scratch, [&](int half, int slot) {
              return load_shared(stays + (chunk * count + half) * kHalfBytes + slot * 16);
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
          float* const at = to + half * half_sums + n * kTileSums;
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
    const float* from = partial + e.member * a.plan.splits * warp_sums + (e.octet * p.gates + gate) * half_sums +
                        e.row_place / kOctet * kTileSums + e.unit_place * kOctet + e.row_place % kOctet;
    float total = 0.0f;
    RNN_UNROLL for (int s = 0; s < kMaxWarps; ++s) {
      if (s < a.plan.splits) total += from[s * warp_sums];
    }
    return total;
  }

  // run(group, row) for all that is worked on at once; all threads alike.
  template <class Run>
  RNN_DEVICE void for_each_part(Run&& run) const {
    for (int group = 0; group < group_count(); group += at_once()) {
      for (int64_t row = row0; row < row1; row += kRowsAtOnce) run(group, row);
    }
  }
  // For this thread's elements of a part: load(element) before `multiply` (and, of later elements, while the one before
  // is worked on), run(element, loaded) after it.
  template <class Load, class Multiply, class Run>
  RNN_DEVICE void for_each_element(int group, int64_t row, Load&& load, Multiply&& multiply, Run&& run) const {
    const int left = group_count() - group, members = left < at_once() ? left : at_once();
    const int each = a.plan.octets_per_group * kOctet, units = members * each;
    const int rows = row1 - row < kRowsAtOnce ? static_cast<int>(row1 - row) : kRowsAtOnce;
    const auto element = [&](int i) {
      const int u = i % units, r = i / units;
      const int64_t unit = static_cast<int64_t>(first_group() + group) * each + u;
      const bool valid = unit < a.hidden;
      return Element{unit, row + r, valid ? unit : a.hidden - 1, valid, u / each, u % each / kOctet, u % kOctet, r};
    };
    int i = thread_index();
    Element next = element(i < units * rows ? i : 0);
    auto loaded = load(next);
    multiply();
    RNN_ROLLED for (; i < units * rows; i += thread_count()) {
      const Element e = next;
      const auto now = loaded;
      if (i + thread_count() < units * rows) {
        next = element(i + thread_count());
        loaded = load(next);
      }
      run(e, now);
    }
  }
  // run(element) for this thread's elements, of a part or all.
  template <class Run>
  RNN_DEVICE void for_elements_of(int group, int64_t row, Run&& run) const {
    struct Nothing {};
    for_each_element(
        group, row, [](const Element&) { return Nothing{}; }, [] {}, [&](const Element& e, Nothing) { run(e); });
  }
  template <class Run>
  RNN_DEVICE void for_all_elements(Run&& run) const {
    for_each_part([&](int group, int64_t row) { for_elements_of(group, row, run); });
  }

  RNN_DEVICE int64_t time_of(int64_t step) const { return a.reverse ? a.seq_len - 1 - step : step; }
  RNN_DEVICE int64_t length_of(int64_t row) const { return a.lengths ? a.lengths[row] : a.seq_len; }
  // Whether any row of a part takes part at this time; the same for all threads.
  RNN_DEVICE bool any_active(int64_t t, int64_t row) const {
    if (!a.lengths) return true;
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
