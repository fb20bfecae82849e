// Reads tensors of a framework that exports DLPack's C exchange (PyTorch 2.10 and later), for front ends that would
// else ask each tensor for its type, device, dtype, shape, strides and address, from Python. Tensors that are not plain
// are left to the front end.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "fastcall.hpp"
#include "register.hpp"

namespace fusedrnn {

namespace {

// The parts of dlpack.h 1.3 that are used, https://github.com/dmlc/dlpack.
namespace dlpack {
struct Device {
  std::int32_t type, id;
};
struct DataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t *shape, *strides;
  std::uint64_t byte_offset;
};
struct Version {
  std::uint32_t major, minor;
};
struct ExchangeApi {
  Version version;
  ExchangeApi* previous;
  void *allocate, *from_object, *to_object;
  int (*borrow_from_object)(void* object, Tensor* out);  // not 0: a Python exception is set
  void* stream;
};
constexpr std::uint32_t kMajor = 1;
constexpr std::int32_t kCpu = 1;
constexpr std::uint8_t kFloat = 2;
}  // namespace dlpack

struct PyTensorReader {
  py::object owner, types[2], requires_grad, is_neg;
  const dlpack::ExchangeApi* api;

  // Whether t is a plain tensor on the CPU of floats of so many bits, contiguous, and of this shape if one is given.
  bool read(PyObject* t, PyObject* shape, int bits, void*& address, bool& needs_gradient) const {
    const auto* const type = reinterpret_cast<PyObject*>(Py_TYPE(t));
    if (type != types[0].ptr() && type != types[1].ptr()) return false;
    dlpack::Tensor found{};
    if (api->borrow_from_object(t, &found) != 0) {  // no memory of its own
      PyErr_Clear();
      return false;
    }
    const bool fits = found.device.type == dlpack::kCpu && found.dtype.code == dlpack::kFloat &&
                      found.dtype.bits == bits && found.dtype.lanes == 1;
    if (!fits || !is_contiguous(found) || !has_shape(found, shape)) return false;
    address = static_cast<char*>(found.data) + found.byte_offset;
    if (!address || truth(is_neg, t)) return false;
    needs_gradient = needs_gradient || truth_of_attribute(t);
    return true;
  }

 private:
  static bool is_contiguous(const dlpack::Tensor& t) {
    std::int64_t expected = 1;
    for (int i = t.ndim - 1; t.strides && i >= 0; --i) {
      if (t.shape[i] != 1 && t.strides[i] != expected) return false;
      expected *= t.shape[i];
    }
    return true;
  }
  static bool has_shape(const dlpack::Tensor& t, PyObject* shape) {
    if (shape == Py_None) return true;
    if (!PyTuple_Check(shape))
      throw py::type_error(std::string("shape: expected tuple, got ") + Py_TYPE(shape)->tp_name);
    if (PyTuple_GET_SIZE(shape) != t.ndim) return false;
    for (int i = 0; i < t.ndim; ++i) {
      const long long size = PyLong_AsLongLong(PyTuple_GET_ITEM(shape, i));
      if (size == -1 && PyErr_Occurred()) throw py::error_already_set();
      if (size != t.shape[i]) return false;
    }
    return true;
  }
  static bool truth(const py::object& method, PyObject* t) {
    const auto answer = py::reinterpret_steal<py::object>(PyObject_CallOneArg(method.ptr(), t));
    if (!answer) throw py::error_already_set();
    return answer.ptr() == Py_True;
  }
  bool truth_of_attribute(PyObject* t) const {
    const auto answer = py::reinterpret_steal<py::object>(PyObject_GetAttr(t, requires_grad.ptr()));
    if (!answer) throw py::error_already_set();
    return answer.ptr() == Py_True;
  }
};

// The items of a sequence, which others may change meanwhile: a tuple itself, or a tuple of what a list has now.
py::tuple items_of(const char* name, PyObject* sequence) {
  if (!PyTuple_Check(sequence) && !PyList_Check(sequence)) {
    throw py::type_error(wrong_type(name, "a tuple or list", Py_TYPE(sequence)->tp_name));
  }
  PyObject* const items = PySequence_Tuple(sequence);
  if (!items) throw py::error_already_set();
  return py::reinterpret_steal<py::tuple>(items);
}

// read(tensors, shapes, bits): whether one of them requires a gradient, and their addresses; 0 for None. None if one of
// them is not plain.
py::object read_method(const PyTensorReader& reader, FastArguments a) {
  const py::tuple tensors = items_of("tensors", a[0]), shapes = items_of("shapes", a[1]);
  const Py_ssize_t count = PyTuple_GET_SIZE(tensors.ptr());
  if (PyTuple_GET_SIZE(shapes.ptr()) != count) {
    throw py::value_error("shapes: expected one for each of " + std::to_string(count) + " tensors, got " +
                          std::to_string(PyTuple_GET_SIZE(shapes.ptr())));
  }
  const long bits = PyLong_AsLong(a[2]);
  if (bits == -1 && PyErr_Occurred()) throw py::error_already_set();
  py::tuple addresses(static_cast<std::size_t>(count));
  bool needs_gradient = false;
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* const t = PyTuple_GET_ITEM(tensors.ptr(), i);
    void* address = nullptr;
    if (t != Py_None &&
        !reader.read(t, PyTuple_GET_ITEM(shapes.ptr(), i), static_cast<int>(bits), address, needs_gradient)) {
      return py::none();
    }
    addresses[static_cast<std::size_t>(i)] = py::reinterpret_steal<py::object>(PyLong_FromVoidPtr(address));
  }
  return py::make_tuple(needs_gradient, addresses);
}

PyMethodDef kMethods[] = {
    fast_definition("read", fast_method<PyTensorReader, read_method, 3>,
                    "read(tensors: Sequence, shapes: Sequence, bits: int) -> tuple[bool, tuple[int, ...]] | None"),
};

// capsule: the type's `__dlpack_c_exchange_api__`; tensor and parameter: the types that are plain.
PyTensorReader make_tensor_reader(const py::object& capsule, const py::object& tensor, const py::object& parameter) {
  const auto* const api =
      static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (!api) throw py::error_already_set();
  if (api->version.major != dlpack::kMajor || !api->borrow_from_object) {
    throw py::value_error("capsule: expected version " + std::to_string(dlpack::kMajor) + " of DLPack, got " +
                          std::to_string(api->version.major));
  }
  return {capsule, {tensor, parameter}, py::str("requires_grad"), tensor.attr("is_neg"), api};
}

}  // namespace

void register_tensors(py::module_& m) {
  py::class_<PyTensorReader> reader(m, "TensorReader", py::custom_type_setup(refuse_new<9>), py::is_final(),
                                    "Reads plain tensors of a framework.");
  for (PyMethodDef& definition : kMethods) add_method(reader, definition);
  m.def("make_tensor_reader", &make_tensor_reader, py::arg("capsule"), py::arg("tensor"), py::arg("parameter"));
}

}  // namespace fusedrnn
