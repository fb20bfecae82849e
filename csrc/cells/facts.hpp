// The facts about a cell that let drivers and hosts run it without knowing it by name. cell.hpp says how a cell gives
// them, and explains the words; facts.cpp holds all cells to the rules between them.
#pragma once

#include <cstdint>

#include "cell_list.hpp"

namespace fusedrnn {

#define RNN_CELL_ID(name, Cell) name,
enum class CellId : int { RNN_CELLS(RNN_CELL_ID) count };
#undef RNN_CELL_ID
constexpr int kCells = static_cast<int>(CellId::count);

constexpr int kMaxGates = 5;
constexpr int kMaxPhases = 3;
constexpr int kMaxProducts = 3;
constexpr int kMaxMatrices = 3;
constexpr int kMaxDepth = 3;
constexpr int kMaxStates = 4;
constexpr int kMaxSlots = 16;
constexpr int kMaxColumns = 24;
constexpr int kMaxVectors = 18;
constexpr int kMaxSums = 32;
constexpr int kMaxRounds = 3;

// Where an operand lies: the input; states 0, 1 and 2 before the step; slots of this step; c of the layer below; or
// nowhere, as all its elements are 1. Operands are one or more vectors of H elements, but for the input's I elements.
enum class From : int { x, h_prev, c_prev, slots_prev, slots, below, one };
constexpr const char* kFromNames[] = {"x", "h_prev", "c_prev", "slots_prev", "slots", "below", "one"};

// What each element of a state is in a row that nothing has come to: where it begins if the caller gives no state.
enum class Empty : int { zero, minus_infinity };

// A state of the cell, which a step takes from the one before.
struct State {
  const char* name;  // for users: h, c, gates
  int units;         // its length in vectors of H elements
  int slot;          // its first slot; -1 for h, which has a history of its own, and for a state without a history:
                     // there is only the last of its values, which backward does not read
  bool carries;      // part of its gradient goes past the products: pointwise steps keep it (at.direct, at.dstate)
  Empty empty = Empty::zero;
};

// A recurrent matrix product of a step. Products are listed by phase.
struct Product {
  int phase;              // whose pre-activations it adds to; the last product of a phase covers all of its gates
  int matrix;             // 0: weight_hh; 1..: the cell's other matrices; -1: none, the sums are zeros
  int first_gate, gates;  // the gates that it adds to
  From from;              // the operand that it multiplies,
  int slot;               // its first slot, if it lies in slots,
  int depth;              // and how many vectors of H elements it is long; 0 where there is no matrix
  int column;             // backward: the columns of the gradients of its gates begin here
};

// A matrix of recurrent weights: (blocks*H, depth*H).
struct Matrix {
  int blocks, depth;
};

// The gradient of a vector of weights: the sum over steps and rows of a gradient times an operand.
struct VectorGradient {
  int column;  // of the gradient
  From from;
  int slot;  // if the operand lies in slots
};

// Units that share a clock: they take part in every `period`-th step, and see the units from `first` on.
struct Clock {
  std::int64_t first, last, period;  // units first..last-1
};

struct CellFacts {
  const char* name;
  int gates;            // all of them see the input
  int recurrent_gates;  // blocks of weight_hh and bias_hh
  int states, slots, columns, phases, products, matrices, vectors;
  bool reduces;        // some phase needs sums over the units of a row
  bool below;          // the cell also reads c of the layer below, and gives its own c of every step
  bool clocked;        // units keep what they hold in steps between the ticks of their clocks
  bool activates;      // users may choose its activations
  bool scratch_slots;  // inference needs slots too
  int longest_state;   // in vectors of H elements
  State state[kMaxStates];
  bool split[kMaxGates];
  int user_gate[kMaxGates];   // where users stack gate g
  int projection;             // the product whose sums are h itself, which then has P units; -1 if there is none
  int input_column;           // the columns of the gradients which the input sees begin here,
  int input_gate[kMaxGates];  // and the j-th of them holds the gradient of this gate
  Product product[kMaxProducts];
  Matrix matrix[kMaxMatrices];
  VectorGradient vector[kMaxVectors];
  int forward_sums[kMaxPhases], backward_sums[kMaxPhases];  // over units, of a phase or stage
};

// The facts of each cell, made once.
const CellFacts& facts_of(CellId cell);

// The elements that an operand of this many vectors has: those of h have P units, all others H.
constexpr std::int64_t operand_size(From from, int depth, std::int64_t hidden, std::int64_t proj) {
  return depth * (from == From::h_prev ? proj : hidden);
}

// The units whose sums a product gives.
constexpr std::int64_t product_units(const CellFacts& f, int index, std::int64_t hidden, std::int64_t proj) {
  return index == f.projection ? proj : hidden;
}

// The last product of a phase.
constexpr int last_of_phase(const CellFacts& f, int phase) {
  int last = 0;
  for (int i = 0; i < f.products; ++i) last = f.product[i].phase == phase ? i : last;
  return last;
}

// Whether the recurrence may be cut into heads (heads.hpp): weight_hh is the only matrix, and nothing else of a step
// leaves a head.
constexpr bool takes_heads(const CellFacts& f) {
  return f.matrices == 1 && f.projection < 0 && !f.clocked && !f.reduces;
}

// Rows of one block of a matrix, and columns of the matrix. weight_hh multiplies h, of one head.
constexpr std::int64_t block_rows(const CellFacts& f, int matrix, std::int64_t hidden, std::int64_t proj) {
  return f.projection >= 0 && f.product[f.projection].matrix == matrix ? proj : hidden;
}
constexpr std::int64_t matrix_columns(const CellFacts& f, int matrix, std::int64_t hidden, std::int64_t proj,
                                      std::int64_t heads = 1) {
  return f.matrix[matrix].depth * (matrix == 0 ? proj / heads : hidden);
}

// Which block of H rows of its matrix the j-th gate of a product takes.
constexpr int block_of(const CellFacts& f, const Product& p, int j) {
  return p.matrix == 0 ? f.user_gate[p.first_gate + j] : j;
}

}  // namespace fusedrnn

// Internal linkage: kernels.cpp, which is compiled once per ISA, calls this when it runs.
namespace {

// The state that an operand is, before the step; -1 if it is none.
constexpr int state_of(fusedrnn::From from) {
  return from == fusedrnn::From::h_prev       ? 0
         : from == fusedrnn::From::c_prev     ? 1
         : from == fusedrnn::From::slots_prev ? 2
                                              : -1;
}

}  // namespace
