// Forward through a whole sequence, inference or training, in one launch.
#pragma once

#include "block.hpp"

namespace {

template <class Format>
struct Forward : Block<Format> {
  using Base = Block<Format>;
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
    RNN_DEVICE Scalar pre(int gate) const {
      const int64_t H = block.a.hidden, column = Cell::user_gate(gate) * H + e.unit;
      const int64_t row = (t - block.a.pre_first) * block.a.batch + e.row;
      const Scalar x(load_element<Storage>(block.a.pre, row * Cell::kGates * H + column));
      const Scalar sum = x + Scalar(block.optional(block.a.bias_ih, column));
      return Cell::split(gate) ? sum : sum + Scalar(block.optional(block.a.bias_hh, column));
    }
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
      save(Cell::kStateSlot, v);
    }
    RNN_DEVICE void set_h(Scalar v) const {
      block.a.run[0][here()] = v.v;
      block.give(0, (round + 1) % 2, e.row, e.unit, v.v);
      store_element<Storage>(block.a.y, (t * block.a.batch + e.row) * block.a.hidden + e.unit, v.v);
    }
  };

  // A step past the row's end, or before its beginning: states stay, outputs and reserve are zeros.
  template <class Cell>
  RNN_DEVICE void pass(const At<Cell>& at) const {
    this->give(0, (at.round + 1) % 2, at.e.row, at.e.unit, a.run[0][at.here()]);
    store_element<Storage>(a.y, (at.t * a.batch + at.e.row) * a.hidden + at.e.unit, 0.0f);
    if (!a.slots || a.slots_step == 0) return;
    for (int k = 0; k < Cell::kSlots; ++k) store_element<Storage>(a.slots, at.slot_at(k), 0.0f);
  }

  template <class Cell, int Phase>
  RNN_DEVICE void pointwise(const At<Cell>& at, const float* products) const {
    constexpr Product product = Cell::product(Phase);
    if (at.t >= this->length_of(at.e.row)) {
      if (Phase == 0) pass(at);
      return;
    }
    Scalar sums[product.gates];
    RNN_UNROLL for (int j = 0; j < product.gates; ++j) {
      const int gate = product.first_gate + j;
      if (Cell::split(gate))
        sums[j] = Scalar(products[j]) + Scalar(this->optional(a.bias_hh, Cell::user_gate(gate) * a.hidden + at.e.unit));
      else
        sums[j] = Scalar(products[j]) + at.pre(gate);
    }
    Cell::template forward<Phase>(sums, at);
  }

  // An element's part of a phase, after the product.
  RNN_DEVICE void element(int phase, const Element& e, int64_t t, int64_t round) const {
    float products[kMaxHalves] = {};
    RNN_UNROLL for (int j = 0; j < kMaxHalves; ++j) {
      if (j < a.plan.product[phase].gates) products[j] = this->sum(phase, e, j);
    }
    with_cell(a.cell, [&](auto cell) {
      using Cell = decltype(cell);
      const At<Cell> at{*this, e, t, round, this->slot_place(t, e.row, Cell::kSlots)};
      if (phase == 0)
        pointwise<Cell, 0>(at, products);
      else if constexpr (Cell::kPhases > 1)
        pointwise<Cell, 1>(at, products);
    });
  }

  // One phase of a step, all parts. With h_prev's operands in one copy, the new h goes into the other.
  RNN_DEVICE void phase(int phase, int64_t t, int64_t round) const {
    this->for_each_part([&](int group, int64_t row) {
      if (this->any_active(t, row)) this->multiply(phase, round % 2, group, row);
      this->for_each_element(group, row, [&](const Element& e) { element(phase, e, t, round); });
      meet_block();  // the sums have been read
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
