// What the forward and backward drivers share: scratch memory, tiles, time. Contracts are asserted in builds without
// NDEBUG, which those for the sanitizers are.
#pragma once

#include <cassert>
#include <cstdint>
#include <cstring>

#include "../problem.hpp"
#include "sweep.hpp"

namespace {

using fusedrnn::CellFacts;
using fusedrnn::Gradients;
using fusedrnn::Problem;
using fusedrnn::Worker;
using std::int64_t;

// A bump allocator over scratch that the host made; over null it only measures.
struct Arena {
  char* base;
  std::size_t used = 0;

  template <class T>
  T* take(int64_t count) {
    assert(count >= 0);
    T* const p = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return p;
  }
};

template <class V>
RNN_INLINE int64_t tiles_of(int64_t units) {
  return (units + V::width - 1) / V::width;
}

// A worker's own scratch, laid out by the driver.
template <class Driver>
void lay_out(Driver& driver, const Worker& w) {
  assert(w.local && reinterpret_cast<std::uintptr_t>(w.local) % 64 == 0);
  Arena arena{w.local};
  driver.layout(arena);
  assert(arena.used <= w.local_bytes);
}

// The lanes of a tile that are units.
template <class V>
RNN_INLINE typename V::Lanes lanes_of(int64_t tile, int64_t units) {
  const int64_t left = units - tile * V::width;
  assert(tile >= 0 && left > 0);
  return typename V::Lanes(left < V::width ? static_cast<int>(left) : V::width);
}

// The units of a worker's tiles.
template <class V, class T>
Span units_of(const Problem<T>& p, const Worker& w) {
  const int64_t last = w.tile1 * V::width;
  return {w.tile0 * V::width, last < p.hidden ? last : p.hidden};
}

template <class T>
int64_t length_of(const Problem<T>& p, int64_t row) {
  return p.lengths ? p.lengths[row] : p.seq_len;
}

// Steps are counted in the order in which forward runs them; time t is where a step lies in x and y.
template <class T>
int64_t time_of(const Problem<T>& p, int64_t step) {
  return p.reverse ? p.seq_len - 1 - step : step;
}

template <class T>
bool is_first(const Problem<T>& p, int64_t t, int64_t row) {
  return p.reverse ? t == length_of(p, row) - 1 : t == 0;
}

template <class T>
bool is_last(const Problem<T>& p, int64_t t, int64_t row) {
  return p.reverse ? t == 0 : t == length_of(p, row) - 1;
}

template <class T>
int64_t time_before(const Problem<T>& p, int64_t t) {
  return p.reverse ? t + 1 : t - 1;
}

template <class T>
int64_t time_after(const Problem<T>& p, int64_t t) {
  return p.reverse ? t - 1 : t + 1;
}

// A row's initial state, zeros where none was given.
template <class T>
const T* initial_state(const Problem<T>& p, const CellFacts& f, int state, int64_t row, const T* zeros) {
  return p.state0[state] ? p.state0[state] + row * f.state[state].units * p.hidden : zeros;
}

// state[units] of the worker's rows = from[units], or zeros; a state is `vectors` times H elements.
template <class T>
void copy_or_zero(T* to, const T* from, int64_t vectors, int64_t hidden, const Worker& w, Span units) {
  const std::size_t bytes = static_cast<std::size_t>(units.size()) * sizeof(T);
  for (int64_t i = w.row0 * vectors; i < w.row1 * vectors; ++i) {
    T* const target = to + i * hidden + units.first;
    if (from)
      std::memcpy(target, from + i * hidden + units.first, bytes);
    else
      std::memset(target, 0, bytes);
  }
}

inline void meet(fusedrnn::Barrier* barrier) {
  if (barrier) fusedrnn::barrier_wait(barrier);
}

}  // namespace
