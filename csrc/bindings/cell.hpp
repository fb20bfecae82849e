// A native cell with the names that the Python layer's spec gives to its parameters.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "../cells/gradients.hpp"

namespace fusedrnn {

namespace py = pybind11;

// A name as a C string and as Python's interned one, which lives as long as the process.
struct Name {
  std::string text;
  PyObject* object;

  Name(const std::string& s) : text(s), object(PyUnicode_InternFromString(s.c_str())) {  // NOLINT: a name is its text
    if (!object) throw py::error_already_set();
  }
  const char* c_str() const { return text.c_str(); }
};

// Which part of the native cell a parameter is: the parts that have gradients.
using Role = GradientTerm::Of;

struct Parameter {
  Name name, gradient;  // the gradient's name
  Role role;
  std::int64_t gates, depth;  // of a matrix: (gates*H, depth*H)
  bool required;
  std::string symbols;     // its shape in words
  int matrix = 0;          // which one it belongs to,
  std::int64_t first = 0;  // and its first gate there; of a vector: the first among the cell's
};

// The shape of a parameter: (rows, columns), or (rows,) for one column.
inline std::int64_t rows_of(const CellFacts& f, const Parameter& p, std::int64_t hidden, std::int64_t proj) {
  return p.gates * (p.role == Role::matrix ? block_rows(f, p.matrix, hidden, proj) : hidden);
}
inline std::int64_t columns_of(const CellFacts& f, const Parameter& p, std::int64_t input, std::int64_t hidden,
                               std::int64_t proj, std::int64_t heads) {
  if (p.role != Role::matrix) return p.role == Role::weight_ih ? input : 1;
  return matrix_columns(f, p.matrix, hidden, proj, heads);
}
// Its shape in words, where there are so many heads.
inline std::string symbols_of(const Parameter& p, std::int64_t heads) {
  if (p.role != Role::matrix || heads == 1) return p.symbols;
  return p.symbols.substr(0, p.symbols.size() - 1) + "/num_heads)";
}

// Throws py::value_error for a number of heads that the cell, or its hidden size, does not allow.
void check_heads(const CellFacts& f, std::int64_t hidden, std::int64_t heads);

// The names of a state: in arguments, results and gradients.
struct StateNames {
  Name now, first, last, gradient_first, gradient_last, out, reset, gradient_reset;
  std::string symbols;
};

struct PyCell {
  CellId id;
  std::vector<Parameter> parameters;
  std::vector<StateNames> states;

  const CellFacts& facts() const { return facts_of(id); }
};

// name, role, gates, depth, required, symbols
using ParameterTuple = std::tuple<std::string, std::string, std::int64_t, std::int64_t, bool, std::string>;
using StateTuple = std::tuple<std::string, int, std::string, double>;  // name, units, symbols, what it is where empty

// The parameters, states and further inputs of a spec: weight_ih first, matrices and vectors in the order of the
// native cell. Throws py::value_error unless the native cell has just these.
PyCell make_cell(const std::string& name, const std::vector<ParameterTuple>& parameters, int gates,
                 const std::vector<StateTuple>& states, bool below, bool numbered);

CellId cell_by_name(const std::string& name);

// The facts that backends and tests written in Python need.
py::dict describe_cell(const std::string& name);

}  // namespace fusedrnn
