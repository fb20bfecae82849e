// How a launch is cut up for a GPU: which thread blocks have which units and rows, and which weights stay on chip.
#pragma once

#include <cstddef>

#include "arguments.hpp"

namespace fusedrnn {
namespace cuda {

struct Limits {
  int multiprocessors, shared_bytes, most_threads;  // shared memory and threads that one thread block may have
};

// Throws std::invalid_argument for a cell that the kernels do not run.
void require_runs(const CellFacts& facts);

// Choices that the caller makes in place of the cost model; 0: the model's own.
struct Forced {
  int octets_per_group = 0, groups_per_block = 0;
};

// Throws std::invalid_argument for a cell that the kernels do not run, and std::runtime_error if a thread block
// can have too little shared memory, or no plan has what is forced.
Plan make_plan(const CellFacts& facts, Format format, int64_t batch, int64_t hidden, bool backward,
               const Limits& limits, const Forced& forced);

// Packed weights of a product, the same for all plans.
PackArguments make_pack(const CellFacts& facts, Format format, int64_t hidden, bool backward, int product);
std::size_t packed_bytes(const PackArguments& pack);

// Operands of a product that thread blocks give to each other.
std::size_t exchange_bytes(const Plan& plan, int product);

}  // namespace cuda
}  // namespace fusedrnn
