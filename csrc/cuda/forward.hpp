// Forward through a whole sequence, inference or training, in one launch.
#pragma once

#include "thread_block.hpp"

namespace {

using fusedrnn::cuda::kMaxCudaGates;
using fusedrnn::cuda::kMaxCudaSlots;

template <class Format, int kTiles>
struct Forward : ThreadBlock<Format, kTiles> {
  using Base = ThreadBlock<Format, kTiles>;
  using Storage = typename Base::Storage;
  using Part = typename Base::Part;
  using Base::a;

  RNN_DEVICE explicit Forward(const Arguments& arguments) : Base(arguments) {}

  // A step. A round is a step, counted from the first of this launch.
  struct Moment {
    int t, round, next;  // next: the time of the round after
    bool more;           // there is one
    const Storage* pre;
    Storage *y, *slots;
  };
  // A unit's biases of a phase's gates: those that join the input's part, and those that are kept apart.
  struct Biases {
    float joined[kMaxCudaGates], apart[kMaxCudaGates];
  };
  // All of an element's step that does not wait for the product, as it was loaded: a warp goes on until it needs it.
  struct Inputs {
    Storage gate[kMaxCudaGates];  // of the phase's product
    Storage slot[kMaxCudaSlots];  // in later phases
  };
  // All that a step makes, before it is stored: operands for other thread blocks go first.
  struct Outputs {
    float h = 0.0f, y = 0.0f, operand = 0.0f;  // the operand of the next phase's product
    float slot[kMaxCudaSlots] = {};
    unsigned saved = 0;  // bit k: slot k
  };

  // The `at` of cells/cell.hpp, of one element at one step.
  template <class Cell, int kPhase>
  struct At {
    const Forward& block;
    const Element& e;
    const Inputs& in;
    const Biases& biases;
    Outputs& out;

    RNN_DEVICE Scalar h_prev() const { return Scalar(block.kept(0, e)); }
    RNN_DEVICE Scalar candidate(Scalar v) const { return v; }  // there is no dropout here
    RNN_DEVICE Scalar recurrent(Scalar v) const { return v; }
    RNN_DEVICE OwnMath math() const { return {}; }
    RNN_DEVICE Scalar c_prev() const { return Scalar(block.kept(1, e)); }
    RNN_DEVICE Scalar vector(int k) const { return block.weight(k, e); }
    RNN_DEVICE Scalar slot(int k) const { return Scalar(widen(in.slot[k])); }
    RNN_DEVICE Scalar pre(int gate) const {
      const int j = gate - Cell::product(kPhase).first_gate;
      return Scalar(widen(in.gate[j]) + biases.joined[j]);
    }
    RNN_DEVICE void save(int k, Scalar v) const {
      out.slot[k] = v.v;
      if (block.a.keeps_slots || Cell::carried(k)) out.saved |= 1u << k;
      if constexpr (Cell::kProducts > 1) {
        if (k == Cell::product(1).slot) out.operand = v.v;
      }
    }
    RNN_DEVICE void set_c(Scalar v) const {
      block.keep(1, e, v.v);
      constexpr int kSlot = Cell::state(1).slot;
      save(kSlot, v);
    }
    RNN_DEVICE void set_h(Scalar v) const {
      block.keep(0, e, v.v);
      out.h = out.y = v.v;
    }
  };

  template <int kPhase>
  RNN_DEVICE bool is_apart(int j) const {
    return (a.split >> (a.first_gate[kPhase] + j) & 1u) != 0;
  }
  template <int kPhase>
  RNN_DEVICE Biases load_biases(const Unit& unit) const {
    Biases b{};
    RNN_UNROLL for (int j = 0; j < kMaxCudaGates; ++j) {
      if (j >= a.product_gates[kPhase]) continue;
      const int column = (a.first_gate[kPhase] + j) * a.hidden + unit.column;
      const float hh = widen(this->optional(a.bias_hh, column));
      b.joined[j] = widen(this->optional(a.bias_ih, column)) + (is_apart<kPhase>(j) ? 0.0f : hh);
      b.apart[j] = is_apart<kPhase>(j) ? hh : 0.0f;
    }
    return b;
  }
  template <int kPhase>
  RNN_DEVICE Inputs load(const Element& e, const Moment& m) const {
    Inputs in{};
    const Storage* const pre =
        m.pre + (this->among(a.gates, e) + static_cast<unsigned>(a.first_gate[kPhase] * a.hidden));
    RNN_UNROLL for (int j = 0; j < kMaxCudaGates; ++j) {
      if (j < a.product_gates[kPhase]) in.gate[j] = pre[j * a.hidden];
    }
    RNN_UNROLL for (int k = 0; k < kMaxCudaSlots; ++k) {
      if (kPhase > 0 && k < a.slot_count) in.slot[k] = m.slots[this->among(a.slot_count, e) + k * a.hidden];
    }
    return in;
  }

  // An element's part of a phase, after the product.
  template <int kPhase>
  RNN_DEVICE Outputs compute(const Element& e, const Inputs& in, const Biases& biases) const {
    Outputs out;
    float products[kMaxCudaGates];
    Scalar sums[kMaxCudaGates];
    this->add_up(products, kPhase, e);
    RNN_UNROLL for (int j = 0; j < kMaxCudaGates; ++j) {
      const float input = widen(in.gate[j]) + biases.joined[j];
      sums[j] = Scalar(products[j] + (is_apart<kPhase>(j) ? biases.apart[j] : input));
    }
    with_cell(a.cell, [&](auto cell) {
      using Cell = decltype(cell);
      if constexpr (kPhase < Cell::kPhases) {
        Cell::template forward<kPhase>(sums, At<Cell, kPhase>{*this, e, in, biases, out});
      }
    });
    stamp(5);
    return out;
  }
  // A step past the row's end, or before its beginning: states stay, outputs and reserve are zeros.
  RNN_DEVICE Outputs pass(const Element& e) const {
    Outputs out;
    out.h = this->kept(0, e);
    if (a.keeps_slots) out.saved = (1u << a.slot_count) - 1;
    return out;
  }

  RNN_DEVICE void store(const Element& e, const Outputs& out, const Moment& m, bool last_phase) const {
    if (!e.valid) return;
    if (last_phase) narrow(out.y, m.y[this->place(e)]);
    if (!a.slots) return;
    Storage* const slots = m.slots + this->among(a.slot_count, e);
    RNN_UNROLL for (int k = 0; k < kMaxCudaSlots; ++k) {
      if (out.saved >> k & 1u) narrow(out.slot[k], slots[k * a.hidden]);
    }
  }

  // One phase of a step, a part of the elements. The product of phase 0 reads version `round` of h, and the last phase
  // gives the next one.
  template <int kPhase>
  RNN_DEVICE void work_on(const Moment& m, const Part& part, const Biases& biases, int group) const {
    stamp(0);
    const bool active = this->any_active(m.t, part.row), last_phase = kPhase == a.plan.products - 1;
    const bool wanted = m.more && this->any_active(m.next, part.row);
    this->for_each_element(
        part, [&](const Element& e) { return load<kPhase>(e, m); },
        [&] {
          if (active) this->template multiply<kPhase>(m.round, group, part.row);
        },
        [&](const Element& e, const Inputs& in) {
          const bool works = this->is_active(m.t, e.row);
          const Outputs out = works ? compute<kPhase>(e, in, biases) : pass(e);
          if (last_phase && wanted) this->give(0, m.round + 1, e, 0, out.h);
          if (!last_phase && active) this->give(1, m.round, e, 0, works ? out.operand : 0.0f);
          stamp(6);
          if (works || last_phase) store(e, out, m, last_phase);
          if (active) this->reset(kPhase, m.round, e, 1);
          stamp(7);
        });
    meet_thread_block();  // the sums have been read
    stamp(8);
  }
  // All parts. The first one is known, as most thread blocks have no other.
  template <int kPhase>
  RNN_DEVICE void phase(const Moment& m, const Part& first, const Biases& biases_of_first) const {
    this->for_each_part([&](int group, int row) {
      Part part = first;
      Biases biases = biases_of_first;
      if (group > 0 || row > this->row0) {
        part = this->part_of(group, row);
        biases = load_biases<kPhase>(part.unit);
      }
      work_on<kPhase>(m, part, biases, group);
    });
  }

  RNN_DEVICE void begin() const {
    this->load_weights();
    for (int p = 0; p < a.plan.products; ++p) this->fill_up(p, a.padded_hidden);
    this->for_each_part([&](int group, int row) {
      const bool wanted = a.first < a.last && this->any_active(this->time_of(a.first), row);
      this->for_elements_of(group, row, [&](const Element& e) {
        if (a.first > 0)
          this->restore_kept(e);
        else
          for (int s = 0; s < this->states(); ++s) this->keep(s, e, widen(this->optional(a.state0[s], this->place(e))));
        if (wanted) this->give(0, 0, e, 0, this->kept(0, e));
      });
    });
    meet_thread_block();  // the weights are there
  }
  RNN_DEVICE void end() const {
    this->for_all_elements([&](const Element& e) {
      if (a.last < a.seq_len) this->save_kept(e);
      for (int s = 0; s < this->states() && e.valid; ++s) {
        if (a.state_n[s]) narrow(this->kept(s, e), static_cast<Storage*>(a.state_n[s])[this->place(e)]);
      }
    });
  }
  RNN_DEVICE Moment moment(int step) const {
    Moment m;
    m.t = this->time_of(step);
    m.next = this->time_of(step + 1);
    m.round = step - a.first;
    m.more = step + 1 < a.last;
    m.pre = this->at_time(a.pre, m.t - a.pre_first, a.gates_step);
    m.y = this->at_time(a.y, m.t, a.h_step);
    m.slots = this->at_time(a.slots, a.keeps_slots ? m.t : 0, a.slots_step);
    return m;
  }

  RNN_DEVICE void run() {
    begin();
    if (this->row0 < this->row1) {
      const Part first = this->part_of(0, this->row0);
      const Biases biases = load_biases<0>(first.unit);
      RNN_ROLLED for (int step = a.first; step < a.last; ++step) {
        const Moment m = moment(step);
        phase<0>(m, first, biases);
        if (a.plan.products > 1) phase<1>(m, first, load_biases<1>(first.unit));
      }
    }
    end();
    stamp(9);
  }
};

}  // namespace
