// The weights object of the module: of any cell and either dtype, checked once.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../cpu/dispatch.hpp"
#include "../weights.hpp"
#include "arrays.hpp"

namespace fusedrnn {
namespace {

using std::int64_t;

const CellFacts& facts_of(CellId cell) { return current_isa().kernels->facts[static_cast<int>(cell)]; }

CellId cell_by_name(const std::string& name) {
  std::string valid;
  for (int i = 0; i < kCells; ++i) {
    const char* known = facts_of(static_cast<CellId>(i)).name;
    if (name == known) return static_cast<CellId>(i);
    valid += (i ? ", '" : "'") + std::string(known) + "'";
  }
  throw py::value_error("cell: expected one of " + valid + ", got '" + name + "'");
}

// The weights of one cell, of either dtype.
struct PyWeights {
  CellId cell{};
  int64_t gates = 0, states = 0, input = 0, hidden = 0;
  bool has_bias_ih = false, has_bias_hh = false;
  std::unique_ptr<Weights<float>> f32;
  std::unique_ptr<Weights<double>> f64;

  template <class T>
  const Weights<T>& get() const {
    if constexpr (sizeof(T) == sizeof(float))
      return *f32;
    else
      return *f64;
  }
};

template <class T>
void fill_weights(PyWeights& w, std::unique_ptr<Weights<T>>& slot, py::handle weight_ih, py::handle weight_hh,
                  py::handle bias_ih, py::handle bias_hh) {
  const std::string g = std::to_string(w.gates) + "*hidden_size";
  const std::string ih = "(" + g + ", input_size)", hh = "(" + g + ", hidden_size)", b = "(" + g + ",)";
  const int64_t rows = w.gates * w.hidden;
  const auto in_ih = read_input<T>("weight_ih", ih.c_str(), {rows, w.input}, weight_ih, false);
  const auto in_hh = read_input<T>("weight_hh", hh.c_str(), {rows, w.hidden}, weight_hh, false);
  const auto in_bih = read_input<T>("bias_ih", b.c_str(), {rows}, bias_ih, true);
  const auto in_bhh = read_input<T>("bias_hh", b.c_str(), {rows}, bias_hh, true);
  slot = std::make_unique<Weights<T>>(w.cell, w.input, w.hidden, in_ih.data, in_hh.data, in_bih.data, in_bhh.data);
}

std::unique_ptr<PyWeights> make_weights(const std::string& cell, py::handle weight_ih, py::handle weight_hh,
                                        py::handle bias_ih, py::handle bias_hh) {
  auto w = std::make_unique<PyWeights>();
  w->cell = cell_by_name(cell);
  w->gates = facts_of(w->cell).gates;
  w->states = facts_of(w->cell).states;
  require_array("weight_ih", weight_ih);
  require_array("weight_hh", weight_hh);
  const std::string symbols = "(" + std::to_string(w->gates) + "*hidden_size, input_size)";
  require_rank("weight_ih", symbols.c_str(), 2, weight_ih);
  const int64_t rows = proxy(weight_ih)->dimensions[0];
  w->input = proxy(weight_ih)->dimensions[1];
  w->hidden = rows / w->gates;
  if (rows % w->gates != 0 || rows == 0 || w->input == 0) {
    throw py::value_error("weight_ih: expected shape " + symbols + " with hidden_size and input_size at least 1, got " +
                          shape_text(weight_ih));
  }
  checked_bytes("weight_ih", {rows + 64 * w->gates, w->input + w->hidden + 64, 2}, sizeof(double));
  w->has_bias_ih = !bias_ih.is_none();
  w->has_bias_hh = !bias_hh.is_none();
  if (has_dtype(weight_ih, DType<float>::number)) {
    fill_weights(*w, w->f32, weight_ih, weight_hh, bias_ih, bias_hh);
  } else if (has_dtype(weight_ih, DType<double>::number)) {
    fill_weights(*w, w->f64, weight_ih, weight_hh, bias_ih, bias_hh);
  } else {
    fail_dtype("weight_ih", "float32 or float64", weight_ih);
  }
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

template <class Get>
py::object snapshot(py::handle self, Get&& get) {
  const auto& w = self.cast<const PyWeights&>();
  return w.f32 ? get(w, *w.f32) : get(w, *w.f64);
}

const PyWeights& weights_of(py::handle h) {
  if (!py::isinstance<PyWeights>(h)) {
    throw py::type_error("w: expected weights of a cell (LSTMWeights, GRUWeights, RNNWeights), got " + type_name(h));
  }
  return h.cast<const PyWeights&>();
}

}  // namespace
}  // namespace fusedrnn
