// The Python module _core: check, allocate, drop the GIL, call, return. It checks everything itself, so that no call
// can crash it, whatever the Python layer above does.
#include <pybind11/stl.h>

#include <string>

#include "../cpu/dispatch.hpp"
#include "../cpu/float_environment.hpp"
#include "../cpu/threads.hpp"
#include "../run.hpp"
#include "arrays.hpp"
#include "calls.hpp"
#include "cuda.hpp"
#include "gil.hpp"
#include "probe.hpp"
#include "weights.hpp"

namespace fusedrnn {
namespace {

using std::int64_t;

template <class T>
py::array_t<T> activate(const ActivationKernels<T>& k, bool is_tanh, py::handle x) {
  require_rank("x", "(n,)", 1, x);
  const auto in = contiguous<T>(x);
  const int64_t n = proxy(x)->dimensions[0];
  auto y = new_array<T>("y", {n});
  T* to = data_of(y);
  without_gil([&] {
    const FloatEnvironment environment;
    (is_tanh ? k.tanh : k.sigmoid)(in.data, to, n);
  });
  return y;
}

py::object activation(bool is_tanh, py::handle x) {
  require_array("x", x);
  const Kernels& k = *current_isa().kernels;
  if (has_dtype(x, DType<float>::number)) return activate(k.of_type<float>().activations, is_tanh, x);
  if (has_dtype(x, DType<double>::number)) return activate(k.of_type<double>().activations, is_tanh, x);
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
           py::arg("bias_hh"), py::arg("vectors") = py::list(), py::arg("blocks") = py::list(),
           py::arg("epsilon") = 0.0, py::arg("periods") = std::vector<int64_t>())
      .def(py::init(&make_device_weights), py::arg("cell"), py::arg("input_size"), py::arg("hidden_size"),
           py::arg("device"))
      .def_property_readonly("cell", [](const PyWeights& w) { return facts_of(w.cell).name; })
      .def_property_readonly("input_size", [](const PyWeights& w) { return w.input; })
      .def_property_readonly("hidden_size", [](const PyWeights& w) { return w.hidden; })
      .def_property_readonly("dtype",
                             [](const PyWeights& w) -> py::object {
                               if (w.device) return w.device.attr("dtype");
                               return py::dtype(w.f32 ? "float32" : "float64");
                             })
      .def_property_readonly("weight_ih",
                             [](H self) {
                               return snapshot(self, "weight_ih", [&](auto& w, auto& s) {
                                 return view(self, s.arrays().weight_ih, {w.gates * w.hidden, w.input});
                               });
                             })
      .def_property_readonly("weight_hh",
                             [](H self) {
                               return snapshot(self, "weight_hh", [&](auto& w, auto& s) {
                                 return view(self, s.arrays().matrix[0],
                                             {w.facts().recurrent_gates * w.hidden, w.hidden});
                               });
                             })
      .def_property_readonly("bias_ih",
                             [](H self) {
                               return snapshot(self, "bias_ih", [&](auto& w, auto& s) {
                                 return view(self, s.arrays().bias_ih, {w.gates * w.hidden});
                               });
                             })
      .def_property_readonly("bias_hh",
                             [](H self) {
                               return snapshot(self, "bias_hh", [&](auto& w, auto& s) {
                                 return view(self, s.arrays().bias_hh, {w.facts().recurrent_gates * w.hidden});
                               });
                             })
      .def_property_readonly("_device", [](const PyWeights& w) { return w.device ? w.device : py::object(py::none()); })
      .def_property_readonly("_periods", [](const PyWeights& w) { return py::tuple(py::cast(w.periods)); })
      .def("_vector", &vector_view)
      .def("_block", &block_view);

  py::class_<PyReserve>(m, "Reserve",
                        "What forward keeps for backward. Backward uses it up: its memory becomes gradients.")
      .def_property_readonly("weights",
                             [](const PyReserve& r) -> py::object {
                               if (r.device) return r.device.attr("weights_object");
                               return r.f32 ? r.f32->call.weights_object : r.f64->call.weights_object;
                             })
      .def_property_readonly("cell", [](const PyReserve& r) { return facts_of(r.cell).name; })
      .def_property_readonly("dtype",
                             [](const PyReserve& r) -> py::object {
                               if (r.device) return r.device.attr("dtype");
                               return py::dtype(r.dtype);
                             })
      .def_property_readonly("nbytes", [](const PyReserve& r) { return r.nbytes; })
      .def_property_readonly("used", [](const PyReserve& r) { return r.used.load(); })
      .def("__repr__", [](const PyReserve& r) {
        return "<fusedrnn.Reserve of " + std::string(facts_of(r.cell).name) +
               ", seq_len=" + std::to_string(r.n.seq_len) + ", batch_size=" + std::to_string(r.n.batch) +
               ", hidden_size=" + std::to_string(r.n.hidden) + ", " + r.dtype + ", " + std::to_string(r.nbytes) +
               " bytes" + (r.used ? ", used>" : ">");
      });

  m.def(
      "read_lengths",
      [](H lengths, int64_t batch, int64_t seq_len) {
        const std::vector<int64_t> values = read_lengths(lengths, {seq_len, batch, 0, 0});
        return py::array_t<int64_t>(static_cast<py::ssize_t>(values.size()), values.data());
      },
      py::arg("lengths"), py::arg("batch_size"), py::arg("seq_len"), py::pos_only());
  m.def(
      "infer",
      [](H w, H x, const py::tuple& states, H lengths, H reverse, H c_below, H start) {
        const auto device = [&](const PyWeights& weights) -> py::tuple {
          require_device_call(weights, states, c_below, start);
          return weights.device.attr("infer")(x, states, lengths, reverse);
        };
        return by_place(device, infer<float>, infer<double>, w, x, states, lengths, reverse, c_below, start);
      },
      py::arg("w"), py::arg("x"), py::arg("states"), py::arg("lengths"), py::arg("reverse"), py::arg("c_below"),
      py::arg("start") = py::none(), py::pos_only());
  m.def(
      "forward",
      [](H w, H x, const py::tuple& states, H lengths, H reverse, H c_below, H start) {
        const auto device = [&](const PyWeights& weights) {
          require_device_call(weights, states, c_below, start);
          return forward_on_device(weights, w, x, states, lengths, reverse);
        };
        return by_place(device, forward<float>, forward<double>, w, x, states, lengths, reverse, c_below, start);
      },
      py::arg("w"), py::arg("x"), py::arg("states"), py::arg("lengths"), py::arg("reverse"), py::arg("c_below"),
      py::arg("start") = py::none(), py::pos_only());
  m.def("backward", &backward_any);
  m.def(
      "step",
      [](H w, H x, const py::tuple& states, const py::tuple& out, H c_below, H start) {
        const auto device = [&](const PyWeights& weights) -> py::object {
          require_device_call(weights, states, c_below, start);
          require_count("out", out, weights);
          return weights.device.attr("step")(x, states, out);
        };
        return by_place(device, step<float>, step<double>, w, x, states, out, c_below, start);
      },
      py::arg("w"), py::arg("x"), py::arg("states"), py::arg("out"), py::arg("c_below"), py::arg("start") = py::none(),
      py::pos_only());
  bind_cuda(m);
  m.def("sigmoid", [](H x) { return activation(false, x); });
  m.def("tanh", [](H x) { return activation(true, x); });

  m.def("probe_fma", [](bool f64, int64_t rounds) {
    const Kernels& k = *current_isa().kernels;
    require_positive("rounds", rounds, int64_t{1} << 40);
    double rate = 0;
    without_gil(
        [&] { rate = f64 ? fma_rate(k.of_type<double>().probe, rounds) : fma_rate(k.of_type<float>().probe, rounds); });
    return rate;
  });
  m.def("probe_read", [](bool f64, int64_t bytes_each, int64_t rounds) {
    const Kernels& k = *current_isa().kernels;
    require_positive("bytes_each", bytes_each, int64_t{1} << 34);
    require_positive("rounds", rounds, int64_t{1} << 40);
    double rate = 0;
    without_gil([&] {
      rate = f64 ? read_rate(k.of_type<double>().probe, bytes_each, rounds)
                 : read_rate(k.of_type<float>().probe, bytes_each, rounds);
    });
    return rate;
  });

  m.def("available_isas", &available_isas);
  m.def("isa", [] { return std::string(current_isa().kernels->isa); });
  m.def("set_isa", &set_isa);
  m.def("set_schedule", &set_schedule);
  m.def(
      "schedule",
      [](H weights, int64_t seq_len, int64_t batch) {
        const PyWeights& w = weights_of(weights);
        if (w.device) throw py::value_error("w: expected weights on the CPU");
        require_positive("seq_len", seq_len, int64_t{1} << 40);
        require_positive("batch_size", batch, int64_t{1} << 40);
        return w.f32 ? forward_schedule(*w.f32, seq_len, batch) : forward_schedule(*w.f64, seq_len, batch);
      },
      py::arg("w"), py::arg("seq_len"), py::arg("batch_size"), py::pos_only());
  m.def("release_memory", &release_kept_memory);
  m.def("kept_memory", &kept_memory);
  m.def("num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads);
}
