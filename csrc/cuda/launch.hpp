// Launches kernels on a caller's stream. Nothing here waits for the GPU.
#pragma once

#include "driver.hpp"
#include "plan.hpp"

namespace fusedrnn {
namespace cuda {

inline Limits limits_of(const Device& device, Kind kind, Format format) {
  return {device.multiprocessors, device.shared_bytes,
          device.most_threads[static_cast<int>(kind)][static_cast<int>(format)]};
}

// Zeroes the memory in which thread blocks give operands to each other, and runs a sequence. The device's context must
// be current. Throws std::invalid_argument for a cell that the kernels do not run.
void run(const Driver& driver, const Device& device, Kind kind, Format format, Arguments arguments, void* stream);

void run_pack(const Driver& driver, const Device& device, Format format, PackArguments arguments, void* stream);

}  // namespace cuda
}  // namespace fusedrnn
