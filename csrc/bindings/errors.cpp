#include "errors.hpp"

#include <pybind11/stl.h>

#include "register.hpp"

namespace fusedrnn {

std::string shape_text(const Dims& dims) {
  std::string text = "(";
  for (std::size_t i = 0; i < dims.size(); ++i) text += (i ? ", " : "") + std::to_string(dims[i]);
  return text + (dims.size() == 1 ? ",)" : ")");
}

std::string wrong_type(const std::string& name, const std::string& expected, const std::string& got) {
  return name + ": expected " + expected + ", got " + got;
}

std::string wrong_dtype(const std::string& name, const std::string& expected, const std::string& got) {
  return name + ": expected dtype " + expected + ", got " + got;
}

std::string wrong_shape(const std::string& name, const std::string& symbols, const Dims& dims, const Dims& got) {
  return name + ": expected shape " + symbols + " = " + shape_text(dims) + ", got " + shape_text(got);
}

std::string wrong_rank(const std::string& name, const std::string& symbols, int rank, const Dims& got) {
  return name + ": expected " + std::to_string(rank) + " dimensions " + symbols + ", got shape " + shape_text(got);
}

std::string not_taken(const std::string& name, const std::string& cell, const std::string& got) {
  return wrong_type(name, "None for cell '" + cell + "'", got);
}

std::string wrong_size(const std::string& name, const std::string& symbols, const Dims& got) {
  return name + ": expected shape " + symbols + " with hidden_size and input_size at least 1, got " + shape_text(got);
}

std::string wrong_proj(const std::string& name, const std::string& symbols, std::int64_t hidden, const Dims& got) {
  return name + ": expected shape " + symbols + " with proj_size in 1..hidden_size-1 = 1.." +
         std::to_string(hidden - 1) + ", got " + shape_text(got);
}

std::string wrong_layout(const std::string& name, const std::string& expected, const std::string& got) {
  return name + ": expected a " + expected + " array, got a " + got + " one";
}

std::string too_large(const std::string& name, const Dims& dims) {
  return name + ": shape " + shape_text(dims) + " needs more bytes than 64 bits can count";
}

void register_errors(pybind11::module_& m) {
  m.def("wrong_type", &wrong_type);
  m.def("wrong_dtype", &wrong_dtype);
  m.def("wrong_shape", &wrong_shape);
  m.def("wrong_rank", &wrong_rank);
  m.def("not_taken", &not_taken);
  m.def("wrong_size", &wrong_size);
  m.def("wrong_proj", &wrong_proj);
  m.def("wrong_layout", &wrong_layout);
}

}  // namespace fusedrnn
