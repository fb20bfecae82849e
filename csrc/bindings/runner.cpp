// Calls by address, for front ends whose arrays are not NumPy's. One call runs all layers and directions.
//
// A front end owns all memory but the scratch of a call. It checks shapes and dtypes, and keeps arrays alive and
// unchanged during the call; then, for training, x, states, lengths, offsets, start, resets, reset states, parameters
// and the reserve until the last backward that uses them. The runner checks sizes, lengths and offsets, so that no
// kernel leaves the arrays.
//
// Addresses are ints, 0 for none; strides are in elements. Shapes are those of call.hpp; parameters (and their
// gradients) are a flat tuple: of each run all that the cell has, in the order of its spec; a whole array each,
// C-contiguous and aligned to its element. Inference takes a `Stack` in place of the tuple, whose weights are packed.
#include <pybind11/stl.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../call.hpp"
#include "../sizes.hpp"
#include "../weights.hpp"
#include "arguments.hpp"
#include "fastcall.hpp"
#include "gil.hpp"
#include "register.hpp"
#include "stack.hpp"

namespace fusedrnn {

namespace {

using std::int64_t;

struct PyRunner {
  std::shared_ptr<const PyCell> cell;
  StackShape shape;
  std::string format;
  double epsilon;
  std::vector<Clock> clocks;
  Probabilities options;  // of regularisation
  Activations activations;

  const CellFacts& facts() const { return cell->facts(); }
  int64_t size_of(const Parameter& p, int layer) const {
    return rows_of(facts(), p, shape.hidden, shape.proj) *
           columns_of(facts(), p, shape.input_of(layer), shape.hidden, shape.proj, shape.heads);
  }
  // The blocks of gates of the native array that the parameter is, or is a part of.
  int64_t gates_of(const Parameter& p) const {
    return p.role == Role::matrix   ? facts().matrix[p.matrix].blocks
           : p.role == Role::vector ? facts().vectors
                                    : p.gates;
  }
  bool is_whole(const Parameter& p) const { return p.gates == gates_of(p); }
  template <class Run>
  py::object with_format(Run&& run) const {
#define RNN_WITH(Format, ...) \
  if (format == Format::name) return run(Format());
    RNN_FORMATS(RNN_WITH)
#undef RNN_WITH
    throw std::logic_error("a runner without a format");
  }
};

template <class T>
T* address(PyObject* o) {
  void* const p = PyLong_AsVoidPtr(o);
  if (!p && PyErr_Occurred()) throw py::error_already_set();
  return static_cast<T*>(p);
}

int64_t number(PyObject* o) {
  const long long n = PyLong_AsLongLong(o);
  if (n == -1 && PyErr_Occurred()) throw py::error_already_set();
  return n;
}

// A tuple of `count` addresses.
class Addresses {
 public:
  Addresses(const char* name, PyObject* o, std::size_t count) : tuple_(o) {
    if (!PyTuple_Check(o)) throw py::type_error(wrong_type(name, "tuple", Py_TYPE(o)->tp_name));
    if (static_cast<std::size_t>(PyTuple_GET_SIZE(o)) != count) {
      throw py::value_error(std::string(name) + ": expected " + std::to_string(count) + " addresses, got " +
                            std::to_string(PyTuple_GET_SIZE(o)));
    }
  }
  template <class T>
  T* at(std::size_t i) const {
    return address<T>(PyTuple_GET_ITEM(tuple_, static_cast<Py_ssize_t>(i)));
  }

 private:
  PyObject* tuple_;  // borrowed, as it is an argument of the call
};

// Lengths lie in 0..T; those of packed sequences do not rise, and offsets count the rows before each step.
template <class C>
void check_lengths(const CallArrays<C>& call) {
  for (int64_t row = 0; call.lengths && row < call.batch; ++row) {
    const int64_t most = call.offsets && row > 0 ? call.lengths[row - 1] : call.seq_len;
    if (call.lengths[row] < 0 || call.lengths[row] > most) {
      throw py::value_error("lengths: expected values in 0..seq_len" +
                            std::string(call.offsets ? ", none larger than the one before" : "") + ", got " +
                            std::to_string(call.lengths[row]) + " at index " + std::to_string(row));
    }
  }
  for (int64_t row = 0; call.start && row < call.batch; ++row) {
    if (call.start[row] < 0 || call.start[row] > kMostSteps) {
      throw py::value_error("start: expected values in 0..2**62, got " + std::to_string(call.start[row]) +
                            " at index " + std::to_string(row));
    }
  }
  if (!call.offsets) return;
  if (!call.lengths) throw py::value_error("offsets: expected lengths beside them");
  int64_t expected = 0, live = call.batch;
  for (int64_t t = 0; t < call.seq_len; ++t) {
    while (live > 0 && call.lengths[live - 1] <= t) --live;
    if (call.offsets[t] != expected) {
      throw py::value_error("offsets: expected the rows of all steps before = " + std::to_string(expected) + ", got " +
                            std::to_string(call.offsets[t]) + " at index " + std::to_string(t));
    }
    expected += live;
  }
}

// seq_len, batch_size, lengths and offsets, which `a` begins with; checked but for lengths and offsets.
template <class C>
CallArrays<C> read_sizes_of_call(const PyRunner& r, FastArguments a) {
  CallArrays<C> call{};
  call.seq_len = number(a[0]);
  call.batch = number(a[1]);
  if (call.seq_len < 0 || call.batch < 0 || !r.shape.fits(call.seq_len, call.batch)) {
    throw py::value_error("seq_len, batch_size: expected sizes of a call, got " + std::to_string(call.seq_len) + ", " +
                          std::to_string(call.batch));
  }
  call.lengths = address<const int64_t>(a[2]);
  call.offsets = address<const int64_t>(a[3]);
  return call;
}

// That rows of y or dy do not overlap.
inline void require_stride(const char* name, int64_t stride, const StackShape& s) {
  if (stride >= s.width()) return;
  throw py::value_error(std::string(name) + ": expected at least the units of y = " + std::to_string(s.width()) +
                        ", got " + std::to_string(stride));
}

// The first arguments of all calls: seq_len, batch_size, lengths, offsets, start, resets, x, states, reset_states,
// parameters.
constexpr int kCommon = 10;
template <class F>
struct Call {
  using C = typename F::Compute;
  CallArrays<C> arrays{};
  Stack<F> stack{};
  std::vector<WeightView<C>> views;
  std::vector<std::unique_ptr<C[]>> joined;  // of parameters that are parts of native arrays

  Call(const PyRunner& r, FastArguments a) {
    const StackShape& s = r.shape;
    arrays = read_sizes_of_call<C>(r, a);
    arrays.start = address<const int64_t>(a[4]);
    arrays.resets = address<const std::uint8_t>(a[5]);
    arrays.x = address<const C>(a[6]);
    const auto states = static_cast<std::size_t>(r.facts().states);
    const Addresses given("states", a[7], states), before("reset_states", a[8], states);
    for (std::size_t i = 0; i < states; ++i) {
      arrays.state0[i] = given.at<const C>(i);
      arrays.reset_state[i] = before.at<const C>(i);
    }
    check_lengths(arrays);
    views.swap(spare().views);
    stack.layers.swap(spare().layers);
    const PyStack* const packed = read_weights(r, a[kCommon - 1]);
    stack.layers.assign(static_cast<std::size_t>(s.layers), {});
    stack.directions = s.directions;
    stack.apart = true;
    stack.from_front_end = true;
    assert(s.directions >= 1 && s.directions <= kMaxDirections);
    const WeightView<C>* view = views.data();
    for (int l = 0; l < s.layers; ++l) {
      Layer<F>& layer = stack.layers[static_cast<std::size_t>(l)];
      for (int d = 0; d < s.directions; ++d) {
        if (packed)
          layer.direction[d].weights = &packed->typed<F>(l, d);
        else
          layer.direction[d].view = view++;
      }
    }
  }

  ~Call() {
    views.swap(spare().views);
    stack.layers.swap(spare().layers);
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  Gradients<C>& gradients(int run) {
    return stack.layers[static_cast<std::size_t>(run / stack.directions)].direction[run % stack.directions].g;
  }
  C* join(int64_t size) {
    joined.emplace_back(new C[static_cast<std::size_t>(size)]());
    return joined.back().get();
  }

 private:
  // The memory of this thread's calls, from one to the next.
  struct Spare {
    std::vector<Layer<F>> layers;
    std::vector<WeightView<C>> views;
  };
  static Spare& spare() {
    static thread_local Spare spare;
    return spare;
  }

  // Packed weights, or null if addresses are given, which become views.
  const PyStack* read_weights(const PyRunner& r, PyObject* given) {
    if (!py::isinstance<PyStack>(given)) {
      read_parameters(r, given);
      return nullptr;
    }
    const auto& packed = py::handle(given).cast<const PyStack&>();
    if (!(packed.shape() == r.shape) || !std::holds_alternative<std::unique_ptr<Weights<F>>>(packed.first().weights)) {
      throw py::value_error("parameters: expected packed weights of the runner's cell, sizes and format");
    }
    return &packed;
  }
  void read_parameters(const PyRunner& r, PyObject* given) {
    const StackShape& s = r.shape;
    const auto& all = r.cell->parameters;
    const auto runs = static_cast<std::size_t>(s.runs());
    const Addresses addresses("parameters", given, runs * all.size());
    views.resize(runs);
    for (std::size_t run = 0; run < runs; ++run) {
      const int layer = static_cast<int>(run) / s.directions;
      WeightView<C>& view = views[run];
      view = {s.cell, s.input_of(layer), s.hidden, s.proj, s.heads, {}, r.options, r.activations};
      view.arrays.epsilon = static_cast<C>(r.epsilon);
      view.arrays.clocks = r.clocks.data();
      view.arrays.clock_count = static_cast<int>(r.clocks.size());
      for (std::size_t i = 0; i < all.size(); ++i) {
        read_parameter(r, all[i], addresses.at<const C>(run * all.size() + i), layer, view.arrays);
      }
    }
  }
  void read_parameter(const PyRunner& r, const Parameter& p, const C* from, int layer, WeightArrays<C>& to) {
    if (!from && p.required) throw py::value_error(p.name.text + ": expected an address, got 0");
    if (p.role == Role::weight_ih) to.weight_ih = from;
    if (p.role == Role::bias_ih) to.bias_ih = from;
    if (p.role == Role::bias_hh) to.bias_hh = from;
    if (p.role != Role::matrix && p.role != Role::vector) return;
    const C*& whole = p.role == Role::matrix ? to.matrix[p.matrix] : to.vectors;
    if (r.is_whole(p) && from) {
      whole = from;
      return;
    }
    const int64_t size = r.size_of(p, layer);
    if (!whole) whole = join(size / p.gates * r.gates_of(p));
    if (from) {
      std::memcpy(const_cast<C*>(whole) + p.first * (size / p.gates), from, static_cast<std::size_t>(size) * sizeof(C));
    }
  }
};

// y, its stride, and the last states.
template <class F>
void read_outputs(const PyRunner& r, Call<F>& call, PyObject* y, PyObject* stride, PyObject* last) {
  using C = typename F::Compute;
  call.arrays.y = address<C>(y);
  call.arrays.y_stride = number(stride);
  require_stride("y_stride", call.arrays.y_stride, r.shape);
  const auto states = static_cast<std::size_t>(r.facts().states);
  const Addresses given("last", last, states);
  for (std::size_t i = 0; i < states; ++i) call.arrays.state_n[i] = given.at<C>(i);
}

// The dropout between layers, and the seed of all masks.
template <class F>
void read_drops(Call<F>& call, PyObject* dropout, PyObject* seed) {
  call.stack.dropout = dropout_of(dropout, seed);
  for (Layer<F>& layer : call.stack.layers) {
    for (Direction<F>& direction : layer.direction) direction.p.drop.source.seed = call.stack.dropout.seed;
  }
}

template <class F>
void read_threads(Call<F>& call, PyObject* threads) {
  const int64_t n = number(threads);
  if (n < 0 || n > kMostThreads) {
    throw py::value_error("threads: expected an integer in 0.." + std::to_string(kMostThreads) + ", got " +
                          std::to_string(n));
  }
  call.stack.threads = static_cast<int>(n);
}

// Training takes addresses: what is packed for inference may have become old.
void refuse_packed(FastArguments a) {
  if (!PyTuple_Check(a[kCommon - 1])) {
    throw py::type_error(wrong_type("parameters", "tuple", Py_TYPE(a[kCommon - 1])->tp_name));
  }
}

// infer(common..., y, y_stride, last, threads)
template <class F>
py::object infer(const PyRunner& r, F, FastArguments a) {
  Call<F> call(r, a);
  read_outputs(r, call, a[kCommon], a[kCommon + 1], a[kCommon + 2]);
  read_threads(call, a[kCommon + 3]);
  const Buffer memory = place_inference(r.shape, call.stack, call.arrays);
  without_gil([&] { run_forward(call.stack); });
  return py::none();
}

// forward(common..., y, y_stride, last, reserve, dropout, seed, threads)
template <class F>
py::object forward(const PyRunner& r, F, FastArguments a) {
  refuse_packed(a);
  Call<F> call(r, a);
  read_outputs(r, call, a[kCommon], a[kCommon + 1], a[kCommon + 2]);
  read_drops(call, a[kCommon + 4], a[kCommon + 5]);
  read_threads(call, a[kCommon + 6]);
  place_call(r.shape, call.stack, call.arrays, true, address<char>(a[kCommon + 3]));
  without_gil([&] { run_forward(call.stack); });
  return py::none();
}

// Where a gradient goes once backward has run, if it is a part of a native array.
template <class C>
struct Part {
  const C* from;
  C* to;
  int64_t size;
};

template <class F, class C = typename F::Compute>
void place_parameter_gradients(const PyRunner& r, Call<F>& call, PyObject* given, std::vector<Part<C>>& parts) {
  const auto& all = r.cell->parameters;
  const auto runs = static_cast<std::size_t>(r.shape.runs());
  const Addresses addresses("dparameters", given, runs * all.size());
  for (std::size_t run = 0; run < runs; ++run) {
    Gradients<C>& g = call.gradients(static_cast<int>(run));
    for (std::size_t i = 0; i < all.size(); ++i) {
      const Parameter& p = all[i];
      C* const to = addresses.at<C>(run * all.size() + i);
      if (!to) continue;
      const int layer = static_cast<int>(run) / r.shape.directions;
      C*& whole = p.role == Role::weight_ih ? g.dweight_ih
                  : p.role == Role::bias_ih ? g.dbias_ih
                  : p.role == Role::bias_hh ? g.dbias_hh
                  : p.role == Role::vector  ? g.dvectors
                                            : g.dmatrix[p.matrix];
      if (r.is_whole(p)) {
        whole = to;
        continue;
      }
      const int64_t size = r.size_of(p, layer);
      if (!whole) whole = call.join(size / p.gates * r.gates_of(p));
      parts.push_back({whole + p.first * (size / p.gates), to, size});
    }
  }
}

// backward(common..., reserve, dropout, seed, dy, dy_stride, dlast, dx, add_dx, dfirst, dreset, dparameters, threads)
template <class F>
py::object backward(const PyRunner& r, F, FastArguments a) {
  using C = typename F::Compute;
  refuse_packed(a);
  Call<F> call(r, a);
  read_drops(call, a[kCommon + 1], a[kCommon + 2]);
  call.arrays.y_stride = r.shape.width();
  place_call(r.shape, call.stack, call.arrays, true, address<char>(a[kCommon]));
  GradientArrays<C> g{};
  g.dy = address<const C>(a[kCommon + 3]);
  g.dy_stride = number(a[kCommon + 4]);
  if (g.dy) require_stride("dy_stride", g.dy_stride, r.shape);
  const auto states = static_cast<std::size_t>(r.facts().states);
  const Addresses dlast("dlast", a[kCommon + 5], states), dfirst("dfirst", a[kCommon + 8], states);
  const Addresses dreset("dreset", a[kCommon + 9], states);
  for (std::size_t i = 0; i < states; ++i) {
    g.dreset[i] = dreset.at<C>(i);
    g.dstate_n[i] = dlast.at<const C>(i);
    g.dstate0[i] = dfirst.at<C>(i);
  }
  g.dx = address<C>(a[kCommon + 6]);
  call.stack.add_dx = read_bool("add_dx", a[kCommon + 7]);
  std::vector<Part<C>> parts;
  place_parameter_gradients(r, call, a[kCommon + 10], parts);
  read_threads(call, a[kCommon + 11]);
  const Buffer memory = place_gradients(r.shape, call.stack, g);
  without_gil([&] {
    run_backward(call.stack);
    for (const Part<C>& part : parts) std::memcpy(part.to, part.from, static_cast<std::size_t>(part.size) * sizeof(C));
  });
  return py::none();
}

// reserve_bytes(seq_len, batch_size, lengths, offsets, dropout): what a reserve needs, at a multiple of 64 bytes.
template <class F>
py::object reserve_bytes(const PyRunner& r, F, FastArguments a) {
  using C = typename F::Compute;
  const StackShape& s = r.shape;
  CallArrays<C> call = read_sizes_of_call<C>(r, a);
  check_lengths(call);
  call.y_stride = s.width();
  Stack<F> stack{std::vector<Layer<F>>(static_cast<std::size_t>(s.layers)), s.directions, {}, true};
  stack.dropout.p = read_bool("dropout", a[4]) ? 1 : 0;
  WeightView<C> view{};  // for what it drops
  view.options = r.options;
  for (Layer<F>& layer : stack.layers) {
    for (Direction<F>& direction : layer.direction) direction.view = &view;
  }
  return py::int_(place_call(s, stack, call, true, nullptr));
}

py::object infer_method(const PyRunner& r, FastArguments a) {
  return r.with_format([&](auto format) { return infer(r, format, a); });
}
py::object forward_method(const PyRunner& r, FastArguments a) {
  return r.with_format([&](auto format) { return forward(r, format, a); });
}
py::object backward_method(const PyRunner& r, FastArguments a) {
  return r.with_format([&](auto format) { return backward(r, format, a); });
}
py::object reserve_method(const PyRunner& r, FastArguments a) {
  return r.with_format([&](auto format) { return reserve_bytes(r, format, a); });
}

#define RNN_COMMON                                                                                              \
  "seq_len: int, batch_size: int, lengths: int, offsets: int, start: int, resets: int, x: int, states: tuple, " \
  "reset_states: tuple, parameters: tuple, "
PyMethodDef kMethods[] = {
    fast_definition("infer", fast_method<PyRunner, infer_method, kCommon + 4>,
                    "infer(" RNN_COMMON "y: int, y_stride: int, last: tuple, threads: int) -> None"),
    fast_definition(
        "forward", fast_method<PyRunner, forward_method, kCommon + 7>,
        "forward(" RNN_COMMON
        "y: int, y_stride: int, last: tuple, reserve: int, dropout: float, seed: int, threads: int) -> None"),
    fast_definition("backward", fast_method<PyRunner, backward_method, kCommon + 12>,
                    "backward(" RNN_COMMON
                    "reserve: int, dropout: float, seed: int, dy: int, dy_stride: int, dlast: tuple, dx: int, "
                    "add_dx: bool, dfirst: tuple, dreset: tuple, dparameters: tuple, threads: int) -> None"),
    fast_definition("reserve_bytes", fast_method<PyRunner, reserve_method, 5>,
                    "reserve_bytes(seq_len: int, batch_size: int, lengths: int, offsets: int, dropout: bool) -> int"),
};
#undef RNN_COMMON

PyRunner make_runner(std::shared_ptr<PyCell> cell, const std::string& format, int64_t input, int64_t hidden,
                     int64_t proj, int layers, int directions, double epsilon, const std::vector<int64_t>& periods,
                     int64_t heads, const py::dict& options) {
  const CellFacts& f = cell->facts();
  constexpr int64_t kMost = int64_t{1} << 40;
  require_positive("input_size", input, kMost);
  require_positive("hidden_size", hidden, kMost);
  require_positive("proj_size", proj, f.projection < 0 ? hidden : hidden - 1);
  if (f.projection < 0 && proj != hidden) {
    throw py::value_error("proj_size: expected hidden_size = " + std::to_string(hidden) + ", got " +
                          std::to_string(proj));
  }
  check_heads(f, hidden, heads);
  require_positive("num_layers", layers, kMostLayers);
  require_positive("directions", directions, kMaxDirections);
  bool known = false;
#define RNN_IS(Format, ...) known = known || format == Format::name;
  RNN_FORMATS(RNN_IS)
#undef RNN_IS
  if (!known) throw py::value_error("format: expected that of weights on the CPU, got '" + format + "'");
  if (f.clocked != !periods.empty()) {
    throw py::value_error(std::string("periods: expected ") + (f.clocked ? "some" : "none") + " for cell '" + f.name +
                          "', got " + std::to_string(periods.size()));
  }
  const CellId id = cell->id;
  PyRunner r{std::move(cell),
             {id, layers, directions, input, hidden, proj, heads},
             format,
             epsilon,
             clocks_of(periods, hidden),
             options_of(options),
             activations_of(f, options)};
  if (!sizes_fit(f, hidden, std::max(input, r.shape.width()), heads))
    throw py::value_error(too_large("sizes", {hidden, input}));
  return r;
}

}  // namespace

void register_runners(py::module_& m) {
  py::class_<PyRunner> runner(m, "Runner", py::custom_type_setup(refuse_new<8>), py::is_final(),
                              "Runs layers on arrays that are given by address.");
  for (PyMethodDef& definition : kMethods) add_method(runner, definition);
  m.def("make_runner", &make_runner, py::arg("cell"), py::arg("format"), py::arg("input_size"), py::arg("hidden_size"),
        py::arg("proj_size"), py::arg("num_layers"), py::arg("directions"), py::arg("epsilon"), py::arg("periods"),
        py::arg("num_heads") = 1, py::arg("options") = py::dict());
}

}  // namespace fusedrnn
