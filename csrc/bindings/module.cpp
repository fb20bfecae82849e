// The Python module _core: check, allocate, drop the GIL, call, return. It checks everything itself, so that no call
// can crash it, whatever the Python layer above does.
#include "register.hpp"

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
  m.doc() = "Native layer of fusedrnn. Use the functions of the package `fusedrnn` instead.";
  fusedrnn::register_errors(m);
  fusedrnn::register_config(m);
  fusedrnn::register_probes(m);
  fusedrnn::register_weights(m);
  fusedrnn::register_calls(m);
  fusedrnn::register_stacks(m);
  fusedrnn::register_streams(m);
  fusedrnn::register_runners(m);
  fusedrnn::register_tensors(m);
  fusedrnn::register_cuda(m);
}
