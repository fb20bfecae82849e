// The pointwise part of a phase of one step, for any cell: a thread for each unit of each row.
#pragma once

#include "../cells/cells.hpp"
#include "../cells/facts_of_cell.hpp"
#include "step_place.hpp"

namespace {

using fusedrnn::kMaxSums;

// Activations that users may choose, which are looked up at run time: once in a program, as all such cells call them.
template <class C>
struct CalledMath {
  using V = Exact<C>;
  const fusedrnn::Activations& chosen;

  RNN_CALLED V gate(V x) const { return ChosenMath(chosen).gate(x); }
  RNN_CALLED V candidate(V x) const { return ChosenMath(chosen).candidate(x); }
  RNN_CALLED V output(V x) const { return ChosenMath(chosen).output(x); }
  RNN_CALLED V gate_slope(V y) const { return ChosenMath(chosen).gate_slope(y); }
  RNN_CALLED V candidate_slope(V y) const { return ChosenMath(chosen).candidate_slope(y); }
  RNN_CALLED V output_slope(V y) const { return ChosenMath(chosen).output_slope(y); }
};
template <class C, class Cell>
RNN_DEVICE auto math_of(const StepArguments& a) {
  if constexpr (Cell::kActivates)
    return CalledMath<C>{a.activations};
  else
    return OwnMath();
}

// The `at` of cells/cell.hpp, of one unit of one row at time t.
template <class C, class Cell>
struct StepForwardAt {
  using V = Exact<C>;
  const Place<C>& place;
  const C* row_sums;  // of the row, in phases that take sums over units
  int64_t t, row, unit;
  C* pre_row;
  C* slots;  // or null

  RNN_DEVICE StepForwardAt(const Place<C>& p, int64_t time, int64_t r, int64_t u, const C* sums)
      : place(p),
        row_sums(sums),
        t(time),
        row(r),
        unit(u),
        pre_row(static_cast<C*>(p.a.pre) + ((time - p.a.pre_first) * p.a.batch + r) * p.a.facts.gates * p.a.hidden),
        slots(p.has_slots() ? p.slots_at(time, r) : nullptr) {}

  RNN_DEVICE auto math() const { return math_of<C, Cell>(place.a); }
  RNN_DEVICE V before(int s) const { return V(place.read_before(s, t, row, unit)); }
  RNN_DEVICE V h_prev() const { return before(0); }
  RNN_DEVICE V c_prev() const { return before(1); }
  RNN_DEVICE V below() const { return V(place.read(place.below(t, row), unit)); }
  RNN_DEVICE V vector(int k) const { return V(place.vector(k, unit)); }
  RNN_DEVICE V slot(int k) const { return V(slots[k * place.a.hidden + unit]); }
  RNN_DEVICE V pre(int gate) const { return V(pre_row[gate * place.a.hidden + unit]); }
  RNN_DEVICE V sum(int j) const { return V(row_sums[j]); }
  RNN_DEVICE void set_pre(int gate, V v) const { pre_row[gate * place.a.hidden + unit] = v.v; }
  RNN_DEVICE void save(int k, V v) const {
    if (place.a.train || Cell::carried(k)) slots[k * place.a.hidden + unit] = v.v;
  }
  RNN_DEVICE void set_state(int s, V v) const {
    C* const to = place.in_place(s) ? place.run_at(s, row) : slots + place.a.facts.state[s].slot * place.a.hidden;
    to[unit] = v.v;
  }
  RNN_DEVICE void give_c(V c) const {
    if (Cell::kBelow && place.a.c) {
      write_stored(place.a.stored, place.a.c, (t * place.a.batch + row) * place.a.hidden + unit, c.v);
    }
  }
  RNN_DEVICE void set_c(V v) const {
    if constexpr (Cell::kStates > 1) {
      if (!zones(fusedrnn::kZoneoutC)) {
        set_state(1, v);
        return give_c(v);
      }
      const V c = zoned(fusedrnn::kZoneoutC, place.a.zoneout_c, place.a.hidden, v, c_prev());
      give_c(c);
      if (!place.a.zoned_c) return set_state(1, c);
      set_state(1, v);
      place.zoned_c_at(t, row)[unit] = c.v;
    }
  }
  RNN_DEVICE void set_h(V v) const {
    const bool zones_h = zones(fusedrnn::kZoneoutH);
    const V h = zones_h ? zoned(fusedrnn::kZoneoutH, place.a.zoneout_h, place.a.proj, v, h_prev()) : v;
    write_stored(place.a.stored, place.a.y, (t * place.a.batch + row) * place.a.proj + unit, h.v);
  }
  RNN_DEVICE V candidate(V v) const {
    if (!place.a.mask[fusedrnn::kCandidateDropout]) return v;
    return V(left_by(place.factor(fusedrnn::kCandidateDropout, t * place.a.batch + row, place.a.hidden, unit), v.v));
  }
  RNN_DEVICE V recurrent(V v) const {
    if (!place.a.mask[fusedrnn::kRecurrentDropout]) return v;
    return V(left_by(place.factor(fusedrnn::kRecurrentDropout, row, place.a.proj, unit), v.v));
  }

 private:
  RNN_DEVICE bool zones(fusedrnn::Mask mask) const {
    return (mask == fusedrnn::kZoneoutH ? place.a.zoneout_h : place.a.zoneout_c) > 0;
  }
  // A state after zoneout: under a mask, or, in inference, as expected.
  RNN_DEVICE V zoned(fusedrnn::Mask mask, double probability, int64_t units, V v, V old) const {
    if (place.a.train) return place.is_masked(mask, t * place.a.batch + row, units, unit) ? old : v;
    const C z = static_cast<C>(probability);
    return fma(V(z), old, V(C(1) - z) * v);
  }
};

template <class C, class Cell, int Phase>
RNN_DEVICE void run_phase(const Place<C>& place, const StepLaunch& launch) {
  using V = Exact<C>;
  constexpr int kProduct = fusedrnn::last_of_phase(facts<Cell>(), Phase);
  constexpr auto kOf = Cell::product(kProduct);
  constexpr bool kProjects = kProduct == Cell::kProjection;
  const StepArguments& a = place.a;
  const int64_t units = kProjects ? a.proj : a.hidden, t = place.time_of(launch.step);
  for_each_of(a.batch * units, [&](int64_t i) {
    const int64_t row = i / units, unit = i % units;
    if (!place.is_active(t, row)) return;
    const C* const row_sums = static_cast<const C*>(a.row_sums) + row * kMaxSums;
    const StepForwardAt<C, Cell> at(place, t, row, unit, row_sums);
    if constexpr (Cell::kClocked) {  // units of other clocks keep what they hold
      if (!place.ticks(a.periods[unit], t, row)) {
        return write_stored(a.stored, a.y, (t * a.batch + row) * units + unit, at.h_prev().v);
      }
    }
    const C* const sums = static_cast<const C*>(a.sums) + row * kOf.gates * a.hidden + unit;
    V sum[kOf.gates];
    RNN_UNROLL for (int g = 0; g < kOf.gates; ++g) {
      sum[g] = V(kOf.depth > 0 ? sums[g * a.hidden] : C(0));
      if (!kProjects && !Cell::split(kOf.first_gate + g)) sum[g] = at.pre(kOf.first_gate + g) + sum[g];
    }
    Cell::template forward<Phase>(sum, at);
  });
}

// Rows past their length give zeros, in the first phase.
template <class C>
RNN_DEVICE void clear_past_lengths(const Place<C>& place, int64_t t) {
  const StepArguments& a = place.a;
  if (!a.lengths) return;
  const auto clear = [&](void* sequence, int64_t units) {
    for_each_of(a.batch * units, [&](int64_t i) {
      if (!place.is_active(t, i / units)) write_stored(a.stored, sequence, t * a.batch * units + i, C(0));
    });
  };
  clear(a.y, a.proj);
  if (a.c) clear(a.c, a.hidden);
}

template <class C>
RNN_DEVICE void step_forward(const StepLaunch& launch) {
  const Place<C> place(launch.a);
  if (launch.phase == 0) clear_past_lengths(place, place.time_of(launch.step));
  with_any_cell(launch.a.cell, [&](auto cell) {
    using Cell = decltype(cell);
    if (launch.phase == 0) return run_phase<C, Cell, 0>(place, launch);
    if constexpr (Cell::kPhases > 1) {
      if (launch.phase == 1) return run_phase<C, Cell, 1>(place, launch);
    }
    if constexpr (Cell::kPhases > 2) run_phase<C, Cell, 2>(place, launch);
  });
}

}  // namespace
