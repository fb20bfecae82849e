// The arguments of every call: sizes, states, lengths, further inputs; checked, and alive as long as the call.
// States come as tuples in the cell's order, each an array or None for empty ones.
#pragma once

#include <string>
#include <vector>

#include "../dropout.hpp"
#include "../problem.hpp"
#include "arrays.hpp"
#include "integers.hpp"
#include "resets.hpp"
#include "weights.hpp"

namespace fusedrnn {

using std::int64_t;

struct Sizes {
  int64_t seq_len, batch, input, hidden, proj;
};

constexpr const char* kBatchSymbols = "(batch_size,)";
constexpr const char* kInputSymbols = "(seq_len, batch_size, input_size)";
constexpr const char* kSequenceSymbols = "(seq_len, batch_size, hidden_size)";  // of c
constexpr const char* kResetSymbols = "(seq_len, batch_size)";

// The shape of y, in words.
inline const char* y_symbols(const PyWeights& w) {
  return w.facts().projection < 0 ? kSequenceSymbols : "(seq_len, batch_size, proj_size)";
}

// Those of a call on x, which is checked.
template <class T>
Sizes read_sizes(const PyWeights& w, py::handle x) {
  require_array("x", x);
  require_dtype<T>("x", x);
  require_rank("x", kInputSymbols, 3, x);
  const Sizes n{proxy(x)->dimensions[0], proxy(x)->dimensions[1], w.input, w.hidden, w.proj};
  require_shape("x", kInputSymbols, {n.seq_len, n.batch, n.input}, x);
  return n;
}

// In 0..T.
inline std::vector<int64_t> read_lengths(py::handle h, int64_t batch, int64_t seq_len) {
  std::vector<int64_t> lengths = read_integers("lengths", kBatchSymbols, batch, h);
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] < 0 || lengths[i] > seq_len) {
      throw py::value_error("lengths: expected values in 0..seq_len = 0.." + std::to_string(seq_len) + ", got " +
                            item_text(h, i, lengths[i]) + " at index " + std::to_string(i));
    }
  }
  return lengths;
}

// The names of further inputs and outputs of cells, and of their gradients.
struct Names {
  Name y{"y"}, c{"c"}, c_below{"c_below"}, start{"start"}, dx{"dx"}, dc{"dc"}, dc_below{"dc_below"};
  Name resets{"resets"}, reset_state{"reset_state"}, masks{"masks"};
};
inline const Names& names() {
  static const Names all;
  return all;
}

// How many steps each row's clocks have counted: an integer for all rows, or one for each.
inline std::vector<int64_t> read_start(py::handle h, int64_t batch) {
  const bool for_all = !PySequence_Check(h.ptr()) && PyIndex_Check(h.ptr());
  std::vector<int64_t> start = for_all ? std::vector<int64_t>(static_cast<std::size_t>(batch), integer_of("start", h))
                                       : read_integers("start", kBatchSymbols, batch, h);
  for (std::size_t i = 0; i < start.size(); ++i) {
    if (start[i] < 0 || start[i] > kMostSteps) {
      throw py::value_error("start: expected values in 0..2**62, got " +
                            (for_all ? text_of(h) : item_text(h, i, start[i])));
    }
  }
  return start;
}

// Further inputs by name: those of all cells, and of this one; a name that the cell does not know is refused. It holds
// copies of references, as the dict may change: Python code runs where a key gives its text, and a value its integers.
struct FurtherInputs {
  py::object below = py::none(), start = py::none(), resets = py::none(), reset_state = py::none();
  py::object masks = py::none();  // or a seed: of forward in training

  FurtherInputs(const PyWeights& w, const py::dict& inputs) {
    if (inputs.empty()) return;
    for (const auto& [key, value] : copied(inputs)) {
      const std::string name = text_of(key);
      if (name == names().c_below.text && w.facts().below) {
        below = py::reinterpret_borrow<py::object>(value);
      } else if (name == names().start.text && w.facts().clocked) {
        start = py::reinterpret_borrow<py::object>(value);
      } else if (name == names().resets.text) {
        resets = py::reinterpret_borrow<py::object>(value);
      } else if (name == names().reset_state.text) {
        reset_state = py::reinterpret_borrow<py::object>(value);
      } else if (name == names().masks.text) {
        masks = py::reinterpret_borrow<py::object>(value);
      } else if (!value.is_none()) {
        throw py::value_error(not_taken(name, w.facts().name, type_name(value)));
      }
    }
  }
};

// State s of a batch, as the argument of this name.
template <class T>
Input<T> read_state(const PyWeights& w, int s, Name StateNames::* name, int64_t batch, py::handle h) {
  if (h.is_none()) return {};
  const StateNames& names = w.cell->states[static_cast<std::size_t>(s)];
  return read_input<T>((names.*name).c_str(), names.symbols.c_str(), {batch, w.state_size(s)}, h, true);
}

// The states of episodes of a function's call, which are given.
template <class T>
ResetStates<T> read_reset_states(const PyWeights& w, int64_t batch, py::handle given) {
  std::vector<std::string> symbols;
  for (const StateNames& state : w.cell->states) symbols.push_back(state.symbols);
  return {w, given, symbols, 1, batch, true};
}

// That of dropout between layers.
inline double probability_of(PyObject* p) {
  const double probability = PyFloat_AsDouble(p);
  if (probability == -1 && PyErr_Occurred()) throw py::error_already_set();
  if (!(probability >= 0 && probability <= 1)) throw py::value_error("dropout: expected a number in 0..1");
  return probability;
}

// Dropout by its probability and its seed, which are a float and an int.
inline Dropout dropout_of(PyObject* p, PyObject* seed) {
  const double probability = probability_of(p);
  const std::uint64_t key = PyLong_AsUnsignedLongLong(seed);
  if (key == static_cast<std::uint64_t>(-1) && PyErr_Occurred()) throw py::error_already_set();
  return {probability, key};
}

// The arguments of a call over a sequence.
template <class T>
struct SequenceArguments {
  Sizes n;
  Input<T> x, states[kMaxStates], below;
  std::vector<int64_t> lengths, start;
  std::vector<std::uint8_t> resets;
  ResetStates<T> reset_states;
  py::object masks;
  bool has_lengths, reverse;

  SequenceArguments(const PyWeights& w, py::handle x_array, const py::tuple& given, py::handle lengths_array,
                    py::handle is_reverse, const py::dict& inputs) {
    n = read_sizes<T>(w, x_array);
    if (!call_fits(w.facts(), n.hidden, n.input, n.seq_len, n.batch, w.heads)) {
      throw py::value_error(too_large("x", dims_of(x_array)));
    }
    require_count("states", given, w);
    for (int s = 0; s < w.facts().states; ++s) {
      states[s] = read_state<T>(w, s, &StateNames::first, n.batch, given[static_cast<std::size_t>(s)]);
    }
    has_lengths = !lengths_array.is_none();
    if (has_lengths) lengths = read_lengths(lengths_array, n.batch, n.seq_len);
    reverse = read_bool("reverse", is_reverse);
    const FurtherInputs further(w, inputs);
    below =
        read_input<T>(names().c_below.c_str(), kSequenceSymbols, {n.seq_len, n.batch, n.hidden}, further.below, true);
    if (!further.start.is_none()) start = read_start(further.start, n.batch);
    if (!further.resets.is_none()) resets = read_resets(kResetSymbols, {n.seq_len, n.batch}, further.resets);
    if (!further.reset_state.is_none()) reset_states = read_reset_states<T>(w, n.batch, further.reset_state);
    masks = further.masks;
    x = contiguous<T>(x_array);
  }

  Problem<T> problem() const {
    Problem<T> p{};
    p.seq_len = n.seq_len;
    p.batch = n.batch;
    p.y_stride = n.proj;
    p.reverse = reverse;
    p.lengths = has_lengths ? lengths.data() : nullptr;
    p.start = start.empty() ? nullptr : start.data();
    p.resets = resets.empty() ? nullptr : resets.data();
    p.x = x.data;
    p.below = below.data;
    for (int s = 0; s < kMaxStates; ++s) {
      p.state0[s] = states[s].data;
      p.reset_state[s] = reset_states.data(s);
    }
    return p;
  }
};

}  // namespace fusedrnn
