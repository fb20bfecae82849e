// Native work without the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>

#include "../platform/platform.hpp"

namespace fusedrnn {

// Takes the GIL back. An interpreter that is shutting down ends a thread that asks for its GIL, by unwinding the stack
// (CPython before 3.14): that would destroy Python objects without the GIL, and abort the process at the first noexcept
// destructor. So the unwinding stops here, and the thread waits for the end of the process.
inline void take_gil(PyThreadState* state) {
  try {
    PyEval_RestoreThread(state);
  } catch (...) {
    wait_for_the_end();
  }
}

// Calls work() without the GIL; its exceptions pass through, with the GIL held.
template <class Work>
void without_gil(Work&& work) {
  std::exception_ptr failed;
  PyThreadState* const state = PyEval_SaveThread();
  try {
    work();
  } catch (...) {
    failed = std::current_exception();
  }
  take_gil(state);
  if (failed) std::rethrow_exception(failed);
}

}  // namespace fusedrnn
