// The facts about a cell that let drivers and hosts run it without knowing it by name. cell.hpp says how a cell gives
// them, and what the words mean.
#pragma once

#include <cstdint>

namespace fusedrnn {

constexpr int kMaxGates = 5;
constexpr int kMaxPhases = 3;
constexpr int kMaxProducts = 3;
constexpr int kMaxMatrices = 3;
constexpr int kMaxStates = 3;
constexpr int kMaxVectors = 18;
constexpr int kMaxSums = 32;
constexpr int kMaxRounds = 3;

// Where an operand of H elements (or a few times H) lies: the states before the step, slots of this step or of the one
// before, c of the layer below, or ones.
enum class From { h_prev, c_prev, slots_prev, slots, below, one };

// A recurrent matrix product of a step.
struct Product {
  int phase;              // whose pre-activations it adds to; the last product of a phase covers all of its gates
  int matrix;             // 0: weight_hh; 1..: the cell's other matrices
  int first_gate, gates;  // the gates that it adds to
  From from;              // the row that it multiplies,
  int slot;               // its first slot, if it lies in slots,
  int depth;              // and how many vectors of H elements it is long
  int column;             // backward: the slots that hold the gradients of its gates begin here
};

// The gradient of a vector of weights: the sum over steps and rows of a gradient times an operand.
struct VectorGradient {
  int column;  // the slot that holds the gradient
  From from;
  int slot;  // if the operand lies in slots
};

// Units that share a clock: they take part in every `period`-th step, and see the units from `first` on.
struct Clock {
  std::int64_t first, last, period;  // units first..last-1
};

struct CellFacts {
  const char* name;
  int gates, recurrent_gates, states, slots, phases, products, matrices, vectors;
  int state_slot;
  bool direct;
  bool reduces;        // some phase needs sums over the units of a row
  bool below;          // the cell also reads c of the layer below, and gives its own c of every step
  bool clocked;        // units keep what they hold in steps between the ticks of their clocks
  bool scratch_slots;  // inference needs slots too
  bool split[kMaxGates];
  int user_gate[kMaxGates];  // where users stack gate g
  int input_column, input_gates[kMaxGates];
  Product product[kMaxProducts];
  int matrix_gates[kMaxMatrices], matrix_depth[kMaxMatrices];  // a matrix is (gates*H, depth*H)
  VectorGradient vector[kMaxVectors];
  int state_units[kMaxStates];  // how many vectors of H elements a state is long

  // Which block of H rows of its matrix the j-th gate of a product takes.
  int block(const Product& p, int j) const { return p.matrix == 0 ? user_gate[p.first_gate + j] : j; }
  // The first of the slots that make up the third state.
  int third_state_slot() const {
    for (int i = 0; i < products; ++i) {
      if (product[i].from == From::slots_prev) return product[i].slot;
    }
    return -1;
  }
  int longest_state() const {
    int most = 1;
    for (int s = 0; s < states; ++s) most = state_units[s] > most ? state_units[s] : most;
    return most;
  }
};

}  // namespace fusedrnn
