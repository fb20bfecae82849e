// Layers of one cell, in one direction or both: what the layers of the Python package call.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "../call.hpp"
#include "arguments.hpp"
#include "weights.hpp"

namespace fusedrnn {

// weights: of layer 0 forward in time, layer 0 backward in time if there are two directions, layer 1, ...
struct PyStack {
  std::vector<py::object> owners;
  std::vector<const PyWeights*> weights;
  int layers, directions;

  const PyWeights& of(int layer, int direction) const {
    return *weights[static_cast<std::size_t>(layer) * static_cast<std::size_t>(directions) +
                    static_cast<std::size_t>(direction)];
  }
  const PyWeights& first() const { return *weights[0]; }
  const CellFacts& facts() const { return first().facts(); }
  StackShape shape() const {
    return {first().cell->id, layers, directions, first().input, first().hidden, first().proj, first().heads};
  }
  int64_t width() const { return shape().width(); }
  int64_t runs() const { return shape().runs(); }

  // The shapes of a state and of y, in words.
  std::string state_symbols(int s) const {
    return "(num_layers*num_directions, " + first().cell->states[static_cast<std::size_t>(s)].symbols.substr(1);
  }
  std::string y_symbols() const {
    return std::string("(seq_len, batch_size, num_directions*") +
           (facts().projection < 0 ? "hidden_size)" : "proj_size)");
  }
  // run(format), with a value of the format that all weights have.
  template <class Run>
  auto with_format(Run&& run) const {
    return first().with([&](const auto& weights) { return run(format_of(weights)); });
  }

  template <class F>
  const Weights<F>& typed(int layer, int direction) const {
    return *std::get<std::unique_ptr<Weights<F>>>(of(layer, direction).weights);
  }

  // The layers without their memory.
  template <class F>
  Stack<F> stack(int64_t seq_len, int64_t batch) const {
    Stack<F> stack{std::vector<Layer<F>>(static_cast<std::size_t>(layers)), directions, {}, true};
    for (int l = 0; l < layers; ++l) {
      for (int d = 0; d < directions; ++d) {
        auto& direction = stack.layers[static_cast<std::size_t>(l)].direction[d];
        direction = {&typed<F>(l, d), nullptr, {}, {}};
        direction.p.seq_len = seq_len;
        direction.p.batch = batch;
        direction.p.reverse = d > 0;
      }
    }
    return stack;
  }

 private:
  template <class F>
  static F format_of(const Weights<F>&) {
    return {};
  }
};

}  // namespace fusedrnn
