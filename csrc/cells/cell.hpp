// What a cell is: its equations for one step of some units, and the facts that let drivers run it without knowing it by
// name. lstm.hpp is the one to read first.
//
// A step is one or more *phases*. Before a phase, its recurrent *products* (facts.hpp) are added to the input's part of
// the pre-activations; then comes its part of the pointwise step:
//     forward<Phase>(a, at)       a[j]: pre-activation of the j-th gate of the phase's last product
// Backward runs the same phases from the last to the first. Its stage s gets the gradient of the row that the last
// product of phase kPhases - s read (for stage 0: of this step's h, the product of the step after it included):
//     backward<Stage>(d, at)
// *Slots* are vectors of H units kept for each row and step: forward saves into them, backward reads them. *Columns*
// are the vectors of H units that backward makes (`grad`): gradients of pre-activations, from where the remaining
// products take them. They outlive the step, but not the sequence.
//
// `at` is the place in memory, for as many units as V holds. Forward:
//     at.h_prev() at.c_prev() at.before(s) at.pre(g) at.slot(k) at.save(k, v) at.set_c(v) at.set_state(s, v)
//     at.set_h(v) at.vector(k) at.set_pre(g, v) at.candidate(v) at.recurrent(v) at.math()
// and backward:
//     at.h() at.h_prev() at.c_prev() at.before(s) at.slot(k) at.dc() at.set_dc(v) at.dstate(s) at.set_dstate(s, v)
//     at.direct() at.set_direct(v) at.grad(column, v) at.gradient(column) at.vector(k) at.extra(j) at.candidate(v)
//     at.recurrent(v) at.math()
// and, for cells with kBelow, at.below() in both, at.dc_given() and at.set_dbelow(v) in backward,
// where pre(g) is the input's part of gate g, for gates that keep it apart (`split`) or have no product; `direct` is
// the part of h_prev's gradient that goes past the matrix products, as dstate(s) is that of before(s), which is a state
// of one vector: h_prev, c_prev (whose dstate is dc) or a further one that carries; gradient(column) is one
// that an earlier stage of the step has made; vector(k) is the cell's k-th vector of H weights; and extra(j) is, in
// stage 0, the gradient that the j-th vector among the rows of products other than h_prev's gets from the step after:
// products that read c_prev or slots_prev, in their order. candidate(v) and recurrent(v) are dropout: of the candidate,
// and of h_prev as products take it, where a cell itself makes an operand of it; and of their gradients. Products with
// h_prev, and zoneout, which comes after the step, are the driver's. math() has the activations.
//
// A phase or stage may need sums over all units of a row, in up to three rounds; each may use the sums of the rounds
// before:
//     terms<Backward, Index, Round>(to, at)      the terms of these units in the sums of a round
//     finish<Backward, Index, Round>(sums, H, epsilon)   turns all sums into what at.sum(j) then gives, j counting on
//                                                through the rounds
//
// Facts, all static constexpr:
//     kGates             the gates, all of which see the input
//     kRecurrentGates    the blocks of weight_hh and bias_hh: all gates, or the first of those that users stack
//     kStates, state(s)  1: h; 2: h and c; 3: h, c and the vectors of slots_prev that a product reads; or h, c and
//                        others that carry, which no product reads
//     kSlots, kColumns, kPhases
//     kProducts, product(i)
//     kMatrices, matrix(m)   matrices of recurrent weights, weight_hh first
//     kVectors           vectors of weights; vector_gradient(k)
//     sums(backward, index, round)   how many sums a phase (or stage) takes in a round; 0 if there is none
//     kProjection        the product whose sums are h itself, the last one; it has P rows, and h has P units; -1: none
//     kBelow             whether the cell reads c of the layer below, a second sequence, and gives c of every step; the
//                        gradient of that is dc_given
//     kActivates         whether users may choose its activations (chosen.hpp)
//     kClocked           whether units take part in some steps only, as the weights' clocks say; for cells with one
//                        state, one product and no slots
//     split(g)           gate g's input part and recurrent part stay apart (each with its own bias)
//     carried(k)         slot k is read by a later phase, or by the next step, so inference needs it too
//     kInputColumn       the columns of the gradients which the input sees begin here: one for each gate,
//     input_gate(j)      whose gradient stands in the j-th of them
//     user_gate(g)       where users stack gate g
#pragma once

#include "chosen.hpp"
#include "facts.hpp"

namespace {

using fusedrnn::Empty;
using fusedrnn::From;
using fusedrnn::Matrix;
using fusedrnn::Product;
using fusedrnn::State;
using fusedrnn::VectorGradient;

// h, whose gradient takes part of its way through `direct` or not; and c, in this slot.
constexpr State state_h(bool direct) { return {"h", 1, -1, direct}; }
constexpr State state_c(int slot) { return {"c", 1, slot, true}; }

// Defaults for the common case: one phase, all gates from h_prev, gate g's gradient in column g.
template <int Gates, int Slots>
struct OnePhaseCell {
  static constexpr int kGates = Gates, kRecurrentGates = Gates, kStates = 1, kSlots = Slots, kPhases = 1;
  static constexpr int kColumns = Gates;
  static constexpr int kProducts = 1, kMatrices = 1, kVectors = 0, kInputColumn = 0;
  static constexpr int kProjection = -1;
  static constexpr bool kBelow = false, kClocked = false, kActivates = false;
  static constexpr Product product(int) { return {0, 0, 0, Gates, From::h_prev, 0, 1, 0}; }
  static constexpr State state(int) { return state_h(false); }
  static constexpr Matrix matrix(int) { return {Gates, 1}; }
  static constexpr VectorGradient vector_gradient(int) { return {}; }
  static constexpr int sums(bool, int, int) { return 0; }
  static constexpr bool split(int) { return false; }
  static constexpr bool carried(int) { return false; }
  static constexpr int input_gate(int column) { return column; }
  static constexpr int user_gate(int gate) { return gate; }
};

}  // namespace
