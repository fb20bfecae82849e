// The stepwise driver: any cell, by some launches for each step (step_arguments.hpp).
#pragma once

#include <vector>

#include "driver.hpp"
#include "step_arguments.hpp"

namespace fusedrnn {
namespace cuda {

// Runs the steps [first, last) of forward, in the order in which they run, on a stream. A call is run in parts, in
// order; `a.pre` has room for a part.
void run_forward_steps(const Driver& driver, const Device& device, const StepArguments& a,
                       const std::vector<Clock>& clocks, int64_t first, int64_t last, void* stream);

// Runs backward.
void run_backward_steps(const Driver& driver, const Device& device, const StepArguments& a,
                        const std::vector<Clock>& clocks, void* stream);

}  // namespace cuda
}  // namespace fusedrnn
