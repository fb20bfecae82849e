// What the stepwise kernels do with states and their gradients beside steps, and what they prepare for the gradients of
// weights.
#pragma once

#include "step_backward.hpp"

namespace {

using fusedrnn::cuda::StateWork;

// run(s, row, i) for all elements i of all states of all rows.
template <class C, class Run>
RNN_DEVICE void for_states(const Place<C>& place, Run&& run) {
  for (int s = 0; s < place.a.facts.states; ++s) {
    const int64_t size = place.size(s);
    for_each_of(place.a.batch * size, [&](int64_t i) { run(s, i / size, i % size); });
  }
}

// What the clocks of each row count at its steps: they start anew with each episode.
template <class C>
RNN_DEVICE void count_steps(const Place<C>& place) {
  const StepArguments& a = place.a;
  for_each_of(a.batch, [&](int64_t row) {
    int64_t count = 0;
    for (int64_t step = 0; step < a.seq_len; ++step) {
      const int64_t t = place.time_of(step);
      if (!place.is_active(t, row)) continue;
      count = place.begins_anew(t, row) ? 0 : t == place.first_time(row) ? place.count_at(t, row) : count + 1;
      a.counted[t * a.batch + row] = count;
    }
  });
}

// States that are updated in place begin in `run`.
template <class C>
RNN_DEVICE void begin_forward(const Place<C>& place) {
  for_states(place, [&](int s, int64_t row, int64_t i) {
    if (place.in_place(s)) place.run_at(s, row)[i] = place.read(place.initial(s, row), i);
  });
}

// The states after the last step of each row.
template <class C>
RNN_DEVICE void end_forward(const Place<C>& place) {
  const StepArguments& a = place.a;
  for_states(place, [&](int s, int64_t row, int64_t i) {
    const bool ran = place.length_of(row) > 0 || place.in_place(s);
    const Row<C> from = ran ? place.after(s, place.last_time(row), row) : place.initial(s, row);
    write_stored(a.stored, a.state_n[s], row * place.size(s) + i, place.read(from, i));
  });
}

// The gradients of the last states, as they come in.
template <class C>
RNN_DEVICE void begin_backward(const Place<C>& place) {
  const StepArguments& a = place.a;
  for_states(place, [&](int s, int64_t row, int64_t i) {
    place.run_at(s, row)[i] = place.read(place.of_stored(a.dstate_n[s], row, place.size(s)), i);
    if (a.reset_sum[s]) static_cast<C*>(a.reset_sum[s])[row * place.size(s) + i] = C(0);
  });
}

// The place of the sums of a state's gradient among those of stage 0; -1 for a state that no product reads. Extras are
// the vectors among the operands of products that read states other than h.
template <class C>
RNN_DEVICE int sum_of_state(const Place<C>& place, int s) {
  const fusedrnn::CellFacts& f = place.a.facts;
  if (s == 0) return 0;
  for (int i = 0, extra = 1; i < f.products; ++i) {
    const int state = state_of(f.product[i].from);
    if (state == s) return extra;
    if (state > 0) extra += f.product[i].depth;
  }
  return -1;
}

// Whether h_prev has a matrix: the last product of phase 0 is its own.
RNN_DEVICE bool has_main_product(const fusedrnn::CellFacts& f) {
  return f.product[fusedrnn::last_of_phase(f, 0)].depth > 0;
}

// The gradient of element i of a state that a step of the row takes and no step of its episode has made: the part that
// is carried, and the product with the step's gradients.
template <class C>
RNN_DEVICE C gradient_of_first_state(const Place<C>& place, int s, int64_t row, int64_t i) {
  const StepArguments& a = place.a;
  const C carried = place.run_at(s, row)[i];
  const int first = sum_of_state(place, s);
  if (first < 0 || a.facts.clocked) return carried;
  C sum = C(0);
  if (s > 0 || has_main_product(a.facts))
    sum = place.stage_sum_at(first + static_cast<int>(i / a.hidden), row)[i % a.hidden];
  if (s == 0 && a.mask[fusedrnn::kRecurrentDropout]) {
    sum = left_by(place.factor(fusedrnn::kRecurrentDropout, row, a.proj, i), sum);
  }
  return carries(place, s) ? carried + sum : sum;
}

// After the first step of all rows.
template <class C>
RNN_DEVICE void end_backward(const Place<C>& place) {
  const StepArguments& a = place.a;
  for_states(place, [&](int s, int64_t row, int64_t i) {
    const int64_t at = row * place.size(s) + i;
    C d = place.run_at(s, row)[i], reset = a.reset_sum[s] ? static_cast<C*>(a.reset_sum[s])[at] : C(0);
    if (place.length_of(row) > 0) {
      d = gradient_of_first_state(place, s, row, i);
      if (place.begins_anew(place.first_time(row), row)) {
        reset = reset + d;
        d = C(0);
      }
    }
    write_stored(a.stored, a.dstate0[s], at, d);
    if (a.reset_sum[s]) static_cast<C*>(a.reset_sum[s])[at] = reset;
    if (a.dreset[s]) write_stored(a.stored, a.dreset[s], at, reset);
  });
}

// The gradients of states before episodes that all rows share: the sums of the rows', from row 0 on.
template <class C>
RNN_DEVICE void add_resets(const Place<C>& place) {
  const StepArguments& a = place.a;
  for (int s = 0; s < a.facts.states; ++s) {
    const int64_t size = place.size(s);
    for_each_of(a.dreset_of_all[s] ? size : 0, [&](int64_t i) {
      C sum = C(0);
      for (int64_t row = 0; row < a.batch; ++row) sum = sum + static_cast<const C*>(a.reset_sum[s])[row * size + i];
      write_stored(a.stored, a.dreset_of_all[s], i, sum);
    });
  }
}

// Ends an episode that begins with the step after that at time t: the gradient of its first state is not carried on.
template <class C>
RNN_DEVICE void end_episode(const Place<C>& place, int64_t t, int s, int64_t row, int64_t i) {
  const StepArguments& a = place.a;
  const int64_t after = place.time_after(t);
  if (after < 0 || after >= place.length_of(row) || !place.begins_anew(after, row)) return;
  if (a.reset_sum[s]) {
    C& sum = static_cast<C*>(a.reset_sum[s])[row * place.size(s) + i];
    sum = sum + gradient_of_first_state(place, s, row, i);
  }
  place.run_at(s, row)[i] = C(0);
}

// Parts a gradient of c by zoneout's mask; what is the old value's is added to what is kept.
template <class C>
RNN_DEVICE C part_of_c(const Place<C>& place, int64_t t, int64_t row, int64_t unit, C d, bool adds) {
  const StepArguments& a = place.a;
  C& kept = static_cast<C*>(a.kept[1])[row * a.hidden + unit];
  const bool keeps = place.is_masked(fusedrnn::kZoneoutC, t * a.batch + row, a.hidden, unit);
  const C old = keeps ? d : C(0);
  kept = adds ? kept + old : old;
  return keeps ? C(0) : d;
}

template <class C>
RNN_DEVICE void part_dc(const Place<C>& place, int64_t t, int64_t row, int64_t unit) {
  const StepArguments& a = place.a;
  C& carried = place.run_at(1, row)[unit];
  C dc = carried;
  if (a.dc) dc = dc + read_stored<C>(a.stored, a.dc, (t * a.batch + row) * a.hidden + unit);
  carried = part_of_c(place, t, row, unit, dc, false);
}

// Extras of a state, of element i of it.
template <class C>
RNN_DEVICE void finish_extra(const Place<C>& place, int64_t t, int s, int64_t row, int64_t i) {
  const StepArguments& a = place.a;
  const int first = sum_of_state(place, s);
  if (s == 0 || first < 0) return;
  const bool ends = place.ends_at(t, row);
  C& extra = place.stage_sum_at(first + static_cast<int>(i / a.hidden), row)[i % a.hidden];
  const C initial = ends && !a.facts.state[s].carries ? place.run_at(s, row)[i] : C(0);
  const C all = initial + (ends ? C(0) : extra);
  extra = s == 1 && a.mask[fusedrnn::kZoneoutC] ? part_of_c(place, t, row, i, all, true) : all;
}

// Before stage 0 of a step, whose products have been summed up: episodes that begin with the step after end, zoneout
// parts the gradient of c, and extras get what is carried.
template <class C>
RNN_DEVICE void before_stages(const Place<C>& place, int64_t step) {
  const StepArguments& a = place.a;
  const int64_t t = place.time_of(step);
  for_states(place, [&](int s, int64_t row, int64_t i) {
    if (!place.is_active(t, row)) return;
    if (a.resets && step + 1 < a.seq_len) end_episode(place, t, s, row, i);
    if (s == 1 && a.mask[fusedrnn::kZoneoutC]) part_dc(place, t, row, i);
    finish_extra(place, t, s, row, i);
  });
}

// After the last stage, zoneout joins the parts.
template <class C>
RNN_DEVICE void after_stages(const Place<C>& place, int64_t t) {
  const StepArguments& a = place.a;
  for_states(place, [&](int s, int64_t row, int64_t i) {
    if (s > 1 || !a.mask[s == 0 ? fusedrnn::kZoneoutH : fusedrnn::kZoneoutC] || !place.is_active(t, row)) return;
    C& carried = place.run_at(s, row)[i];
    const C kept = static_cast<const C*>(a.kept[s])[row * place.size(s) + i];
    carried = s == 1 || a.facts.state[0].carries ? carried + kept : kept;
  });
}

template <class C>
RNN_DEVICE void step_states(const StepLaunch& launch) {
  const Place<C> place(launch.a);
  switch (launch.work) {
    case StateWork::count:
      return count_steps(place);
    case StateWork::begin:
      return begin_forward(place);
    case StateWork::end:
      return end_forward(place);
    case StateWork::begin_backward:
      return begin_backward(place);
    case StateWork::end_backward:
      return end_backward(place);
    case StateWork::add_resets:
      return add_resets(place);
    case StateWork::before_stages:
      return before_stages(place, launch.step);
    case StateWork::after_stages:
      return after_stages(place, place.time_of(launch.step));
  }
}

// Lists the valid (step, row) pairs in the order of sums over them, from the last step to the first, and where
// stretches end, as chunk_begin (steps.hpp) and weight_gradients (cpu/batched.hpp) cut them; or the pairs of a clock,
// as cpu/clockwork.hpp does. One thread block. counts[1 + step]: first the rows that the step has; then the place of
// its first pair.
template <class C>
struct PairList {
  Place<C> place;
  int64_t* const counts;
  const int64_t period;
  int64_t stretches = 0, listed = 0;

  RNN_DEVICE explicit PairList(const StepLaunch& launch)
      : place(launch.a), counts(launch.a.counts), period(launch.clock.period) {}

  RNN_DEVICE bool has(int64_t t, int64_t row) const { return place.is_active(t, row) && place.ticks(period, t, row); }

  RNN_DEVICE void count_rows() const {
    const StepArguments& a = place.a;
    for (int64_t step = thread_index(); step < a.seq_len; step += thread_count()) {
      int64_t count = 0;
      for (int64_t row = 0; row < a.batch; ++row) count += has(place.time_of(step), row);
      counts[1 + step] = count;
    }
  }
  // The first step of the chunk that ends before the step `last`; and its pairs.
  RNN_DEVICE int64_t chunk_begin(int64_t last, int64_t& valid) const {
    const StepArguments& a = place.a;
    int64_t first = last, begun = last;
    valid = 0;
    if (a.batch == 0 || period > 0) {
      for (; first > 0; --first) valid += a.batch > 0 ? counts[first] : 0;
      return 0;
    }
    if (!a.lengths) {
      const int64_t steps = (fusedrnn::kChunkPairs + a.batch - 1) / a.batch;
      first = last > steps ? last - steps : 0;
      valid = (last - first) * a.batch;
      return first;
    }
    while (first > 0 && valid < fusedrnn::kChunkPairs && (begun - first) * a.batch < fusedrnn::kMostChunkPairs) {
      valid += counts[1 + --first];
      if (valid == 0) begun = first;
    }
    return first;
  }
  // Chunks are cut evenly; of a clock's pairs, the last part has the rest.
  RNN_DEVICE int64_t end_of_part(int64_t valid, int64_t part, int64_t parts) const {
    if (period == 0) return valid * part / parts;
    return part == parts ? valid : part * fusedrnn::kChunkPairs;
  }
  RNN_DEVICE void cut() {
    const StepArguments& a = place.a;
    for (int64_t last = a.seq_len; last > 0;) {
      int64_t valid = 0;
      const int64_t first = chunk_begin(last, valid), most = period > 0 ? fusedrnn::kChunkPairs : fusedrnn::kStretch;
      const int64_t parts = (valid + most - 1) / most;
      for (int64_t i = 1; i <= parts; ++i) a.stretch_ends[stretches++] = listed + end_of_part(valid, i, parts);
      int64_t at = listed;
      for (int64_t step = last - 1; step >= first; --step) {
        const int64_t rows = counts[1 + step];
        counts[1 + step] = at;
        at += rows;
      }
      listed = at;
      last = first;
    }
    counts[0] = stretches;
  }
  RNN_DEVICE void list() const {
    const StepArguments& a = place.a;
    for (int64_t step = thread_index(); step < a.seq_len; step += thread_count()) {
      const int64_t t = place.time_of(step);
      int64_t at = counts[1 + step];
      for (int64_t row = 0; row < a.batch; ++row) {
        if (has(t, row)) a.pairs[at++] = t * a.batch + row;
      }
    }
  }
};

template <class C>
RNN_DEVICE void step_pairs(const StepLaunch& launch) {
  if (thread_block_index() > 0) return;
  PairList<C> list(launch);
  list.count_rows();
  meet_thread_block();
  if (thread_index() == 0) list.cut();
  meet_thread_block();
  list.list();
}

// An operand of gradients of weights, (T*B, width), as products took it.
template <class C>
RNN_DEVICE void step_gather(const StepLaunch& launch) {
  const Place<C> place(launch.a);
  const StepArguments& a = launch.a;
  const int state = state_of(launch.from);
  for_each_of(a.seq_len * a.batch * launch.width, [&](int64_t i) {
    const int64_t pair = i / launch.width, k = i % launch.width, t = pair / a.batch, row = pair % a.batch;
    if (!place.is_active(t, row)) return;
    const Row<C> from = launch.from == From::x       ? place.of_stored(a.x, pair, a.input)
                        : launch.from == From::below ? place.below(t, row)
                                                     : place.before(state, t, row);
    C v = place.read(from, k);
    const auto mask = launch.from == From::x ? fusedrnn::kInputDropout : fusedrnn::kRecurrentDropout;
    if (launch.drops) v = left_by(place.factor(mask, row, launch.width, k), v);
    static_cast<C*>(a.operand)[i] = v;
  });
}

}  // namespace
