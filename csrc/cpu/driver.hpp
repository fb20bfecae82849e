// Common to the forward and backward drivers: scratch memory, tiles, time, states. Contracts are asserted in builds
// without NDEBUG, such as the builds for sanitizers.
#pragma once

#include <cassert>
#include <cstdint>
#include <cstring>

#include "../arena.hpp"
#include "../problem.hpp"
#include "../sizes.hpp"
#include "sweep.hpp"

namespace {

using fusedrnn::CellFacts;
using fusedrnn::From;
using fusedrnn::Gradients;
using fusedrnn::kMaxStates;
using fusedrnn::PackedWeights;
using fusedrnn::Problem;
using fusedrnn::Range;
using fusedrnn::Worker;
using std::int64_t;

template <class V>
RNN_INLINE int64_t tiles_of(int64_t units) {
  return (units + V::width - 1) / V::width;
}

// A worker's own scratch, laid out by the driver.
template <class Driver>
void lay_out(Driver& driver, const Worker& worker) {
  assert(worker.local && reinterpret_cast<std::uintptr_t>(worker.local) % 64 == 0);
  Arena arena(worker.local);
  driver.layout(arena);
  assert(arena.used <= worker.local_bytes);
}

// The lanes of a tile that are units.
template <class V>
RNN_INLINE typename V::Lanes lanes_of(int64_t tile, int64_t units) {
  const int64_t left = units - tile * V::width;
  assert(tile >= 0 && left > 0);
  return typename V::Lanes(left < V::width ? static_cast<int>(left) : V::width);
}

// The units of these tiles, of `units`.
template <class V>
Span units_of(Span tiles, int64_t units) {
  const int64_t first = tiles.first * V::width, last = tiles.last * V::width;
  return {first < units ? first : units, last < units ? last : units};
}

// A worker's tiles of units, and of h's units; and these units.
inline Span tiles_of_worker(const Worker& worker) { return {worker.tile0, worker.tile1}; }
inline Span h_tiles_of(const Worker& worker) { return {worker.h_tile0, worker.h_tile1}; }
template <class V, class C>
Span units_of(const Problem<C>& p, const Worker& worker) {
  return units_of<V>(tiles_of_worker(worker), p.hidden);
}
template <class V, class C>
Span h_units_of(const Problem<C>& p, const Worker& worker) {
  return units_of<V>(h_tiles_of(worker), p.proj);
}

template <class C>
int64_t length_of(const Problem<C>& p, int64_t row) {
  return p.lengths ? p.lengths[row] : p.seq_len;
}

// Steps are counted in the order in which forward runs them; time t is where a step lies in x and y.
template <class C>
int64_t time_of(const Problem<C>& p, int64_t step) {
  return p.reverse ? p.seq_len - 1 - step : step;
}

template <class C>
int64_t first_time(const Problem<C>& p, int64_t row) {
  return p.reverse ? length_of(p, row) - 1 : 0;
}

template <class C>
int64_t last_time(const Problem<C>& p, int64_t row) {
  return p.reverse ? 0 : length_of(p, row) - 1;
}

template <class C>
int64_t time_before(const Problem<C>& p, int64_t t) {
  return p.reverse ? t + 1 : t - 1;
}

template <class C>
int64_t time_after(const Problem<C>& p, int64_t t) {
  return p.reverse ? t - 1 : t + 1;
}

// Where the states of a row lie. Before its first step they are where the caller gave them; after a step, h is in y and
// all other states are in the step's slots.
template <class C>
struct States {
  const Problem<C>& p;
  const CellFacts& f;
  const C* zeros;   // as many as the longest state has
  const C* h;       // (T, B, P), rows p.y_stride apart
  C* slots;         // (T, B, S, H); (2, B, S, H) if steps take turns
  bool take_turns;  // each step reuses the slots of the step before the last

  int64_t size(int s) const { return s == 0 ? p.proj : f.state[s].units * p.hidden; }
  C* slots_at(int64_t t, int64_t row) const {
    const int64_t step = take_turns ? time_of(p, t) % 2 : t;
    return slots + (step * p.batch + row) * f.slots * p.hidden;
  }
  const C* initial(int s, int64_t row) const { return p.state0[s] ? p.state0[s] + row * size(s) : zeros; }
  const C* after(int s, int64_t t, int64_t row) const {
    return s == 0 ? h + (t * p.batch + row) * p.y_stride : slots_at(t, row) + f.state[s].slot * p.hidden;
  }
  const C* before(int s, int64_t t, int64_t row) const {
    return t == first_time(p, row) ? initial(s, row) : after(s, time_before(p, t), row);
  }
};

// to[units] of each of the worker's rows = from[units], or zeros where `from` is null. A row has `vectors` of `size`
// elements each, and `units` are taken of each vector.
template <class C>
void copy_or_zero(C* to, const C* from, int64_t vectors, int64_t size, const Worker& worker, Span units) {
  if (units.size() <= 0) return;
  const std::size_t bytes = static_cast<std::size_t>(units.size()) * sizeof(C);
  for (int64_t i = worker.row0 * vectors; i < worker.row1 * vectors; ++i) {
    C* const target = to + i * size + units.first;
    if (from)
      std::memcpy(target, from + i * size + units.first, bytes);
    else
      std::memset(target, 0, bytes);
  }
}

inline void meet(fusedrnn::Barrier* barrier) {
  if (barrier) fusedrnn::barrier_wait(barrier);
}

}  // namespace
