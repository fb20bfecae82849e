#include "stack.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fastcall.hpp"
#include "gil.hpp"
#include "masks.hpp"
#include "register.hpp"
#include "results.hpp"

namespace fusedrnn {

namespace {

PyStack make_stack(const py::tuple& weights, int directions) {
  if (directions < 1 || directions > kMaxDirections) throw py::value_error("directions: expected 1 or 2");
  if (weights.size() == 0 || weights.size() % static_cast<std::size_t>(directions) != 0 ||
      weights.size() > static_cast<std::size_t>(kMostLayers) * static_cast<std::size_t>(directions)) {
    throw py::value_error("weights: expected some for each direction of 1.." + std::to_string(kMostLayers) + " layers");
  }
  PyStack stack{{}, {}, static_cast<int>(weights.size()) / directions, directions};
  for (const py::handle w : weights) {
    if (!py::isinstance<PyWeights>(w)) throw py::type_error(wrong_type("weights", "Weights", type_name(w)));
    stack.owners.push_back(py::reinterpret_borrow<py::object>(w));
    stack.weights.push_back(&w.cast<const PyWeights&>());
  }
  const PyWeights& first = stack.first();
  for (int l = 0; l < stack.layers; ++l) {
    for (int d = 0; d < directions; ++d) {
      const PyWeights& w = stack.of(l, d);
      const int64_t input = l == 0 ? first.input : stack.width();
      if (!w.is_like(first) || w.input != input)
        throw py::value_error("weights: expected layers of one cell, format and size");
    }
  }
  return stack;
}

constexpr const char* kPackedSymbols = "(sum(batch_sizes), input_size)";

// How many rows each step of packed sequences has: positive, and never more than the step before.
std::vector<int64_t> read_batch_sizes(py::handle h) {
  const auto count = py::len(h);
  const auto sizes = read_integers("batch_sizes", "(seq_len,)", static_cast<int64_t>(count), h);
  int64_t rows = 0;
  for (std::size_t t = 0; t < sizes.size(); ++t) {
    const bool falls = sizes[t] >= 1 && (t == 0 || sizes[t] <= sizes[t - 1]);
    if (!falls || add_overflows(rows, sizes[t], rows)) {
      throw py::value_error("batch_sizes: expected positive integers, none larger than the one before, got " +
                            std::to_string(sizes[t]) + " at index " + std::to_string(t));
    }
  }
  if (sizes.empty()) throw py::value_error("batch_sizes: expected at least one step, got none");
  return sizes;
}

// The arguments of a call, checked, and alive as long as the call. Sequences are padded, (T, B, .); or packed, (rows,
// .) with the sizes of the batch at each step in place of lengths.
template <class T>
struct StackArguments {
  Sizes n;
  Input<T> x, states[kMaxStates];
  std::vector<int64_t> lengths, start, batch_sizes, offsets;
  std::vector<std::uint8_t> resets;
  ResetStates<T> reset_states;
  bool has_lengths;

  StackArguments(const PyStack& s, py::handle x_array, const py::tuple& given, py::handle lengths_array,
                 py::handle start_array, py::handle sizes, py::handle resets_array, py::handle reset_state) {
    const PyWeights& w = s.first();
    if (sizes.is_none())
      n = read_sizes<T>(w, x_array);
    else
      read_packed(w, x_array, sizes);
    if (!s.shape().fits(n.seq_len, n.batch)) throw py::value_error(too_large("x", dims_of(x_array)));
    require_count("state", given, w);
    for (int i = 0; i < w.facts().states; ++i) {
      const StateNames& names = w.cell->states[static_cast<std::size_t>(i)];
      states[i] = read_input<T>(names.first.c_str(), s.state_symbols(i).c_str(), {s.runs(), n.batch, w.state_size(i)},
                                given[static_cast<std::size_t>(i)], true);
    }
    has_lengths = is_packed() || !lengths_array.is_none();
    if (is_packed() && !lengths_array.is_none()) throw py::value_error("lengths: expected None beside batch_sizes");
    if (has_lengths && !is_packed()) lengths = read_lengths(lengths_array, n.batch, n.seq_len);
    if (!start_array.is_none()) start = read_start(start_array, n.batch);
    if (!start.empty() && !w.facts().clocked) {
      throw py::value_error(not_taken(names().start.text, w.facts().name, type_name(start_array)));
    }
    if (!resets_array.is_none()) {
      resets = is_packed() ? read_resets("(sum(batch_sizes),)", {rows()}, resets_array)
                           : read_resets(kResetSymbols, {n.seq_len, n.batch}, resets_array);
    }
    if (!reset_state.is_none()) {
      std::vector<std::string> symbols;
      symbols.reserve(static_cast<std::size_t>(w.facts().states));
      for (int i = 0; i < w.facts().states; ++i) symbols.push_back(s.state_symbols(i));
      reset_states = ResetStates<T>(w, reset_state, symbols, s.runs(), n.batch, false);
    }
    x = contiguous<T>(x_array);
  }

  int64_t rows() const { return offsets.back() + batch_sizes.back(); }  // of packed sequences
  py::object kept_resets() const {
    if (resets.empty()) return py::none();
    return is_packed() ? bools(resets, {rows()}) : bools(resets, {n.seq_len, n.batch});
  }

  bool is_packed() const { return !batch_sizes.empty(); }
  // A new sequence.
  T* add_sequence(Results& results, const Name& name, int64_t units) const {
    if (is_packed()) return results.add<T>(name, {rows(), units});
    return results.add<T>(name, {n.seq_len, n.batch, units});
  }
  // A sequence, or null for None.
  Input<T> read_sequence(const char* name, const std::string& symbols, int64_t units, py::handle h) const {
    if (!is_packed()) return read_input<T>(name, symbols.c_str(), {n.seq_len, n.batch, units}, h, true);
    const std::string packed = "(sum(batch_sizes)" + symbols.substr(symbols.rfind(','));
    return read_input<T>(name, packed.c_str(), {rows(), units}, h, true);
  }

  // Without outputs.
  CallArrays<T> call(const PyStack& s) const {
    CallArrays<T> call{};
    call.y_stride = s.width();
    call.seq_len = n.seq_len;
    call.batch = n.batch;
    call.lengths = has_lengths ? lengths.data() : nullptr;
    call.offsets = is_packed() ? offsets.data() : nullptr;
    call.start = start.empty() ? nullptr : start.data();
    call.resets = resets.empty() ? nullptr : resets.data();
    call.x = x.data;
    for (int i = 0; i < kMaxStates; ++i) {
      call.state0[i] = states[i].data;
      call.reset_state[i] = reset_states.data(i);
    }
    return call;
  }

 private:
  void read_packed(const PyWeights& w, py::handle x_array, py::handle sizes) {
    batch_sizes = read_batch_sizes(sizes);
    require_array("x", x_array);
    require_dtype<T>("x", x_array);
    require_rank("x", kPackedSymbols, 2, x_array);
    n = {static_cast<int64_t>(batch_sizes.size()), batch_sizes[0], w.input, w.hidden, w.proj};
    int64_t rows = 0;
    for (const int64_t size : batch_sizes) {
      offsets.push_back(rows);
      rows += size;
    }
    require_shape("x", kPackedSymbols, {rows, n.input}, x_array);
    for (std::size_t t = batch_sizes.size(); t-- > 0;) {
      lengths.resize(static_cast<std::size_t>(batch_sizes[t]), static_cast<int64_t>(t) + 1);
    }
  }
};

// New outputs, to which the call's pointers are set.
template <class T>
void new_outputs(const PyStack& s, const StackArguments<T>& given, CallArrays<T>& call, Results& results) {
  call.y = given.add_sequence(results, names().y, s.width());
  for (int i = 0; i < s.facts().states; ++i) {
    call.state_n[i] = results.add<T>(s.first().cell->states[static_cast<std::size_t>(i)].last,
                                     {s.runs(), call.batch, s.first().state_size(i)});
  }
}

// Tells the layers where their masks come from, before `place_call` says which layer and direction each is.
template <class F>
void set_masks(const PyStack& s, const Sizes& n, MaskArguments& masks, Stack<F>& stack) {
  for (int l = 0; l < s.layers; ++l) {
    const std::string end = "_l" + std::to_string(l);
    Layer<F>& layer = stack.layers[static_cast<std::size_t>(l)];
    for (int d = 0; d < s.directions; ++d) {
      layer.direction[d].p.drop.source = masks.of(s.of(l, d), n.seq_len, n.batch, end + (d > 0 ? "_reverse" : ""));
    }
    if (stack.dropout.p > 0 && masks.are_arrays() && l + 1 < s.layers) {
      layer.dropout_mask = masks.read("dropout" + end, {n.seq_len, n.batch, s.width()});
    }
  }
}

template <class F, class T = typename F::Compute>
py::object infer(const PyStack& s, F, FastArguments a) {
  const StackArguments<T> given(s, a[0], tuple_of(a[1]), a[2], a[3], a[4], a[5], a[6]);
  CallArrays<T> call = given.call(s);
  Stack<F> stack = s.stack<F>(given.n.seq_len, given.n.batch);
  Results results;
  new_outputs(s, given, call, results);
  const Buffer memory = place_inference(s.shape(), stack, call);
  without_gil([&] { run_forward(stack); });
  return results.take();
}

py::object copy_of(const py::object& array) { return array.is_none() ? array : py::object(array.attr("copy")()); }
py::tuple copies_of(const py::tuple& arrays) {
  py::tuple copies(arrays.size());
  for (std::size_t i = 0; i < arrays.size(); ++i) copies[i] = copy_of(arrays[i]);
  return copies;
}

// The results; the object for backward; and the bytes of its memory.
template <class F, class T = typename F::Compute>
py::object forward(const PyStack& s, F, FastArguments a) {
  const py::tuple states = tuple_of(a[1]);
  const StackArguments<T> given(s, a[0], states, a[2], a[3], a[4], a[5], a[6]);
  CallArrays<T> call = given.call(s);
  Stack<F> stack = s.stack<F>(given.n.seq_len, given.n.batch);
  MaskArguments masks(a[8]);
  stack.dropout = {probability_of(a[7]), masks.seed()};
  set_masks(s, given.n, masks, stack);
  Results results;
  new_outputs(s, given, call, results);
  auto memory = std::make_unique<PyMemory>();
  const std::size_t bytes = place_call(s.shape(), stack, call, true, nullptr);
  memory->buffer = Buffer(bytes);
  place_call(s.shape(), stack, call, true, memory->buffer.data());
  py::tuple kept_states(states.size());  // copies: the caller's may be where the next states go
  for (std::size_t i = 0; i < states.size(); ++i) kept_states[i] = copy_of(or_none(given.states[i].owner));
  without_gil([&] { run_forward(stack); });
  const py::tuple kept =
      py::make_tuple(py::cast(std::move(memory)), given.x.owner, kept_states,
                     given.has_lengths && !given.is_packed() ? integers(given.lengths) : py::object(py::none()),
                     given.start.empty() ? py::object(py::none()) : integers(given.start),
                     given.is_packed() ? integers(given.batch_sizes) : py::object(py::none()), given.kept_resets(),
                     copies_of(given.reset_states.owners(s.facts().states)), py::reinterpret_borrow<py::object>(a[7]),
                     py::reinterpret_borrow<py::object>(a[8]));
  return py::make_tuple(results.take(), kept, bytes);
}

const Buffer& memory_of(const py::tuple& kept) {
  if (kept.size() != 10 || !py::isinstance<PyMemory>(kept[0])) throw py::type_error(kBadKept);
  return py::object(kept[0]).cast<const PyMemory&>().buffer;
}

// The gradients by name; and the gradients of parameters, a dict for each of the stack's weights.
template <class F, class T = typename F::Compute>
py::object backward(const PyStack& s, F, FastArguments a) {
  const py::tuple kept = tuple_of(a[0]), dstates = tuple_of(a[2]);
  const Buffer& reserve = memory_of(kept);
  StackArguments<T> given(s, kept[1], tuple_of(PyTuple_GET_ITEM(kept.ptr(), 2)), kept[3], kept[4], kept[5], kept[6],
                          kept[7]);
  const Sizes& n = given.n;
  Stack<F> stack = s.stack<F>(n.seq_len, n.batch);
  MaskArguments masks(PyTuple_GET_ITEM(kept.ptr(), 9));
  stack.dropout = {probability_of(PyTuple_GET_ITEM(kept.ptr(), 8)), masks.seed()};
  set_masks(s, n, masks, stack);
  const CallArrays<T> call = given.call(s);
  if (reserve.bytes() != place_call(s.shape(), stack, call, true, nullptr)) throw py::value_error(kBadKept);
  const auto dy = given.read_sequence("dy", s.y_symbols(), s.width(), a[1]);
  require_count("dstate", dstates, s.first());
  place_call(s.shape(), stack, call, true, reserve.data());

  Results results;
  GradientArrays<T> g{};
  g.dy = dy.data;
  g.dy_stride = s.width();
  g.dx = given.add_sequence(results, names().dx, n.input);
  Input<T> last[kMaxStates];
  for (int i = 0; i < s.facts().states; ++i) {
    const StateNames& state = s.first().cell->states[static_cast<std::size_t>(i)];
    const int64_t size = s.first().state_size(i);
    last[i] = read_input<T>(state.gradient_last.c_str(), s.state_symbols(i).c_str(), {s.runs(), n.batch, size},
                            dstates[static_cast<std::size_t>(i)], true);
    g.dstate_n[i] = last[i].data;
    g.dstate0[i] = results.add<T>(state.gradient_first, {s.runs(), n.batch, size});
    g.dreset[i] = given.reset_states.add_gradient(i, state.gradient_reset, results);
  }
  py::list parameters;
  std::vector<WeightGradients<T>> all_weights;  // of which some arrays belong to no parameter
  all_weights.reserve(s.weights.size());
  for (int l = 0; l < s.layers; ++l) {
    for (int d = 0; d < s.directions; ++d) {
      Results of_weights;
      Gradients<T>& of_run = stack.layers[static_cast<std::size_t>(l)].direction[d].g;
      all_weights.emplace_back(s.of(l, d), of_run, of_weights);
      parameters.append(of_weights.take());
    }
  }
  const Buffer memory = place_gradients(s.shape(), stack, g);

  without_gil([&] {
    run_backward(stack);
    given.reset_states.add_up();
  });
  return py::make_tuple(results.take(), parameters);
}

py::object infer_method(const PyStack& s, FastArguments a) {
  return s.with_format([&](auto format) { return infer(s, format, a); });
}
py::object forward_method(const PyStack& s, FastArguments a) {
  return s.with_format([&](auto format) { return forward(s, format, a); });
}
py::object backward_method(const PyStack& s, FastArguments a) {
  return s.with_format([&](auto format) { return backward(s, format, a); });
}

PyMethodDef kMethods[] = {
    fast_definition("infer", fast_method<PyStack, infer_method, 7>,
                    "infer(x: ndarray, state: tuple, lengths: Sequence[int] | None, start: Sequence[int] | None, "
                    "batch_sizes: Sequence[int] | None, resets: ndarray | None, reset_state: tuple | None) -> dict"),
    fast_definition("forward", fast_method<PyStack, forward_method, 9>,
                    "forward(x: ndarray, state: tuple, lengths: Sequence[int] | None, start: Sequence[int] | None, "
                    "batch_sizes: Sequence[int] | None, resets: ndarray | None, reset_state: tuple | None, dropout: "
                    "float, masks: int | dict) -> tuple"),
    fast_definition("backward", fast_method<PyStack, backward_method, 3>,
                    "backward(kept: tuple, dy: ndarray | None, dstate: tuple) -> tuple"),
};

// Whether two arrays of one shape and dtype have the same bits.
py::object same_bits(FastArguments a) {
  for (int i = 0; i < 2; ++i) require_array("a", a[i]);
  const auto *const one = proxy(a[0]), *const other = proxy(a[1]);
  constexpr int kContiguous = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_;
  if (!(one->flags & kContiguous) || !(other->flags & kContiguous)) {
    throw py::value_error(wrong_layout("a", "C-contiguous", "strided"));
  }
  const auto x = py::reinterpret_borrow<py::array>(a[0]), y = py::reinterpret_borrow<py::array>(a[1]);
  return py::bool_(x.nbytes() == y.nbytes() &&
                   std::memcmp(one->data, other->data, static_cast<std::size_t>(x.nbytes())) == 0);
}
PyMethodDef kSameBits =
    fast_definition("same_bits", fast_function<same_bits, 2>, "same_bits(a: ndarray, b: ndarray) -> bool");

}  // namespace

void register_stacks(py::module_& m) {
  py::class_<PyStack> stack(m, "Stack", py::custom_type_setup(refuse_new<6>), py::is_final(),
                            "Layers of one cell, in one direction or both.");
  for (PyMethodDef& definition : kMethods) add_method(stack, definition);
  m.attr("MOST_LAYERS") = kMostLayers;
  m.def("make_stack", &make_stack, py::arg("weights"), py::arg("directions"));
  add_function(m, kSameBits);
  m.def("read_batch_sizes", [](py::handle sizes) { return integers(read_batch_sizes(sizes)); });
}

}  // namespace fusedrnn
