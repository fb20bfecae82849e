// Steps, times and places. Steps are counted in the order in which forward runs them; time t is where a step lies in
// x and y.
#pragma once

#include <cstdint>

#include "problem.hpp"
#include "sizes.hpp"

// Internal linkage: kernels.cpp, which is compiled once per ISA, calls these when it runs.
namespace {

using fusedrnn::Problem;
using std::int64_t;

template <class C>
int64_t length_of(const Problem<C>& p, int64_t row) {
  return p.lengths ? p.lengths[row] : p.seq_len;
}

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

// Where a row of time t lies among the rows of a sequence.
template <class C>
int64_t place_of(const Problem<C>& p, int64_t t, int64_t row) {
  return (p.offsets ? p.offsets[t] : t * p.batch) + row;
}

// Whether a row's episode begins with the step at time t, in the order in which forward runs: its first step, where
// time runs backwards, is the last of the episode.
template <class C>
bool begins_anew(const Problem<C>& p, int64_t t, int64_t row) {
  if (!p.resets) return false;
  if (!p.reverse) return p.resets[place_of(p, t, row)] != 0;
  return t + 1 < length_of(p, row) && p.resets[place_of(p, t + 1, row)] != 0;
}

// Whether the step at time t is the last that gradients of the row's later steps do not reach: of the row, or of an
// episode.
template <class C>
bool ends_at(const Problem<C>& p, int64_t t, int64_t row) {
  return t == last_time(p, row) || begins_anew(p, time_after(p, t), row);
}

// What a row's clocks count at its step at time t, without resets.
template <class C>
int64_t count_at(const Problem<C>& p, int64_t t, int64_t row) {
  return (p.reverse ? length_of(p, row) - 1 - t : t) + (p.start ? p.start[row] : 0);
}

// The same with resets, of all steps: clocks start anew with each episode.
template <class C>
void count_steps(const Problem<C>& p, int64_t* counts) {
  for (int64_t step = 0; step < p.seq_len; ++step) {
    const int64_t t = time_of(p, step);
    for (int64_t row = 0; row < p.batch; ++row) {
      if (t >= length_of(p, row)) continue;
      counts[place_of(p, t, row)] = begins_anew(p, t, row)    ? 0
                                    : t == first_time(p, row) ? count_at(p, t, row)
                                                              : counts[place_of(p, time_before(p, t), row)] + 1;
    }
  }
}

// How many rows have a step at time t.
template <class C>
int64_t live_rows(const Problem<C>& p, int64_t t) {
  int64_t count = 0;
  for (int64_t row = 0; row < p.batch; ++row) count += t < length_of(p, row);
  return count;
}

// Whether there is memory for steps past a row's length.
template <class C>
bool is_padded(const Problem<C>& p) {
  return !p.offsets;
}

// The rows of a sequence.
template <class C>
int64_t rows_of(const Problem<C>& p) {
  if (!p.offsets || p.seq_len == 0) return p.seq_len * p.batch;
  return p.offsets[p.seq_len - 1] + live_rows(p, p.seq_len - 1);
}

// Backward runs in *chunks* of steps, from the last steps to the first: the recurrence, then the sums of its gradients,
// while they are in cache. A chunk is as many whole steps as have kChunkPairs valid (step, row) pairs; or fewer, of
// kMostChunkPairs pairs in all, where many rows have ended. It depends on nothing but the batch and its lengths; steps
// that no row has at the end of a sequence change nothing. Cells with clocks take all steps at once.
//
// The first step of the chunk that ends before the step `last`.
template <class C>
int64_t chunk_begin(const Problem<C>& p, bool clocked, int64_t last) {
  using fusedrnn::kChunkPairs;
  using fusedrnn::kMostChunkPairs;
  if (clocked || last == 0) return 0;
  if (!p.lengths) {
    const int64_t steps = (kChunkPairs + p.batch - 1) / p.batch;
    return last > steps ? last - steps : 0;
  }
  int64_t first = last, begun = last, valid = 0;
  while (first > 0 && valid < kChunkPairs && (begun - first) * p.batch < kMostChunkPairs) {
    valid += live_rows(p, time_of(p, --first));
    if (valid == 0) begun = first;
  }
  return first;
}

// Into how many parts the rows of a chunk's input gradient are cut, where `workers` share it: a divisor of theirs. The
// workers of a part share the inputs.
inline int64_t row_parts_of_dx(int64_t rows, int64_t workers) {
  int64_t parts = workers;
  while (parts > 1 && (workers % parts != 0 || rows < parts * fusedrnn::kLeastRows)) --parts;
  return parts;
}

// At least the steps of any chunk that rows have.
template <class C>
int64_t most_chunk_steps(const Problem<C>& p, bool clocked) {
  if (clocked || p.batch == 0) return p.seq_len;
  const int64_t pairs = p.lengths ? fusedrnn::kMostChunkPairs : fusedrnn::kChunkPairs;
  const int64_t steps = (pairs + p.batch - 1) / p.batch;
  return steps < p.seq_len ? steps : p.seq_len;
}

}  // namespace
