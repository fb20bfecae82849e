// One thread block of a persistent kernel: the weights and the states that it keeps, its share of a product, its
// elements, and how thread blocks of the same rows give each other operands.
//
// Operands are their own signal. Before a launch all words of `exchange` are kNotYet. A thread that has made an operand
// stores its word; a warp that needs the word loads it until it is there. Nothing else is ordered, counted or waited
// for. Operands come in versions, one for each step; version v lies in copy v % kRing. A thread block that has all of
// version v knows that nobody reads version v - 1 any more: version v of the others was made from it. So it then makes
// its words of old versions kNotYet again (kResetEvery versions at once, with a fence after them), long before anybody
// looks for the versions that will stand there. A version that a part of the rows will not read is not given.
//
// A step is short (some thousand cycles) and a warp runs it almost alone: what counts is the number of instructions in
// a row. So addresses are offsets from places that are known before the first step.
#pragma once

#include "../cells/cells.hpp"
#include "../cells/facts_of_cell.hpp"
#include "product.hpp"

namespace {

using fusedrnn::cuda::Arguments;
using fusedrnn::cuda::kChunkBytes;
using fusedrnn::cuda::kMaxCudaColumns;
using fusedrnn::cuda::kMaxCudaGates;
using fusedrnn::cuda::kMaxCudaProducts;
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
  bool valid;     // no unit past the last
  bool gives;     // it has a word among the operands: of two operands of 16 bits, the first
  int octet;      // in its group
  int sum;        // where the sums of its group, unit and row begin in `partial`
  int state;      // where its states lie in shared memory
  int64_t unit, row;
  int64_t place;  // in (B, H): row * H + the unit, or the last one in its place
};

template <class Format, int kTiles>
struct ThreadBlock {
  using Storage = typename Format::Storage;
  using Operand = decltype(Format::operand(0.0f));
  static constexpr int kRows = kTiles * kOctet;  // worked on at once
  static constexpr int kChunksAhead = kTiles == 4 ? 2 : 4;

  const Arguments& a;
  const int unit_block, batch_group;
  const int64_t row0, row1;
  const int warp_sums;   // of `partial`
  float* const partial;  // [warp][half][row / 8][unit][row % 8]
  float* const state;    // [state][row of the group][unit of the block]
  char* const weights;   // [group][product][chunk][half][512 bytes]

  RNN_DEVICE explicit ThreadBlock(const Arguments& arguments)
      : a(arguments),
        unit_block(thread_block_index() % a.plan.unit_blocks),
        batch_group(thread_block_index() / a.plan.unit_blocks),
        row0(static_cast<int64_t>(batch_group) * a.plan.rows_per_group),
        row1(row0 + a.plan.rows_per_group < a.batch ? row0 + a.plan.rows_per_group : a.batch),
        warp_sums(a.plan.halves * kTiles * kTileSums),
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
    RNN_ROLLED for (int group = 0; group < group_count(); ++group) {
      RNN_ROLLED for (int product = 0; product < a.plan.products; ++product) {
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
  RNN_DEVICE float kept(int which, const Element& e) const {
    return a.plan.state_shared ? state[which * states_each() + e.state] : a.run[which][e.place];
  }
  RNN_DEVICE void keep(int which, const Element& e, float v) const {
    if (a.plan.state_shared)
      state[which * states_each() + e.state] = v;
    else if (e.valid)
      a.run[which][e.place] = v;
  }
  // Numbers kept for the next launch, or from the one before.
  RNN_DEVICE void save_kept(const Element& e) const {
    for (int s = 0; s < states() && e.valid; ++s) a.run[s][e.place] = kept(s, e);
  }
  RNN_DEVICE void restore_kept(const Element& e) const {
    for (int s = 0; s < states(); ++s) keep(s, e, a.run[s][e.place]);
  }

  RNN_DEVICE int row_bytes(int product) const { return a.plan.product[product].chunks * kChunkBytes; }
  // Where a version of a product's operands lies.
  RNN_DEVICE char* copy(int product, int64_t version) const {
    return static_cast<char*>(a.exchange[product]) + (static_cast<int>(version) & (kRing - 1)) * a.copy_bytes[product];
  }
  // An element's operand: of the gate's K in backward, where each gate has whole octets.
  RNN_DEVICE int64_t word(int product, const Element& e, int gate) const {
    return e.row * row_bytes(product) + (gate * a.padded_hidden + e.unit) * static_cast<int64_t>(sizeof(Operand));
  }
  // Gives an operand to all thread blocks of these rows. The threads of an octet call it together.
  RNN_DEVICE void give(int product, int64_t version, const Element& e, int gate, float v) const {
    if (a.plan.product[product].chunks == 0) return;
    unsigned bits = bits_of(Format::operand(e.valid ? v : 0.0f));
    if constexpr (sizeof(Operand) == 2) bits |= of_neighbour(bits) << 16;
    if (e.gives) store_fresh(copy(product, version) + word(product, e, gate), bits);
  }
  // After a multiplication by this version: makes the element's words of old versions ready to be given anew.
  RNN_DEVICE void reset(int product, int64_t version, const Element& e, int gates) const {
    if (static_cast<int>(version) % kResetEvery != 0 || a.plan.product[product].chunks == 0 || !e.gives) return;
    RNN_ROLLED for (int gate = 0; gate < gates; ++gate) {
      const int64_t at = word(product, e, gate);
      RNN_UNROLL for (int i = 1; i <= kResetEvery; ++i) store_fresh(copy(product, version - i) + at, kNotYet);
    }
    fence();  // before all that this thread will give
  }
  // Zeros, in all copies, for the operands that no thread gives: past the last octet of K.
  RNN_DEVICE void fill_up(int product, int64_t given) const {
    const int64_t first = given * static_cast<int64_t>(sizeof(Operand)) / 4, words = row_bytes(product) / 4 - first;
    const int64_t all = kRing * (row1 - row0) * words;
    RNN_ROLLED for (int64_t i = thread_index(); i < all && unit_block == 0; i += thread_count()) {
      const int64_t row = row0 + i / words % (row1 - row0), version = i / words / (row1 - row0);
      store_fresh(copy(product, version) + row * row_bytes(product) + (first + i % words) * 4, 0);
    }
  }

  // Partial sums of the groups from `group` on, for the rows from `row` on, into `partial`.
  template <bool kOnlyReceive = false>
  RNN_DEVICE void multiply(int product, int64_t version, int group, int64_t row) const {
    const ProductPlan& p = a.plan.product[product];
    const int warp = thread_index() / 32, lane = thread_index() % 32, slice = warp % a.plan.splits;
    group += warp / a.plan.splits;
    if (group < group_count() && p.chunks > 0) {
      const int rows = row1 - row < kRows ? static_cast<int>(row1 - row) : kRows;
      const int count = halves(product), step = a.plan.splits * kChunkBytes;
      const char* from = copy(product, version) + row * row_bytes(product) + slice * kChunkBytes;
      const char* const stays = resident(group, product);
      float* const mine = partial + warp * warp_sums;
      char* const scratch = reinterpret_cast<char*>(mine);
      WarpSums<kTiles> sums = {};
      RNN_ROLLED for (int first = slice; first < p.chunks; first += kChunksAhead * a.plan.splits) {
        Operands<kTiles> x[kChunksAhead];
        const int left = (p.chunks - first + a.plan.splits - 1) / a.plan.splits;
        receive<kTiles, kChunksAhead>(x, left, from, step, rows, row_bytes(product));
        stamp(2);
        from += kChunksAhead * step;
        RNN_UNROLL for (int i = 0; i < kChunksAhead; ++i) {
          const int chunk = first + i * a.plan.splits;
          if (kOnlyReceive || i >= left) break;
          if (chunk < p.resident) {
            const char* const w = stays + chunk * count * kHalfBytes;
            Format::template add_chunk<kTiles>(sums, count, x[i], scratch, [&](int half, int slot) {
              return load_shared(w + half * kHalfBytes + slot * 16);
            });
          } else {
            Format::template add_chunk<kTiles>(sums, count, x[i], scratch, [&](int half, int slot) {
              return load_constant(packed(group, product, chunk, half) + slot * 16);
            });
          }
        }
        stamp(3);
      }
      meet_warp();  // the scratch has been read
      float* const to = mine + lane * 2;
      RNN_UNROLL for (int half = 0; half < kMaxHalves; ++half) {
        if (half >= count) break;
        RNN_UNROLL for (int n = 0; n < kTiles; ++n) {
          store_pair(to + (half * kTiles + n) * kTileSums, sums[half / 2][n][half % 2 * 2],
                     sums[half / 2][n][half % 2 * 2 + 1]);
        }
      }
    }
    meet_thread_block();
    stamp(4);
  }
  // The sums of the gates of a product, after `multiply`: always in the same order.
  RNN_DEVICE void add_up(float (&total)[kMaxCudaGates], int product, const Element& e, int gates) const {
    const float* from = partial + e.sum + e.octet * gates * kTiles * kTileSums;
    RNN_UNROLL for (int j = 0; j < kMaxCudaGates; ++j) total[j] = 0.0f;
    if (a.plan.product[product].chunks == 0) return;
    RNN_UNROLL for (int s = 0; s < kMaxWarps; ++s) {
      if (s >= a.plan.splits) break;
      RNN_UNROLL for (int j = 0; j < kMaxCudaGates; ++j) {
        if (j < gates) total[j] += from[j * kTiles * kTileSums];
      }
      from += warp_sums;
    }
  }

  // run(group, row) for all that is worked on at once; all threads alike.
  template <class Run>
  RNN_DEVICE void for_each_part(Run&& run) const {
    RNN_ROLLED for (int group = 0; group < group_count(); group += at_once()) {
      RNN_ROLLED for (int64_t row = row0; row < row1; row += kRows) run(group, row);
    }
  }

  // The elements of a part: `units` of each row.
  struct Part {
    int group, units, count;
    int64_t row;
  };
  RNN_DEVICE Part part_of(int group, int64_t row) const {
    const int left = group_count() - group, members = left < at_once() ? left : at_once();
    const int rows = row1 - row < kRows ? static_cast<int>(row1 - row) : kRows;
    const int units = members * a.plan.octets_per_group * kOctet;
    return {group, units, units * rows, row};
  }
  RNN_DEVICE Element element(const Part& part, int i) const {
    const unsigned index = static_cast<unsigned>(i), units = static_cast<unsigned>(part.units);
    const unsigned each = static_cast<unsigned>(a.plan.octets_per_group * kOctet);
    const int r = static_cast<int>(index / units), u = static_cast<int>(index % units);
    const int member = static_cast<int>(static_cast<unsigned>(u) / each);
    Element e;
    e.unit = static_cast<int64_t>(first_group() + part.group) * a.plan.octets_per_group * kOctet + u;
    e.row = part.row + r;
    e.valid = e.unit < a.hidden;
    e.gives = e.unit < a.padded_hidden && (sizeof(Operand) == 4 || e.unit % 2 == 0);
    e.octet = (u - member * static_cast<int>(each)) / kOctet;
    e.sum = member * a.plan.splits * warp_sums + r / kOctet * kTileSums + u % kOctet * kOctet + r % kOctet;
    e.state = static_cast<int>(e.row - row0) * block_units() + part.group * static_cast<int>(each) + u;
    e.place = e.row * a.hidden + (e.valid ? e.unit : a.hidden - 1);
    return e;
  }
  // The part that is first, and this thread's first element of it: known before the first step, as most thread blocks
  // have one part, and most threads one element.
  struct First {
    Part part;
    Element element;
  };
  RNN_DEVICE First first() const {
    const Part part = part_of(0, row0);
    return {part, element(part, thread_index() < part.count ? thread_index() : 0)};
  }

  // For this thread's elements of a part: load(element) before `multiply` (and, of later elements, while the one before
  // is worked on), run(element, loaded) after it.
  template <class Load, class Multiply, class Run>
  RNN_DEVICE void for_each_element(const First& known, int group, int64_t row, Load&& load, Multiply&& multiply,
                                   Run&& run) const {
    const bool is_known = group == 0 && row == row0;
    Part part = known.part;
    Element next = known.element;
    int i = thread_index();
    if (!is_known) {
      part = part_of(group, row);
      next = element(part, i < part.count ? i : 0);
    }
    auto loaded = load(next);
    stamp(1);
    multiply();
    RNN_ROLLED for (; i < part.count; i += thread_count()) {
      const Element e = next;
      const auto now = loaded;
      if (i + thread_count() < part.count) {
        next = element(part, i + thread_count());
        loaded = load(next);
      }
      run(e, now);
    }
  }
  // run(element) for this thread's elements of a part, or of all.
  template <class Run>
  RNN_DEVICE void for_elements_of(int group, int64_t row, Run&& run) const {
    const Part part = part_of(group, row);
    RNN_ROLLED for (int i = thread_index(); i < part.count; i += thread_count()) run(element(part, i));
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
    const int64_t mine = row + thread_index() % kRows;
    return any_lane(mine < row1 && t < length_of(mine));
  }
  RNN_DEVICE Storage optional(const void* from, int64_t i) const {
    Storage zero;
    narrow(0.0f, zero);
    return from ? static_cast<const Storage*>(from)[i] : zero;
  }
  // Where an element's slots of a step begin in the reserve.
  RNN_DEVICE int64_t slot_place(int64_t t, const Element& e) const {
    return t * a.slots_step + e.row * (a.slot_count - 1) * a.hidden + e.place;
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
