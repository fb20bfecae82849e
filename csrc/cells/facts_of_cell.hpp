// Collects the constants of a cell (cell.hpp) into its facts, for facts.cpp and for code that is compiled for a
// cell.
#pragma once

#include "facts.hpp"

namespace {

using fusedrnn::CellFacts;

// All but the name, which is in the list of cells alone.
template <class Cell>
constexpr CellFacts facts() {
  CellFacts f{};
  f.gates = Cell::kGates;
  f.recurrent_gates = Cell::kRecurrentGates;
  f.states = Cell::kStates;
  f.slots = Cell::kSlots;
  f.columns = Cell::kColumns;
  f.phases = Cell::kPhases;
  f.products = Cell::kProducts;
  f.matrices = Cell::kMatrices;
  f.vectors = Cell::kVectors;
  f.below = Cell::kBelow;
  f.clocked = Cell::kClocked;
  f.activates = Cell::kActivates;
  f.input_column = Cell::kInputColumn;
  f.projection = Cell::kProjection;
  f.scratch_slots = Cell::kPhases > 1;
  for (int s = 0; s < Cell::kStates; ++s) {
    f.state[s] = Cell::state(s);
    f.longest_state = f.state[s].units > f.longest_state ? f.state[s].units : f.longest_state;
  }
  for (int gate = 0; gate < Cell::kGates; ++gate) {
    f.split[gate] = Cell::split(gate);
    f.user_gate[gate] = Cell::user_gate(gate);
    f.input_gate[gate] = Cell::input_gate(gate);
  }
  for (int i = 0; i < Cell::kProducts; ++i) {
    f.product[i] = Cell::product(i);
    f.scratch_slots = f.scratch_slots || f.product[i].from != fusedrnn::From::h_prev;
  }
  for (int m = 0; m < Cell::kMatrices; ++m) f.matrix[m] = Cell::matrix(m);
  for (int i = 0; i < Cell::kVectors; ++i) f.vector[i] = Cell::vector_gradient(i);
  for (int i = 0; i < Cell::kPhases; ++i) {
    for (int round = 0; round < fusedrnn::kMaxRounds; ++round) {
      f.forward_sums[i] += Cell::sums(false, i, round);
      f.backward_sums[i] += Cell::sums(true, i, round);
    }
    f.reduces = f.reduces || f.forward_sums[i] > 0 || f.backward_sums[i] > 0;
  }
  return f;
}

}  // namespace
