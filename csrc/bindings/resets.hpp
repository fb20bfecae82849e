// Where new episodes begin, and the states before their first steps.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "../buffer.hpp"
#include "arrays.hpp"
#include "results.hpp"
#include "weights.hpp"

namespace fusedrnn {

// Bools of this shape, copied: the caller's may change while the GIL is released.
inline std::vector<std::uint8_t> read_resets(const char* symbols, std::initializer_list<std::int64_t> dims,
                                             py::handle h) {
  require_array("resets", h);
  if (!has_dtype(h, py::detail::npy_api::NPY_BOOL_)) fail_dtype("resets", "bool", h);
  require_shape("resets", symbols, dims, h);
  const auto in = contiguous<std::uint8_t>(h);
  std::int64_t count = 1;
  for (const std::int64_t d : dims) count *= d;
  return {in.data, in.data + count};
}

inline void require_count(const char* name, const py::tuple& states, const PyWeights& w) {
  const auto expected = w.cell->states.size();
  if (states.size() == expected) return;
  throw py::value_error(std::string(name) + ": expected " + std::to_string(expected) + " for cell '" + w.facts().name +
                        "', got " + std::to_string(states.size()));
}

// The states that rows have before the first step of an episode, of so many runs: each (runs, B, units), or (runs,
// units) for all rows; a function, which has one run, takes them without that dimension. None stands for empty states.
template <class T>
class ResetStates {
 public:
  ResetStates() = default;
  // `given` is None, or a tuple in the order of the cell's states. `symbols` are the shapes of states in words.
  ResetStates(const PyWeights& w, py::handle given, const std::vector<std::string>& symbols, std::int64_t runs,
              std::int64_t batch, bool of_function) {
    if (given.is_none()) return;
    if (!PyTuple_Check(given.ptr())) throw py::type_error(wrong_type("reset_state", "tuple", type_name(given)));
    const auto states = py::reinterpret_borrow<py::tuple>(given);
    require_count("reset_state", states, w);
    runs_ = runs;
    batch_ = batch;
    of_function_ = of_function;
    for (std::size_t s = 0; s < states.size(); ++s) {
      units_[s] = w.state_size(static_cast<int>(s));
      if (!py::object(states[s]).is_none()) read(s, w.cell->states[s].reset.c_str(), symbols[s], states[s]);
    }
  }

  const T* data(int s) const { return shared_[s] ? spread_[s].template as<T>() : in_[s].data; }
  // The caller's arrays, or contiguous copies; None where there is none.
  py::object owners(int states) const {
    py::tuple all(static_cast<std::size_t>(states));
    for (int s = 0; s < states; ++s) all[static_cast<std::size_t>(s)] = or_none(in_[s].owner);
    return std::move(all);
  }
  bool given() const {
    bool any = false;
    for (const Input<T>& in : in_) any = any || in.owner;
    return any;
  }

  // New arrays for the gradients: where backward writes that of state s, or null.
  T* add_gradient(int s, const Name& name, Results& results) {
    if (!in_[s].owner) return nullptr;
    if (!shared_[s]) {
      gradient_[s] =
          of_function_ ? results.add<T>(name, {batch_, units_[s]}) : results.add<T>(name, {runs_, batch_, units_[s]});
      return gradient_[s];
    }
    gradient_[s] = of_function_ ? results.add<T>(name, {units_[s]}) : results.add<T>(name, {runs_, units_[s]});
    of_rows_[s] = Buffer(spread_[s].bytes());
    return of_rows_[s].template as<T>();
  }
  // Gradients of states that all rows share are the sums of the rows', from row 0 on.
  void add_up() const {
    for (int s = 0; s < kMaxStates; ++s) {
      if (!shared_[s] || !gradient_[s]) continue;
      const T* from = of_rows_[s].template as<T>();
      for (std::int64_t run = 0; run < runs_; ++run) {
        T* const to = gradient_[s] + run * units_[s];
        for (std::int64_t u = 0; u < units_[s]; ++u) to[u] = 0;
        for (std::int64_t row = 0; row < batch_; ++row, from += units_[s]) {
          for (std::int64_t u = 0; u < units_[s]; ++u) to[u] += from[u];
        }
      }
    }
  }

 private:
  void read(std::size_t s, const char* name, const std::string& symbols, py::handle h) {
    require_array(name, h);
    require_dtype<T>(name, h);
    const int rank = of_function_ ? 2 : 3;
    shared_[s] = proxy(h)->nd == rank - 1;
    if (!shared_[s]) {
      in_[s] = of_function_ ? read_input<T>(name, symbols.c_str(), {batch_, units_[s]}, h, false)
                            : read_input<T>(name, symbols.c_str(), {runs_, batch_, units_[s]}, h, false);
      return;
    }
    std::string without = symbols;  // the batch's dimension
    without.erase(without.find("batch_size, "), std::string("batch_size, ").size());
    if (of_function_) without.insert(without.size() - 1, ",");
    in_[s] = of_function_ ? read_input<T>(name, without.c_str(), {units_[s]}, h, false)
                          : read_input<T>(name, without.c_str(), {runs_, units_[s]}, h, false);
    spread_[s] = Buffer(checked_bytes(name, {runs_, batch_, units_[s]}, sizeof(T)));
    T* to = spread_[s].template as<T>();
    for (std::int64_t run = 0; run < runs_; ++run) {
      for (std::int64_t row = 0; row < batch_; ++row, to += units_[s]) {
        std::copy_n(in_[s].data + run * units_[s], units_[s], to);
      }
    }
  }

  std::int64_t runs_ = 1, batch_ = 0, units_[kMaxStates] = {};
  bool of_function_ = true, shared_[kMaxStates] = {};
  Input<T> in_[kMaxStates];
  Buffer spread_[kMaxStates], of_rows_[kMaxStates];
  T* gradient_[kMaxStates] = {};
};

}  // namespace fusedrnn
