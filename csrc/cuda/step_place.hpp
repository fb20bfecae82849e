// Where the stepwise kernels find things: steps and times, rows of arrays, the states before a step. As steps.hpp and
// cpu/driver.hpp have them for the CPU.
#pragma once

#include "exact.hpp"
#include "step_arguments.hpp"

namespace {

using fusedrnn::From;
using fusedrnn::cuda::StepArguments;
using fusedrnn::cuda::StepLaunch;
using fusedrnn::cuda::Stored;
using std::int64_t;

// Elements of an array of users.
template <class C>
RNN_DEVICE C read_stored(Stored stored, const void* from, int64_t i);
template <>
RNN_DEVICE float read_stored<float>(Stored stored, const void* from, int64_t i) {
  if (stored == Stored::bfloat16) return widen(static_cast<const bfloat16*>(from)[i]);
  if (stored == Stored::float16) return widen(static_cast<const float16*>(from)[i]);
  return static_cast<const float*>(from)[i];
}
template <>
RNN_DEVICE double read_stored<double>(Stored, const void* from, int64_t i) {
  return static_cast<const double*>(from)[i];
}
RNN_DEVICE void write_stored(Stored stored, void* to, int64_t i, float v) {
  if (stored == Stored::bfloat16)
    narrow(v, static_cast<bfloat16*>(to)[i]);
  else if (stored == Stored::float16)
    narrow(v, static_cast<float16*>(to)[i]);
  else
    static_cast<float*>(to)[i] = v;
}
RNN_DEVICE void write_stored(Stored, void* to, int64_t i, double v) { static_cast<double*>(to)[i] = v; }

// A row of an array, stored or of the compute type; or, where there is none, the same number everywhere.
template <class C>
struct Row {
  const C* computed;
  const void* stored;
  int64_t first;
  C otherwise;
};

template <class C>
struct Place {
  const StepArguments& a;

  RNN_DEVICE explicit Place(const StepArguments& arguments) : a(arguments) {}

  RNN_DEVICE int64_t length_of(int64_t row) const { return a.lengths ? a.lengths[row] : a.seq_len; }
  RNN_DEVICE int64_t time_of(int64_t step) const { return a.reverse ? a.seq_len - 1 - step : step; }
  RNN_DEVICE int64_t first_time(int64_t row) const { return a.reverse ? length_of(row) - 1 : 0; }
  RNN_DEVICE int64_t last_time(int64_t row) const { return a.reverse ? 0 : length_of(row) - 1; }
  RNN_DEVICE int64_t time_before(int64_t t) const { return a.reverse ? t + 1 : t - 1; }
  RNN_DEVICE int64_t time_after(int64_t t) const { return a.reverse ? t - 1 : t + 1; }
  RNN_DEVICE bool is_active(int64_t t, int64_t row) const { return t < length_of(row); }
  // Whether a row's episode begins with the step at time t, in the order in which forward runs.
  RNN_DEVICE bool begins_anew(int64_t t, int64_t row) const {
    if (!a.resets) return false;
    if (!a.reverse) return a.resets[t * a.batch + row] != 0;
    return t + 1 < length_of(row) && a.resets[(t + 1) * a.batch + row] != 0;
  }
  // Whether the step at time t is the last of its row, or of an episode.
  RNN_DEVICE bool ends_at(int64_t t, int64_t row) const {
    return t == last_time(row) || begins_anew(time_after(t), row);
  }

  // What a row's clocks count at its step at time t, without resets.
  RNN_DEVICE int64_t count_at(int64_t t, int64_t row) const {
    return (a.reverse ? length_of(row) - 1 - t : t) + (a.start ? a.start[row] : 0);
  }
  // Whether a step is of a clock with this period; 0: there are none.
  RNN_DEVICE bool ticks(int64_t period, int64_t t, int64_t row) const {
    return period == 0 || a.counted[t * a.batch + row] % period == 0;
  }

  RNN_DEVICE int64_t size(int s) const { return s == 0 ? a.proj : a.facts.state[s].units * a.hidden; }
  // Told by facts, as arrays of no elements have no address.
  RNN_DEVICE bool has_slots() const { return a.facts.slots > 0 && (a.train || a.facts.scratch_slots); }
  // A state other than h that has no slots is updated in place.
  RNN_DEVICE bool in_place(int s) const { return s > 0 && (!has_slots() || a.facts.state[s].slot < 0); }
  RNN_DEVICE int64_t kept_at(int64_t t, int64_t row) const { return (a.train ? t : time_of(t) % 2) * a.batch + row; }
  RNN_DEVICE C* slots_at(int64_t t, int64_t row) const {
    return static_cast<C*>(a.slots) + kept_at(t, row) * a.facts.slots * a.hidden;
  }
  RNN_DEVICE C* zoned_c_at(int64_t t, int64_t row) const {
    return static_cast<C*>(a.zoned_c) + kept_at(t, row) * a.hidden;
  }
  RNN_DEVICE C* run_at(int s, int64_t row) const { return static_cast<C*>(a.run[s]) + row * size(s); }
  RNN_DEVICE C* gradients_at(int64_t t, int64_t row) const {
    return static_cast<C*>(a.gradients) + (t * a.batch + row) * a.facts.columns * a.hidden;
  }
  RNN_DEVICE C* stage_sum_at(int place, int64_t row) const {
    return static_cast<C*>(a.stage_sums) + (place * a.batch + row) * a.hidden;
  }

  RNN_DEVICE Row<C> of_stored(const void* array, int64_t row, int64_t width, C otherwise = C(0)) const {
    return {nullptr, array, row * width, otherwise};
  }
  RNN_DEVICE static Row<C> of_computed(const C* row) { return {row, nullptr, 0, C(0)}; }
  RNN_DEVICE C read(const Row<C>& row, int64_t i) const {
    if (row.computed) return row.computed[i];
    return row.stored ? read_stored<C>(a.stored, row.stored, row.first + i) : row.otherwise;
  }

  RNN_DEVICE C empty(int s) const { return static_cast<C>(a.empty[s]); }
  RNN_DEVICE Row<C> initial(int s, int64_t row) const { return of_stored(a.state0[s], row, size(s), empty(s)); }
  RNN_DEVICE Row<C> anew(int s, int64_t row) const { return of_stored(a.reset_state[s], row, size(s), empty(s)); }
  RNN_DEVICE Row<C> after(int s, int64_t t, int64_t row) const {
    if (s == 0) return of_stored(a.y, t * a.batch + row, a.proj);
    if (in_place(s)) return of_computed(run_at(s, row));
    if (s == 1 && a.zoned_c) return of_computed(zoned_c_at(t, row));
    return of_computed(slots_at(t, row) + a.facts.state[s].slot * a.hidden);
  }
  // The state before the step at time t. One that is updated in place is in `run` from the beginning.
  RNN_DEVICE Row<C> before(int s, int64_t t, int64_t row) const {
    if (begins_anew(t, row)) return anew(s, row);
    if (t == first_time(row) && !in_place(s)) return initial(s, row);
    return after(s, time_before(t), row);
  }
  RNN_CALLED C read_before(int s, int64_t t, int64_t row, int64_t unit) const { return read(before(s, t, row), unit); }
  RNN_DEVICE Row<C> below(int64_t t, int64_t row) const { return of_stored(a.below, t * a.batch + row, a.hidden); }

  RNN_DEVICE C vector(int k, int64_t unit) const { return static_cast<const C*>(a.vectors)[k * a.hidden + unit]; }
  // Masks, of which some are for all steps.
  RNN_DEVICE bool is_masked(fusedrnn::Mask mask, int64_t place, int64_t units, int64_t unit) const {
    return a.mask[mask][place * units + unit] != 0;
  }
  RNN_DEVICE C factor(fusedrnn::Mask mask, int64_t place, int64_t units, int64_t unit) const {
    return is_masked(mask, place, units, unit) ? C(0) : static_cast<C>(a.scale[mask]);
  }
};

// run(i) for this thread's share of 0..count-1.
template <class Run>
RNN_DEVICE void for_each_of(int64_t count, Run&& run) {
  const int64_t step = static_cast<int64_t>(thread_block_count()) * thread_count();
  RNN_ROLLED for (int64_t i = static_cast<int64_t>(thread_block_index()) * thread_count() + thread_index(); i < count;
                  i += step) {
    run(i);
  }
}

// run(Cell()) with this cell.
template <class Run>
RNN_DEVICE void with_any_cell(fusedrnn::CellId cell, Run&& run) {
  switch (cell) {
#define RNN_RUN_CELL(name, Cell) \
  case fusedrnn::CellId::name:   \
    return run(Cell());
    RNN_CELLS(RNN_RUN_CELL)
#undef RNN_RUN_CELL
    case fusedrnn::CellId::count:
      break;
  }
  trap();
}

}  // namespace
