// Empty states: where a row begins if the caller gives no states. A row of each lies at the beginning of the scratch
// that workers share.
#pragma once

#include <cstdint>
#include <limits>

#include "arena.hpp"
#include "cells/facts.hpp"

// Internal linkage: kernels.cpp, which is compiled once per ISA, calls this when it runs.
namespace {

inline double value_of(fusedrnn::Empty empty) {
  return empty == fusedrnn::Empty::zero ? 0 : -std::numeric_limits<double>::infinity();
}

template <class C>
struct EmptyStates {
  C* zeros = nullptr;                 // as many as the longest state has
  C* row[fusedrnn::kMaxStates] = {};  // of each state

  EmptyStates() = default;
  EmptyStates(Arena&& arena, const fusedrnn::CellFacts& f, std::int64_t hidden) : EmptyStates(arena, f, hidden) {}
  EmptyStates(Arena& arena, const fusedrnn::CellFacts& f, std::int64_t hidden)
      : zeros(arena.take<C>(f.longest_state * hidden)) {
    for (int s = 0; s < f.states; ++s) {
      row[s] = f.state[s].empty == fusedrnn::Empty::zero ? zeros : arena.take<C>(f.state[s].units * hidden);
    }
  }

  void fill(const fusedrnn::CellFacts& f, std::int64_t hidden) const {
    fill(zeros, f.longest_state * hidden, C(0));
    for (int s = 0; s < f.states; ++s) {
      if (row[s] != zeros) fill(row[s], f.state[s].units * hidden, static_cast<C>(value_of(f.state[s].empty)));
    }
  }

 private:
  static void fill(C* to, std::int64_t count, C value) {
    for (std::int64_t i = 0; i < count; ++i) to[i] = value;
  }
};

}  // namespace
