#include "sizes.hpp"

#include "cells/gradients.hpp"
#include "format.hpp"
#include "platform/compiler.hpp"

namespace fusedrnn {

namespace {

using std::int64_t;

// A size, or none where 64 bits cannot count it.
class Counted {
 public:
  Counted(int64_t value) : value_(value) {}
  friend Counted operator+(const Counted& a, const Counted& b) {
    int64_t sum = 0;
    if (!a.value_ || !b.value_ || add_overflows(*a.value_, *b.value_, sum)) return {};
    return sum;
  }
  friend Counted operator*(const Counted& a, const Counted& b) {
    int64_t product = 0;
    if (!a.value_ || !b.value_ || multiply_overflows(*a.value_, *b.value_, product)) return {};
    return product;
  }
  std::optional<int64_t> value() const { return value_; }

 private:
  Counted() = default;
  std::optional<int64_t> value_;
};

// More than the parts of a worker's scratch whose size is constant, in elements. Clocks may make a chunk larger by
// kMostLanes times.
constexpr int64_t kPerWorker = 1 << 24;
static_assert(kProjectionBytes * (1 + kMostLanes) <= (kPerWorker / 2) * static_cast<int64_t>(sizeof(float)));
constexpr int64_t kPerClock = 8;            // more than a clock's place in time and its pointers
constexpr int64_t kPerRow = kMaxSums + 64;  // more than a worker keeps for a row: sums over units, pointers
constexpr int64_t kRounding = 64 * (8 + kMaxProducts * kMaxDepth);  // as arrays begin at multiples of 64 bytes
constexpr int64_t kLargestElement = sizeof(double);
#define RNN_IS_COUNTED(Format, text, storage, compute) \
  static_assert(sizeof(storage) <= kLargestElement && sizeof(compute) <= kLargestElement);
RNN_FORMATS(RNN_IS_COUNTED)
#undef RNN_IS_COUNTED

// At least the units of all tiles, with the lanes past the last unit of each head.
Counted units_in_tiles(int64_t hidden, int64_t heads) { return Counted(heads) * kMostLanes + hidden; }

}  // namespace

std::optional<int64_t> most_weight_bytes(const CellFacts& f, int64_t hidden, int64_t input, int64_t heads) {
  // The last tile of each head is there once more, with its gates joined.
  const Counted units = units_in_tiles(hidden, heads) + Counted(heads) * kMostLanes;
  const Counted inputs = Counted(input) + kMostLanes;
  int64_t recurrent = 0;  // vectors of H elements that a unit has in all recurrent matrices
  for (int i = 0; i < f.products; ++i) recurrent += static_cast<int64_t>(f.product[i].gates) * f.product[i].depth;
  const Counted of_head = Counted(hidden / heads) + kMostLanes;
  const Counted of_unit = inputs * f.gates + of_head * recurrent + 3 * f.gates + f.vectors;
  return (units * of_unit * kLargestElement + kRounding).value();
}

std::optional<int64_t> most_call_bytes(const CellFacts& f, int64_t hidden, int64_t input, int64_t seq_len,
                                       int64_t batch, int64_t heads) {
  const Counted units = units_in_tiles(hidden, heads), inputs = Counted(input) + kMostLanes;
  // Of a step of a row: x, dx, dx of another direction; y, dy, c, dc, c_below, dc_below; the reserve, h and c after
  // zoneout included; and,
  // where clocks take all steps at once, the gradients of pre-activations.
  const Counted step = inputs * 3 + units * (8 + f.slots + (f.clocked ? f.columns + 1 : 0));
  // The gradients of pre-activations of two chunks.
  const Counted chunks = units * (2 * f.columns + 2) * (Counted(batch) + kMostChunkPairs);
  // Of a row: states and their gradients; the slots of two steps; sums and extras of a stage; pre-activations of a
  // step, with a tile more for each clock that a worker has units of; and, for each worker that has all rows, two
  // pointers for each clock, and h_prev after dropout. There are no more workers than units where each of them has all
  // rows.
  const Counted clocks = f.clocked ? Counted(hidden) : Counted(0);
  // Of a row, for each worker that has all rows: the gradients of one head, brought together.
  const Counted gathered = heads > 1 ? (Counted(hidden / heads) * f.gates + kMostLanes) * kMostThreads : Counted(0);
  const Counted row = units * (4 * f.longest_state * f.states + 2 * f.slots + 1 + kMaxProducts * kMaxDepth) + gathered +
                      units * kPerRow + units * (f.clocked ? 1 + kMostLanes : 1) * f.gates + clocks * 2 * kMostThreads +
                      units * kMostThreads;
  // Of a worker: zeros, empty states, a stretch of operands, inputs after dropout, the state of each clock.
  const Counted worker = units * (1 + kMaxStates + kMaxOperands * kMaxDepth * kStretch) +
                         inputs * (kStretch + kRowsTogether) + clocks * kPerClock + kPerWorker;
  return (((Counted(seq_len) * step + row) * batch + chunks + worker * kMostThreads) * kLargestElement).value();
}

}  // namespace fusedrnn
