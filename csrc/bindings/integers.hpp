// Reads integers, one for each row of a batch, by value: from a sequence, or an array of any integer type.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "arrays.hpp"

namespace fusedrnn {

using std::int64_t;

[[noreturn]] inline void fail_integers(const char* name, const std::string& got) {
  throw py::type_error(std::string(name) + ": expected integers, got " + got);
}

inline std::string text_of(py::handle h) { return py::str(h).cast<std::string>(); }
// The i-th of a sequence's integers as the caller wrote it, or its value if the sequence has changed since.
inline std::string item_text(py::handle h, std::size_t i, int64_t value) {
  try {
    return text_of(py::object(h[py::int_(i)]));
  } catch (const py::error_already_set&) {
    return std::to_string(value);
  }
}

// The value of an int, or of an object with __index__, clamped to the range of int64.
inline int64_t integer_of(const char* name, py::handle h, const std::string& where = "") {
  if (PyBool_Check(h.ptr()) || !PyIndex_Check(h.ptr())) fail_integers(name, type_name(h) + where);
  const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(h.ptr()));
  if (!index) throw py::error_already_set();
  int overflow = 0;
  const int64_t value = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (overflow == 0) return value;
  return overflow < 0 ? std::numeric_limits<int64_t>::min() : std::numeric_limits<int64_t>::max();
}

// An array's integers, read as From, which holds all values of its dtype, and clamped to the range of int64.
template <class From>
std::vector<int64_t> values_of(py::handle array) {
  const py::array_t<From, py::array::c_style | py::array::forcecast> in(py::reinterpret_borrow<py::object>(array));
  std::vector<int64_t> values(static_cast<std::size_t>(in.size()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const From value = in.data()[i];
    constexpr auto most = std::numeric_limits<int64_t>::max();
    values[i] = std::is_unsigned_v<From> && value > static_cast<From>(most) ? most : static_cast<int64_t>(value);
  }
  return values;
}

// (count,) integers, copied: the caller's may change while the GIL is released. TypeError for bools and floats,
// ValueError for another shape. Values beyond 64 bits are clamped, as no argument allows them.
inline std::vector<int64_t> read_integers(const char* name, const char* symbols, int64_t count, py::handle h) {
  if (py::isinstance<py::array>(h)) {
    const char kind = py::reinterpret_borrow<py::array>(h).dtype().kind();
    if (kind != 'i' && kind != 'u') fail_integers(name, "dtype " + text_of(h.attr("dtype")));
    require_shape(name, symbols, {count}, h);
    auto values = kind == 'i' ? values_of<int64_t>(h) : values_of<std::uint64_t>(h);
    const auto read = static_cast<int64_t>(values.size());  // another one if the array has changed since
    if (read != count) throw py::value_error(wrong_shape(name, symbols, {count}, {read}));
    return values;
  }
  if (!PySequence_Check(h.ptr())) {
    throw py::type_error(std::string(name) + ": expected a sequence or numpy.ndarray of integers, got " + type_name(h));
  }
  const auto items = py::reinterpret_steal<py::tuple>(PySequence_Tuple(h.ptr()));
  if (!items) throw py::error_already_set();
  std::vector<int64_t> values;
  for (const py::handle item : items) {
    values.push_back(integer_of(name, item, " at index " + std::to_string(values.size())));
  }
  if (static_cast<int64_t>(values.size()) != count) {
    throw py::value_error(wrong_shape(name, symbols, {count}, {static_cast<int64_t>(values.size())}));
  }
  return values;
}

}  // namespace fusedrnn
