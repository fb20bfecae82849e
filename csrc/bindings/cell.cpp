#include "cell.hpp"

#include <algorithm>

#include "../cuda/arguments.hpp"
#include "../empty.hpp"

namespace fusedrnn {

namespace {

using std::int64_t;

constexpr const char* kRoles[] = {"weight_ih", "matrix", "bias_ih", "bias_hh", "vector"};  // by Role
constexpr int kRoleCount = sizeof kRoles / sizeof *kRoles;

[[noreturn]] void fail(const std::string& name, const CellFacts& f, const std::string& expected) {
  throw py::value_error(name + ": expected " + expected + " in cell '" + f.name + "'");
}

Role role_by_name(const std::string& name) {
  std::string valid;
  for (int i = 0; i < kRoleCount; ++i) {
    if (name == kRoles[i]) return static_cast<Role>(i);
    valid += (i ? ", " : "") + std::string(kRoles[i]);
  }
  throw py::value_error("role: expected one of " + valid + ", got '" + name + "'");
}

// Where the next matrix or vector lies in the native cell.
struct Places {
  const CellFacts& f;
  int matrix = 0;
  int64_t gate = 0, vector = 0;

  void take_matrix(Parameter& p) {
    if (matrix >= f.matrices || p.gates > f.matrix[matrix].blocks - gate) fail(p.name.text, f, "no such matrix");
    if (p.depth != f.matrix[matrix].depth)
      fail(p.name.text, f, std::to_string(f.matrix[matrix].depth) + " times H columns");
    p.matrix = matrix;
    p.first = gate;
    gate += p.gates;
    if (gate == f.matrix[matrix].blocks) gate = 0, ++matrix;
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

// The names of the spec's states, which must be the native cell's states.
std::vector<StateNames> state_names(const CellFacts& f, const std::vector<StateTuple>& spec) {
  std::vector<StateNames> states;
  for (const auto& [n, units, symbols, empty] : spec) {
    if (states.size() == static_cast<std::size_t>(f.states)) break;
    const State& state = f.state[states.size()];
    if (n != state.name || units != state.units || empty != value_of(state.empty)) break;
    states.push_back({n, n + "0", n + "_n", "d" + n + "0", "d" + n + "_n", "out (" + n + ")", "reset_state (" + n + ")",
                      "dreset_" + n, symbols});
  }
  if (states.size() != spec.size() || states.size() != static_cast<std::size_t>(f.states)) {
    fail("states", f, "other states");
  }
  return states;
}

}  // namespace

CellId cell_by_name(const std::string& name) {
  std::string valid;
  for (int i = 0; i < kCells; ++i) {
    const CellId id = static_cast<CellId>(i);
    if (name == facts_of(id).name) return id;
    valid += (i ? ", '" : "'") + std::string(facts_of(id).name) + "'";
  }
  throw py::value_error("cell: expected one of " + valid + ", got '" + name + "'");
}

void check_heads(const CellFacts& f, int64_t hidden, int64_t heads) {
  if (heads != 1 && !takes_heads(f)) {
    throw py::value_error(std::string("num_heads: expected 1, as cell '") + f.name + "' has no heads, got " +
                          std::to_string(heads));
  }
  if (heads < 1 || hidden % heads != 0) {
    throw py::value_error("num_heads: expected a divisor of hidden_size = " + std::to_string(hidden) + ", got " +
                          std::to_string(heads));
  }
}

PyCell make_cell(const std::string& name, const std::vector<ParameterTuple>& parameters, int gates,
                 const std::vector<StateTuple>& states, bool below, bool numbered) {
  PyCell cell{cell_by_name(name), {}, {}};
  const CellFacts& f = cell.facts();
  if (gates != f.gates) fail("gates", f, std::to_string(f.gates));
  cell.states = state_names(f, states);
  if (below != f.below) fail("below", f, f.below ? "a further input" : "no further input");
  if (numbered != f.clocked) fail("numbered", f, f.clocked ? "numbered steps" : "no numbered steps");
  Places places{f};
  for (const auto& [parameter, role, rows, depth, required, symbols] : parameters) {
    Parameter p{parameter, "d" + parameter, role_by_name(role), rows, depth, required, symbols};
    const bool is_first = cell.parameters.empty();
    if ((p.role == Role::weight_ih) != is_first) fail(p.name.text, f, "weight_ih first, and once,");
    place(p, places);
    cell.parameters.push_back(p);
  }
  places.check_all_taken();
  return cell;
}

py::dict describe_cell(const std::string& name) {
  using namespace py::literals;
  const CellId id = cell_by_name(name);
  const CellFacts& f = facts_of(id);
  const GradientPlan& plan = gradients_of(id);
  py::list gradients, products, matrices;
  for (int i = 0; i < plan.terms; ++i) {
    const GradientTerm& term = plan.term[i];
    const int rows = term.of == GradientTerm::Of::vector ? term.index : term.block;
    gradients.append(py::dict("of"_a = kRoles[static_cast<int>(term.of)], "index"_a = term.index, "rows"_a = rows,
                              "column"_a = term.column, "from"_a = kFromNames[static_cast<int>(term.from)],
                              "slot"_a = term.slot));
  }
  int extras = 0;  // vectors among the operands of products that read states other than h
  for (int i = 0; i < f.products; ++i) {
    if (f.product[i].depth > 0) products.append(i);
    if (state_of(f.product[i].from) > 0) extras += f.product[i].depth;
  }
  for (int m = 0; m < f.matrices; ++m) matrices.append(py::make_tuple(f.matrix[m].blocks, f.matrix[m].depth));
  py::dict states, units, empty;
  py::list state_slots;
  for (const From from : {From::h_prev, From::c_prev, From::slots_prev}) {
    const int s = state_of(from);
    if (s >= 0 && s < f.states) {
      states[kFromNames[static_cast<int>(from)]] = py::make_tuple(s, f.state[s].slot);
    }
  }
  for (int s = 0; s < f.states; ++s) {
    units[f.state[s].name] = f.state[s].units;
    state_slots.append(f.state[s].slot);
    empty[f.state[s].name] = value_of(f.state[s].empty);
  }
  return py::dict("cuda"_a = cuda::runs(f), "gates"_a = f.gates, "recurrent_gates"_a = f.recurrent_gates,
                  "slots"_a = f.slots, "columns"_a = f.columns, "phases"_a = f.phases, "products"_a = products,
                  "matrices"_a = matrices, "vectors"_a = f.vectors, "states"_a = states, "state_slots"_a = state_slots,
                  "scratch_slots"_a = f.scratch_slots, "extras"_a = extras, "state_units"_a = units, "empty"_a = empty,
                  "heads"_a = takes_heads(f), "below"_a = f.below, "numbered"_a = f.clocked,
                  "projects"_a = f.projection >= 0, "gradients"_a = gradients);
}

}  // namespace fusedrnn
