// What every call is given: sizes, states, lengths, which steps; checked, and kept for as long as the call needs it.
// States come as tuples in the cell's order (h; c; the gates of the step before), each an array or None for zeros.
#pragma once

#include <string>
#include <vector>

#include "../problem.hpp"
#include "arrays.hpp"
#include "integers.hpp"
#include "weights.hpp"

namespace fusedrnn {
namespace {

using std::int64_t;

struct Sizes {
  int64_t seq_len, batch, input, hidden;
};

// Names of states as arguments; no string is made in a call that has nothing to complain of.
using Names = const char* const[kMaxStates];
constexpr Names kStateNames = {"h", "c", "gates"}, kFirstNames = {"h0", "c0", "gates0"};
constexpr Names kGradientNames = {"dh_n", "dc_n", "dgates_n"}, kOutNames = {"out (h)", "out (c)", "out (gates)"};

const char* state_symbols(int units) {
  return units == 1 ? "(batch_size, hidden_size)" : "(batch_size, 3*hidden_size)";
}

constexpr const char* kPerRow = "(batch_size,)";

// In 0..T.
std::vector<int64_t> read_lengths(py::handle h, const Sizes& n) {
  std::vector<int64_t> lengths = read_integers("lengths", kPerRow, n.batch, h);
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] < 0 || lengths[i] > n.seq_len) {
      throw py::value_error("lengths: expected values in 0..seq_len = 0.." + std::to_string(n.seq_len) + ", got " +
                            item_text(h, i) + " at index " + std::to_string(i));
    }
  }
  return lengths;
}

// How many steps each row's clocks have counted: an integer for all rows, or one for each. Empty for None.
std::vector<int64_t> read_start(const PyWeights& w, int64_t batch, py::handle h) {
  if (h.is_none()) return {};
  if (!w.facts().clocked) {
    throw py::value_error(std::string("start: expected None for cell '") + w.facts().name + "', got " + type_name(h));
  }
  const bool for_all = !PySequence_Check(h.ptr()) && PyIndex_Check(h.ptr());
  std::vector<int64_t> start = for_all ? std::vector<int64_t>(static_cast<std::size_t>(batch), integer_of("start", h))
                                       : read_integers("start", kPerRow, batch, h);
  for (std::size_t i = 0; i < start.size(); ++i) {
    if (start[i] < 0 || start[i] > kMostSteps) {
      throw py::value_error("start: expected values in 0..2**62, got " + (for_all ? text_of(h) : item_text(h, i)));
    }
  }
  return start;
}

void require_count(const char* what, const py::tuple& states, const PyWeights& w) {
  if (static_cast<int64_t>(states.size()) == w.states) return;
  throw py::value_error(std::string(what) + ": expected " + std::to_string(w.states) + " for cell '" + w.facts().name +
                        "', got " + std::to_string(states.size()));
}

// The state `s` of so many rows.
template <class T>
Input<T> read_state(const PyWeights& w, int s, Names& names, int64_t batch, py::handle h) {
  const int units = w.facts().state[s].units;
  return read_input<T>(names[s], state_symbols(units), {batch, units * w.hidden}, h, true);
}

// What forward was given: the arrays are kept alive and, in training, until backward.
template <class T>
struct Call {
  py::object weights_object;
  const Weights<FormatOf<T>>* weights;
  Sizes n;
  Input<T> x, states[kMaxStates], below;
  std::vector<int64_t> lengths, start;
  bool has_lengths, reverse;

  Problem<T> problem() const {
    Problem<T> p{};
    p.seq_len = n.seq_len;
    p.batch = n.batch;
    p.input = n.input;
    p.hidden = n.hidden;
    p.reverse = reverse;
    p.lengths = has_lengths ? lengths.data() : nullptr;
    p.start = start.empty() ? nullptr : start.data();
    p.x = x.data;
    p.below = below.data;
    for (int s = 0; s < kMaxStates; ++s) p.state0[s] = states[s].data;
    return p;
  }
};

// c of the layer below, (T, B, H) or, of one step, (B, H); None where there is none.
template <class T>
Input<T> read_below(const PyWeights& w, const char* symbols, std::initializer_list<int64_t> dims, py::handle below) {
  if (!w.facts().below && !below.is_none()) {
    throw py::value_error(std::string("c_below: expected None for cell '") + w.facts().name + "', got " +
                          type_name(below));
  }
  return read_input<T>("c_below", symbols, dims, below, true);
}

constexpr const char* kSequenceSymbols = "(seq_len, batch_size, hidden_size)";

template <class T>
Call<T> read_call(py::handle weights, py::handle x, const py::tuple& states, py::handle lengths, py::handle reverse,
                  py::handle below, py::handle start) {
  const PyWeights& w = weights_of(weights);
  Call<T> call{py::reinterpret_borrow<py::object>(weights), &w.get<T>(), {}, {}, {}, {}, {}, {}, false, false};
  require_array("x", x);
  require_dtype<T>("x", x);
  require_rank("x", "(seq_len, batch_size, input_size)", 3, x);
  Sizes& n = call.n;
  n = {proxy(x)->dimensions[0], proxy(x)->dimensions[1], w.input, w.hidden};
  require_shape("x", "(seq_len, batch_size, input_size)", {n.seq_len, n.batch, n.input}, x);
  checked_bytes("x", {n.seq_len, n.batch, n.input}, sizeof(T));
  checked_bytes("y", {n.seq_len, n.batch, n.hidden, w.facts().slots}, sizeof(T));
  require_count("states", states, w);
  for (int s = 0; s < w.states; ++s) call.states[s] = read_state<T>(w, s, kFirstNames, n.batch, states[s]);
  call.has_lengths = !lengths.is_none();
  if (call.has_lengths) call.lengths = read_lengths(lengths, n);
  call.reverse = read_bool("reverse", reverse);
  call.below = read_below<T>(w, kSequenceSymbols, {n.seq_len, n.batch, n.hidden}, below);
  call.start = read_start(w, n.batch, start);
  call.x = contiguous<T>(x);
  return call;
}

}  // namespace
}  // namespace fusedrnn
