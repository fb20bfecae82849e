// The Python module _core: check, allocate, drop the GIL, call, return. It checks everything itself, so that no call
// can crash it, whatever the Python layer above does.
//
// Any thread may call at any time, on a free-threaded Python too, where no GIL keeps others out of the time before and
// after a kernel. So
// - objects do not change once they are made; but for streams, whose calls run alone (stream.cpp), and what CUDA's
//   front end sets for one call;
// - caches are filled by atomic stores: of threads that fill one at the same time, one keeps its result;
// - what others may change during a call is copied, or referred to, before it is used: items of dicts and lists,
//   lengths, resets. Numbers in arrays may change, and the results are then anything; an array's shape, dtype and
//   memory may not: NumPy lets nobody lock them;
// - no lock is held, and no static is being made, while Python code may run: a thread that waits for either is one that
//   Python cannot stop.
#include "register.hpp"

namespace {

// Types and interned strings belong to the interpreter that made them, and are kept by the process. From Python 3.12 on
// pybind11 has Python refuse interpreters that ask whether a module is made for several; others do not ask.
bool is_main_interpreter() { return PyInterpreterState_Get() == PyInterpreterState_Main(); }
constexpr const char* kRefused = "fusedrnn works in the main interpreter alone, and not in subinterpreters";

}  // namespace

PYBIND11_MODULE(_core_of_main, m, pybind11::mod_gil_not_used()) {
  if (!is_main_interpreter()) throw pybind11::import_error(kRefused);
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
  fusedrnn::register_cuda_steps(m);
}

// Before pybind11 runs: where Python is older than 3.12, it would take what the main interpreter has for the other's.
// Python 3.13 and later call this in the main interpreter, for all of them.
extern "C" PYBIND11_EXPORT PyObject* PyInit__core() {  // NOLINT: Python asks for this name
  if (is_main_interpreter()) return PyInit__core_of_main();
  PyErr_SetString(PyExc_ImportError, kRefused);
  return nullptr;
}
