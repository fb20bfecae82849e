// The weights object of the module: of any cell and format, checked once.
#pragma once

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "../weights.hpp"
#include "arrays.hpp"
#include "cell.hpp"

namespace fusedrnn {

// Weights of any format; none while they are made.
#define RNN_ONE_OF(Format, ...) , std::unique_ptr<Weights<Format>>
using AnyWeights = std::variant<std::monostate RNN_FORMATS(RNN_ONE_OF)>;
#undef RNN_ONE_OF

struct PyWeights {
  std::shared_ptr<const PyCell> cell;
  std::int64_t input = 0, hidden = 0, proj = 0;  // proj: the units of h, which are `hidden` without a projection
  std::int64_t heads = 1;
  std::vector<bool> given;            // of each parameter
  std::vector<std::int64_t> periods;  // of cells with clocks
  Probabilities options;              // of regularisation
  Activations activations;
  AnyWeights weights;

  const CellFacts& facts() const { return cell->facts(); }
  std::int64_t rows_of(const Parameter& p) const { return fusedrnn::rows_of(facts(), p, hidden, proj); }
  std::int64_t columns_of(const Parameter& p) const {
    return fusedrnn::columns_of(facts(), p, input, hidden, proj, heads);
  }
  // Whether they are of the same cell, format and sizes, but for the input's.
  bool is_like(const PyWeights& other) const {
    return cell->id == other.cell->id && weights.index() == other.weights.index() && hidden == other.hidden &&
           proj == other.proj && heads == other.heads;
  }
  // The elements of a state.
  std::int64_t state_size(int s) const { return s == 0 ? proj : facts().state[s].units * hidden; }
  // run(weights), with the weights in their own format.
  template <class Run>
  auto with(Run&& run) const {
    using Result = decltype(run(std::declval<const Weights<Float32>&>()));
    return std::visit(
        [&](const auto& w) -> Result {
          if constexpr (std::is_same_v<std::decay_t<decltype(w)>, std::monostate>)
            throw std::logic_error("weights without a format");
          else
            return run(*w);
        },
        weights);
  }
};

// The options of regularisation among the values. Throws for numbers outside of 0..1.
Probabilities options_of(const py::dict& values);

// The activations among the values: each a name, or a tuple of a name, alpha and beta. Throws for others, and where the
// cell does not let users choose.
Activations activations_of(const CellFacts& f, const py::dict& values);

// `arrays` are the parameters by name, among others that are ignored; `values` are the cell's further options, epsilon,
// periods or num_heads; without a format, it is the dtype of the arrays. Copies everything.
std::unique_ptr<PyWeights> make_weights(std::shared_ptr<const PyCell> cell, const py::dict& arrays,
                                        const py::dict& values, const std::optional<std::string>& format);

// A parameter: a read-only view of the copy, which lives as long as the view does; None for one that was not given.
py::object parameter_view(py::handle self, const std::string& name);

// The periods of a cell with clocks among the values, checked; none for other cells.
std::vector<std::int64_t> periods_of(const CellFacts& f, std::int64_t hidden, const py::dict& values);

const char* dtype_name(const PyWeights& w);   // of arrays
const char* format_name(const PyWeights& w);  // of weights

}  // namespace fusedrnn
