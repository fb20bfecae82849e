// Functions and methods that Python calls by its own protocol for a fixed number of arguments, as pybind11's dispatcher
// costs 0.2 us. Arguments come as they are: a body checks the type of each.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "../platform/platform.hpp"
#include "errors.hpp"

namespace fusedrnn {

namespace py = pybind11;

using FastArguments = PyObject* const*;

// body(), whose exceptions become Python's. An interpreter that is shutting down ends a thread that asks for its GIL by
// unwinding the stack (see gil.hpp): such a thread, which NumPy may have been copying in, waits for the end of the
// process.
template <class Body>
PyObject* translated(Body&& body) {
  try {
    return body().release().ptr();
  } catch (py::error_already_set& e) {
    e.restore();
  } catch (ForcedUnwind&) {
    wait_for_the_end();
  } catch (...) {
    py::detail::try_translate_exceptions();
  }
  return nullptr;
}

inline bool has_count(Py_ssize_t count, int expected) {
  if (count == expected) return true;
  PyErr_Format(PyExc_TypeError, "expected %d arguments, got %zd", expected, count);
  return false;
}

// A method of a final class that holds an Object: Python has checked the class of `self`.
template <class Object, py::object (*kBody)(const Object&, FastArguments), int kCount>
PyObject* fast_method(PyObject* self, FastArguments arguments, Py_ssize_t count) {
  if (!has_count(count, kCount)) return nullptr;
  const auto* const instance = reinterpret_cast<const py::detail::instance*>(self);
  const auto* const object = static_cast<const Object*>(instance->simple_value_holder[0]);
  return translated([&] { return kBody(*object, arguments); });
}

template <py::object (*kBody)(FastArguments), int kCount>
PyObject* fast_function(PyObject*, FastArguments arguments, Py_ssize_t count) {
  if (!has_count(count, kCount)) return nullptr;
  return translated([&] { return kBody(arguments); });
}

// `doc` begins with the signature.
using FastCall = PyObject* (*)(PyObject*, FastArguments, Py_ssize_t);
inline PyMethodDef fast_definition(const char* name, FastCall call, const char* doc) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call)), METH_FASTCALL, doc};
}

// Definitions must live as long as the module.
inline void add_method(py::handle cls, PyMethodDef& definition) {
  const auto method =
      py::reinterpret_steal<py::object>(PyDescr_NewMethod(reinterpret_cast<PyTypeObject*>(cls.ptr()), &definition));
  if (!method) throw py::error_already_set();
  cls.attr(definition.ml_name) = method;
}
inline void add_function(py::module_& m, PyMethodDef& definition) {
  const auto function =
      py::reinterpret_steal<py::object>(PyCFunction_NewEx(&definition, nullptr, m.attr("__name__").ptr()));
  if (!function) throw py::error_already_set();
  m.attr(definition.ml_name) = function;
}

// An argument of the Python type that it must have.
template <class Object>
Object argument(PyObject* o, const char* expected) {
  if (!Object::check_(o)) throw py::type_error(std::string("expected a ") + expected + ", got " + Py_TYPE(o)->tp_name);
  return py::reinterpret_borrow<Object>(o);
}
inline py::tuple tuple_of(PyObject* o) { return argument<py::tuple>(o, "tuple"); }
inline py::dict dict_of(PyObject* o) { return argument<py::dict>(o, "dict"); }

}  // namespace fusedrnn
