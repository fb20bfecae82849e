// Forward through a whole sequence, inference or training, in one launch.
#pragma once

#include "thread_block.hpp"

namespace {

template <class Format, int kTiles>
struct Forward : ThreadBlock<Format, kTiles> {
  using Base = ThreadBlock<Format, kTiles>;
  using Storage = typename Base::Storage;
  using First = typename Base::First;
  using Base::a;

  RNN_DEVICE explicit Forward(const Arguments& arguments) : Base(arguments) {}

  // All of an element's step that does not wait for the product, as it was loaded: a warp goes on until it needs them.
  struct Inputs {
    Storage gate[kMaxCudaGates], bias_ih[kMaxCudaGates], bias_hh[kMaxCudaGates];  // of the phase's product
    Storage slot[kMaxCudaSlots];                                                  // in later phases
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
    Outputs& out;

    RNN_DEVICE Scalar h_prev() const { return Scalar(block.kept(0, e)); }
    RNN_DEVICE Scalar c_prev() const { return Scalar(block.kept(1, e)); }
    RNN_DEVICE Scalar vector(int k) const {
      return Scalar(load_element<Storage>(block.a.vectors, (k - e.row) * block.a.hidden + e.place));
    }
    RNN_DEVICE Scalar slot(int k) const { return Scalar(widen(in.slot[k])); }
    RNN_DEVICE Scalar pre(int gate) const {
      const int j = gate - Cell::product(kPhase).first_gate;
      return Scalar(widen(in.gate[j]) + widen(in.bias_ih[j]));
    }
    RNN_DEVICE void save(int k, Scalar v) const {
      out.slot[k] = v.v;
      if (block.a.slots_step != 0 || Cell::carried(k)) out.saved |= 1u << k;
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

  RNN_DEVICE Inputs load(int phase, const Element& e, int64_t t) const {
    Inputs in{};
    const int64_t column = e.place - e.row * a.hidden + a.first_gate[phase] * a.hidden;
    const int64_t row = ((t - a.pre_first) * a.batch + e.row) * a.gates * a.hidden;
    RNN_UNROLL for (int j = 0; j < kMaxCudaGates; ++j) {
      if (j >= a.product_gates[phase]) continue;
      in.gate[j] = static_cast<const Storage*>(a.pre)[row + column + j * a.hidden];
      in.bias_ih[j] = this->optional(a.bias_ih, column + j * a.hidden);
      in.bias_hh[j] = this->optional(a.bias_hh, column + j * a.hidden);
    }
    RNN_UNROLL for (int k = 0; k < kMaxCudaSlots; ++k) {
      if (phase > 0 && k < a.slot_count) {
        in.slot[k] = static_cast<const Storage*>(a.slots)[this->slot_place(t, e) + k * a.hidden];
      }
    }
    return in;
  }
  // Brings the inputs of a step near.
  RNN_DEVICE void fetch_inputs(const Element& e, int64_t t) const {
    const int64_t row = (t - a.pre_first) * a.batch * a.gates * a.hidden + e.row * (a.gates - 1) * a.hidden;
    RNN_UNROLL for (int gate = 0; gate < kMaxCudaGates; ++gate) {
      if (gate < a.gates) fetch_element<Storage>(a.pre, row + e.place + gate * a.hidden);
    }
  }

  // An element's part of a phase, after the product.
  RNN_DEVICE Outputs compute(int phase, const Element& e, const Inputs& in) const {
    Outputs out;
    float products[kMaxCudaGates];
    Scalar sums[kMaxCudaGates];
    this->add_up(products, phase, e, a.product_gates[phase]);
    RNN_UNROLL for (int j = 0; j < kMaxCudaGates; ++j) {
      const bool apart = (a.split >> (a.first_gate[phase] + j) & 1u) != 0;
      const float input = widen(in.gate[j]) + widen(in.bias_ih[j]);
      sums[j] = Scalar(products[j] + ((apart ? 0.0f : input) + widen(in.bias_hh[j])));
    }
    with_cell(a.cell, [&](auto cell) {
      using Cell = decltype(cell);
      if (phase == 0)
        Cell::template forward<0>(sums, At<Cell, 0>{*this, e, in, out});
      else if constexpr (Cell::kPhases > 1)
        Cell::template forward<1>(sums, At<Cell, 1>{*this, e, in, out});
    });
    stamp(5);
    return out;
  }
  // A step past the row's end, or before its beginning: states stay, outputs and reserve are zeros.
  RNN_DEVICE Outputs pass(const Element& e) const {
    Outputs out;
    out.h = this->kept(0, e);
    if (a.slots_step != 0) out.saved = (1u << a.slot_count) - 1;
    return out;
  }

  RNN_DEVICE void store(const Element& e, const Outputs& out, int64_t t, bool last_phase) const {
    if (!e.valid) return;
    if (last_phase) store_element<Storage>(a.y, t * a.batch * a.hidden + e.place, out.y);
    if (!a.slots) return;
    const int64_t slots = this->slot_place(t, e);
    RNN_UNROLL for (int k = 0; k < kMaxCudaSlots; ++k) {
      if (out.saved >> k & 1u) store_element<Storage>(a.slots, slots + k * a.hidden, out.slot[k]);
    }
  }

  // One phase of a step, a part of the elements; a round is a step, counted from the first of this launch. The product
  // of phase 0 reads version `round` of h, and the last phase gives the next one.
  RNN_DEVICE void part(const First& first, int phase, int64_t t, int64_t round, int group, int64_t row) const {
    stamp(0);
    const bool active = this->any_active(t, row), last_phase = phase == a.plan.products - 1;
    const int64_t next = this->time_of(a.first + round + 1);
    const bool more = a.first + round + 1 < a.last, wanted = more && this->any_active(next, row);
    this->for_each_element(
        first, group, row,
        [&](const Element& e) {
          if (phase == 0 && more) fetch_inputs(e, next);
          return load(phase, e, t);
        },
        [&] {
          if (active) this->multiply(phase, round, group, row);
        },
        [&](const Element& e, const Inputs& in) {
          const bool works = t < this->length_of(e.row);
          const Outputs out = works ? compute(phase, e, in) : pass(e);
          if (last_phase && wanted) this->give(0, round + 1, e, 0, out.h);
          if (!last_phase && active) this->give(1, round, e, 0, works ? out.operand : 0.0f);
          stamp(6);
          if (works || last_phase) store(e, out, t, last_phase);
          if (active) this->reset(phase, round, e, 1);
          stamp(7);
        });
    meet_thread_block();  // the sums have been read
    stamp(8);
  }

  RNN_DEVICE void run() {
    this->load_weights();
    for (int p = 0; p < a.plan.products; ++p) this->fill_up(p, a.padded_hidden);
    this->for_each_part([&](int group, int64_t row) {
      const bool wanted = a.first < a.last && this->any_active(this->time_of(a.first), row);
      this->for_elements_of(group, row, [&](const Element& e) {
        if (a.first > 0)
          this->restore_kept(e);
        else
          for (int s = 0; s < this->states(); ++s) this->keep(s, e, widen(this->optional(a.state0[s], e.place)));
        if (wanted) this->give(0, 0, e, 0, this->kept(0, e));
      });
    });
    meet_thread_block();  // the weights are there
    const First first = this->first();
    RNN_ROLLED for (int64_t step = a.first; step < a.last; ++step) {
      RNN_ROLLED for (int i = 0; i < a.plan.products; ++i) {
        this->for_each_part(
            [&](int group, int64_t row) { part(first, i, this->time_of(step), step - a.first, group, row); });
      }
    }
    this->for_all_elements([&](const Element& e) {
      if (a.last < a.seq_len) this->save_kept(e);
      for (int s = 0; s < this->states() && e.valid; ++s) {
        if (a.state_n[s]) store_element<Storage>(a.state_n[s], e.place, this->kept(s, e));
      }
    });
    stamp(9);
  }
};

}  // namespace
