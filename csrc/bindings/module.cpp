// The Python module _core: check, allocate, drop the GIL, call, return. It checks everything itself, so that no call
// can crash it, whatever the Python layer above does.
#include <pybind11/stl.h>

#include <atomic>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "../cpu/dispatch.hpp"
#include "../cpu/float_environment.hpp"
#include "../cpu/threads.hpp"
#include "../run.hpp"
#include "arrays.hpp"
#include "probe.hpp"
#include "weights.hpp"

namespace fusedrnn {
namespace {

using std::int64_t;

struct Sizes {
  int64_t seq_len, batch, input, hidden;
};

// (B,) int64 in 0..T, copied: the caller's array may change while the GIL is released.
std::vector<int64_t> read_lengths(py::handle h, const Sizes& n) {
  require_array("lengths", h);
  if (!has_dtype(h, py::dtype::of<std::int64_t>().num())) fail_dtype("lengths", "int64", h);
  require_shape("lengths", "(batch_size,)", {n.batch}, h);
  const auto in = contiguous<int64_t>(h);
  for (int64_t i = 0; i < n.batch; ++i) {
    if (in.data[i] < 0 || in.data[i] > n.seq_len) {
      throw py::value_error("lengths: expected values in 0..seq_len = 0.." + std::to_string(n.seq_len) + ", got " +
                            std::to_string(in.data[i]) + " at index " + std::to_string(i));
    }
  }
  return {in.data, in.data + n.batch};
}

// What forward was given: the arrays are kept alive and, in training, until backward.
template <class T>
struct Call {
  py::object weights_object;
  const Weights<T>* weights;
  Sizes n;
  Input<T> x, h0, c0;
  std::vector<int64_t> lengths;
  bool has_lengths, reverse;

  Problem<T> problem() const {
    Problem<T> p{};
    p.seq_len = n.seq_len;
    p.batch = n.batch;
    p.input = n.input;
    p.hidden = n.hidden;
    p.reverse = reverse;
    p.lengths = has_lengths ? lengths.data() : nullptr;
    p.x = x.data;
    p.state0[0] = h0.data;
    p.state0[1] = c0.data;
    return p;
  }
};

void refuse_cell_state(const PyWeights& w, const char* name, py::handle c) {
  if (w.states < 2 && !c.is_none()) {
    throw py::value_error(std::string(name) + ": expected None, as this cell has no cell state, got " + type_name(c));
  }
}

template <class T>
Call<T> read_call(py::handle weights, py::handle x, py::handle h0, py::handle c0, py::handle lengths,
                  py::handle reverse) {
  const PyWeights& w = weights_of(weights);
  Call<T> call{py::reinterpret_borrow<py::object>(weights), &w.get<T>(), {}, {}, {}, {}, {}, false, false};
  require_array("x", x);
  require_dtype<T>("x", x);
  require_rank("x", "(seq_len, batch_size, input_size)", 3, x);
  Sizes& n = call.n;
  n = {proxy(x)->dimensions[0], proxy(x)->dimensions[1], w.input, w.hidden};
  require_shape("x", "(seq_len, batch_size, input_size)", {n.seq_len, n.batch, n.input}, x);
  checked_bytes("x", {n.seq_len, n.batch, n.input}, sizeof(T));
  checked_bytes("y", {n.seq_len, n.batch, n.hidden, facts_of(w.cell).slots}, sizeof(T));
  call.h0 = read_input<T>("h0", "(batch_size, hidden_size)", {n.batch, n.hidden}, h0, true);
  refuse_cell_state(w, "c0", c0);
  call.c0 = read_input<T>("c0", "(batch_size, hidden_size)", {n.batch, n.hidden}, c0, true);
  call.has_lengths = !lengths.is_none();
  if (call.has_lengths) call.lengths = read_lengths(lengths, n);
  call.reverse = read_bool("reverse", reverse);
  call.x = contiguous<T>(x);
  return call;
}

template <class T>
void release_and_forward(const Weights<T>& weights, const Problem<T>& p) {
  py::gil_scoped_release release;
  run_forward(weights, p);
}

// What backward needs of forward. Used up by backward, which turns its memory into gradients.
template <class T>
struct Reserve {
  Call<T> call;
  py::array_t<T> y;
  Buffer slots;
};

struct PyReserve {
  CellId cell;
  std::optional<Reserve<float>> f32;
  std::optional<Reserve<double>> f64;
  std::size_t nbytes;
  std::atomic<bool> used{false};
  std::string dtype;
  Sizes n;
};

template <class T>
py::tuple infer(py::handle w, py::handle x, py::handle h0, py::handle c0, py::handle lengths, py::handle reverse) {
  const Call<T> call = read_call<T>(w, x, h0, c0, lengths, reverse);
  const Sizes& n = call.n;
  const bool has_c = weights_of(w).states > 1;
  auto y = new_array<T>("y", {n.seq_len, n.batch, n.hidden});
  auto h_n = new_array<T>("h_n", {n.batch, n.hidden});
  Problem<T> p = call.problem();
  p.y = data_of(y);
  p.state_n[0] = data_of(h_n);
  if (!has_c) {
    release_and_forward(*call.weights, p);
    return py::make_tuple(std::move(y), std::move(h_n));
  }
  auto c_n = new_array<T>("c_n", {n.batch, n.hidden});
  p.state_n[1] = data_of(c_n);
  release_and_forward(*call.weights, p);
  return py::make_tuple(std::move(y), std::move(h_n), std::move(c_n));
}

template <class T>
py::tuple forward(py::handle w, py::handle x, py::handle h0, py::handle c0, py::handle lengths, py::handle reverse) {
  Call<T> call = read_call<T>(w, x, h0, c0, lengths, reverse);
  const Sizes n = call.n;
  const PyWeights& weights = weights_of(w);
  auto y = new_array<T>("y", {n.seq_len, n.batch, n.hidden});
  auto h_n = new_array<T>("h_n", {n.batch, n.hidden});
  auto c_n = new_array<T>("c_n", {weights.states > 1 ? n.batch : 0, n.hidden});
  const int64_t slots = facts_of(weights.cell).slots;
  Buffer buffer(checked_bytes("reserve", {n.seq_len, n.batch, slots, n.hidden}, sizeof(T)));
  Problem<T> p = call.problem();
  p.y = data_of(y);
  p.state_n[0] = data_of(h_n);
  p.state_n[1] = data_of(c_n);
  p.slots = buffer.as<T>();
  release_and_forward(*call.weights, p);

  auto reserve = std::make_unique<PyReserve>();
  reserve->cell = weights.cell;
  reserve->nbytes = buffer.bytes();
  reserve->dtype = DType<T>::name;
  reserve->n = n;
  Reserve<T> kept{std::move(call), y, std::move(buffer)};
  if constexpr (sizeof(T) == sizeof(float))
    reserve->f32.emplace(std::move(kept));
  else
    reserve->f64.emplace(std::move(kept));
  py::object out = py::cast(std::move(reserve));
  if (weights.states > 1) return py::make_tuple(std::move(y), std::move(h_n), std::move(c_n), std::move(out));
  return py::make_tuple(std::move(y), std::move(h_n), std::move(out));
}

template <class T>
py::tuple backward(PyReserve& reserve, const Reserve<T>& kept, py::handle dy, py::handle dh_n, py::handle dc_n) {
  const Sizes& n = kept.call.n;
  const PyWeights& weights = weights_of(kept.call.weights_object);
  const int64_t rows = weights.gates * n.hidden;
  const char* state = "(batch_size, hidden_size)";
  const auto in_dy =
      read_input<T>("dy", "(seq_len, batch_size, hidden_size)", {n.seq_len, n.batch, n.hidden}, dy, true);
  const auto in_dh = read_input<T>("dh_n", state, {n.batch, n.hidden}, dh_n, true);
  refuse_cell_state(weights, "dc_n", dc_n);
  const auto in_dc = read_input<T>("dc_n", state, {n.batch, n.hidden}, dc_n, true);

  auto dx = new_array<T>("dx", {n.seq_len, n.batch, n.input});
  auto dh0 = new_array<T>("dh0", {n.batch, n.hidden});
  auto dc0 = new_array<T>("dc0", {weights.states > 1 ? n.batch : 0, n.hidden});
  auto dweight_ih = new_array<T>("dweight_ih", {rows, n.input});
  auto dweight_hh = new_array<T>("dweight_hh", {rows, n.hidden});
  py::object dbias_ih = py::none(), dbias_hh = py::none();
  Gradients<T> g{};
  const auto bias = [&](bool has, const char* name, py::object& to) -> T* {
    if (!has) return nullptr;
    auto array = new_array<T>(name, {rows});
    to = array;
    return data_of(array);
  };
  g.dbias_ih = bias(weights.has_bias_ih, "dbias_ih", dbias_ih);
  g.dbias_hh = bias(weights.has_bias_hh, "dbias_hh", dbias_hh);
  g.dy = in_dy.data;
  g.dstate_n[0] = in_dh.data;
  g.dstate_n[1] = in_dc.data;
  g.dx = data_of(dx);
  g.dstate0[0] = data_of(dh0);
  g.dstate0[1] = data_of(dc0);
  g.dweight_ih = data_of(dweight_ih);
  g.dweight_hh = data_of(dweight_hh);
  Problem<T> p = kept.call.problem();
  p.slots = kept.slots.template as<T>();
  p.h = data_of(kept.y);
  if (reserve.used.exchange(true)) {
    throw py::value_error("reserve: expected one that no backward has used, got one that has been used");
  }
  try {
    py::gil_scoped_release release;
    run_backward(*kept.call.weights, p, g);
  } catch (const std::bad_alloc&) {
    reserve.used = false;  // nothing has been written yet
    throw;
  }
  if (weights.states > 1) return py::make_tuple(dx, dh0, dc0, dweight_ih, dweight_hh, dbias_ih, dbias_hh);
  return py::make_tuple(dx, dh0, dweight_ih, dweight_hh, dbias_ih, dbias_hh);
}

py::tuple backward_any(py::handle h, py::handle dy, py::handle dh_n, py::handle dc_n) {
  if (!py::isinstance<PyReserve>(h)) {
    throw py::type_error("reserve: expected a Reserve, as forward returns it, got " + type_name(h));
  }
  auto& reserve = h.cast<PyReserve&>();
  return reserve.f32 ? backward(reserve, *reserve.f32, dy, dh_n, dc_n)
                     : backward(reserve, *reserve.f64, dy, dh_n, dc_n);
}

// One step. out_h and out_c are None, or arrays to write to.
template <class T>
py::object step(py::handle weights, py::handle x, py::handle h, py::handle c, py::handle out_h, py::handle out_c) {
  const PyWeights& w = weights_of(weights);
  const char *symbols = "(batch_size, hidden_size)", *x_symbols = "(batch_size, input_size)";
  require_array("x", x);
  require_rank("x", x_symbols, 2, x);
  const int64_t batch = proxy(x)->dimensions[0];
  checked_bytes("x", {batch, w.input + w.hidden * facts_of(w.cell).slots}, sizeof(T));
  const auto in_x = read_input<T>("x", x_symbols, {batch, w.input}, x, false);
  const auto in_h = read_input<T>("h", symbols, {batch, w.hidden}, h, true);
  refuse_cell_state(w, "c", c);
  const auto in_c = read_input<T>("c", symbols, {batch, w.hidden}, c, true);
  Problem<T> p{};
  p.seq_len = 1;
  p.batch = batch;
  p.input = w.input;
  p.hidden = w.hidden;
  p.x = in_x.data;
  p.state0[0] = in_h.data;
  p.state0[1] = in_c.data;

  const auto output = [&](const char* name, py::handle out, T*& to) -> py::object {
    if (out.is_none()) {
      auto array = new_array<T>(name, {batch, w.hidden});
      to = data_of(array);
      return std::move(array);
    }
    to = write_output<T>(name, symbols, {batch, w.hidden}, out);
    require_apart(name, out, "x", x);
    require_apart(name, out, "h", h);
    require_apart(name, out, "c", c);
    return py::reinterpret_borrow<py::object>(out);
  };
  py::object h_out = output("out (h)", out_h, p.y);
  if (w.states == 1) {
    release_and_forward(w.get<T>(), p);
    return h_out;
  }
  py::object c_out = output("out (c)", out_c, p.state_n[1]);
  require_apart("out (c)", c_out, "out (h)", h_out);
  release_and_forward(w.get<T>(), p);
  return py::make_tuple(std::move(h_out), std::move(c_out));
}

// f32(...) or f64(...), by the dtype of the weights.
template <class F32, class F64, class... Args>
auto by_dtype(F32&& f32, F64&& f64, py::handle w, Args... args) {
  return weights_of(w).f32 ? f32(w, args...) : f64(w, args...);
}

template <class T>
py::array_t<T> activate(const ActivationKernels<T>& k, bool is_tanh, py::handle x) {
  require_rank("x", "(n,)", 1, x);
  const auto in = contiguous<T>(x);
  const int64_t n = proxy(x)->dimensions[0];
  auto y = new_array<T>("y", {n});
  T* to = data_of(y);
  py::gil_scoped_release release;
  const FloatEnvironment environment;
  (is_tanh ? k.tanh : k.sigmoid)(in.data, to, n);
  return y;
}

py::object activation(bool is_tanh, py::handle x) {
  require_array("x", x);
  const Kernels& k = *current_isa().kernels;
  if (has_dtype(x, DType<float>::number)) return activate(k.activations_f32, is_tanh, x);
  if (has_dtype(x, DType<double>::number)) return activate(k.activations_f64, is_tanh, x);
  fail_dtype("x", "float32 or float64", x);
}

using H = py::handle;

}  // namespace
}  // namespace fusedrnn

using namespace fusedrnn;

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "Native layer of fusedrnn. Use the functions of the package `fusedrnn` instead.";

  py::class_<PyWeights>(m, "Weights", "Weights of any cell, by its name; the package has a class for each kind.")
      .def(py::init(&make_weights), py::arg("cell"), py::arg("weight_ih"), py::arg("weight_hh"), py::arg("bias_ih"),
           py::arg("bias_hh"))
      .def_property_readonly("cell", [](const PyWeights& w) { return facts_of(w.cell).name; })
      .def_property_readonly("input_size", [](const PyWeights& w) { return w.input; })
      .def_property_readonly("hidden_size", [](const PyWeights& w) { return w.hidden; })
      .def_property_readonly("dtype", [](const PyWeights& w) { return py::dtype(w.f32 ? "float32" : "float64"); })
      .def_property_readonly("weight_ih",
                             [](H self) {
                               return snapshot(self, [&](auto& w, auto& s) {
                                 return view(self, s.weight_ih(), {w.gates * w.hidden, w.input});
                               });
                             })
      .def_property_readonly("weight_hh",
                             [](H self) {
                               return snapshot(self, [&](auto& w, auto& s) {
                                 return view(self, s.weight_hh(), {w.gates * w.hidden, w.hidden});
                               });
                             })
      .def_property_readonly(
          "bias_ih",
          [](H self) {
            return snapshot(self, [&](auto& w, auto& s) { return view(self, s.bias_ih(), {w.gates * w.hidden}); });
          })
      .def_property_readonly("bias_hh", [](H self) {
        return snapshot(self, [&](auto& w, auto& s) { return view(self, s.bias_hh(), {w.gates * w.hidden}); });
      });

  py::class_<PyReserve>(m, "Reserve",
                        "What forward keeps for backward. Backward uses it up: its memory becomes gradients.")
      .def_property_readonly("cell", [](const PyReserve& r) { return facts_of(r.cell).name; })
      .def_property_readonly("dtype", [](const PyReserve& r) { return py::dtype(r.dtype); })
      .def_property_readonly("nbytes", [](const PyReserve& r) { return r.nbytes; })
      .def_property_readonly("used", [](const PyReserve& r) { return r.used.load(); })
      .def("__repr__", [](const PyReserve& r) {
        return "<fusedrnn.Reserve of " + std::string(facts_of(r.cell).name) +
               ", seq_len=" + std::to_string(r.n.seq_len) + ", batch_size=" + std::to_string(r.n.batch) +
               ", hidden_size=" + std::to_string(r.n.hidden) + ", " + r.dtype + ", " + std::to_string(r.nbytes) +
               " bytes" + (r.used ? ", used>" : ">");
      });

  m.def("infer", [](H w, H x, H h0, H c0, H lengths, H reverse) {
    return by_dtype(infer<float>, infer<double>, w, x, h0, c0, lengths, reverse);
  });
  m.def("forward", [](H w, H x, H h0, H c0, H lengths, H reverse) {
    return by_dtype(forward<float>, forward<double>, w, x, h0, c0, lengths, reverse);
  });
  m.def("backward", &backward_any);
  m.def("step", [](H w, H x, H h, H c, H out_h, H out_c) {
    return by_dtype(step<float>, step<double>, w, x, h, c, out_h, out_c);
  });
  m.def("sigmoid", [](H x) { return activation(false, x); });
  m.def("tanh", [](H x) { return activation(true, x); });

  m.def("probe_fma", [](bool f64, int64_t rounds) {
    const Kernels& k = *current_isa().kernels;
    require_positive("rounds", rounds, int64_t{1} << 40);
    return f64 ? fma_rate(k.probe_f64, rounds) : fma_rate(k.probe_f32, rounds);
  });
  m.def("probe_read", [](bool f64, int64_t bytes_each, int64_t rounds) {
    const Kernels& k = *current_isa().kernels;
    require_positive("bytes_each", bytes_each, int64_t{1} << 34);
    require_positive("rounds", rounds, int64_t{1} << 40);
    return f64 ? read_rate(k.probe_f64, bytes_each, rounds) : read_rate(k.probe_f32, bytes_each, rounds);
  });

  m.def("available_isas", &available_isas);
  m.def("isa", [] { return std::string(current_isa().kernels->isa); });
  m.def("set_isa", &set_isa);
  m.def("set_schedule", &set_schedule);
  m.def("release_memory", &release_kept_memory);
  m.def("num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads);
}
