// The recurrent part of backward through a whole sequence: gradients of pre-activations, and of the initial states. The
// products over all steps at once are the array library's.
#pragma once

#include "thread_block.hpp"

namespace {

template <class Format, int kTiles>
struct Backward : ThreadBlock<Format, kTiles> {
  using Base = ThreadBlock<Format, kTiles>;
  using Storage = typename Base::Storage;
  using First = typename Base::First;
  using Base::a;

  RNN_DEVICE explicit Backward(const Arguments& arguments) : Base(arguments) {}

  // Which version of a product's operands a round makes: gradients that the round after reads (product 0), or a later
  // stage of the same round.
  static RNN_DEVICE int64_t version_of(int product, int64_t round) { return product == 0 ? round + 1 : round; }

  // All of an element's step that does not wait for the product, as it was loaded: a warp goes on until it needs them.
  struct Inputs {
    Storage slot[kMaxCudaSlots];
    Storage dy, h, h_prev, c_prev;  // h and h_prev where h is the only state, else c_prev
  };
  // Gradients of pre-activations, before they are stored: operands for other thread blocks go first.
  struct Outputs {
    float column[kMaxCudaColumns] = {};
    unsigned made = 0;  // bit k: column k
  };

  // The `at` of cells/cell.hpp, of one element at one step.
  template <class Cell>
  struct At {
    const Backward& block;
    const Element& e;
    const Inputs& in;
    Outputs& out;
    int64_t t;

    RNN_DEVICE Scalar h() const { return Scalar(widen(in.h)); }
    RNN_DEVICE Scalar h_prev() const {
      static_assert(Cell::kStates == 1, "h_prev has been loaded");
      return Scalar(widen(in.h_prev));
    }
    RNN_DEVICE Scalar c_prev() const { return Scalar(widen(in.c_prev)); }
    RNN_DEVICE Scalar gradient(int column) const {
      return Scalar(load_element<Storage>(block.a.gradients, block.gradient_place(t, e, column)));
    }
    RNN_DEVICE Scalar vector(int k) const {
      return Scalar(load_element<Storage>(block.a.vectors, (k - e.row) * block.a.hidden + e.place));
    }
    RNN_DEVICE Scalar slot(int k) const { return Scalar(widen(in.slot[k])); }
    RNN_DEVICE Scalar dc() const { return Scalar(block.kept(1, e)); }
    RNN_DEVICE void set_dc(Scalar v) const { block.keep(1, e, v.v); }
    RNN_DEVICE Scalar direct() const { return Scalar(block.kept(0, e)); }
    RNN_DEVICE void set_direct(Scalar v) const { block.keep(0, e, v.v); }
    RNN_DEVICE void grad(int column, Scalar v) const {
      out.column[column] = v.v;
      out.made |= 1u << column;
    }
  };

  // Where the gradient of an element stands.
  RNN_DEVICE int64_t gradient_place(int64_t t, const Element& e, int column) const {
    const int64_t rows = t * a.batch * a.column_count + e.row * (a.column_count - 1) + column;
    return rows * a.hidden + e.place;
  }
  RNN_DEVICE int64_t sequence_place(int64_t t, const Element& e) const { return t * a.batch * a.hidden + e.place; }
  RNN_DEVICE bool has_c() const { return a.run[1] != nullptr; }

  RNN_DEVICE Inputs load(const Element& e, int64_t t) const {
    Inputs in{};
    const Storage *const all_slots = static_cast<const Storage*>(a.slots), *const hs = static_cast<const Storage*>(a.h);
    const bool first = a.reverse ? t + 1 >= this->length_of(e.row) : t == 0;
    const int64_t before = first ? t : a.reverse ? t + 1 : t - 1, slots = this->slot_place(t, e);
    RNN_UNROLL for (int k = 0; k < kMaxCudaSlots; ++k) {
      if (k < a.slot_count) in.slot[k] = all_slots[slots + k * a.hidden];
    }
    if (a.dy) in.dy = static_cast<const Storage*>(a.dy)[sequence_place(t, e)];
    if (has_c()) {
      const int64_t from = this->slot_place(before, e) + a.state_slot * a.hidden;
      in.c_prev = first ? this->optional(a.state0[1], e.place) : all_slots[from];
    } else {
      in.h = hs[sequence_place(t, e)];
      in.h_prev = first ? this->optional(a.state0[0], e.place) : hs[sequence_place(before, e)];
    }
    return in;
  }
  // Brings the inputs of a step near: its slots, dy, and the states before it.
  RNN_DEVICE void fetch_inputs(const Element& e, int64_t round) const {
    if (round >= a.seq_len) return;
    const int64_t step = a.seq_len - 1 - round, t = this->time_of(step), slots = this->slot_place(t, e);
    RNN_UNROLL for (int k = 0; k < kMaxCudaSlots; ++k) {
      if (k < a.slot_count) fetch_element<Storage>(a.slots, slots + k * a.hidden);
    }
    if (a.dy) fetch_element<Storage>(a.dy, sequence_place(t, e));
    if (step == 0) return;
    const int64_t before = this->time_of(step - 1);
    if (has_c())
      fetch_element<Storage>(a.slots, this->slot_place(before, e) + a.state_slot * a.hidden);
    else
      fetch_element<Storage>(a.h, sequence_place(before, e));
  }

  // A step past the row's end, or before its beginning: carried gradients stay, all others are zeros.
  RNN_DEVICE Outputs pass(const Element& e, float carried) const {
    this->keep(0, e, carried);
    Outputs out;
    out.made = (1u << a.column_count) - 1;
    return out;
  }

  // An element's part of a stage, given its sum of the product: for stage 0 that of dh, else of a slot's gradient.
  RNN_DEVICE Outputs compute(int stage, const Element& e, const Inputs& in, float sum, int64_t t) const {
    Outputs out;
    if (stage == 0) {
      sum += widen(in.dy);
      this->keep(0, e, 0.0f);
    }
    with_cell(a.cell, [&](auto cell) {
      using Cell = decltype(cell);
      const At<Cell> at{*this, e, in, out, t};
      if (stage == 0)
        Cell::template backward<0>(Scalar(sum), at);
      else if constexpr (Cell::kPhases > 1)
        Cell::template backward<1>(Scalar(sum), at);
    });
    stamp(5);
    return out;
  }

  // Gives a gradient to the product among whose columns it is, if there is one.
  RNN_DEVICE void give_column(int column, const Element& e, float v, int64_t round) const {
    RNN_UNROLL for (int p = 0; p < kMaxCudaProducts; ++p) {
      if (p >= a.plan.products) break;
      const int j = column - a.product_column[p];
      if (j >= 0 && j < a.product_gates[p]) this->give(p, version_of(p, round), e, j, v);
    }
  }
  RNN_DEVICE void finish(const Element& e, const Outputs& out, int64_t t, int64_t round) const {
    RNN_UNROLL for (int k = 0; k < kMaxCudaColumns; ++k) {
      if (out.made >> k & 1u) give_column(k, e, out.column[k], round);
    }
    stamp(6);
    RNN_UNROLL for (int k = 0; k < kMaxCudaColumns; ++k) {
      if (e.valid && (out.made >> k & 1u)) store_element<Storage>(a.gradients, gradient_place(t, e, k), out.column[k]);
    }
  }

  // Stage s works on the product of phase 0 for s = 0, else on the one of phase products - s. Round 0 has no gradients
  // of a step after it.
  RNN_DEVICE void part(const First& first, int stage, int64_t t, int64_t round, int group, int64_t row) const {
    stamp(0);
    const int product = stage == 0 ? 0 : a.plan.products - stage;
    const bool multiplies = product > 0 || round > 0, last = round == a.seq_len;
    this->for_each_element(
        first, group, row,
        [&](const Element& e) {
          if (stage == 0) fetch_inputs(e, round + 1);
          return last ? Inputs{} : load(e, t);
        },
        [&] {
          if (multiplies) this->multiply(product, round, group, row);
        },
        [&](const Element& e, const Inputs& in) {
          float sums[kMaxCudaGates] = {};
          if (multiplies) this->add_up(sums, product, e, 1);
          float sum = sums[0];
          if (stage == 0) sum += this->kept(0, e);
          if (last) return finish_states(e, sum);
          const bool works = t < this->length_of(e.row);
          if (works || stage == 0) {
            finish(e, works ? compute(stage, e, in, sum, t) : pass(e, sum), t, round);
          }
          if (multiplies) this->reset(product, round, e, a.product_gates[product]);
          stamp(7);
        });
    meet_thread_block();  // the sums have been read
    stamp(8);
  }
  // After the first step: the gradients of the initial states.
  RNN_DEVICE void finish_states(const Element& e, float dh) const {
    if (!e.valid) return;
    store_element<Storage>(a.dstate0[0], e.place, dh);
    if (has_c()) store_element<Storage>(a.dstate0[1], e.place, this->kept(1, e));
  }

  RNN_DEVICE void run() {
    this->load_weights();
    for (int p = 0; p < a.plan.products; ++p) this->fill_up(p, a.product_gates[p] * a.padded_hidden);
    this->for_all_elements([&](const Element& e) {
      for (int s = 0; s < this->states(); ++s) this->keep(s, e, widen(this->optional(a.dstate_n[s], e.place)));
    });
    meet_thread_block();  // the weights are there
    const First first = this->first();
    RNN_ROLLED for (int64_t round = 0; round <= a.seq_len; ++round) {
      const int stages = round < a.seq_len ? a.plan.products : 1;
      RNN_ROLLED for (int i = 0; i < stages; ++i) {
        const int64_t t = this->time_of(a.seq_len - 1 - round);
        this->for_each_part([&](int group, int64_t row) { part(first, i, t, round, group, row); });
      }
    }
    stamp(9);
  }
};

}  // namespace
