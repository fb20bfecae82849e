// The calls of weights: inference, forward, backward, one step, for every cell.
#pragma once

#include "weights.hpp"

namespace fusedrnn {

const char* dtype_name(const PyWeights& w);   // of arrays
const char* format_name(const PyWeights& w);  // of weights

void register_calls(py::module_& m, py::class_<PyWeights>& weights);

}  // namespace fusedrnn
