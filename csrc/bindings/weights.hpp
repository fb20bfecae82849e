// The weights object of the module: of any cell and format, checked once.
#pragma once

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "../weights.hpp"
#include "arrays.hpp"
#include "cell.hpp"

namespace fusedrnn {

struct PyWeights {
  std::shared_ptr<const PyCell> cell;
  std::int64_t input = 0, hidden = 0;
  std::vector<bool> given;            // of each parameter
  std::vector<std::int64_t> periods;  // of cells with clocks
  std::variant<std::unique_ptr<Weights<float>>, std::unique_ptr<Weights<double>>> weights;

  const CellFacts& facts() const { return cell->facts(); }
  // run(weights), with the weights of their own type.
  template <class Run>
  decltype(auto) with(Run&& run) const {
    return std::visit([&](const auto& w) -> decltype(auto) { return run(*w); }, weights);
  }
};

// `arrays` are the parameters by name; `periods` are those of a cell with clocks. Copies everything.
std::unique_ptr<PyWeights> make_weights(std::shared_ptr<PyCell> cell, const py::dict& arrays, double epsilon,
                                        std::vector<std::int64_t> periods);

// A parameter: a read-only view of the copy, which lives as long as the view does; None for one that was not given.
py::object parameter_view(py::handle self, const std::string& name);

}  // namespace fusedrnn
