// The gradients of weights and biases, as sums over all steps and rows. The plan of these sums is derived from a cell's
// facts; all backends follow it, in C++ and in Python.
#pragma once

#include "facts.hpp"

namespace fusedrnn {

constexpr int kMaxTerms = 40;
constexpr int kMaxOperands = 6;

// One block of a gradient: H rows of a matrix's, or H elements of a bias's or vector's. It is the sum, over the steps
// and rows of the batch, of the gradients in a column times an operand. For matrices the product is that of each
// gradient with each element of the operand, for vectors it is by element, and for biases the operand is one.
struct GradientTerm {
  enum class Of : int { weight_ih, matrix, bias_ih, bias_hh, vector } of;
  int index;    // which matrix or vector
  int block;    // of the target, as users stack gates
  int column;   // of the gradients
  From from;    // the operand,
  int slot;     // its first slot, if it lies in slots,
  int depth;    // and its length in vectors of H elements; 0 for x and one
  int operand;  // its place in the plan's list of operands; -1 for one
};

struct Operand {
  From from;
  int slot, depth;
  bool of_matrix;  // some matrix is multiplied by it, weight_ih included
};

// Terms are sorted by column; operands and columns are listed once each, x first.
struct GradientPlan {
  int terms, operands, columns;
  GradientTerm term[kMaxTerms];
  Operand operand[kMaxOperands];
  int column[kMaxColumns];

  constexpr int place_of(From from, int slot, int depth, bool of_matrix) {
    if (from == From::one) return -1;
    int i = 0;
    while (i < operands && (operand[i].from != from || operand[i].slot != slot || operand[i].depth != depth)) ++i;
    if (i == operands) operand[operands++] = {from, slot, depth, false};
    operand[i].of_matrix = operand[i].of_matrix || of_matrix;
    return i;
  }
  constexpr void add(GradientTerm::Of of, int index, int block, int from_column, From from, int slot, int depth) {
    const bool of_matrix = of == GradientTerm::Of::weight_ih || of == GradientTerm::Of::matrix;
    if (columns == 0 || column[columns - 1] != from_column) column[columns++] = from_column;
    term[terms++] = {of, index, block, from_column, from, slot, depth, place_of(from, slot, depth, of_matrix)};
  }
};

// The terms whose gradients are in this column.
constexpr void add_terms(GradientPlan& plan, const CellFacts& f, int column) {
  using Of = GradientTerm::Of;
  if (column >= f.input_column && column < f.input_column + f.gates) {
    const int block = f.user_gate[f.input_gate[column - f.input_column]];
    plan.add(Of::weight_ih, 0, block, column, From::x, 0, 0);
    plan.add(Of::bias_ih, 0, block, column, From::one, 0, 0);
  }
  for (int i = 0; i < f.products; ++i) {
    const Product& p = f.product[i];
    if (p.depth == 0 || column < p.column || column >= p.column + p.gates) continue;
    const int block = block_of(f, p, column - p.column);
    plan.add(Of::matrix, p.matrix, block, column, p.from, p.slot, p.depth);
    if (p.matrix == 0) plan.add(Of::bias_hh, 0, block, column, From::one, 0, 0);
  }
  for (int k = 0; k < f.vectors; ++k) {
    const VectorGradient& v = f.vector[k];
    if (v.column == column) plan.add(Of::vector, k, 0, column, v.from, v.slot, v.from == From::one ? 0 : 1);
  }
}

constexpr GradientPlan gradient_plan(const CellFacts& f) {
  GradientPlan plan{};
  plan.place_of(From::x, 0, 0, true);
  for (int column = 0; column < f.columns; ++column) add_terms(plan, f, column);
  return plan;
}

// The plan of each cell, made once.
const GradientPlan& gradients_of(CellId cell);

}  // namespace fusedrnn
