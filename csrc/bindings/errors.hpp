// The text of errors about arguments, for this module and for backends that are written in Python:
//     weight_hh: expected shape (4*hidden_size, hidden_size) = (512, 128), got (512, 127)
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fusedrnn {

using Dims = std::vector<std::int64_t>;

std::string shape_text(const Dims& dims);
std::string wrong_type(const std::string& name, const std::string& expected, const std::string& got);
std::string wrong_dtype(const std::string& name, const std::string& expected, const std::string& got);
// `symbols` is the expected shape in words, `dims` in numbers.
std::string wrong_shape(const std::string& name, const std::string& symbols, const Dims& dims, const Dims& got);
std::string wrong_rank(const std::string& name, const std::string& symbols, int rank, const Dims& got);
// Of an argument that the cell does not take.
std::string not_taken(const std::string& name, const std::string& cell, const std::string& got);
// Of the array whose shape gives the sizes.
std::string wrong_size(const std::string& name, const std::string& symbols, const Dims& got);
// Of the matrix that projects, whose rows give proj_size.
std::string wrong_proj(const std::string& name, const std::string& symbols, std::int64_t hidden, const Dims& got);
std::string wrong_layout(const std::string& name, const std::string& expected, const std::string& got);
std::string too_large(const std::string& name, const Dims& dims);

}  // namespace fusedrnn
