// The weights object of the module: of any cell and either dtype, checked once.
#pragma once

#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "../cpu/dispatch.hpp"
#include "../cpu/float_environment.hpp"
#include "../weights.hpp"
#include "arrays.hpp"

namespace fusedrnn {
namespace {

using std::int64_t;

CellId cell_by_name(const std::string& name) {
  for (int i = 0; i < kCells; ++i) {
    if (name == facts_of(static_cast<CellId>(i)).name) return static_cast<CellId>(i);
  }
  std::string valid;
  for (int i = 0; i < kCells; ++i)
    valid += (i ? ", '" : "'") + std::string(facts_of(static_cast<CellId>(i)).name) + "'";
  throw py::value_error("cell: expected one of " + valid + ", got '" + name + "'");
}

// An array among those that make up a cell's vectors, or its matrices beyond weight_hh. A missing one counts as zeros.
struct Named {
  std::string name;
  int64_t gates;  // how many vectors of H elements, or blocks of H rows, the array holds
  bool given;
};

// The format of weights that are given as T.
template <class T>
using FormatOf = std::conditional_t<std::is_same_v<T, float>, Float32, Float64>;

// The weights of one cell, of either dtype.
struct PyWeights {
  CellId cell{};
  int64_t gates = 0, states = 0, input = 0, hidden = 0;
  bool has_bias_ih = false, has_bias_hh = false;
  std::vector<Named> vectors;    // in the order of the cell's
  std::vector<Named> blocks;     // one after the other they make up matrices 1, 2, ...
  std::vector<int64_t> periods;  // of cells with clocks
  std::unique_ptr<Weights<Float32>> f32;
  std::unique_ptr<Weights<Float64>> f64;
  py::object device;  // fusedrnn._cuda's weights, in place of f32 and f64

  const CellFacts& facts() const { return facts_of(cell); }
  template <class T>
  const Weights<FormatOf<T>>& get() const {
    if constexpr (std::is_same_v<T, float>)
      return *f32;
    else
      return *f64;
  }
};

inline std::string multiple(int64_t n, const char* symbol) {
  return n == 1 ? symbol : std::to_string(n) + "*" + symbol;
}

// Where a block of a cell's matrices lies: calls found(matrix, first gate in it, depth) for each of w.blocks.
template <class F>
void for_each_block(const PyWeights& w, F&& found) {
  const CellFacts& f = w.facts();
  int matrix = 1;
  int64_t gate = 0;
  for (const Named& block : w.blocks) {
    if (matrix >= f.matrices || gate + block.gates > f.matrix[matrix].blocks) {
      throw py::value_error(block.name + ": expected no such matrix in cell '" + f.name + "'");
    }
    found(block, matrix, gate, f.matrix[matrix].depth);
    gate += block.gates;
    if (gate == f.matrix[matrix].blocks) gate = 0, ++matrix;
  }
  if (matrix < f.matrices || gate != 0) {
    throw py::value_error(std::string("blocks: expected more matrices for cell '") + f.name + "'");
  }
}

using NamedArrays = std::vector<std::tuple<std::string, int64_t, py::object>>;

// No array holds as many gates as kMostGates, so that sums of them stay far from what 64 bits hold.
constexpr int64_t kMostGates = 1 << 20;
constexpr std::size_t kMostArrays = 1 << 10;

std::vector<Named> names_of(const char* what, const NamedArrays& arrays) {
  if (arrays.size() > kMostArrays) {
    throw py::value_error(std::string(what) + ": expected fewer arrays, got " + std::to_string(arrays.size()));
  }
  std::vector<Named> names;
  for (const auto& [name, gates, array] : arrays) {
    if (gates < 0 || gates > kMostGates) {
      throw py::value_error(name + ": expected a number of gates that a cell may have, got " + std::to_string(gates));
    }
    names.push_back({name, gates == 0 ? 1 : gates, !array.is_none()});
  }
  return names;
}

template <class T>
std::vector<T> read_vectors(PyWeights& w, const NamedArrays& arrays) {
  const CellFacts& f = w.facts();
  w.vectors = names_of("vectors", arrays);
  int64_t count = 0;
  for (const Named& vector : w.vectors) count += vector.gates;
  if (count != f.vectors) {
    throw py::value_error("vectors: expected " + std::to_string(f.vectors) + " for cell '" + f.name + "', got " +
                          std::to_string(count));
  }
  std::vector<T> all(static_cast<std::size_t>(f.vectors * w.hidden));
  T* to = all.data();
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const Named& vector = w.vectors[i];
    const std::string symbols = "(" + multiple(vector.gates, "hidden_size") + ",)";
    const int64_t size = vector.gates * w.hidden;
    const auto in = read_input<T>(vector.name.c_str(), symbols.c_str(), {size}, std::get<2>(arrays[i]), true);
    if (in.data) std::memcpy(to, in.data, static_cast<std::size_t>(size) * sizeof(T));
    to += size;
  }
  return all;
}

// Matrix m + 1 in the m-th place.
template <class T>
std::vector<std::vector<T>> read_matrices(PyWeights& w, const NamedArrays& arrays) {
  const CellFacts& f = w.facts();
  w.blocks = names_of("blocks", arrays);
  std::vector<std::vector<T>> all;
  for (int m = 1; m < f.matrices; ++m) {
    all.emplace_back(static_cast<std::size_t>(f.matrix[m].blocks * w.hidden * f.matrix[m].depth * w.hidden));
  }
  std::size_t i = 0;
  for_each_block(w, [&](const Named& block, int matrix, int64_t gate, int64_t depth) {
    const std::string symbols =
        "(" + multiple(block.gates, "hidden_size") + ", " + multiple(depth, "hidden_size") + ")";
    const auto in = read_input<T>(block.name.c_str(), symbols.c_str(), {block.gates * w.hidden, depth * w.hidden},
                                  std::get<2>(arrays[i++]), true);
    const int64_t block_size = w.hidden * depth * w.hidden;
    T* const to = all[static_cast<std::size_t>(matrix - 1)].data() + gate * block_size;
    if (in.data) std::memcpy(to, in.data, static_cast<std::size_t>(block.gates * block_size) * sizeof(T));
  });
  return all;
}

// Clocks: one for each of so many groups of as many units.
void check_periods(const PyWeights& w) {
  const auto& periods = w.periods;
  const auto count = static_cast<int64_t>(periods.size());
  if (!w.facts().clocked) {
    if (count > 0) throw py::value_error(std::string("periods: expected none for cell '") + w.facts().name + "'");
    return;
  }
  if (count == 0 || w.hidden % count != 0) {
    throw py::value_error("periods: expected as many as there are groups of equal size in hidden_size = " +
                          std::to_string(w.hidden) + " units, got " + std::to_string(count));
  }
  for (std::size_t i = 0; i < periods.size(); ++i) {
    const int64_t least = i == 0 ? 1 : periods[i - 1];
    if (periods[i] < least || periods[i] > kMostSteps) {
      throw py::value_error("periods: expected positive integers, none smaller than the one before, got " +
                            std::to_string(periods[i]) + " at index " + std::to_string(i));
    }
  }
}

// A unit sees no group with a shorter period than its own.
template <class T>
void check_unseen(const std::vector<Clock>& clocks, int64_t hidden, const T* weight_hh) {
  for (const Clock& clock : clocks) {
    for (int64_t unit = clock.first; unit < clock.last; ++unit) {
      for (int64_t k = 0; k < clock.first; ++k) {
        const T v = weight_hh[unit * hidden + k];
        if (v == T(0)) continue;
        throw py::value_error("weight_hh: expected zeros where a unit would see a group with a shorter period, got " +
                              py::str(py::float_(v)).cast<std::string>() + " at index (" + std::to_string(unit) + ", " +
                              std::to_string(k) + ")");
      }
    }
  }
}

// To nearest, whatever the caller's rounding is.
template <class T>
T rounded(double value) {
  const FloatEnvironment environment;
  return static_cast<T>(value);
}

template <class T>
void fill_weights(PyWeights& w, std::unique_ptr<Weights<FormatOf<T>>>& slot, py::handle weight_ih, py::handle weight_hh,
                  py::handle bias_ih, py::handle bias_hh, const NamedArrays& vectors, const NamedArrays& blocks,
                  double epsilon) {
  const CellFacts& f = w.facts();
  const std::string g = multiple(w.gates, "hidden_size"), r = multiple(f.recurrent_gates, "hidden_size");
  const std::string ih = "(" + g + ", input_size)", hh = "(" + r + ", hidden_size)";
  const std::string b_ih = "(" + g + ",)", b_hh = "(" + r + ",)";
  const int64_t rows = w.gates * w.hidden, rows_hh = f.recurrent_gates * w.hidden;
  const auto in_ih = read_input<T>("weight_ih", ih.c_str(), {rows, w.input}, weight_ih, false);
  const auto in_hh = read_input<T>("weight_hh", hh.c_str(), {rows_hh, w.hidden}, weight_hh, f.matrices == 0);
  const auto in_bih = read_input<T>("bias_ih", b_ih.c_str(), {rows}, bias_ih, true);
  const auto in_bhh = read_input<T>("bias_hh", b_hh.c_str(), {rows_hh}, bias_hh, true);
  const auto all_vectors = read_vectors<T>(w, vectors);
  const auto matrices = read_matrices<T>(w, blocks);
  check_periods(w);
  WeightArrays<T> arrays{
      in_ih.data, {in_hh.data}, in_bih.data, in_bhh.data, nullptr, rounded<T>(epsilon), clocks_of(w.periods, w.hidden)};
  check_unseen(arrays.clocks, w.hidden, in_hh.data);
  for (std::size_t m = 0; m < matrices.size(); ++m) arrays.matrix[m + 1] = matrices[m].data();
  if (!all_vectors.empty()) arrays.vectors = all_vectors.data();
  slot = std::make_unique<Weights<FormatOf<T>>>(w.cell, w.input, w.hidden, arrays);
}

// `vectors` and `blocks` are (name, gates, array or None), in the order of the cell's.
std::unique_ptr<PyWeights> make_weights(const std::string& cell, py::handle weight_ih, py::handle weight_hh,
                                        py::handle bias_ih, py::handle bias_hh, const NamedArrays& vectors,
                                        const NamedArrays& blocks, double epsilon, std::vector<int64_t> periods) {
  auto w = std::make_unique<PyWeights>();
  w->periods = std::move(periods);
  w->cell = cell_by_name(cell);
  w->gates = w->facts().gates;
  w->states = w->facts().states;
  require_array("weight_ih", weight_ih);
  if (w->facts().matrices > 0) require_array("weight_hh", weight_hh);
  const std::string symbols = "(" + multiple(w->gates, "hidden_size") + ", input_size)";
  require_rank("weight_ih", symbols.c_str(), 2, weight_ih);
  const int64_t rows = proxy(weight_ih)->dimensions[0];
  w->input = proxy(weight_ih)->dimensions[1];
  w->hidden = rows / w->gates;
  if (rows % w->gates != 0 || rows == 0 || w->input == 0) {
    throw py::value_error("weight_ih: expected shape " + symbols + " with hidden_size and input_size at least 1, got " +
                          shape_text(weight_ih));
  }
  if (!sizes_fit(w->facts(), w->hidden, w->input)) {
    throw py::value_error("weight_ih: shape " + shape_text(weight_ih) + " needs more bytes than 64 bits can count");
  }
  w->has_bias_ih = !bias_ih.is_none();
  w->has_bias_hh = !bias_hh.is_none();
  if (has_dtype(weight_ih, DType<float>::number)) {
    fill_weights<float>(*w, w->f32, weight_ih, weight_hh, bias_ih, bias_hh, vectors, blocks, epsilon);
  } else if (has_dtype(weight_ih, DType<double>::number)) {
    fill_weights<double>(*w, w->f64, weight_ih, weight_hh, bias_ih, bias_hh, vectors, blocks, epsilon);
  } else {
    fail_dtype("weight_ih", "float32 or float64", weight_ih);
  }
  return w;
}

// Weights that lie on a GPU: `device` runs the calls, and has the arrays by name.
std::unique_ptr<PyWeights> make_device_weights(const std::string& cell, int64_t input, int64_t hidden,
                                               py::object device) {
  for (const char* const member : {"dtype", "array", "vector", "infer", "forward", "step"}) {
    if (!py::hasattr(device, member)) {
      throw py::type_error("device: expected weights of fusedrnn._cuda, got " + type_name(device));
    }
  }
  auto w = std::make_unique<PyWeights>();
  w->cell = cell_by_name(cell);
  w->gates = w->facts().gates;
  w->states = w->facts().states;
  w->input = input;
  w->hidden = hidden;
  w->device = std::move(device);
  return w;
}

// A read-only view of the snapshot, which lives as long as the view does.
template <class T>
py::object view(py::handle self, const T* data, std::vector<py::ssize_t> shape) {
  if (!data) return py::none();
  py::array_t<T> array(std::move(shape), data, self);
  array.attr("flags").attr("writeable") = false;
  return std::move(array);
}

const PyWeights& weights_of(py::handle h) {
  if (!py::isinstance<PyWeights>(h)) {
    throw py::type_error("w: expected weights of a cell (LSTMWeights, GRUWeights, ...), got " + type_name(h));
  }
  return h.cast<const PyWeights&>();
}

template <class Get>
py::object snapshot(py::handle self, const char* name, Get&& get) {
  const PyWeights& w = weights_of(self);
  if (w.device) return w.device.attr("array")(name);
  return w.f32 ? get(w, *w.f32) : get(w, *w.f64);
}

// The k-th vector, or block of a matrix beyond weight_hh; None if it was not given.
py::object vector_view(py::handle self, std::size_t k) {
  const PyWeights& all = weights_of(self);
  if (all.device) return all.device.attr("vector")(k);
  return snapshot(self, "", [&](auto& w, auto& s) -> py::object {
    if (k >= w.vectors.size() || !w.vectors[k].given) return py::none();
    int64_t first = 0;
    for (std::size_t i = 0; i < k; ++i) first += w.vectors[i].gates;
    return view(self, s.arrays().vectors + first * w.hidden, {w.vectors[k].gates * w.hidden});
  });
}

py::object block_view(py::handle self, std::size_t k) {
  return snapshot(self, "", [&](auto& w, auto& s) -> py::object {
    py::object found = py::none();
    std::size_t i = 0;
    for_each_block(w, [&](const Named& block, int matrix, int64_t gate, int64_t depth) {
      if (i++ != k || !block.given) return;
      const auto* data = s.arrays().matrix[matrix] + gate * w.hidden * depth * w.hidden;
      found = view(self, data, {block.gates * w.hidden, depth * w.hidden});
    });
    return found;
  });
}

}  // namespace
}  // namespace fusedrnn
