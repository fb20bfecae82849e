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
using fusedrnn::cuda::kMaxWarps;
using fusedrnn::cuda::kResetEvery;
using fusedrnn::cuda::kRing;
using fusedrnn::cuda::Plan;
using fusedrnn::cuda::ProductPlan;

// The unit of a thread, in a group that is worked on. Units past the last fill up an octet: they are worked on like the
// last one, and leave no trace but zeros among the operands.
struct Unit {
  bool valid;        // no unit past the last
  bool gives;        // it has a word among the operands: of two operands of 16 bits, the first
  int unit, column;  // the unit; and the last one in its place if it is past it
  int octet;         // in its group
  int sum;           // where the sums of its group and unit begin in `partial`
  int state;         // its place among the units of the thread block
};

// A unit and a row of the batch, always in the hands of the same thread.
struct Element : Unit {
  int row;
  int row_place;  // among the rows that are worked on at once
};

template <class Format, int kTiles>
struct ThreadBlock {
  using Storage = typename Format::Storage;
  using Operand = decltype(Format::operand(0.0f));
  static constexpr int kRows = kTiles * kOctet;  // worked on at once
  static constexpr int kChunksAhead = fusedrnn::cuda::chunks_ahead(kTiles);

  const Arguments& a;
  const int unit_block, batch_group;
  const int row0, row1;
  const int warp_sums;   // of `partial`
  float* const partial;  // [warp][half][row / 8][unit][row % 8]
  float* const state;    // [state][row of the group][unit of the block]
  char* const weights;   // [group][product][chunk][half][512 bytes]

  RNN_DEVICE explicit ThreadBlock(const Arguments& arguments)
      : a(arguments),
        unit_block(thread_block_index() % a.plan.unit_blocks),
        batch_group(thread_block_index() / a.plan.unit_blocks),
        row0(batch_group * a.plan.rows_per_group),
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
  RNN_DEVICE int at_once() const { return a.plan.warps >> a.plan.split_bits; }
  RNN_DEVICE int splits() const { return 1 << a.plan.split_bits; }
  RNN_DEVICE int halves(int product) const { return a.plan.octets_per_group * a.plan.product[product].gates; }
  RNN_DEVICE int pairs(int product) const { return fusedrnn::cuda::pairs_of(a.plan, product); }
  RNN_DEVICE int chunk_bytes(int product) const { return pairs(product) * 2 * kHalfBytes; }
  RNN_DEVICE char* resident(int group, int product) const {
    int each = 0, before = 0;
    for (int p = 0; p < a.plan.products; ++p) {
      const int bytes = a.plan.product[p].resident * chunk_bytes(p);
      if (p < product) before += bytes;
      each += bytes;
    }
    return weights + group * each + before;
  }
  RNN_DEVICE const char* packed(int group, int product, int chunk, int half) const {
    const ProductPlan& p = a.plan.product[product];
    const int64_t octet = static_cast<int64_t>(first_group() + group) * a.plan.octets_per_group + half / p.gates;
    return static_cast<const char*>(a.packed[product]) +
           ((octet * p.chunks + chunk) * p.gates + half % p.gates) * kHalfBytes;
  }

  // A piece of a half of packed weights; zeros for the partner of the last half where their number is odd.
  RNN_DEVICE Words piece(int group, int product, int chunk, int half, int i) const {
    if (half >= halves(product)) return {{0, 0, 0, 0}};
    return load_constant(packed(group, product, chunk, half) + i * 16);
  }
  // Brings in the weights that stay: pairs of halves, as the format wants them.
  RNN_DEVICE void load_weights() const {
    RNN_ROLLED for (int group = 0; group < group_count(); ++group) {
      RNN_ROLLED for (int product = 0; product < a.plan.products; ++product) {
        char* const to = resident(group, product);
        const int pieces = a.plan.product[product].resident * pairs(product) * 32;
        RNN_ROLLED for (int i = thread_index(); i < pieces; i += thread_count()) {
          const int chunk = i / 32 / pairs(product), pair = i / 32 % pairs(product);
          Words first = piece(group, product, chunk, 2 * pair, i % 32);
          Words second = piece(group, product, chunk, 2 * pair + 1, i % 32);
          Format::join(first, second);
          char* const at = to + i / 32 * 2 * kHalfBytes + i % 32 * 16;
          *reinterpret_cast<Words*>(at) = first;
          *reinterpret_cast<Words*>(at + kHalfBytes) = second;
        }
      }
    }
  }

  // In (B, H).
  RNN_DEVICE unsigned place(const Element& e) const { return static_cast<unsigned>(e.row * a.hidden + e.column); }

  // A number that the element keeps from step to step: h, c, or a gradient.
  RNN_DEVICE float* kept_in_shared(int which, const Element& e) const {
    return state + which * states_each() + (e.row - row0) * block_units() + e.state;
  }
  RNN_DEVICE float kept(int which, const Element& e) const {
    return a.plan.state_shared ? *kept_in_shared(which, e) : a.run[which][place(e)];
  }
  RNN_DEVICE void keep(int which, const Element& e, float v) const {
    if (a.plan.state_shared)
      *kept_in_shared(which, e) = v;
    else if (e.valid)
      a.run[which][place(e)] = v;
  }
  // Numbers kept for the next launch, or from the one before.
  RNN_DEVICE void save_kept(const Element& e) const {
    for (int s = 0; s < states() && e.valid; ++s) a.run[s][place(e)] = kept(s, e);
  }
  RNN_DEVICE void restore_kept(const Element& e) const {
    for (int s = 0; s < states(); ++s) keep(s, e, a.run[s][place(e)]);
  }

  RNN_DEVICE int row_bytes(int product) const { return a.plan.product[product].chunks * kChunkBytes; }
  // Where a version of a product's operands lies.
  RNN_DEVICE char* copy(int product, int version) const {
    return static_cast<char*>(a.exchange[product]) +
           static_cast<int64_t>(version & (kRing - 1)) * a.copy_bytes[product];
  }
  // An element's operand: of the gate's K in backward, where each gate has whole octets.
  RNN_DEVICE unsigned word(int product, const Element& e, int gate) const {
    return static_cast<unsigned>(e.row * row_bytes(product) +
                                 (gate * a.padded_hidden + e.unit) * static_cast<int>(sizeof(Operand)));
  }
  // Gives an operand to all thread blocks of these rows. The threads of an octet call it together.
  RNN_DEVICE void give(int product, int version, const Element& e, int gate, float v) const {
    if (a.plan.product[product].chunks == 0) return;
    unsigned bits = bits_of(Format::operand(e.valid ? v : 0.0f));
    if constexpr (sizeof(Operand) == 2) bits |= of_neighbour(bits) << 16;
    if (e.gives) store_fresh(copy(product, version) + word(product, e, gate), bits);
  }
  // After a multiplication by this version: makes the element's words of old versions ready to be given anew.
  RNN_DEVICE void reset(int product, int version, const Element& e, int gates) const {
    if (version % kResetEvery != 0 || a.plan.product[product].chunks == 0 || !e.gives) return;
    RNN_ROLLED for (int gate = 0; gate < gates; ++gate) {
      const unsigned at = word(product, e, gate);
      RNN_ROLLED for (int i = 1; i <= kResetEvery; ++i) store_fresh(copy(product, version - i) + at, kNotYet);
    }
    fence();  // before all that this thread will give
  }
  // Zeros, in all copies, for the operands that no thread gives: past the last octet of K.
  RNN_DEVICE void fill_up(int product, int given) const {
    const int first = given * static_cast<int>(sizeof(Operand)) / 4, words = row_bytes(product) / 4 - first;
    const int64_t all = int64_t{kRing} * (row1 - row0) * words;
    RNN_ROLLED for (int64_t i = thread_index(); i < all && unit_block == 0; i += thread_count()) {
      const int64_t row = row0 + i / words % (row1 - row0), version = i / words / (row1 - row0);
      char* const at = copy(product, static_cast<int>(version)) + row * row_bytes(product);
      store_fresh(at + (first + i % words) * 4, 0);
    }
  }

  // Partial sums of the groups from `group` on, for the rows from `row` on, into `partial`.
  template <int kProduct, bool kOnlyReceive = false>
  RNN_DEVICE void multiply(int version, int group, int row) const {
    const int warp = thread_index() / 32;
    group += warp >> a.plan.split_bits;
    if (group < group_count() && a.plan.product[kProduct].chunks > 0) {
      const int n = pairs(kProduct);
      if (n == 1)
        multiply_pairs<kProduct, 1, kOnlyReceive>(version, warp, group, row);
      else if (n == 2)
        multiply_pairs<kProduct, 2, kOnlyReceive>(version, warp, group, row);
      else if (n == 3)
        multiply_pairs<kProduct, 3, kOnlyReceive>(version, warp, group, row);
      else
        multiply_pairs<kProduct, 4, kOnlyReceive>(version, warp, group, row);
    }
    meet_thread_block();
    stamp(4);
  }
  template <int kProduct, int kPairs, bool kOnlyReceive>
  RNN_DEVICE void multiply_pairs(int version, int warp, int group, int row) const {
    const ProductPlan& p = a.plan.product[kProduct];
    WarpSums<kTiles, kPairs> sums = {};
    float* const mine = partial + warp * warp_sums;
    if (p.resident == p.chunks)
      multiply_chunks<kProduct, kPairs, true, kOnlyReceive>(sums, mine, version, warp, group, row);
    else
      multiply_chunks<kProduct, kPairs, false, kOnlyReceive>(sums, mine, version, warp, group, row);
    meet_warp();  // the scratch has been read
    const int lane = thread_index() % 32;
    RNN_UNROLL for (int half = 0; half < 2 * kPairs; ++half) {
      RNN_UNROLL for (int n = 0; n < kTiles; ++n) {
        const float* const pair = &sums[half / 2][n][half % 2 * 2];
        store_pair(mine + (half * kTiles + n) * kTileSums + lane * 2, pair[0], pair[1]);
      }
    }
  }
  template <int kProduct, int kPairs, bool kResident, bool kOnlyReceive>
  RNN_DEVICE void multiply_chunks(WarpSums<kTiles, kPairs>& sums, float* mine, int version, int warp, int group,
                                  int row) const {
    const ProductPlan& p = a.plan.product[kProduct];
    const int lane = thread_index() % 32, slice = warp & (splits() - 1), step = kChunkBytes << a.plan.split_bits;
    const int rows = rows_of(row) - lane / 4, bytes = row_bytes(kProduct);
    const unsigned offset = static_cast<unsigned>((row + lane / 4) * bytes + slice * kChunkBytes + lane % 4 * 16);
    const char* from = copy(kProduct, version) + offset;
    const char* stays = resident(group, kProduct) + slice * 2 * kPairs * kHalfBytes;
    const int weights_step = (2 * kPairs * kHalfBytes) << a.plan.split_bits;
    char* const scratch = reinterpret_cast<char*>(mine);
    RNN_ROLLED for (int first = slice; first < p.chunks; first += kChunksAhead << a.plan.split_bits) {
      Operands<kTiles> x[kChunksAhead];
      const int left = (p.chunks - first + splits() - 1) >> a.plan.split_bits;
      receive<kTiles, kChunksAhead>(x, left, from, step, rows, bytes);
      stamp(2);
      if constexpr (!kOnlyReceive) {
        RNN_UNROLL for (int i = 0; i < kChunksAhead; ++i) {
          const int chunk = first + (i << a.plan.split_bits);
          if (i >= left) break;
          if (kResident || chunk < p.resident) {
            const char* const w = stays + i * weights_step;
            Format::template add_chunk<kTiles, kPairs>(sums, x[i], scratch, [&](int half, int slot) {
              return load_shared(w + half * kHalfBytes + slot * 16);
            });
          } else {
            Format::template add_chunk<kTiles, kPairs>(
                sums, x[i], scratch, [&](int half, int slot) { return piece(group, kProduct, chunk, half, slot); },
                /*joined=*/false);
          }
        }
      }
      from += kChunksAhead * step;
      stays += kChunksAhead * weights_step;
      stamp(3);
    }
  }
  // The sums of a product's gates after `multiply`, always in the same order.
  template <int kGates>
  RNN_DEVICE void add_up(float (&total)[kGates], int product, const Element& e) const {
    const ProductPlan& p = a.plan.product[product];
    const float* const from = partial + e.sum + e.octet * p.gates * kTiles * kTileSums +
                              (e.row_place / kOctet * kTileSums + e.row_place % kOctet);
    RNN_UNROLL for (int j = 0; j < kGates; ++j) total[j] = 0.0f;
    if (p.chunks == 0) return;
    const auto add = [&](int s) {
      RNN_UNROLL for (int j = 0; j < kGates; ++j) {
        if (j < p.gates) total[j] += from[s * warp_sums + j * kTiles * kTileSums];
      }
    };
    if (splits() == kMaxWarps) {
      RNN_UNROLL for (int s = 0; s < kMaxWarps; ++s) add(s);
    } else {
      RNN_ROLLED for (int s = 0; s < splits(); ++s) add(s);
    }
  }

  // run(group, row) for all that is worked on at once; all threads alike.
  template <class Run>
  RNN_DEVICE void for_each_part(Run&& run) const {
    RNN_ROLLED for (int group = 0; group < group_count(); group += at_once()) {
      RNN_ROLLED for (int row = row0; row < row1; row += kRows) run(group, row);
    }
  }

  // This thread's elements of a part: one unit, and some of the rows.
  struct Part {
    Unit unit;
    int row, rows;    // of the part
    int first, step;  // of the thread, among them
  };
  RNN_DEVICE int rows_of(int row) const { return row1 - row < kRows ? row1 - row : kRows; }
  RNN_DEVICE Part part_of(int group, int row) const {
    const int left = group_count() - group, members = left < at_once() ? left : at_once();
    const int each = a.plan.octets_per_group * kOctet, units = members * each;
    const int u = thread_index() % units, member = u / each;
    Part part;
    part.row = row;
    part.rows = rows_of(row);
    part.step = thread_count() / units;
    part.first = thread_index() / units;
    if (part.first >= part.step) part.first = kRows;  // threads that are left over
    part.unit.unit = (first_group() + group) * each + u;
    part.unit.valid = part.unit.unit < a.hidden;
    part.unit.gives = part.unit.unit < a.padded_hidden && (sizeof(Operand) == 4 || u % 2 == 0);
    part.unit.column = part.unit.valid ? part.unit.unit : a.hidden - 1;
    part.unit.octet = (u - member * each) / kOctet;
    part.unit.sum = (member << a.plan.split_bits) * warp_sums + u % kOctet * kOctet;
    part.unit.state = group * each + u;
    return part;
  }
  RNN_DEVICE Element element(const Part& part, int r) const {
    Element e;
    static_cast<Unit&>(e) = part.unit;
    e.row = part.row + r;
    e.row_place = r;
    return e;
  }

  // For this thread's elements of a part: load(element) before `multiply` (and, of later elements, while the one before
  // is worked on), run(element, loaded) after it.
  template <class Load, class Multiply, class Run>
  RNN_DEVICE void for_each_element(const Part& part, Load&& load, Multiply&& multiply, Run&& run) const {
    int r = part.first;
    auto loaded = load(element(part, r < part.rows ? r : 0));
    stamp(1);
    multiply();
    RNN_ROLLED for (; r < part.rows; r += part.step) {
      const Element e = element(part, r);
      const auto now = loaded;
      if (r + part.step < part.rows) loaded = load(element(part, r + part.step));
      run(e, now);
    }
  }
  // run(element) for this thread's elements of a part, or of all.
  template <class Run>
  RNN_DEVICE void for_elements_of(int group, int row, Run&& run) const {
    const Part part = part_of(group, row);
    RNN_ROLLED for (int r = part.first; r < part.rows; r += part.step) run(element(part, r));
  }
  template <class Run>
  RNN_DEVICE void for_all_elements(Run&& run) const {
    for_each_part([&](int group, int row) { for_elements_of(group, row, run); });
  }

  RNN_DEVICE int time_of(int step) const { return a.reverse ? a.seq_len - 1 - step : step; }
  // Whether a row takes part at this time; and whether any row of a part does, the same for all threads.
  RNN_DEVICE bool is_active(int t, int row) const { return !a.lengths || t < a.lengths[row]; }
  RNN_DEVICE bool any_active(int t, int row) const {
    if (!a.lengths) return true;
    const int mine = row + thread_index() % kRows;
    return any_lane(mine < row1 && is_active(t, mine));
  }
  RNN_DEVICE Storage optional(const void* from, unsigned i) const {
    Storage zero;
    narrow(0.0f, zero);
    return from ? static_cast<const Storage*>(from)[i] : zero;
  }
  RNN_DEVICE Scalar weight(int k, const Element& e) const {
    return Scalar(widen(static_cast<const Storage*>(a.vectors)[k * a.hidden + e.column]));
  }
  // Where a time begins in an array that has so many elements for each step.
  RNN_DEVICE const Storage* at_time(const void* from, int t, int step) const {
    return static_cast<const Storage*>(from) + static_cast<int64_t>(t) * step;
  }
  RNN_DEVICE Storage* at_time(void* from, int t, int step) const {
    return static_cast<Storage*>(from) + static_cast<int64_t>(t) * step;
  }
  // An element's first vector, in an array of so many vectors for each row.
  RNN_DEVICE unsigned among(int vectors, const Element& e) const {
    return static_cast<unsigned>(e.row * vectors * a.hidden + e.column);
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
