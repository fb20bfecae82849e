// The recurrent part of backward through a whole sequence: gradients of pre-activations, and of the initial states. The
// products over all steps at once are the array library's.
#pragma once

#include "thread_block.hpp"

namespace {

using fusedrnn::cuda::kMaxCudaColumns;
using fusedrnn::cuda::kMaxCudaProducts;
using fusedrnn::cuda::kMaxCudaSlots;

template <class Format, int kTiles>
struct Backward : ThreadBlock<Format, kTiles> {
  using Base = ThreadBlock<Format, kTiles>;
  using Storage = typename Base::Storage;
  using Part = typename Base::Part;
  using Base::a;

  RNN_DEVICE explicit Backward(const Arguments& arguments) : Base(arguments) {}

  // Which version of a product's operands a round makes: gradients that the round after reads (product 0), or a later
  // stage of the same round.
  static RNN_DEVICE int version_of(int product, int round) { return product == 0 ? round + 1 : round; }

  // A round: the step at time t, from the last step on, and after all of them one that has no step.
  struct Moment {
    int t, round;
    bool has_step, has_before;  // has_before: a step before this one, which is the next round's
    const Storage *slots, *slots_before, *dy, *h, *h_before;
    Storage* gradients;
  };
  // All of an element's step that does not wait for the product, as it was loaded: a warp goes on until it needs it.
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
    const Moment& m;

    RNN_DEVICE Scalar h() const { return Scalar(widen(in.h)); }
    RNN_DEVICE Scalar candidate(Scalar v) const { return v; }  // there is no dropout here
    RNN_DEVICE Scalar recurrent(Scalar v) const { return v; }
    RNN_DEVICE OwnMath math() const { return {}; }
    RNN_DEVICE Scalar h_prev() const {
      static_assert(Cell::kStates == 1, "h_prev has been loaded");
      return Scalar(widen(in.h_prev));
    }
    RNN_DEVICE Scalar c_prev() const { return Scalar(widen(in.c_prev)); }
    RNN_DEVICE Scalar gradient(int column) const {
      return Scalar(widen(block.gradients_of(e, m)[column * block.a.hidden]));
    }
    RNN_DEVICE Scalar vector(int k) const { return block.weight(k, e); }
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

  RNN_DEVICE Storage* gradients_of(const Element& e, const Moment& m) const {
    return m.gradients + this->among(a.column_count, e);
  }
  RNN_DEVICE bool has_c() const { return a.run[1] != nullptr; }

  RNN_DEVICE Inputs load(const Element& e, const Moment& m) const {
    Inputs in{};
    if (!m.has_step) return in;
    const unsigned slots = this->among(a.slot_count, e), here = this->place(e);
    const bool first = !m.has_before || (a.reverse && !this->is_active(m.t + 1, e.row));
    RNN_UNROLL for (int k = 0; k < kMaxCudaSlots; ++k) {
      if (k < a.slot_count) in.slot[k] = m.slots[slots + k * a.hidden];
    }
    if (a.dy) in.dy = m.dy[here];
    if (has_c()) {
      in.c_prev = first ? this->optional(a.state0[1], here) : m.slots_before[slots + a.state_slot * a.hidden];
    } else {
      in.h = m.h[here];
      in.h_prev = first ? this->optional(a.state0[0], here) : m.h_before[here];
    }
    return in;
  }
  // A step past the row's end, or before its beginning: carried gradients stay, all others are zeros.
  RNN_DEVICE Outputs pass(const Element& e, float carried) const {
    this->keep(0, e, carried);
    Outputs out;
    out.made = (1u << a.column_count) - 1;
    return out;
  }

  // An element's part of a stage, given its sum of the product: for stage 0 that of dh, else of a slot's gradient.
  template <int kStage>
  RNN_DEVICE Outputs compute(const Element& e, const Inputs& in, float sum, const Moment& m) const {
    Outputs out;
    if (kStage == 0) {
      sum += widen(in.dy);
      this->keep(0, e, 0.0f);
    }
    with_cell(a.cell, [&](auto cell) {
      using Cell = decltype(cell);
      if constexpr (kStage < Cell::kPhases)
        Cell::template backward<kStage>(Scalar(sum), At<Cell>{*this, e, in, out, m});
    });
    stamp(5);
    return out;
  }

  // Gives a gradient to the product among whose columns it is, if there is one.
  RNN_DEVICE void give_column(int column, const Element& e, float v, int round) const {
    RNN_UNROLL for (int p = 0; p < kMaxCudaProducts; ++p) {
      if (p >= a.plan.products) break;
      const int j = column - a.product_column[p];
      if (j >= 0 && j < a.product_gates[p]) this->give(p, version_of(p, round), e, j, v);
    }
  }
  RNN_DEVICE void finish(const Element& e, const Outputs& out, const Moment& m) const {
    RNN_UNROLL for (int k = 0; k < kMaxCudaColumns; ++k) {
      if (out.made >> k & 1u) give_column(k, e, out.column[k], m.round);
    }
    stamp(6);
    Storage* const to = gradients_of(e, m);
    RNN_UNROLL for (int k = 0; k < kMaxCudaColumns; ++k) {
      if (e.valid && (out.made >> k & 1u)) narrow(out.column[k], to[k * a.hidden]);
    }
  }

  // Stage 0 works on the product of phase 0, stage 1 on that of phase 1. Round 0 has no gradients of a step after it.
  template <int kStage>
  RNN_DEVICE void work_on(const Moment& m, const Part& part, int group) const {
    stamp(0);
    const bool multiplies = kStage > 0 || m.round > 0;
    this->for_each_element(
        part, [&](const Element& e) { return load(e, m); },
        [&] {
          if (multiplies) this->template multiply<kStage>(m.round, group, part.row);
        },
        [&](const Element& e, const Inputs& in) {
          float sum[1] = {0.0f};
          if (multiplies) this->add_up(sum, kStage, e);
          if (kStage == 0) sum[0] += this->kept(0, e);
          if (!m.has_step) return finish_states(e, sum[0]);
          const bool works = this->is_active(m.t, e.row);
          if (works || kStage == 0) finish(e, works ? compute<kStage>(e, in, sum[0], m) : pass(e, sum[0]), m);
          if (multiplies) this->reset(kStage, m.round, e, a.product_gates[kStage]);
          stamp(7);
        });
    meet_thread_block();  // the sums have been read
    stamp(8);
  }
  template <int kStage>
  RNN_DEVICE void stage(const Moment& m, const Part& first) const {
    this->for_each_part([&](int group, int row) {
      work_on<kStage>(m, group > 0 || row > this->row0 ? this->part_of(group, row) : first, group);
    });
  }
  // After the first step: the gradients of the initial states.
  RNN_DEVICE void finish_states(const Element& e, float dh) const {
    if (!e.valid) return;
    narrow(dh, static_cast<Storage*>(a.dstate0[0])[this->place(e)]);
    if (has_c()) narrow(this->kept(1, e), static_cast<Storage*>(a.dstate0[1])[this->place(e)]);
  }
  RNN_DEVICE Moment moment(int round) const {
    Moment m;
    const int step = a.seq_len - 1 - round;
    m.round = round;
    m.t = this->time_of(step);
    m.has_step = step >= 0;
    m.has_before = step > 0;
    const int before = this->time_of(step - 1);
    const void* const slots = a.slots;
    m.slots = this->at_time(slots, m.t, a.slots_step);
    m.slots_before = this->at_time(slots, before, a.slots_step);
    m.dy = this->at_time(a.dy, m.t, a.h_step);
    m.h = this->at_time(a.h, m.t, a.h_step);
    m.h_before = this->at_time(a.h, before, a.h_step);
    m.gradients = this->at_time(a.gradients, m.t, a.columns_step);
    return m;
  }

  RNN_DEVICE void run() {
    this->load_weights();
    for (int p = 0; p < a.plan.products; ++p) this->fill_up(p, a.product_gates[p] * a.padded_hidden);
    this->for_all_elements([&](const Element& e) {
      for (int s = 0; s < this->states(); ++s) this->keep(s, e, widen(this->optional(a.dstate_n[s], this->place(e))));
    });
    meet_thread_block();  // the weights are there
    if (this->row0 >= this->row1) return;
    const Part first = this->part_of(0, this->row0);
    RNN_ROLLED for (int round = 0; round <= a.seq_len; ++round) {
      const Moment m = moment(round);
      stage<0>(m, first);
      if (m.has_step && a.plan.products > 1) stage<1>(m, first);
    }
    stamp(9);
  }
};

}  // namespace
