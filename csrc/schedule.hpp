// How a recurrence is shared out among threads.
#pragma once

#include <cassert>
#include <cstdint>

#include "problem.hpp"

namespace fusedrnn {

// row_parts x tile_parts workers.
struct Schedule {
  int row_parts, tile_parts;
  int workers() const { return row_parts * tile_parts; }
};

// Whether tests ask for a certain schedule (set_schedule in run.hpp).
bool is_schedule_asked();

// What all that runs in one launch costs.
struct Work {
  double multiply_adds = 0, weight_bytes = 0;

  // Adds one forward pass of a problem, whose weights have `storage_bytes` an element.
  void add(const CellFacts& f, std::int64_t seq_len, std::int64_t batch, std::int64_t input, std::int64_t hidden,
           std::int64_t proj, std::size_t storage_bytes);
  // Whether the launch ends before other threads are awake.
  bool is_tiny() const;
};

// Whether it costs less to read weights of so many bytes where they lie, bringing a part of them into order in each of
// `passes` passes over them, than to pack them before.
bool worth_in_place(std::int64_t passes, double weight_bytes);

// The schedule of a problem of `batch` rows that runs on up to `threads` threads, as part of a launch.
Schedule choose(const CellFacts& f, std::int64_t batch, std::int64_t hidden, std::int64_t proj, const Work& work,
                std::int64_t tiles, int threads, std::size_t storage_bytes);
// How many steps layers above each other run at a time as a wave front, where `s` is the schedule of one of them; 0 if
// they run one after the other.
std::int64_t wave_steps(const CellFacts& f, const Schedule& s, std::int64_t seq_len, std::int64_t batch,
                        std::int64_t hidden, std::int64_t proj, int layers, int threads, std::size_t storage_bytes);

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
