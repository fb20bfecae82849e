// The parts of the Python module _core, each in a file of its own.
#pragma once

#include <pybind11/pybind11.h>

namespace fusedrnn {

void register_errors(pybind11::module_& m);
void register_config(pybind11::module_& m);
void register_probes(pybind11::module_& m);
void register_weights(pybind11::module_& m);
void register_calls(pybind11::module_& m);  // of the class of weights
void register_stacks(pybind11::module_& m);
void register_streams(pybind11::module_& m);
void register_runners(pybind11::module_& m);
void register_tensors(pybind11::module_& m);
void register_cuda(pybind11::module_& m);
void register_cuda_steps(pybind11::module_& m);

// For classes whose objects are made by functions alone: __new__ would give objects that hold nothing. Each class has a
// number of its own, by which its objects differ in size: Python lets `object.__class__` be set between classes of one
// layout only.
template <int kNumber>
void refuse_new(PyHeapTypeObject* type) {
  type->ht_type.tp_basicsize += kNumber * static_cast<Py_ssize_t>(sizeof(void*));
  type->ht_type.tp_new = [](PyTypeObject* t, PyObject*, PyObject*) -> PyObject* {
    PyErr_Format(PyExc_TypeError, "%s: expected no call, as objects of this class are made by functions", t->tp_name);
    return nullptr;
  };
}

}  // namespace fusedrnn
