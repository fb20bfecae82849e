// Where the masks of a call in training come from: None, a seed, or a dict of bool arrays by name.
#pragma once

#include <string>
#include <vector>

#include "../regularisation.hpp"
#include "arrays.hpp"
#include "weights.hpp"

namespace fusedrnn {

class MaskArguments {
 public:
  explicit MaskArguments(py::handle source) {
    if (source.is_none()) return;
    given_ = true;
    if (PyDict_Check(source.ptr())) {
      masks_ = py::reinterpret_borrow<py::dict>(source).attr("copy")();
      return;
    }
    if (!PyLong_Check(source.ptr())) throw py::type_error(wrong_type("source", "int, dict or None", type_name(source)));
    seed_ = PyLong_AsUnsignedLongLong(source.ptr());
    if (seed_ == static_cast<std::uint64_t>(-1) && PyErr_Occurred()) throw py::error_already_set();
  }

  bool are_arrays() const { return static_cast<bool>(masks_); }
  std::uint64_t seed() const { return seed_; }

  // The masks of a call on these weights, whose names end so. They live as long as this object.
  MaskSource of(const PyWeights& w, std::int64_t seq_len, std::int64_t batch, const std::string& end = "") {
    MaskSource source;
    source.seed = seed_;
    for (int m = 0; m < kMasks; ++m) {
      if (!w.options.has(static_cast<Mask>(m))) continue;
      const std::string name = kMaskNames[m] + end;
      if (!given_) throw py::value_error("source: expected one of masks, as there is " + name + ", got None");
      if (are_arrays()) source.given[m] = read(name, dims_of_mask(w, static_cast<Mask>(m), seq_len, batch));
    }
    return source;
  }
  // A mask of this name and shape.
  const std::uint8_t* read(const std::string& name, const std::vector<std::int64_t>& dims) {
    const py::str key(name);
    const py::object array = item_or_none(masks_, key.ptr());
    require_array(name.c_str(), array);
    if (!has_dtype(array, py::detail::npy_api::NPY_BOOL_)) fail_dtype(name.c_str(), "bool", array);
    if (dims_of(array) != dims) {
      throw py::value_error(name + ": expected shape " + shape_text(dims) + ", got " + shape_text(dims_of(array)));
    }
    arrays_.push_back(contiguous<std::uint8_t>(array));
    return arrays_.back().data;
  }

 private:
  static std::vector<std::int64_t> dims_of_mask(const PyWeights& w, Mask mask, std::int64_t seq_len,
                                                std::int64_t batch) {
    switch (mask) {
      case kZoneoutH:
        return {seq_len, batch, w.proj};
      case kInputDropout:
        return {batch, w.input};
      case kRecurrentDropout:
        return {batch, w.proj};
      case kWeightDropout:
        return {w.facts().matrix[0].blocks * block_rows(w.facts(), 0, w.hidden, w.proj),
                matrix_columns(w.facts(), 0, w.hidden, w.proj, w.heads)};
      default:
        return {seq_len, batch, w.hidden};
    }
  }

  bool given_ = false;
  std::uint64_t seed_ = 0;
  py::dict masks_ = py::reinterpret_steal<py::dict>(py::handle());
  std::vector<Input<std::uint8_t>> arrays_;
};

}  // namespace fusedrnn
