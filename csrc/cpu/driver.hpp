// Common to the forward and backward drivers: scratch memory, tiles, time, states. Contracts are asserted in builds
// without NDEBUG, such as the builds for sanitizers.
#pragma once

#include <cassert>
#include <cstdint>
#include <cstring>

#include "../arena.hpp"
#include "../empty.hpp"
#include "../heads.hpp"
#include "../steps.hpp"
#include "lanes.hpp"
#include "sweep.hpp"

namespace {

using fusedrnn::CellFacts;
using fusedrnn::From;
using fusedrnn::Gradients;
using fusedrnn::kMaxStates;
using fusedrnn::PackedWeights;
using fusedrnn::Range;
using fusedrnn::Worker;

// What dropout by a factor leaves of v: 0 where the factor is 0, whatever v is.
template <class V>
RNN_INLINE V left_by(V factor, V v) {
  return if_positive(factor, v * factor);
}

// A worker's own scratch, laid out by the driver.
template <class Driver>
void lay_out(Driver& driver, const Worker& worker) {
  assert(worker.local && reinterpret_cast<std::uintptr_t>(worker.local) % 64 == 0);
  Arena arena(worker.local);
  driver.layout(arena);
  assert(arena.used <= worker.local_bytes);
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
  const Heads heads(p.hidden, p.heads, V::width);
  return {heads.unit_of(worker.tile0), heads.unit_of(worker.tile1)};
}
template <class V, class C>
Span h_units_of(const Problem<C>& p, const Worker& worker) {
  const Heads heads(p.proj, p.heads, V::width);
  return {heads.unit_of(worker.h_tile0), heads.unit_of(worker.h_tile1)};
}

// run(head, tiles) for each head that has some of these tiles of all heads: its own of them, counted from its first.
template <class Run>
void for_each_head(const Heads& heads, Span tiles, bool backwards, Run&& run) {
  if (tiles.size() <= 0) return;
  const bool one = heads.count == 1;
  const int64_t first = one ? 0 : tiles.first / heads.tiles, last = one ? 1 : (tiles.last - 1) / heads.tiles + 1;
  for (int64_t i = first; i < last; ++i) {
    const int64_t head = backwards ? first + last - 1 - i : i, start = head * heads.tiles;
    const int64_t begin = tiles.first - start, end = tiles.last - start;
    run(head, Span{begin > 0 ? begin : 0, one || end < heads.tiles ? end : heads.tiles});
  }
}

// Zeros for these units of a step that is past a row's length, if the sequence is there and has a place for it.
template <class C>
void clear_past_length(const Problem<C>& p, C* sequence, int64_t stride, Span units, int64_t t, int64_t row) {
  if (!sequence || units.size() <= 0 || !is_padded(p)) return;
  std::memset(sequence + place_of(p, t, row) * stride + units.first, 0,
              static_cast<std::size_t>(units.size()) * sizeof(C));
}

// Where the states of a row lie. Before its first step they are where the caller gave them, or empty; after a step, h
// is in its history (in inference: in y), and all other states that have slots are in the step's slots.
template <class C>
struct States {
  const Problem<C>& p;
  const CellFacts& f;
  EmptyStates<C> empty;
  const C* h;  // (T, B, P)
  int64_t h_stride;
  C* slots;         // (T, B, S, H); (2, B, S, H) if steps take turns
  bool take_turns;  // each step reuses the slots of the step before the last
  C* zoned_c;       // c after zoneout, in place of the c in slots: (T, B, H); (2, B, H) if steps take turns; or null

  bool has_history(int s) const { return s == 0 || f.state[s].slot >= 0; }
  int64_t size(int s) const { return s == 0 ? p.proj : f.state[s].units * p.hidden; }
  int64_t kept_at(int64_t t, int64_t row) const {
    return take_turns ? time_of(p, t) % 2 * p.batch + row : place_of(p, t, row);
  }
  C* slots_at(int64_t t, int64_t row) const { return slots + kept_at(t, row) * f.slots * p.hidden; }
  const C* initial(int s, int64_t row) const { return p.state0[s] ? p.state0[s] + row * size(s) : empty.row[s]; }
  const C* anew(int s, int64_t row) const { return p.reset_state[s] ? p.reset_state[s] + row * size(s) : empty.row[s]; }
  const C* after(int s, int64_t t, int64_t row) const {
    if (s == 0) return h + place_of(p, t, row) * h_stride;
    if (s == 1 && zoned_c) return zoned_c + kept_at(t, row) * p.hidden;
    return slots_at(t, row) + f.state[s].slot * p.hidden;
  }
  // Where the states before a step come from.
  struct Origin {
    bool anew, first;
    int64_t before;
  };
  Origin origin(int64_t t, int64_t row) const {
    return {begins_anew(p, t, row), t == first_time(p, row), time_before(p, t)};
  }
  const C* before(int s, const Origin& from, int64_t row) const {
    return from.anew ? anew(s, row) : from.first ? initial(s, row) : after(s, from.before, row);
  }
};

// The memory that all workers of backward share: empty states, and the gradients of pre-activations of the last steps
// that have run, rows of all columns.
template <class C>
struct BackwardShared {
  const Problem<C>& p;
  const CellFacts& f;
  int64_t ring;
  int64_t row_size;  // a line more than the columns: rows a power of two apart would push each other out of L1
  EmptyStates<C> empty{};
  C* gradients = nullptr;

  BackwardShared(const Problem<C>& problem, const CellFacts& facts, int64_t ring_steps)
      : p(problem),
        f(facts),
        ring(ring_steps),
        row_size(facts.columns * problem.hidden + kCacheLine / static_cast<int64_t>(sizeof(C))) {}
  BackwardShared(const Problem<C>& problem, const CellFacts& facts, const Worker& worker)
      : BackwardShared(problem, facts, worker.ring) {
    Arena arena(worker.shared);
    layout(arena);
  }
  void layout(Arena& arena) {
    empty = EmptyStates<C>(arena, f, p.hidden);
    gradients = arena.take<C>(ring * p.batch * row_size);
  }
  C* at(int64_t t, int64_t row) const {
    assert(gradients && ring > 0);
    const int64_t step = (p.seq_len - 1 - time_of(p, t)) % ring;
    return gradients + (step * p.batch + row) * row_size;
  }
};

// to[units] of each of the worker's rows = from[units], or `otherwise` where `from` is null. A row has `vectors` of
// `size` elements each, and `units` are taken of each vector.
template <class C>
void copy_or_fill(C* to, const C* from, int64_t vectors, int64_t size, const Worker& worker, Span units,
                  C otherwise = 0) {
  if (units.size() <= 0) return;
  const std::size_t bytes = static_cast<std::size_t>(units.size()) * sizeof(C);
  for (int64_t i = worker.row0 * vectors; i < worker.row1 * vectors; ++i) {
    C* const target = to + i * size + units.first;
    if (from)
      std::memcpy(target, from + i * size + units.first, bytes);
    else
      for (int64_t unit = 0; unit < units.size(); ++unit) target[unit] = otherwise;
  }
}

inline void meet(const fusedrnn::Meeting& meeting) {
  if (meeting.barrier) fusedrnn::barrier_wait(meeting);
}

}  // namespace
