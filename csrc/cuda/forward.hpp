// Forward through a whole sequence, inference or training, in one launch.
#pragma once

#include "thread_block.hpp"

namespace {

template <class Format>
struct Forward : ThreadBlock<Format> {
  using Base = ThreadBlock<Format>;
  using Storage = typename Base::Storage;
  using Base::a;

  RNN_DEVICE explicit Forward(const Arguments& arguments) : Base(arguments) {}

  // The `at` of cells/cell.hpp, of one element at one step. A round is a step, counted from the first of this launch.
  template <class Cell>
  struct At {
    const Forward& block;
    const Element& e;
    int64_t t, round, slots;

    RNN_DEVICE int64_t here() const { return e.row * block.a.hidden + e.unit; }
    RNN_DEVICE int64_t slot_at(int k) const { return slots + k * block.a.hidden + e.unit; }
    RNN_DEVICE Scalar h_prev() const { return Scalar(block.a.run[0][here()]); }
    RNN_DEVICE Scalar c_prev() const { return Scalar(block.a.run[1][here()]); }
    RNN_DEVICE Scalar vector(int k) const {
      return Scalar(load_element<Storage>(block.a.vectors, k * block.a.hidden + e.unit));
    }
    RNN_DEVICE Scalar slot(int k) const { return Scalar(load_element<Storage>(block.a.slots, slot_at(k))); }
    RNN_DEVICE Scalar pre(int gate) const { return Scalar(block.input(e, t, gate)); }
    RNN_DEVICE void save(int k, Scalar v) const {
      if (block.a.slots && (block.a.slots_step != 0 || Cell::carried(k))) {
        store_element<Storage>(block.a.slots, slot_at(k), v.v);
      }
      if constexpr (Cell::kProducts > 1) {
        if (k == Cell::product(1).slot) block.give(1, round % 2, e.row, e.unit, v.v);
      }
    }
    RNN_DEVICE void set_c(Scalar v) const {
      block.a.run[1][here()] = v.v;
      constexpr int kSlot = Cell::state(1).slot;
      save(kSlot, v);
    }
    RNN_DEVICE void set_h(Scalar v) const {
      block.a.run[0][here()] = v.v;
      block.give(0, (round + 1) % 2, e.row, e.unit, v.v);
      store_element<Storage>(block.a.y, (t * block.a.batch + e.row) * block.a.hidden + e.unit, v.v);
    }
  };

  // The input's part of a gate, with the biases that are not kept apart.
  RNN_DEVICE float input(const Element& e, int64_t t, int gate) const {
    const int64_t column = gate * a.hidden + e.unit, row = (t - a.pre_first) * a.batch + e.row;
    const float sum =
        load_element<Storage>(a.pre, row * a.gates * a.hidden + column) + this->optional(a.bias_ih, column);
    return (a.split >> gate & 1u) != 0 ? sum : sum + this->optional(a.bias_hh, column);
  }

  RNN_DEVICE void fetch_inputs(const Element& e, int64_t t) const {
    const int64_t row = (t - a.pre_first) * a.batch + e.row;
    for (int gate = 0; gate < a.gates; ++gate) {
      fetch_element<Storage>(a.pre, (row * a.gates + gate) * a.hidden + e.unit);
    }
  }

  // A step past the row's end, or before its beginning: states stay, outputs and reserve are zeros.
  RNN_DEVICE void pass(const Element& e, int64_t t, int64_t round) const {
    this->give(0, (round + 1) % 2, e.row, e.unit, a.run[0][e.row * a.hidden + e.unit]);
    store_element<Storage>(a.y, (t * a.batch + e.row) * a.hidden + e.unit, 0.0f);
    if (!a.slots || a.slots_step == 0) return;
    const int64_t slots = this->slot_place(t, e.row) + e.unit;
    for (int k = 0; k < a.slot_count; ++k) store_element<Storage>(a.slots, slots + k * a.hidden, 0.0f);
  }

  // An element's part of a phase, after the product.
  RNN_DEVICE void element(int phase, const Element& e, int64_t t, int64_t round) const {
    if (phase == 0 && a.first + round + 1 < a.last) fetch_inputs(e, this->time_of(a.first + round + 1));
    if (t >= this->length_of(e.row)) {
      if (phase == 0) pass(e, t, round);
      return;
    }
    Scalar sums[kMaxHalves];
    RNN_UNROLL for (int j = 0; j < kMaxHalves; ++j) {
      if (j >= a.product_gates[phase]) break;
      const int gate = a.first_gate[phase] + j;
      const bool apart = (a.split >> gate & 1u) != 0;
      sums[j] = Scalar(this->sum(phase, e, j) +
                       (apart ? this->optional(a.bias_hh, gate * a.hidden + e.unit) : input(e, t, gate)));
    }
    with_cell(a.cell, [&](auto cell) {
      using Cell = decltype(cell);
      const At<Cell> at{*this, e, t, round, this->slot_place(t, e.row)};
      if (phase == 0)
        Cell::template forward<0>(sums, at);
      else if constexpr (Cell::kPhases > 1)
        Cell::template forward<1>(sums, at);
    });
  }

  // One phase of a step, all parts. With h_prev's operands in one copy, the new h goes into the other.
  RNN_DEVICE void phase(int phase, int64_t t, int64_t round) const {
    this->for_each_part([&](int group, int64_t row) {
      if (this->any_active(t, row)) this->multiply(phase, round % 2, group, row);
      this->for_each_element(group, row, [&](const Element& e) { element(phase, e, t, round); });
      meet_thread_block();  // the sums have been read
    });
  }

  RNN_DEVICE void run() {
    this->load_weights();
    const int states = a.run[1] ? 2 : 1;
    this->for_all_elements([&](const Element& e) {
      const int64_t here = e.row * a.hidden + e.unit;
      for (int s = 0; s < states && a.first == 0; ++s) a.run[s][here] = this->optional(a.state0[s], here);
      this->give(0, 0, e.row, e.unit, a.run[0][here]);
    });
    this->meet_group();
    for (int64_t step = a.first; step < a.last; ++step) {
      for (int i = 0; i < a.plan.products; ++i) {
        phase(i, this->time_of(step), step - a.first);
        this->meet_group();
      }
    }
    this->for_all_elements([&](const Element& e) {
      const int64_t here = e.row * a.hidden + e.unit;
      for (int s = 0; s < states; ++s) {
        if (a.state_n[s]) store_element<Storage>(a.state_n[s], here, a.run[s][here]);
      }
    });
  }
};

}  // namespace
