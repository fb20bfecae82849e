// Results of calls by name, and the memory that forward keeps for backward.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <utility>
#include <vector>

#include "../problem.hpp"
#include "arrays.hpp"
#include "weights.hpp"

namespace fusedrnn {

// The memory of a reserve: forward writes it, backward reads it.
struct PyMemory {
  Buffer buffer;
};

constexpr const char* kBadKept = "kept: expected the second result of forward";

// Results and gradients by name.
class Results {
 public:
  // A new array under this name; the pointer is to its elements.
  template <class T>
  T* add(const Name& name, std::initializer_list<std::int64_t> dims) {
    auto array = new_array<T>(name.c_str(), dims);
    T* const data = data_of(array);
    set(name, array);
    return data;
  }
  void set(const Name& name, py::handle value) {
    if (PyDict_SetItem(dict_.ptr(), name.object, value.ptr()) != 0) throw py::error_already_set();
  }
  py::dict take() { return std::move(dict_); }

 private:
  py::dict dict_;
};

// Gradients of weights: whole matrices and all vectors are made at once, parameters are parts of them.
template <class T>
class WeightGradients {
 public:
  WeightGradients(const PyWeights& w, Gradients<T>& g, Results& results) {
    const CellFacts& f = w.facts();
    const std::int64_t H = w.hidden;
    if (f.vectors > 0) g.dvectors = make({f.vectors * H}, vectors_);
    for (int m = 0; m < f.matrices; ++m) {
      const std::int64_t rows = f.matrix[m].blocks * block_rows(f, m, H, w.proj);
      g.dmatrix[m] = make({rows, matrix_columns(f, m, H, w.proj, w.heads)}, matrices_[m]);
    }
    for (std::size_t i = 0; i < w.given.size(); ++i) {
      const Parameter& p = w.cell->parameters[i];
      if (!w.given[i])
        results.set(p.gradient, py::none());
      else if (p.role == Role::weight_ih)
        g.dweight_ih = results.add<T>(p.gradient, {f.gates * H, w.input});
      else if (p.role == Role::bias_ih)
        g.dbias_ih = results.add<T>(p.gradient, {f.gates * H});
      else if (p.role == Role::bias_hh)
        g.dbias_hh = results.add<T>(p.gradient, {f.recurrent_gates * H});
      else if (p.role == Role::vector)
        set_rows(w, p, vectors_, f.vectors, results);
      else
        set_rows(w, p, matrices_[p.matrix], f.matrix[p.matrix].blocks, results);
    }
  }

 private:
  static T* make(std::initializer_list<std::int64_t> dims, py::object& to) {
    auto array = new_array<T>("gradient", dims);
    T* const data = data_of(array);
    to = std::move(array);
    return data;
  }
  static void set_rows(const PyWeights& w, const Parameter& p, const py::object& all, std::int64_t gates,
                       Results& results) {
    if (p.gates == gates) return results.set(p.gradient, all);
    const std::int64_t each = w.rows_of(p) / p.gates;
    results.set(p.gradient, py::object(all[py::slice(p.first * each, (p.first + p.gates) * each, 1)]));
  }

  py::object vectors_, matrices_[kMaxMatrices];
};

inline py::object or_none(const py::object& o) { return o ? o : py::object(py::none()); }

inline py::object integers(const std::vector<std::int64_t>& values) {
  return py::array_t<std::int64_t>(static_cast<py::ssize_t>(values.size()), values.data());
}

inline py::object bools(const std::vector<std::uint8_t>& values, const std::vector<py::ssize_t>& dims) {
  py::array_t<bool> array(dims);
  std::copy(values.begin(), values.end(), array.mutable_data());
  return std::move(array);
}

}  // namespace fusedrnn
