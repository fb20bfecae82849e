// What a cell is: its equations for one step of some units, and the table of facts that lets drivers run it without
// knowing it by name. lstm.hpp is the one to read first.
//
// A step is one or more *phases*. A phase takes the matrix product of a source row (h_prev, or a slot that an earlier
// phase saved) with the recurrent weights of its gates, then does its part of the pointwise step:
//     forward<Phase>(a, at)       a[g]: pre-activation of the phase's g-th gate
// Backward runs the same phases from the last to the first. Its stage s gets the gradient of the row that phase
// kPhases - s read (for stage 0: of this step's h, the product of phase 0 of the step after it included):
//     backward<Stage>(d, at)
// *Slots* are vectors of H units kept for each row and step: forward saves into them, backward reads them and then
// overwrites them with gradients of pre-activations (`grad`), from where the remaining products take them.
//
// `at` is the place in memory, for as many units as V holds. Forward:
//     at.h_prev() at.c_prev() at.pre(g) at.slot(k) at.save(k, v) at.set_c(v) at.set_h(v)
// and backward:
//     at.h_prev() at.c_prev() at.slot(k) at.dc() at.set_dc(v) at.direct() at.set_direct(v) at.grad(column, v)
// where pre(g) is the input's part of gate g, for gates that keep it apart (`split`), and `direct` is the part of
// h_prev's gradient that does not go through a matrix product.
//
// Facts, all static constexpr:
//     kGates, kStates (1: h; 2: h and c), kSlots, kPhases
//     kStateSlot         the slot that holds c, or -1
//     kDirect            whether backward uses `direct`
//     phase_gates(p)     the gates of phase p
//     phase_source(p)    the slot that phase p reads, or kFromState for h_prev
//     split(g)           gate g's input part and recurrent part stay apart (each with its own bias)
//     carried(k)         slot k is read by a later phase of the same step, so inference needs it too
//     input_columns()    the slots that hold the gradients which the input sees: dx and dweight_ih are made from them
//     phase_columns(p)   the slots that hold the gradients which phase p's product sees
//     column_gate(col)   the gate whose gradient stands in slot col
#pragma once

#include "activations.hpp"

namespace {

constexpr int kFromState = -1;

struct Range {
  int first, count;
};

// Defaults for the common case: one phase, all gates from h_prev, gate g's gradient in slot g.
template <int Gates, int Slots>
struct OnePhaseCell {
  static constexpr int kGates = Gates, kStates = 1, kSlots = Slots, kPhases = 1, kStateSlot = -1;
  static constexpr bool kDirect = false;
  static constexpr Range phase_gates(int) { return {0, Gates}; }
  static constexpr int phase_source(int) { return kFromState; }
  static constexpr bool split(int) { return false; }
  static constexpr bool carried(int) { return false; }
  static constexpr Range input_columns() { return {0, Gates}; }
  static constexpr Range phase_columns(int) { return {0, Gates}; }
  static constexpr int column_gate(int column) { return column; }
};

}  // namespace
