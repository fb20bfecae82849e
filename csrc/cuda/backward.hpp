// The recurrent part of backward through a whole sequence: gradients of pre-activations, and of the initial states. The
// products over all steps at once are the array library's.
#pragma once

#include "thread_block.hpp"

namespace {

template <class Format>
struct Backward : ThreadBlock<Format> {
  using Base = ThreadBlock<Format>;
  using Storage = typename Base::Storage;
  using Base::a;

  RNN_DEVICE explicit Backward(const Arguments& arguments) : Base(arguments) {}

  // Which copy of a product's operands a round writes: gradients that the round after reads (product 0), or a later
  // stage of the same round.
  static RNN_DEVICE int64_t copy_of(int product, int64_t round) { return product == 0 ? (round + 1) % 2 : round % 2; }

  // The `at` of cells/cell.hpp.
  template <class Cell>
  struct At {
    const Backward& block;
    const Element& e;
    int64_t t, round, slots;

    RNN_DEVICE int64_t here() const { return e.row * block.a.hidden + e.unit; }
    RNN_DEVICE int64_t slot_at(int k) const { return slots + k * block.a.hidden + e.unit; }
    RNN_DEVICE bool is_first() const { return block.a.reverse ? t + 1 == block.length_of(e.row) : t == 0; }
    RNN_DEVICE int64_t before() const { return block.a.reverse ? t + 1 : t - 1; }
    RNN_DEVICE Scalar h() const {
      return Scalar(load_element<Storage>(block.a.h, (t * block.a.batch + e.row) * block.a.hidden + e.unit));
    }
    RNN_DEVICE Scalar h_prev() const {
      if (is_first()) return Scalar(block.optional(block.a.state0[0], here()));
      const int64_t row = before() * block.a.batch + e.row;
      return Scalar(load_element<Storage>(block.a.h, row * block.a.hidden + e.unit));
    }
    RNN_DEVICE Scalar c_prev() const {
      if (is_first()) return Scalar(block.optional(block.a.state0[1], here()));
      constexpr int kSlot = Cell::state(1).slot;
      const int64_t from = block.slot_place(before(), e.row) + kSlot * block.a.hidden;
      return Scalar(load_element<Storage>(block.a.slots, from + e.unit));
    }
    RNN_DEVICE Scalar gradient(int column) const {
      return Scalar(load_element<Storage>(block.a.gradients, block.gradient_place(t, e, column)));
    }
    RNN_DEVICE Scalar vector(int k) const {
      return Scalar(load_element<Storage>(block.a.vectors, k * block.a.hidden + e.unit));
    }
    RNN_DEVICE Scalar slot(int k) const { return Scalar(load_element<Storage>(block.a.slots, slot_at(k))); }
    RNN_DEVICE Scalar dc() const { return Scalar(block.a.run[1][here()]); }
    RNN_DEVICE void set_dc(Scalar v) const { block.a.run[1][here()] = v.v; }
    RNN_DEVICE Scalar direct() const { return Scalar(block.a.run[0][here()]); }
    RNN_DEVICE void set_direct(Scalar v) const { block.a.run[0][here()] = v.v; }
    RNN_DEVICE void grad(int column, Scalar v) const {
      store_element<Storage>(block.a.gradients, block.gradient_place(t, e, column), v.v);
      give(column, v.v);
    }
    // To the product among whose columns this one is, if there is one.
    RNN_DEVICE void give(int column, float v) const {
      for (int i = 0; i < Cell::kProducts; ++i) {
        const Product p = Cell::product(i);
        const int j = column - p.column;
        if (j >= 0 && j < p.gates) block.give(i, copy_of(i, round), e.row, j * block.a.hidden + e.unit, v);
      }
    }
  };

  // Where the gradient of an element stands.
  RNN_DEVICE int64_t gradient_place(int64_t t, const Element& e, int column) const {
    return ((t * a.batch + e.row) * a.column_count + column) * a.hidden + e.unit;
  }

  // Fetches the operands of the next round: its slots, dy, and the states before it.
  RNN_DEVICE void fetch_inputs(const Element& e, int64_t next_round) const {
    if (next_round >= a.seq_len) return;
    const int64_t step = a.seq_len - 1 - next_round, t = this->time_of(step), H = a.hidden;
    const int64_t slots = this->slot_place(t, e.row) + e.unit;
    for (int k = 0; k < a.slot_count; ++k) fetch_element<Storage>(a.slots, slots + k * H);
    if (a.dy) fetch_element<Storage>(a.dy, (t * a.batch + e.row) * H + e.unit);
    if (step == 0) return;
    const int64_t before = this->time_of(step - 1);
    fetch_element<Storage>(a.h, (before * a.batch + e.row) * H + e.unit);
    if (a.run[1]) {
      fetch_element<Storage>(a.slots, this->slot_place(before, e.row) + a.state_slot * H + e.unit);
    }
  }

  // A step past the row's end, or before its beginning: carried gradients stay, all others are zeros.
  RNN_DEVICE void pass(const Element& e, float carried, int64_t t, int64_t round) const {
    a.run[0][e.row * a.hidden + e.unit] = carried;
    for (int k = 0; k < a.column_count; ++k) store_element<Storage>(a.gradients, gradient_place(t, e, k), 0.0f);
    for (int p = 0; p < a.plan.products; ++p) {
      for (int j = 0; j < a.product_gates[p]; ++j) {
        this->give(p, copy_of(p, round), e.row, j * a.hidden + e.unit, 0.0f);
      }
    }
  }

  // An element's part of a stage, given its sum of the product: for stage 0 that of dh, else of a slot's gradient.
  RNN_DEVICE void element(int stage, const Element& e, float sum, int64_t t, int64_t round) const {
    const int64_t here = e.row * a.hidden + e.unit;
    if (stage == 0) fetch_inputs(e, round + 1);
    if (stage == 0) sum += a.run[0][here];
    if (round == a.seq_len) {  // after the first step: the gradients of the initial states
      store_element<Storage>(a.dstate0[0], here, sum);
      if (a.run[1]) store_element<Storage>(a.dstate0[1], here, a.run[1][here]);
      return;
    }
    if (t >= this->length_of(e.row)) {
      if (stage == 0) pass(e, sum, t, round);
      return;
    }
    if (stage == 0) {
      sum += this->optional(a.dy, t * a.batch * a.hidden + here);
      a.run[0][here] = 0.0f;
    }
    with_cell(a.cell, [&](auto cell) {
      using Cell = decltype(cell);
      const At<Cell> at{*this, e, t, round, this->slot_place(t, e.row)};
      if (stage == 0)
        Cell::template backward<0>(Scalar(sum), at);
      else if constexpr (Cell::kPhases > 1)
        Cell::template backward<1>(Scalar(sum), at);
    });
  }

  // Stage s works on the product of phase 0 for s = 0, else on the one of phase products - s.
  RNN_DEVICE void stage(int stage, int64_t t, int64_t round) const {
    const int product = stage == 0 ? 0 : a.plan.products - stage;
    this->for_each_part([&](int group, int64_t row) {
      this->multiply(product, round % 2, group, row);
      this->for_each_element(group, row,
                             [&](const Element& e) { element(stage, e, this->sum(product, e, 0), t, round); });
      meet_thread_block();  // the sums have been read
    });
  }

  RNN_DEVICE void run() {
    this->load_weights();
    const int states = a.run[1] ? 2 : 1;
    this->for_all_elements([&](const Element& e) {
      const int64_t here = e.row * a.hidden + e.unit;
      for (int s = 0; s < states; ++s) a.run[s][here] = this->optional(a.dstate_n[s], here);
    });
    meet_thread_block();  // the weights are there
    for (int64_t round = 0; round <= a.seq_len; ++round) {
      const int stages = round < a.seq_len ? a.plan.products : 1;
      for (int i = 0; i < stages; ++i) {
        stage(i, this->time_of(a.seq_len - 1 - round), round);
        this->meet_group();
      }
    }
  }
};

}  // namespace
