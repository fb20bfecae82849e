#include "facts.hpp"

#include "cells.hpp"
#include "facts_of_cell.hpp"
#include "gradients.hpp"

namespace fusedrnn {
namespace {

constexpr CellFacts with_name(CellFacts f, const char* name) {
  f.name = name;
  return f;
}

#define RNN_FACTS(name, Cell) with_name(facts<Cell>(), #name),
constexpr CellFacts kFacts[] = {RNN_CELLS(RNN_FACTS)};
#undef RNN_FACTS
static_assert(sizeof kFacts / sizeof *kFacts == kCells);

#define RNN_GRADIENTS(name, Cell) gradient_plan(facts<Cell>()),
constexpr GradientPlan kGradients[] = {RNN_CELLS(RNN_GRADIENTS)};
#undef RNN_GRADIENTS

// The rules that drivers and hosts rely on. Each takes the facts of one cell.

constexpr bool is_within(int first, int count, int limit) { return first >= 0 && count >= 0 && first + count <= limit; }

constexpr bool counts_fit_their_arrays(const CellFacts& f) {
  return f.gates >= 1 && f.gates <= kMaxGates && f.states >= 1 && f.states <= kMaxStates && f.slots >= 0 &&
         f.slots <= kMaxSlots && f.columns >= 1 && f.columns <= kMaxColumns && f.phases >= 1 &&
         f.phases <= kMaxPhases && f.products <= kMaxProducts && f.matrices <= kMaxMatrices && f.vectors <= kMaxVectors;
}

// Phases are 0, 1, ... in the order of products, with at least one product each.
constexpr bool each_phase_has_a_product(const CellFacts& f) {
  int phase = -1;
  for (int i = 0; i < f.products; ++i) {
    if (f.product[i].phase != phase && f.product[i].phase != phase + 1) return false;
    phase = f.product[i].phase;
  }
  return phase + 1 == f.phases;
}

constexpr bool last_products_cover_their_phase(const CellFacts& f) {
  for (int i = 0; i < f.products; ++i) {
    const Product &p = f.product[i], &whole = f.product[last_of_phase(f, p.phase)];
    if (p.first_gate < whole.first_gate || p.first_gate + p.gates > whole.first_gate + whole.gates) return false;
  }
  return true;
}

// Backward takes the gradient of h from the last product of phase 0, gradients of operands in slots from the last
// products of later phases, and gradients of other states from all other products.
constexpr bool products_read_what_backward_expects(const CellFacts& f) {
  for (int i = 0; i < f.products; ++i) {
    const Product& p = f.product[i];
    if (i == last_of_phase(f, p.phase)) {
      if (p.depth > 1) return false;  // its operand is one vector
      if (p.phase == 0 && p.from != From::h_prev) return false;
      if (p.phase > 0 && p.depth > 0 && p.from != From::slots) return false;
    } else if (p.depth > 0 && state_of(p.from) < 1) {
      return false;
    }
  }
  return true;
}

// A gate whose parts stay apart has its recurrent part in its phase's last product, whose sums no other adds to.
constexpr bool split_gates_have_one_product(const CellFacts& f) {
  for (int i = 0; i < f.products; ++i) {
    const Product& p = f.product[i];
    for (int j = 0; j < p.gates; ++j) {
      if (f.split[p.first_gate + j] && i != last_of_phase(f, p.phase)) return false;
    }
  }
  return true;
}

// A state after c carries, and no product reads it; or it is state 2, which lies in slots, and its whole gradient goes
// through the product that reads it.
constexpr bool further_states_carry_or_are_operands(const CellFacts& f) {
  for (int s = 2; s < f.states; ++s) {
    bool is_read = false;
    for (int i = 0; i < f.products; ++i) {
      is_read = is_read || (f.product[i].depth > 0 && state_of(f.product[i].from) == s);
    }
    if (is_read == f.state[s].carries || (is_read && !f.scratch_slots)) return false;
  }
  return true;
}

// An operand in slots lies within them; one that is a state is a whole one.
constexpr bool operands_exist(const CellFacts& f) {
  for (int i = 0; i < f.products; ++i) {
    const Product& p = f.product[i];
    const int s = state_of(p.from);
    if (p.depth > kMaxDepth || s >= f.states) return false;
    if (p.from == From::slots && !is_within(p.slot, p.depth, f.slots)) return false;
    if (s >= 0 && p.depth > 0 && p.depth != f.state[s].units) return false;
    if (s == 2 && p.slot != f.state[s].slot) return false;
    if (p.from == From::x || p.from == From::below || p.from == From::one) return false;
  }
  for (int k = 0; k < f.vectors; ++k) {
    const VectorGradient& v = f.vector[k];
    if (v.from == From::x || state_of(v.from) >= f.states || state_of(v.from) >= 2) return false;
    if (v.from == From::slots && !is_within(v.slot, 1, f.slots)) return false;
    if (v.from == From::below && !f.below) return false;
  }
  return true;
}

constexpr bool is_state_slot(const CellFacts& f, int slot) {
  for (int s = 1; s < f.states; ++s) {
    if (slot >= f.state[s].slot && slot < f.state[s].slot + f.state[s].units) return true;
  }
  return false;
}

// h has a history of its own. All other states lie in slots, but for one that carries and that nothing but the next
// step reads.
constexpr bool states_have_their_places(const CellFacts& f) {
  if (f.state[0].slot != -1 || f.state[0].units != 1) return false;
  for (int s = 1; s < f.states; ++s) {
    const State& state = f.state[s];
    if (state.units < 1 || ((s == 1 || state.carries) && state.units != 1)) return false;  // at.before sees one vector
    const bool may_lack_slots = s > 1 && state.carries;
    if (!(may_lack_slots && state.slot == -1) && !is_within(state.slot, state.units, f.slots)) return false;
  }
  return true;
}

constexpr bool columns_exist(const CellFacts& f) {
  if (!is_within(f.input_column, f.gates, f.columns)) return false;
  for (int i = 0; i < f.products; ++i) {
    if (!is_within(f.product[i].column, f.product[i].gates, f.columns)) return false;
    if (!is_within(f.product[i].first_gate, f.product[i].gates, f.gates) || f.product[i].gates < 1) return false;
  }
  for (int k = 0; k < f.vectors; ++k) {
    if (!is_within(f.vector[k].column, 1, f.columns)) return false;
  }
  return true;
}

// Each block of each matrix has one product, as deep as the matrix; a product without a matrix has no depth.
constexpr bool blocks_have_one_product(const CellFacts& f) {
  for (int i = 0; i < f.products; ++i) {
    const Product& p = f.product[i];
    if ((p.matrix < 0) != (p.depth == 0) || p.matrix >= f.matrices) return false;
  }
  for (int m = 0; m < f.matrices; ++m) {
    bool taken[kMaxGates] = {};
    int count = 0;
    for (int i = 0; i < f.products; ++i) {
      const Product& p = f.product[i];
      if (p.matrix != m) continue;
      if (p.depth != f.matrix[m].depth) return false;
      for (int j = 0; j < p.gates; ++j, ++count) {
        const int block = block_of(f, p, j);
        if (!is_within(block, 1, f.matrix[m].blocks) || taken[block]) return false;
        taken[block] = true;
      }
    }
    if (count != f.matrix[m].blocks) return false;
  }
  return true;
}

// weight_hh comes first; it is as high as bias_hh is long.
constexpr bool weight_hh_comes_first(const CellFacts& f) {
  if (f.recurrent_gates > f.gates) return false;
  if (f.matrices == 0) return f.recurrent_gates == 0;
  return f.matrix[0].blocks == f.recurrent_gates && f.matrix[0].depth == 1;
}

constexpr bool is_permutation(const int* of, int count) {
  bool seen[kMaxGates] = {};
  for (int i = 0; i < count; ++i) {
    if (!is_within(of[i], 1, count) || seen[of[i]]) return false;
    seen[of[i]] = true;
  }
  return true;
}
constexpr bool gates_have_one_place(const CellFacts& f) {
  return is_permutation(f.user_gate, f.gates) && is_permutation(f.input_gate, f.gates);
}

constexpr bool sums_fit(const CellFacts& f) {
  for (int i = 0; i < f.phases; ++i) {
    if (f.forward_sums[i] > kMaxSums || f.backward_sums[i] > kMaxSums) return false;
    if (i == 0 && f.backward_sums[i] > 0) return false;  // stage 0 begins with its product
  }
  return true;
}

// A projection is the only product of the last phase, of a slot and with a matrix of its own. It makes all of h, whose
// gradient is in a column that no gate of the input has.
constexpr bool projections_come_last(const CellFacts& f) {
  if (f.projection < 0) return true;
  if (f.projection != f.products - 1) return false;
  const Product& p = f.product[f.projection];
  return p.phase == f.phases - 1 && p.phase > 0 && f.product[f.projection - 1].phase < p.phase && p.matrix > 0 &&
         p.gates == 1 && f.matrix[p.matrix].blocks == 1 && p.from == From::slots && !f.state[0].carries && !f.reduces &&
         !f.clocked && !is_within(p.column - f.input_column, 1, f.gates);
}

// The cells that the drivers of clocks can run.
constexpr bool clocked_cells_are_simple(const CellFacts& f) {
  return !f.clocked || (f.phases == 1 && f.states == 1 && f.products == 1 && f.slots == 0 && f.columns == 1 &&
                        f.gates == 1 && f.vectors == 0 && f.matrices == 1 && !f.reduces && !f.below &&
                        !f.state[0].carries && !f.split[0] && f.input_column == 0 && f.product[0].column == 0);
}

// The operands of their gradients, in the order that these drivers expect.
constexpr bool clocked_cells_sum_over_x_and_h(const CellFacts& f) {
  const GradientPlan plan = gradient_plan(f);
  return !f.clocked || (plan.operands == 2 && plan.operand[0].from == From::x && plan.operand[1].from == From::h_prev);
}

// c of every step is state 1's.
constexpr bool cells_above_others_have_c(const CellFacts& f) { return !f.below || f.states >= 2; }

constexpr int count_terms(const GradientPlan& plan, GradientTerm::Of of, int index, int block) {
  int count = 0;
  for (int i = 0; i < plan.terms; ++i) {
    const GradientTerm& t = plan.term[i];
    count += t.of == of && t.index == index && t.block == block;
  }
  return count;
}

// Backward writes each block of each gradient, and writes it once.
constexpr bool gradients_have_one_term(const CellFacts& f) {
  using Of = GradientTerm::Of;
  const GradientPlan plan = gradient_plan(f);
  bool one = true;
  for (int block = 0; block < f.gates; ++block) {
    one = one && count_terms(plan, Of::weight_ih, 0, block) == 1 && count_terms(plan, Of::bias_ih, 0, block) == 1;
  }
  for (int block = 0; block < f.recurrent_gates; ++block) one = one && count_terms(plan, Of::bias_hh, 0, block) == 1;
  for (int m = 0; m < f.matrices; ++m) {
    for (int block = 0; block < f.matrix[m].blocks; ++block) one = one && count_terms(plan, Of::matrix, m, block) == 1;
  }
  for (int k = 0; k < f.vectors; ++k) one = one && count_terms(plan, Of::vector, k, 0) == 1;
  return one;
}

// Inference keeps only some slots. It must keep the slots that a later phase's product or the next step reads;
// at.set_state keeps states that carry.
constexpr bool is_read_later(const CellFacts& f, int slot) {
  bool found = is_state_slot(f, slot);
  for (int i = 0; i < f.products; ++i) {
    const Product& p = f.product[i];
    found = found || (p.from == From::slots && slot >= p.slot && slot < p.slot + p.depth);
  }
  return found;
}
template <class Cell>
constexpr bool carries_its_operands() {
  constexpr CellFacts f = facts<Cell>();
  for (int slot = 0; slot < f.slots; ++slot) {
    bool is_set = false;
    for (int s = 1; s < f.states; ++s) is_set = is_set || (f.state[s].carries && slot == f.state[s].slot);
    if (is_read_later(f, slot) && !is_set && !Cell::carried(slot)) return false;
  }
  return true;
}

// Rounds of sums are 0, 1, ...: drivers stop at the first that has none.
template <class Cell>
constexpr bool rounds_are_in_a_row() {
  for (int phase = 0; phase < Cell::kPhases; ++phase) {
    for (int round = 1; round < kMaxRounds; ++round) {
      if (Cell::sums(false, phase, round) > 0 && Cell::sums(false, phase, round - 1) == 0) return false;
      if (Cell::sums(true, phase, round) > 0 && Cell::sums(true, phase, round - 1) == 0) return false;
    }
  }
  return true;
}

constexpr bool all_cells(bool (*holds)(const CellFacts&)) {
  for (const CellFacts& f : kFacts) {
    if (!holds(f)) return false;
  }
  return true;
}

static_assert(all_cells(counts_fit_their_arrays));
static_assert(all_cells(each_phase_has_a_product));
static_assert(all_cells(last_products_cover_their_phase));
static_assert(all_cells(products_read_what_backward_expects));
static_assert(all_cells(split_gates_have_one_product));
static_assert(all_cells(further_states_carry_or_are_operands));
static_assert(all_cells(operands_exist));
static_assert(all_cells(states_have_their_places));
static_assert(all_cells(columns_exist));
static_assert(all_cells(blocks_have_one_product));
static_assert(all_cells(weight_hh_comes_first));
static_assert(all_cells(gates_have_one_place));
static_assert(all_cells(sums_fit));
static_assert(all_cells(projections_come_last));
static_assert(all_cells(clocked_cells_are_simple));
static_assert(all_cells(clocked_cells_sum_over_x_and_h));
static_assert(all_cells(cells_above_others_have_c));
static_assert(all_cells(gradients_have_one_term));
#define RNN_HOLDS(name, Cell) static_assert(carries_its_operands<Cell>() && rounds_are_in_a_row<Cell>());
RNN_CELLS(RNN_HOLDS)
#undef RNN_HOLDS

}  // namespace

const CellFacts& facts_of(CellId cell) { return kFacts[static_cast<int>(cell)]; }
const GradientPlan& gradients_of(CellId cell) { return kGradients[static_cast<int>(cell)]; }

}  // namespace fusedrnn
