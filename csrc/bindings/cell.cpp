#include "cell.hpp"

#include <algorithm>

#include "../cpu/dispatch.hpp"
#include "../cuda/plan.hpp"

namespace fusedrnn {

namespace {

using std::int64_t;

constexpr const char* kRoles[] = {"weight_ih", "matrix", "bias_ih", "bias_hh", "vector"};
constexpr int kRoleCount = sizeof kRoles / sizeof *kRoles;

[[noreturn]] void fail(const std::string& name, const CellFacts& f, const std::string& expected) {
  throw py::value_error(name + ": expected " + expected + " in cell '" + f.name + "'");
}

Role role_by_name(const std::string& name) {
  for (int i = 0; i < kRoleCount; ++i) {
    if (name == kRoles[i]) return static_cast<Role>(i);
  }
  throw py::value_error("role: expected one of weight_ih, matrix, bias_ih, bias_hh, vector, got '" + name + "'");
}

// Where the next matrix or vector lies in the native cell.
struct Places {
  const CellFacts& f;
  int matrix = 0;
  int64_t gate = 0, vector = 0;

  void take_matrix(Parameter& p) {
    if (matrix >= f.matrices || p.gates > f.matrix_gates[matrix] - gate) fail(p.name.text, f, "no such matrix");
    if (p.depth != f.matrix_depth[matrix])
      fail(p.name.text, f, std::to_string(f.matrix_depth[matrix]) + " times H columns");
    p.matrix = matrix;
    p.first = gate;
    gate += p.gates;
    if (gate == f.matrix_gates[matrix]) gate = 0, ++matrix;
  }
  void take_vector(Parameter& p) {
    if (p.gates > f.vectors - vector) fail(p.name.text, f, "no such vector");
    p.first = vector;
    vector += p.gates;
  }
  void check_all_taken() const {
    if (matrix < f.matrices) fail("parameters", f, "more matrices");
    if (vector < f.vectors) fail("parameters", f, "more vectors");
  }
};

void place(Parameter& p, Places& places) {
  const CellFacts& f = places.f;
  if (p.gates < 1 || p.depth < 1) fail(p.name.text, f, "at least one gate");
  if (p.role == Role::matrix) return places.take_matrix(p);
  if (p.role == Role::vector) return places.take_vector(p);
  const int64_t gates = p.role == Role::bias_hh ? f.recurrent_gates : f.gates;
  if (p.gates != gates) fail(p.name.text, f, std::to_string(gates) + " gates");
}

std::vector<StateNames> state_names(const CellFacts& f) {
  constexpr const char* names[] = {"h", "c", "gates"};
  std::vector<StateNames> states;
  for (int s = 0; s < f.states; ++s) {
    const std::string n(names[s]), units = f.state_units[s] == 1 ? "" : std::to_string(f.state_units[s]) + "*";
    states.push_back({n, n + "0", n + "_n", "d" + n + "0", "d" + n + "_n", "out (" + n + ")",
                      "(batch_size, " + units + "hidden_size)"});
  }
  return states;
}

}  // namespace

const CellFacts& facts_of(CellId cell) { return current_isa().kernels->facts[static_cast<int>(cell)]; }

const CellFacts& PyCell::facts() const { return facts_of(id); }
int64_t PyCell::state_units(int s) const { return facts().state_units[s]; }

CellId cell_by_name(const std::string& name) {
  std::string valid;
  for (int i = 0; i < kCells; ++i) {
    const CellId id = static_cast<CellId>(i);
    if (name == facts_of(id).name) return id;
    valid += (i ? ", '" : "'") + std::string(facts_of(id).name) + "'";
  }
  throw py::value_error("cell: expected one of " + valid + ", got '" + name + "'");
}

PyCell make_cell(const std::string& name, const std::vector<ParameterTuple>& parameters) {
  PyCell cell{cell_by_name(name), {}, {}};
  const CellFacts& f = cell.facts();
  Places places{f};
  for (const auto& [parameter, role, gates, depth, required, symbols] : parameters) {
    Parameter p{parameter, "d" + parameter, role_by_name(role), gates, depth, required, symbols};
    const bool is_first = cell.parameters.empty();
    if ((p.role == Role::weight_ih) != is_first) fail(p.name.text, f, "weight_ih first, and once,");
    place(p, places);
    cell.parameters.push_back(p);
  }
  places.check_all_taken();
  cell.states = state_names(f);
  return cell;
}

py::dict describe_cell(const std::string& name) {
  using namespace py::literals;
  const CellFacts& f = facts_of(cell_by_name(name));
  const char* const operands[] = {"h_prev", "c_prev", "slots_prev", "slots", "below", "one"};
  const auto operand = [&](From from) { return operands[static_cast<int>(from)]; };
  py::list gradients, products, matrices;
  const auto add = [&](const char* of, int index, int rows, int column, const char* from, int slot) {
    gradients.append(py::dict("of"_a = of, "index"_a = index, "rows"_a = rows, "column"_a = column, "from"_a = from,
                              "slot"_a = slot));
  };
  for (int j = 0; j < f.gates; ++j) {
    const int rows = f.user_gate[f.input_gates[j]], column = f.input_column + j;
    add("weight_ih", 0, rows, column, "x", 0);
    add("bias_ih", 0, rows, column, "one", 0);
  }
  for (int i = 0; i < f.products; ++i) {
    const Product& p = f.product[i];
    if (p.depth == 0) continue;
    products.append(i);
    for (int j = 0; j < p.gates; ++j) {
      add("matrix", p.matrix, f.block(p, j), p.column + j, operand(p.from), p.slot);
      if (p.matrix == 0) add("bias_hh", 0, f.block(p, j), p.column + j, "one", 0);
    }
  }
  for (int i = 0; i < f.vectors; ++i) {
    add("vector", 0, i, f.vector[i].column, operand(f.vector[i].from), f.vector[i].slot);
  }
  for (int m = 0; m < f.matrices; ++m) matrices.append(py::make_tuple(f.matrix_gates[m], f.matrix_depth[m]));
  py::dict states, units;
  constexpr const char* names[] = {"h", "c", "gates"};
  for (int s = 0; s < f.states; ++s) {
    const int slot = s == 0 ? -1 : s == 1 ? f.state_slot : f.third_state_slot();
    states[operands[s]] = py::make_tuple(s, slot);
    units[names[s]] = f.state_units[s];
  }
  return py::dict("cuda"_a = cuda::knows(f), "gates"_a = f.gates, "recurrent_gates"_a = f.recurrent_gates,
                  "slots"_a = f.slots, "phases"_a = f.phases, "products"_a = products, "matrices"_a = matrices,
                  "vectors"_a = f.vectors, "states"_a = states, "state_units"_a = units, "below"_a = f.below,
                  "numbered"_a = f.clocked, "gradients"_a = gradients);
}

}  // namespace fusedrnn
