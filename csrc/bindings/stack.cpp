#include "stack.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../reserve.hpp"
#include "fastcall.hpp"
#include "gil.hpp"
#include "register.hpp"
#include "results.hpp"

namespace fusedrnn {

namespace {

constexpr int kMostLayers = 1024;

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

// The arguments of a call, checked, and alive as long as the call.
template <class T>
struct StackArguments {
  Sizes n;
  Input<T> x, states[kMaxStates];
  std::vector<int64_t> lengths, start;
  bool has_lengths;

  StackArguments(const PyStack& s, py::handle x_array, const py::tuple& given, py::handle lengths_array,
                 py::handle start_array) {
    const PyWeights& w = s.first();
    n = read_sizes<T>(w, x_array);
    if (!s.fits(n.seq_len, n.batch)) throw py::value_error(too_large("x", dims_of(x_array)));
    require_count("state", given, w);
    for (int i = 0; i < w.facts().states; ++i) {
      const StateNames& names = w.cell->states[static_cast<std::size_t>(i)];
      states[i] = read_input<T>(names.first.c_str(), s.state_symbols(i).c_str(), {s.runs(), n.batch, w.state_size(i)},
                                given[static_cast<std::size_t>(i)], true);
    }
    has_lengths = !lengths_array.is_none();
    if (has_lengths) lengths = read_lengths(lengths_array, n.batch, n.seq_len);
    if (!start_array.is_none()) start = read_start(start_array, n.batch);
    if (!start.empty() && !w.facts().clocked) {
      throw py::value_error(not_taken(names().start.text, w.facts().name, type_name(start_array)));
    }
    x = contiguous<T>(x_array);
  }
};

// Gives the layers their memory: outputs of layers below the highest, whose output is y; and, in training, reserves,
// and outputs after dropout. Layers that are not apart take turns with the memory of two. Returns its bytes, which it
// only measures where `memory` is null.
template <class F, class T = typename F::Compute>
std::size_t give_memory(const PyStack& s, Stack<F>& stack, const StackArguments<T>& call, T* y, bool train,
                        char* memory) {
  const CellFacts& f = s.facts();
  const Sizes& n = call.n;
  const int64_t steps = n.seq_len * n.batch;
  const T* below = call.x.data;
  Arena arena(memory);
  std::size_t bytes = 0;
  for (int l = 0; l < s.layers; ++l) {
    Layer<F>& layer = stack.layers[static_cast<std::size_t>(l)];
    const bool highest = l + 1 == s.layers;
    if (!stack.apart && l % 2 == 0) arena.used = 0;
    T* const outputs = highest ? y : arena.take<T>(steps * s.width());
    layer.dropped = highest || stack.dropout.p == 0 ? nullptr : arena.take<T>(steps * s.width());
    for (int d = 0; d < s.directions; ++d) {
      Problem<T>& p = layer.direction[d].p;
      p.lengths = call.has_lengths ? call.lengths.data() : nullptr;
      p.start = call.start.empty() ? nullptr : call.start.data();
      p.x = below;
      p.y = outputs ? outputs + d * n.proj : nullptr;
      p.y_stride = s.width();
      p.c = f.below && !highest ? arena.take<T>(steps * n.hidden) : nullptr;
      p.below = f.below && l > 0 ? stack.layers[static_cast<std::size_t>(l) - 1].direction[d].p.c : nullptr;
      p.hidden = n.hidden;
      p.proj = n.proj;
      if (train) take_reserve(arena, p, f, !highest);
      for (int i = 0; i < f.states; ++i) {
        const int64_t at = (int64_t{l} * s.directions + d) * n.batch * s.first().state_size(i);
        p.state0[i] = call.states[i].data ? call.states[i].data + at : nullptr;
      }
    }
    below = layer.dropped ? layer.dropped : outputs;
    bytes = std::max(bytes, arena.used);
  }
  return bytes;
}

template <class F, class T>
std::size_t memory_bytes(const PyStack& s, Stack<F>& stack, const StackArguments<T>& call, bool train) {
  return give_memory(s, stack, call, static_cast<T*>(nullptr), train, nullptr);
}

// New outputs, which the layers' pointers are set to.
template <class F, class T = typename F::Compute>
py::array_t<T> new_outputs(const PyStack& s, Stack<F>& stack, const Sizes& n, Results& results) {
  auto y = new_array<T>("y", {n.seq_len, n.batch, s.width()});
  results.set(names().y, y);
  for (int i = 0; i < s.facts().states; ++i) {
    const int64_t each = n.batch * s.first().state_size(i);
    T* const all = results.add<T>(s.first().cell->states[static_cast<std::size_t>(i)].last,
                                  {s.runs(), n.batch, s.first().state_size(i)});
    for (int l = 0; l < s.layers; ++l) {
      for (int d = 0; d < s.directions; ++d) {
        stack.layers[static_cast<std::size_t>(l)].direction[d].p.state_n[i] =
            all + (int64_t{l} * s.directions + d) * each;
      }
    }
  }
  return y;
}

template <class F, class T = typename F::Compute>
py::object infer(const PyStack& s, F, FastArguments a) {
  const StackArguments<T> call(s, a[0], tuple_of(a[1]), a[2], a[3]);
  Stack<F> stack = s.stack<F>(call.n.seq_len, call.n.batch);
  // Large outputs of many layers are not kept, as calls with many rows need no layers at the same time.
  constexpr std::size_t kWorthSharing = 32u << 20;
  std::size_t bytes = memory_bytes(s, stack, call, false);
  if (bytes > kWorthSharing) {
    stack.apart = false;
    bytes = memory_bytes(s, stack, call, false);
  }
  Results results;
  const auto y = new_outputs(s, stack, call.n, results);
  const Buffer memory(bytes);
  give_memory(s, stack, call, data_of(y), false, memory.data());
  without_gil([&] { run_forward(stack); });
  return results.take();
}

Dropout dropout_of(PyObject* p, PyObject* seed) {
  const double probability = PyFloat_AsDouble(p);
  if (probability == -1 && PyErr_Occurred()) throw py::error_already_set();
  if (!(probability >= 0 && probability <= 1)) throw py::value_error("dropout: expected a number in 0..1");
  const std::uint64_t key = PyLong_AsUnsignedLongLong(seed);
  if (key == static_cast<std::uint64_t>(-1) && PyErr_Occurred()) throw py::error_already_set();
  return {probability, key};
}

// The results; the object for backward; and the bytes of its memory.
template <class F, class T = typename F::Compute>
py::object forward(const PyStack& s, F, FastArguments a) {
  const py::tuple states = tuple_of(a[1]);
  const StackArguments<T> call(s, a[0], states, a[2], a[3]);
  Stack<F> stack = s.stack<F>(call.n.seq_len, call.n.batch);
  stack.dropout = dropout_of(a[4], a[5]);
  Results results;
  const auto y = new_outputs(s, stack, call.n, results);
  auto memory = std::make_unique<PyMemory>();
  const std::size_t bytes = memory_bytes(s, stack, call, true);
  memory->buffer = Buffer(bytes);
  give_memory(s, stack, call, data_of(y), true, memory->buffer.data());
  py::tuple kept_states(states.size());  // copies: the caller's may be where the next states go
  for (std::size_t i = 0; i < states.size(); ++i) {
    const py::object& given = call.states[i].owner;
    kept_states[i] = given ? py::object(given.attr("copy")()) : py::object(py::none());
  }
  without_gil([&] { run_forward(stack); });
  const py::tuple kept =
      py::make_tuple(py::cast(std::move(memory)), call.x.owner, kept_states,
                     call.has_lengths ? integers(call.lengths) : py::object(py::none()),
                     call.start.empty() ? py::object(py::none()) : integers(call.start),
                     py::reinterpret_borrow<py::object>(a[4]), py::reinterpret_borrow<py::object>(a[5]));
  return py::make_tuple(results.take(), kept, bytes);
}

const Buffer& memory_of(const py::tuple& kept) {
  if (kept.size() != 7 || !py::isinstance<PyMemory>(kept[0])) throw py::type_error(kBadKept);
  return py::object(kept[0]).cast<const PyMemory&>().buffer;
}

// Gradients between layers: of a layer's input, which is dy of the layer below, and of c of the layer below. Two
// layers' memory is enough.
template <class T>
struct BetweenLayers {
  T* dx;
  T* dbelow[kMaxDirections];
};

template <class F, class T = typename F::Compute>
void give_gradients(const PyStack& s, Stack<F>& stack, const Sizes& n, const T* dy, T* dx,
                    const BetweenLayers<T> (&between)[2]) {
  for (int l = s.layers - 1; l >= 0; --l) {
    const BetweenLayers<T>&mine = between[l % 2], &above = between[(l + 1) % 2];
    const bool highest = l + 1 == s.layers;
    for (int d = 0; d < s.directions; ++d) {
      Gradients<T>& g = stack.layers[static_cast<std::size_t>(l)].direction[d].g;
      const T* const all_dy = highest ? dy : above.dx;
      g.dy = all_dy ? all_dy + d * n.proj : nullptr;
      g.dy_stride = s.width();
      g.dc = highest ? nullptr : above.dbelow[d];
      g.dx = l == 0 ? dx : mine.dx;
      g.dbelow = l == 0 ? nullptr : mine.dbelow[d];
    }
  }
}

// The gradients by name; and the gradients of parameters, a dict for each of the stack's weights.
template <class F, class T = typename F::Compute>
py::object backward(const PyStack& s, F, FastArguments a) {
  const py::tuple kept = tuple_of(a[0]), dstates = tuple_of(a[2]);
  const Buffer& reserve = memory_of(kept);
  const StackArguments<T> call(s, kept[1], tuple_of(PyTuple_GET_ITEM(kept.ptr(), 2)), kept[3], kept[4]);
  const Sizes& n = call.n;
  const CellFacts& f = s.facts();
  Stack<F> stack = s.stack<F>(n.seq_len, n.batch);
  stack.dropout = dropout_of(PyTuple_GET_ITEM(kept.ptr(), 5), PyTuple_GET_ITEM(kept.ptr(), 6));
  const std::string y_symbols = s.y_symbols();
  if (reserve.bytes() != memory_bytes(s, stack, call, true)) throw py::value_error(kBadKept);
  const auto dy = read_input<T>("dy", y_symbols.c_str(), {n.seq_len, n.batch, s.width()}, a[1], true);
  require_count("dstate", dstates, s.first());
  give_memory(s, stack, call, static_cast<T*>(nullptr), true, reserve.data());

  Results results;
  T* const dx = results.add<T>(names().dx, {n.seq_len, n.batch, n.input});
  Input<T> last[kMaxStates];
  for (int i = 0; i < f.states; ++i) {
    const StateNames& state = s.first().cell->states[static_cast<std::size_t>(i)];
    const int64_t size = s.first().state_size(i);
    last[i] = read_input<T>(state.gradient_last.c_str(), s.state_symbols(i).c_str(), {s.runs(), n.batch, size},
                            dstates[static_cast<std::size_t>(i)], true);
    T* const first = results.add<T>(state.gradient_first, {s.runs(), n.batch, size});
    for (int64_t run = 0; run < s.runs(); ++run) {
      Gradients<T>& g = stack.layers[static_cast<std::size_t>(run / s.directions)].direction[run % s.directions].g;
      g.dstate0[i] = first + run * n.batch * size;
      g.dstate_n[i] = last[i].data ? last[i].data + run * n.batch * size : nullptr;
    }
  }
  py::list parameters;
  std::vector<WeightGradients<T>> all_weights;  // of which some arrays belong to no parameter
  all_weights.reserve(s.weights.size());
  for (int l = 0; l < s.layers; ++l) {
    for (int d = 0; d < s.directions; ++d) {
      Results of_weights;
      Gradients<T>& g = stack.layers[static_cast<std::size_t>(l)].direction[d].g;
      all_weights.emplace_back(s.of(l, d), g, of_weights);
      parameters.append(of_weights.take());
    }
  }
  const int64_t steps = n.seq_len * n.batch;
  Buffer memory;
  BetweenLayers<T> between[2] = {};
  for (const bool measuring : {true, false}) {
    Arena arena(memory.data());
    for (int i = 0; i < 2 && i < s.layers - 1; ++i) {
      between[i].dx = arena.take<T>(steps * s.width());
      for (int d = 0; d < s.directions && f.below; ++d) between[i].dbelow[d] = arena.take<T>(steps * n.hidden);
    }
    if (measuring) memory = Buffer(arena.used);
  }
  if (s.layers == 2) between[1] = between[0];
  give_gradients(s, stack, n, dy.data, dx, between);

  without_gil([&] { run_backward(stack); });
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
    fast_definition(
        "infer", fast_method<PyStack, infer_method, 4>,
        "infer(x: ndarray, state: tuple, lengths: Sequence[int] | None, start: Sequence[int] | None) -> dict"),
    fast_definition("forward", fast_method<PyStack, forward_method, 6>,
                    "forward(x: ndarray, state: tuple, lengths: Sequence[int] | None, start: Sequence[int] | None, "
                    "dropout: float, seed: int) -> tuple"),
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
}

}  // namespace fusedrnn
