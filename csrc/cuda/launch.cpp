#include "launch.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace fusedrnn {
namespace cuda {
namespace {

constexpr unsigned kPackThreads = 256, kPackBlocksEach = 8;

// No operand has been given yet: all bits are set (product.hpp).
void empty_exchange(const Driver& driver, void* p, std::size_t bytes, void* stream) {
  if (bytes == 0) return;
  driver.check(driver.calls().cuMemsetD8Async(reinterpret_cast<std::uint64_t>(p), 0xff, bytes, stream),
               "cuMemsetD8Async");
}

// Thread blocks that wait for each other must all be there at once: the driver is asked, and then launches them
// together or not at all.
void require_room(const Driver& driver, const Device& device, void* kernel, const Plan& plan, unsigned blocks) {
  int each = 0;
  driver.check(driver.calls().cuOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, 32 * plan.warps,
                                                                          static_cast<std::size_t>(plan.shared_bytes)),
               "cuOccupancyMaxActiveBlocksPerMultiprocessor");
  const int64_t room = static_cast<int64_t>(each) * device.multiprocessors;
  if (room < blocks) {
    throw std::runtime_error("CUDA: " + std::to_string(blocks) + " thread blocks must run at once, and " + device.name +
                             " has room for " + std::to_string(room));
  }
}

}  // namespace

void run(const Driver& driver, const Device& device, Kind kind, Format format, Arguments a, void* stream) {
  require_runs(facts_of(a.cell));
  const Plan& plan = a.plan;
  void* const kernel = device.kernel[static_cast<int>(kind)][static_cast<int>(format)][plan.tiles / 2];
  for (int p = 0; p < plan.products; ++p) empty_exchange(driver, a.exchange[p], exchange_bytes(plan, p), stream);
  const auto blocks = static_cast<unsigned>(plan.unit_blocks * plan.batch_groups);
  const auto threads = static_cast<unsigned>(32 * plan.warps), shared = static_cast<unsigned>(plan.shared_bytes);
  void* parameters[] = {&a};
  if (!blocks_meet(plan)) {
    driver.check(
        driver.calls().cuLaunchKernel(kernel, blocks, 1, 1, threads, 1, 1, shared, stream, parameters, nullptr),
        "cuLaunchKernel");
    return;
  }
  require_room(driver, device, kernel, plan, blocks);
  driver.check(
      driver.calls().cuLaunchCooperativeKernel(kernel, blocks, 1, 1, threads, 1, 1, shared, stream, parameters),
      "cuLaunchCooperativeKernel");
}

void run_pack(const Driver& driver, const Device& device, Format format, PackArguments a, void* stream) {
  const std::size_t pieces = packed_bytes(a) / 16;
  if (pieces == 0) return;
  const int kind = static_cast<int>(Kind::pack), index = static_cast<int>(format);
  const auto threads = std::min(kPackThreads, static_cast<unsigned>(device.most_threads[kind][index]));
  const std::size_t most = static_cast<std::size_t>(device.multiprocessors) * kPackBlocksEach;
  const auto blocks = static_cast<unsigned>(std::min(most, (pieces + threads - 1) / threads));
  void* parameters[] = {&a};
  driver.check(driver.calls().cuLaunchKernel(device.kernel[kind][index][0], blocks, 1, 1, threads, 1, 1, 0, stream,
                                             parameters, nullptr),
               "cuLaunchKernel");
}

}  // namespace cuda
}  // namespace fusedrnn
