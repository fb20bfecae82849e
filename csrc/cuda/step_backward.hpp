// The pointwise part of a stage of one step of backward, for any cell, and sums over the units of a row.
#pragma once

#include "step_forward.hpp"

namespace {

using fusedrnn::kMaxRounds;
using fusedrnn::cuda::kChainsOfRow;

// The `at` of cells/cell.hpp, of one unit of one row at time t.
template <class C, class Cell>
struct StepBackwardAt {
  using V = Exact<C>;
  const Place<C>& place;
  const C* row_sums;  // of the row, in stages that take sums over units
  int64_t t, row, unit;

  RNN_DEVICE auto math() const { return math_of<C, Cell>(place.a); }
  RNN_DEVICE V h() const { return V(place.read(place.after(0, t, row), unit)); }
  RNN_DEVICE V before(int s) const { return V(place.read_before(s, t, row, unit)); }
  RNN_DEVICE V h_prev() const { return before(0); }
  RNN_DEVICE V c_prev() const { return before(1); }
  RNN_DEVICE V below() const { return V(place.read(place.below(t, row), unit)); }
  RNN_DEVICE V vector(int k) const { return V(place.vector(k, unit)); }
  RNN_DEVICE V slot(int k) const { return V(place.slots_at(t, row)[k * place.a.hidden + unit]); }
  RNN_DEVICE V sum(int j) const { return V(row_sums[j]); }
  RNN_DEVICE V extra(int j) const { return V(place.stage_sum_at(1 + j, row)[unit]); }
  RNN_DEVICE V dstate(int s) const { return V(place.run_at(s, row)[unit]); }
  RNN_DEVICE void set_dstate(int s, V v) const { place.run_at(s, row)[unit] = v.v; }
  RNN_DEVICE V dc() const { return dstate(1); }
  RNN_DEVICE void set_dc(V v) const { set_dstate(1, v); }
  RNN_DEVICE V direct() const { return dstate(0); }
  RNN_DEVICE void set_direct(V v) const { set_dstate(0, v); }
  // Where zoneout has parted it, dc has it already.
  RNN_DEVICE V dc_given() const {
    const StepArguments& a = place.a;
    const bool parted = a.mask[fusedrnn::kZoneoutC] != nullptr;
    return V(a.dc && !parted ? read_stored<C>(a.stored, a.dc, (t * a.batch + row) * a.hidden + unit) : C(0));
  }
  RNN_DEVICE void set_dbelow(V v) const {
    const StepArguments& a = place.a;
    if (a.dbelow) write_stored(a.stored, a.dbelow, (t * a.batch + row) * a.hidden + unit, v.v);
  }
  RNN_DEVICE V candidate(V v) const {
    if (!place.a.mask[fusedrnn::kCandidateDropout]) return v;
    return V(left_by(place.factor(fusedrnn::kCandidateDropout, t * place.a.batch + row, place.a.hidden, unit), v.v));
  }
  RNN_DEVICE V recurrent(V v) const {
    if (!place.a.mask[fusedrnn::kRecurrentDropout]) return v;
    return V(left_by(place.factor(fusedrnn::kRecurrentDropout, row, place.a.proj, unit), v.v));
  }
  RNN_DEVICE V gradient(int column) const { return V(place.gradients_at(t, row)[column * place.a.hidden + unit]); }
  RNN_DEVICE void grad(int column, V v) const { place.gradients_at(t, row)[column * place.a.hidden + unit] = v.v; }
};

// What backward carries past the products.
template <class C>
RNN_DEVICE bool carries(const Place<C>& place, int s) {
  return place.a.facts.state[s].carries || (s == 0 && place.a.mask[fusedrnn::kZoneoutH]);
}

// The gradient of h of a step: dy, what is carried, and the product with the step after, which a row's last step lacks.
// With zoneout, only the part that is the step's own.
template <class C>
RNN_DEVICE C gradient_of_h(const Place<C>& place, int64_t t, int64_t row, int64_t unit, bool has_product) {
  const StepArguments& a = place.a;
  const bool ends = place.ends_at(t, row);
  C sum = a.dy ? read_stored<C>(a.stored, a.dy, (t * a.batch + row) * a.proj + unit) : C(0);
  if (ends || carries(place, 0)) sum = sum + place.run_at(0, row)[unit];
  C product = ends || !has_product ? C(0) : place.stage_sum_at(0, row)[unit];
  if (a.mask[fusedrnn::kRecurrentDropout]) {
    product = left_by(place.factor(fusedrnn::kRecurrentDropout, row, a.proj, unit), product);
  }
  const C all = sum + product;
  if (!a.mask[fusedrnn::kZoneoutH]) return all;
  const bool keeps = place.is_masked(fusedrnn::kZoneoutH, t * a.batch + row, a.proj, unit);
  static_cast<C*>(a.kept[0])[row * a.proj + unit] = keeps ? all : C(0);
  return keeps ? C(0) : all;
}

// The same of a unit with a clock, whose gradient is carried until its clock ticks. Units that zoneout keeps are as
// those that do not tick.
template <class C>
RNN_DEVICE C clocked_gradient_of_h(const Place<C>& place, int64_t t, int64_t row, int64_t unit) {
  const StepArguments& a = place.a;
  C& carried = place.run_at(0, row)[unit];
  if (t != place.last_time(row) && place.ends_at(t, row)) {
    if (a.reset_sum[0]) {
      C& sum = static_cast<C*>(a.reset_sum[0])[row * a.hidden + unit];
      sum = sum + carried;
    }
    carried = C(0);
  }
  if (a.dy) carried = carried + read_stored<C>(a.stored, a.dy, (t * a.batch + row) * a.hidden + unit);
  if (!place.ticks(a.periods[unit], t, row)) return C(0);
  if (a.mask[fusedrnn::kZoneoutH] && place.is_masked(fusedrnn::kZoneoutH, t * a.batch + row, a.hidden, unit))
    return C(0);
  const C all = carried;
  carried = C(0);
  return all;
}

template <class C, class Cell, int Stage>
RNN_DEVICE void run_stage(const Place<C>& place, const StepLaunch& launch) {
  constexpr int kProduct = fusedrnn::last_of_phase(facts<Cell>(), Stage ? Cell::kPhases - Stage : 0);
  constexpr auto kOf = Cell::product(kProduct);
  const StepArguments& a = place.a;
  const int64_t units = kOf.from == From::h_prev ? a.proj : a.hidden, t = place.time_of(launch.step);
  for_each_of(a.batch * units, [&](int64_t i) {
    const int64_t row = i / units, unit = i % units;
    if (!place.is_active(t, row)) return;
    C sum = C(0);
    if (Cell::kClocked)
      sum = clocked_gradient_of_h(place, t, row, unit);
    else if (Stage == 0)
      sum = gradient_of_h(place, t, row, unit, kOf.depth > 0);
    else
      sum = sum + (kOf.depth > 0 ? place.stage_sum_at(0, row)[unit] : C(0));
    const C* const row_sums = static_cast<const C*>(a.row_sums) + row * kMaxSums;
    Cell::template backward<Stage>(Exact<C>(sum), StepBackwardAt<C, Cell>{place, row_sums, t, row, unit});
  });
}

template <class C>
RNN_DEVICE void step_backward(const StepLaunch& launch) {
  const Place<C> place(launch.a);
  const StepArguments& a = launch.a;
  const int64_t t = place.time_of(launch.step);
  if (launch.phase == 0 && a.dbelow && a.lengths) {
    for_each_of(a.batch * a.hidden, [&](int64_t i) {
      if (!place.is_active(t, i / a.hidden)) write_stored(a.stored, a.dbelow, t * a.batch * a.hidden + i, C(0));
    });
  }
  with_any_cell(a.cell, [&](auto cell) {
    using Cell = decltype(cell);
    if (launch.phase == 0) return run_stage<C, Cell, 0>(place, launch);
    if constexpr (Cell::kPhases > 1) {
      if (launch.phase == 1) return run_stage<C, Cell, 1>(place, launch);
    }
    if constexpr (Cell::kPhases > 2) run_stage<C, Cell, 2>(place, launch);
  });
}

// Sums over the units of a row, in the order of cpu/reduce.hpp: unit u adds to chain u mod 16, and chains are added by
// halves. 16 threads for each row; all threads of a block meet alike.
template <class C, int N>
struct RowSums {
  C* const chains;  // [row of the block][chain][N]
  C* const sums;    // of the row, for `at`
  int chain;
  bool works;

  // sums[first + j] = the sum over units of the j-th term.
  template <class Terms>
  RNN_DEVICE void add_up(int64_t hidden, int first, Terms&& terms) const {
    C mine[N];
    RNN_UNROLL for (int j = 0; j < N; ++j) mine[j] = C(0);
    for (int64_t unit = chain; works && unit < hidden; unit += kChainsOfRow) {
      Exact<C> term[N];
      terms(unit, term);
      RNN_UNROLL for (int j = 0; j < N; ++j) mine[j] = mine[j] + term[j].v;
    }
    RNN_UNROLL for (int j = 0; j < N; ++j) chains[chain * N + j] = mine[j];
    meet_thread_block();
    for (int half = kChainsOfRow / 2; half > 0; half /= 2) {
      for (int j = 0; chain < half && j < N; ++j) {
        chains[chain * N + j] = chains[chain * N + j] + chains[(chain + half) * N + j];
      }
      meet_thread_block();
    }
    for (int j = 0; chain == 0 && works && j < N; ++j) sums[first + j] = chains[j];
    meet_thread_block();
  }
};

template <class C, class Cell, bool kBackward, int Index, int Round = 0, int First = 0, class MakeAt>
RNN_DEVICE void reduce_rounds(const StepArguments& a, C* sums, C* chains, int chain, bool works, MakeAt&& make_at) {
  if constexpr (Round < kMaxRounds) {
    constexpr int N = Cell::sums(kBackward, Index, Round);
    static_assert(First + N <= kMaxSums, "");
    if constexpr (N > 0) {
      const RowSums<C, N> row{chains, sums, chain, works};
      row.add_up(a.hidden, First,
                 [&](int64_t unit, Exact<C>* to) { Cell::template terms<kBackward, Index, Round>(to, make_at(unit)); });
      if (chain == 0 && works) {
        Cell::template finish<kBackward, Index, Round>(sums, static_cast<C>(a.hidden), static_cast<C>(a.epsilon));
      }
      meet_thread_block();
      reduce_rounds<C, Cell, kBackward, Index, Round + 1, First + N>(a, sums, chains, chain, works, make_at);
    }
  }
}

template <class C, class Cell, bool kBackward, int Index>
RNN_DEVICE void reduce_rows(const Place<C>& place, int64_t t) {
  if constexpr (Cell::sums(kBackward, Index, 0) > 0) {
    const StepArguments& a = place.a;
    const int rows = thread_count() / kChainsOfRow, mine = thread_index() / kChainsOfRow;
    const int chain = thread_index() % kChainsOfRow;
    C* const chains = reinterpret_cast<C*>(shared_memory()) + mine * kChainsOfRow * kMaxSums;
    RNN_ROLLED for (int64_t first = int64_t{thread_block_index()} * rows; first < a.batch;
                    first += int64_t{thread_block_count()} * rows) {
      const bool exists = first + mine < a.batch;
      const int64_t row = exists ? first + mine : a.batch - 1;
      const bool works = exists && place.is_active(t, row);
      C* const sums = static_cast<C*>(a.row_sums) + row * kMaxSums;
      reduce_rounds<C, Cell, kBackward, Index>(a, sums, chains, chain, works, [&](int64_t unit) {
        if constexpr (kBackward)
          return StepBackwardAt<C, Cell>{place, sums, t, row, unit};
        else
          return StepForwardAt<C, Cell>(place, t, row, unit, sums);
      });
    }
  }
}

template <class C, class Cell, bool kBackward>
RNN_DEVICE void reduce_index(const Place<C>& place, int64_t t, int index) {
  if (index == 0) reduce_rows<C, Cell, kBackward, 0>(place, t);
  if constexpr (Cell::kPhases > 1) {
    if (index == 1) reduce_rows<C, Cell, kBackward, 1>(place, t);
  }
  if constexpr (Cell::kPhases > 2) {
    if (index == 2) reduce_rows<C, Cell, kBackward, 2>(place, t);
  }
}

template <class C>
RNN_DEVICE void step_reduce(const StepLaunch& launch) {
  const Place<C> place(launch.a);
  const int64_t t = place.time_of(launch.step);
  with_any_cell(launch.a.cell, [&](auto cell) {
    using Cell = decltype(cell);
    if (launch.backward)
      reduce_index<C, Cell, true>(place, t, launch.phase);
    else
      reduce_index<C, Cell, false>(place, t, launch.phase);
  });
}

}  // namespace
