// How a call is shared out among threads.
#pragma once

#include <cassert>
#include <cstdint>

#include "cost.hpp"

namespace fusedrnn {

// Whether tests ask for a certain schedule (set_schedule in run.hpp).
bool is_schedule_asked();

// Whether it costs less to read weights of so many bytes where they lie, bringing a part of them into order in each of
// `passes` passes over them, than to pack them before.
bool worth_in_place(std::int64_t passes, double weight_bytes);

// A call of layers, of which the lowest may have another input than the others.
struct CallSize {
  Kind kind;
  LayerSize lowest, above;
  int layers, directions;
  bool backward;
  bool can_wave;  // layers may run at the same time
};

struct Shares {
  Schedule schedule;        // of the recurrence of a layer in one direction
  int each;                 // workers of a side: the schedule's, or, in backward, more, which share the other products
  int sides;                // that work at the same time: directions, or the threads of a wave front
  std::int64_t wave_steps;  // that a layer of a wave front runs at a time; 0: layers run one after the other
};

// The shares that cost least, of up to so many threads; or those that tests ask for.
Shares share_out(const CallSize& call, int threads);

// Nanoseconds of a call without a wave front, side after side.
double cost_of(const CallSize& call, const Schedule& s, int workers);

// The first tile of each of `parts` parts of the tiles.
struct EvenCuts {
  std::int64_t operator()(std::int64_t tiles, std::int64_t part, std::int64_t parts) const {
    return tiles * part / parts;
  }
};

// The same, for a cell with clocks: parts whose forward steps cost the same. A tile costs the sum, over the clocks that
// have units in it, of the inputs of such a unit divided by the clock's period.
template <class F>
struct ClockCuts {
  const Problem<typename F::Compute>& p;
  const PackedWeights<F>& weights;
  std::int64_t lanes;

  double cost(std::int64_t tile) const {
    double sum = 0;
    for (int i = 0; i < weights.clock_count; ++i) {
      const Clock& clock = weights.clocks[i];
      if (clock.first >= (tile + 1) * lanes || clock.last <= tile * lanes) continue;
      sum += static_cast<double>(p.input + p.hidden - clock.first) / static_cast<double>(clock.period);
    }
    return sum;
  }
  std::int64_t operator()(std::int64_t tiles, std::int64_t part, std::int64_t parts) const {
    if (part == 0 || part == parts) return part == 0 ? 0 : tiles;
    double all = 0, before = 0;
    for (std::int64_t tile = 0; tile < tiles; ++tile) all += cost(tile);
    std::int64_t tile = 0;
    for (; tile < tiles && before * static_cast<double>(parts) < all * static_cast<double>(part); ++tile) {
      before += cost(tile);
    }
    // No part begins past the last tile.
    return tile < part ? part : tile > tiles - parts + part ? tiles - parts + part : tile;
  }
};

// Lays the schedule's workers out over rows and tiles. Workers beyond the schedule's own get nothing to do in the
// recurrence.
template <class Cuts>
Worker place(const Schedule& s, int index, int count, std::int64_t batch, std::int64_t tiles, std::int64_t h_tiles,
             const Cuts& cuts) {
  Worker worker{};
  worker.index = index;
  worker.count = count;
  if (index >= s.workers()) return worker;
  const std::int64_t row_part = index / s.tile_parts, tile_part = index % s.tile_parts;
  worker.row0 = batch * row_part / s.row_parts;
  worker.row1 = batch * (row_part + 1) / s.row_parts;
  worker.tile0 = cuts(tiles, tile_part, s.tile_parts);
  worker.tile1 = cuts(tiles, tile_part + 1, s.tile_parts);
  const bool projects = h_tiles != tiles;
  worker.h_tile0 = projects ? EvenCuts()(h_tiles, tile_part, s.tile_parts) : worker.tile0;
  worker.h_tile1 = projects ? EvenCuts()(h_tiles, tile_part + 1, s.tile_parts) : worker.tile1;
  assert(worker.row0 <= worker.row1 && worker.row1 <= batch && worker.tile0 <= worker.tile1 && worker.tile1 <= tiles);
  return worker;
}

}  // namespace fusedrnn
