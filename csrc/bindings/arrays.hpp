// Reads NumPy arrays and checks them: ValueError for shapes and values, TypeError for an object that is no array or has
// another dtype. Looks at the array object itself, as pybind11's array_t costs 0.2 us an argument, and may convert
// silently.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>

#include "../buffer.hpp"
#include "../platform/compiler.hpp"
#include "errors.hpp"

namespace fusedrnn {

namespace py = pybind11;

template <class T>
struct DType;
template <>
struct DType<float> {
  static constexpr int number = py::detail::npy_api::NPY_FLOAT_;
  static constexpr const char* name = "float32";
};
template <>
struct DType<double> {
  static constexpr int number = py::detail::npy_api::NPY_DOUBLE_;
  static constexpr const char* name = "float64";
};

inline const py::detail::PyArray_Proxy* proxy(py::handle array) { return py::detail::array_proxy(array.ptr()); }

inline std::string type_name(py::handle h) { return Py_TYPE(h.ptr())->tp_name; }

inline Dims dims_of(py::handle array) {
  const auto* a = proxy(array);
  return Dims(a->dimensions, a->dimensions + a->nd);
}

inline void require_array(const char* name, py::handle h) {
  if (!py::detail::npy_api::get().PyArray_Check_(h.ptr())) {
    throw py::type_error(wrong_type(name, "a numpy.ndarray", type_name(h)));
  }
}

inline bool is_native(char byteorder) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  return byteorder != '<';
#else
  return byteorder != '>';
#endif
}

inline bool has_dtype(py::handle array, int number) {
  const auto* d = py::detail::array_descriptor_proxy(proxy(array)->descr);
  return d->type_num == number && is_native(d->byteorder);
}

[[noreturn]] inline void fail_dtype(const char* name, const std::string& expected, py::handle array) {
  throw py::type_error(wrong_dtype(name, expected, py::str(array.attr("dtype")).cast<std::string>()));
}

// Where shapes come from: `symbols` is the text in the error, `dims` the numbers.
inline void require_shape(const char* name, const char* symbols, std::initializer_list<std::int64_t> dims,
                          py::handle array) {
  const auto* a = proxy(array);
  bool same = a->nd == static_cast<int>(dims.size());
  for (int i = 0; same && i < a->nd; ++i) same = a->dimensions[i] == dims.begin()[i];
  if (same) return;
  throw py::value_error(wrong_shape(name, symbols, dims, dims_of(array)));
}

inline void require_rank(const char* name, const char* symbols, int rank, py::handle array) {
  if (proxy(array)->nd == rank) return;
  throw py::value_error(wrong_rank(name, symbols, rank, dims_of(array)));
}

// An input: read through `data`, which lies in `owner`; the array itself, or a copy where it is strided or misaligned.
template <class T>
struct Input {
  py::object owner;
  const T* data = nullptr;
};

template <class T>
void require_dtype(const char* name, py::handle array) {
  if (!has_dtype(array, DType<T>::number)) fail_dtype(name, DType<T>::name, array);
}

template <class T>
Input<T> contiguous(py::handle array) {
  constexpr int wanted = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  if ((proxy(array)->flags & wanted) == wanted) {
    return {py::reinterpret_borrow<py::object>(array), reinterpret_cast<const T*>(proxy(array)->data)};
  }
  PyObject* copy = py::detail::npy_api::get().PyArray_NewCopy_(array.ptr(), 0 /* C order */);
  if (!copy) throw py::error_already_set();
  return {py::reinterpret_steal<py::object>(copy), reinterpret_cast<const T*>(proxy(copy)->data)};
}

// A required input of known shape, or null for None where `optional`.
template <class T>
Input<T> read_input(const char* name, const char* symbols, std::initializer_list<std::int64_t> dims, py::handle h,
                    bool optional) {
  if (optional && h.is_none()) return {};
  require_array(name, h);
  require_dtype<T>(name, h);
  require_shape(name, symbols, dims, h);
  return contiguous<T>(h);
}

// Bytes of an array of the given shape; ValueError if they cannot be counted.
inline std::size_t checked_bytes(const char* name, std::initializer_list<std::int64_t> dims, std::size_t item) {
  std::int64_t total = static_cast<std::int64_t>(item);
  bool overflow = false, empty = false;
  for (const std::int64_t d : dims) {
    if (d == 0)
      empty = true;
    else
      overflow = multiply_overflows(total, d, total) || overflow;
  }
  if (overflow) throw py::value_error(too_large(name, dims));
  return empty ? 0 : static_cast<std::size_t>(total);
}

// Large arrays are in Buffers, whose memory is used again and needs no fresh pages.
template <class T>
py::array_t<T> new_array(const char* name, std::initializer_list<std::int64_t> dims) {
  const std::size_t bytes = checked_bytes(name, dims, sizeof(T));
  const py::array::ShapeContainer shape(dims.begin(), dims.end());
  if (bytes < kSmallestKept) return py::array_t<T>(shape);
  auto buffer = std::make_unique<Buffer>(bytes);
  T* const data = buffer->as<T>();
  const py::capsule owner(buffer.get(), [](void* p) { delete static_cast<Buffer*>(p); });
  (void)buffer.release();  // it is the capsule's now
  return py::array_t<T>(shape, data, owner);
}

template <class T>
T* data_of(const py::array_t<T>& array) {
  return reinterpret_cast<T*>(proxy(array)->data);
}

// An output that the caller gave: exactly right, writeable, or refused.
template <class T>
T* write_output(const char* name, const char* symbols, std::initializer_list<std::int64_t> dims, py::handle h) {
  require_array(name, h);
  require_dtype<T>(name, h);
  require_shape(name, symbols, dims, h);
  const int flags = proxy(h)->flags;
  const auto fail = [&](const char* wanted, const char* got) {
    throw py::value_error(wrong_layout(name, wanted, got));
  };
  if (!(flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_)) fail("writeable", "read-only");
  if (!(flags & py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_)) fail("C-contiguous", "strided");
  if (!(flags & py::detail::npy_api::NPY_ARRAY_ALIGNED_)) fail("aligned", "misaligned");
  return reinterpret_cast<T*>(proxy(h)->data);
}

// An item of the dict, which others may change meanwhile; null if there is none.
inline py::object item_or_null(const py::dict& dict, PyObject* key) {
#if PY_VERSION_HEX >= 0x030D0000
  PyObject* found = nullptr;
  if (PyDict_GetItemRef(dict.ptr(), key, &found) < 0) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(found);
#else
  auto item = py::reinterpret_borrow<py::object>(PyDict_GetItemWithError(dict.ptr(), key));
  if (!item && PyErr_Occurred()) throw py::error_already_set();
  return item;
#endif
}
// The same; None if there is none.
inline py::object item_or_none(const py::dict& dict, PyObject* key) {
  py::object item = item_or_null(dict, key);
  return item ? item : py::none();
}

inline py::dict copied(const py::dict& from) {
  PyObject* const copy = PyDict_Copy(from.ptr());
  if (!copy) throw py::error_already_set();
  return py::reinterpret_steal<py::dict>(copy);
}

// The addresses from the array's first byte to its last.
struct Extent {
  const char *first, *last;
};

inline Extent extent_of(py::handle array) {
  const auto* a = proxy(array);
  Extent e{a->data, a->data};
  const auto item = py::reinterpret_borrow<py::array>(array).itemsize();
  e.last = a->data + item;
  for (int i = 0; i < a->nd; ++i) {
    if (a->dimensions[i] == 0) return {a->data, a->data};
    const auto span = (a->dimensions[i] - 1) * a->strides[i];
    if (span > 0)
      e.last += span;
    else
      e.first += span;
  }
  return e;
}

inline void require_apart(const char* out_name, py::handle out, const char* in_name, py::handle in) {
  if (in.is_none()) return;
  const Extent a = extent_of(out), b = extent_of(in);
  if (a.first < b.last && b.first < a.last) {
    throw py::value_error(std::string(out_name) + ": expected memory of its own, got an array that overlaps " +
                          in_name);
  }
}

inline bool read_bool(const char* name, py::handle h) {
  if (!PyBool_Check(h.ptr())) throw py::type_error(wrong_type(name, "bool", type_name(h)));
  return h.ptr() == Py_True;
}

inline void require_positive(const char* name, std::int64_t n, std::int64_t most) {
  if (n >= 1 && n <= most) return;
  throw py::value_error(std::string(name) + ": expected an integer in 1.." + std::to_string(most) + ", got " +
                        std::to_string(n));
}

}  // namespace fusedrnn
