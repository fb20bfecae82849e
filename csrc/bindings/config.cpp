// Threads, instruction sets, schedules and memory, and the activations by themselves.
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "../cpu/dispatch.hpp"
#include "../cpu/openmp.hpp"
#include "../cpu/threads.hpp"
#include "../machine.hpp"
#include "../platform/float_environment.hpp"
#include "../run.hpp"
#include "../sizes.hpp"
#include "arrays.hpp"
#include "gil.hpp"
#include "register.hpp"

namespace fusedrnn {

namespace {

template <class T>
py::array_t<T> activate(void (*kernel)(const T*, T*, std::int64_t), py::handle x) {
  require_rank("x", "(n,)", 1, x);
  const auto in = contiguous<T>(x);
  const std::int64_t n = proxy(x)->dimensions[0];
  auto y = new_array<T>("y", {n});
  T* const to = data_of(y);
  without_gil([&] {
    const FloatEnvironment environment;
    kernel(in.data, to, n);
  });
  return y;
}

// choose(kernels): one of an ISA's ActivationKernels.
template <class Choose>
py::object activation(py::handle x, Choose&& choose) {
  require_array("x", x);
  const Kernels& k = *current_isa().kernels;
#define RNN_ACTIVATE(Type) \
  if (has_dtype(x, DType<Type>::number)) return activate<Type>(choose(k.of_type<Type>().activations), x);
  RNN_COMPUTE_TYPES(RNN_ACTIVATE)
#undef RNN_ACTIVATE
  fail_dtype("x", "float32 or float64", x);
}

}  // namespace

// For threadpoolctl (python/fusedrnn/threadpools.py), which looks for C functions in loaded libraries.
extern "C" {
RNN_EXPORT int fusedrnn_get_num_threads() {
  try {
    return num_threads();
  } catch (const std::invalid_argument&) {
    return 1;  // FUSEDRNN_NUM_THREADS makes no sense: calls raise
  }
}
RNN_EXPORT void fusedrnn_set_num_threads(int n) {
  if (n >= 1 && n <= kMostThreads) set_num_threads(n);
}
}

void register_config(py::module_& m) {
#if defined(Py_GIL_DISABLED)
  m.attr("FREE_THREADED") = true;
#else
  m.attr("FREE_THREADED") = false;
#endif
  m.def("available_isas", &available_isas);
  m.def("isa", [] { return std::string(current_isa().kernels->isa); });
  m.def("set_isa", &set_isa);
  m.def("set_schedule", &set_schedule);
  m.def("machine", &machine_values);
  m.def("set_machine", &set_machine);
  m.def("set_in_place", &set_in_place);
  m.def("release_memory", &release_kept_memory);
  m.def("kept_memory", &kept_memory);
  m.def("num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads);
  m.def("thread_source", &thread_source);
  m.def("set_thread_source", &set_thread_source);
  m.def("openmp_file", [] { return py::bytes(host_openmp_file()); });
#define RNN_ACTIVATION(name) \
  m.def(#name, [](py::handle x) { return activation(x, [](const auto& kernels) { return kernels.name; }); });
  RNN_ACTIVATION(sigmoid)
  RNN_ACTIVATION(tanh)
  RNN_ACTIVATION(exp_nonpositive)
  RNN_ACTIVATION(log_sigmoid)
#undef RNN_ACTIVATION
}

}  // namespace fusedrnn
