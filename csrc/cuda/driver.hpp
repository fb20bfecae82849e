// The NVIDIA driver, opened when it is first asked for and started when it is first used, and the kernels that it has
// loaded. No CUDA header or library is needed to build this or to run without a GPU.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "arguments.hpp"
#include "nvml.hpp"
#include "step_arguments.hpp"

namespace fusedrnn {
namespace cuda {

// The part of the driver's interface that is used here, with its own names (CUDA Driver API, cuda.h). CUresult is an
// int, 0 for success; handles are opaque pointers.
// clang-format off
#define RNN_DRIVER_CALLS(X)                                                                                        \
  X(cuInit, (unsigned))                                                                                            \
  X(cuDriverGetVersion, (int*))                                                                                    \
  X(cuDeviceGetCount, (int*))                                                                                      \
  X(cuDeviceGet, (int*, int))                                                                                      \
  X(cuDeviceGetName, (char*, int, int))                                                                            \
  X(cuDeviceGetAttribute, (int*, int, int))                                                                        \
  X(cuDevicePrimaryCtxRetain, (void**, int))                                                                       \
  X(cuCtxPushCurrent_v2, (void*))                                                                                  \
  X(cuCtxPopCurrent_v2, (void**))                                                                                  \
  X(cuModuleLoadData, (void**, const void*))                                                                       \
  X(cuModuleGetFunction, (void**, void*, const char*))                                                             \
  X(cuFuncGetAttribute, (int*, int, void*))                                                                        \
  X(cuFuncSetAttribute, (void*, int, int))                                                                         \
  X(cuOccupancyMaxActiveBlocksPerMultiprocessor, (int*, void*, int, std::size_t))                                  \
  X(cuLaunchKernel, (void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**)) \
  X(cuLaunchCooperativeKernel, (void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**)) \
  X(cuMemsetD8Async, (std::uint64_t, unsigned char, std::size_t, void*))                                           \
  X(cuGetErrorName, (int, const char**))                                                                           \
  X(cuGetErrorString, (int, const char**))
// clang-format on

struct DriverCalls {
#define RNN_DRIVER_POINTER(name, arguments) int(*name) arguments = nullptr;
  RNN_DRIVER_CALLS(RNN_DRIVER_POINTER)
#undef RNN_DRIVER_POINTER
};

enum class Kind : int { forward, backward, exchange, pack };
constexpr int kKinds = 4;
constexpr int kTileCounts = 3;  // kernels are compiled for 1, 2 and 4 eights of rows at once
#define RNN_CUDA_FORMAT_NAME(name, bytes) #name,
constexpr const char* kFormatNames[kFormats] = {RNN_CUDA_FORMATS(RNN_CUDA_FORMAT_NAME)};
#undef RNN_CUDA_FORMAT_NAME

// A GPU with its primary context, which other libraries of this process share, and the kernels in it.
struct Device {
  int ordinal = 0;
  std::string name;
  int multiprocessors = 0;
  int shared_bytes = 0;  // of one thread block
  void* context = nullptr;
  void* kernel[kKinds][kFormats][kTileCounts] = {};  // by kind, format, and 0, 1, 2 for 1, 2, 4 eights; one that packs
  int most_threads[kKinds][kFormats] = {};           // in a thread block
  // The stepwise kernels, and the most threads of each: of float, of double.
  void* step[kStepKernels][2] = {};
  int step_threads[kStepKernels][2] = {};
};

// The driver, the management library, and the file of kernels.
struct Paths {
  std::string library, nvml, image;

  bool operator==(const Paths& other) const {
    return library == other.library && nvml == other.nvml && image == other.image;
  }
};

class Driver {
 public:
  explicit Driver(Paths paths);

  const Paths& paths() const { return paths_; }

  // What is missing, in one sentence; empty if nothing is known to be. Does not start the driver: after that, children
  // that this process forks could not use CUDA.
  std::string problem() const;
  // One sentence for users, whether something is missing or not.
  std::string status() const;

  // The device, its kernels loaded. Throws std::runtime_error with `problem`, or the driver's own error.
  const Device& device(int ordinal);

  const DriverCalls& calls() const { return calls_; }
  // Throws if the result is not 0: std::bad_alloc for want of memory, else std::runtime_error.
  void check(int result, const char* what) const;

 private:
  std::string read_image();  // these return a problem, or nothing
  std::string open_library();
  std::string check_version();
  std::string start();
  std::string check_found(const std::vector<Gpu>& gpus);
  bool forked() const;
  std::string error_text(int result) const;
  void load(Device& device);
  // Finds a kernel of a module; returns the most threads of its thread block.
  int find_kernel(void* module, const std::string& name, void*& kernel) const;

  const Paths paths_;
  DriverCalls calls_;
  std::vector<char> image_;
  int version_ = 0, device_count_ = 0;
  std::atomic<std::int64_t> process_{0};  // the one that has started the driver
  mutable std::mutex mutex_;              // for what follows
  std::string missing_;
  std::string unlisted_;  // the problem with the GPUs, as far as it is known before the start
  std::size_t listed_ = 0;
  std::string refused_;  // the problem with loading the kernels
  std::string found_;
  std::vector<std::unique_ptr<Device>> devices_;
};

// The driver at these paths: the same object until other paths are asked for (which tests do), and it is never freed.
Driver& driver(const Paths& paths);

// Makes a device's context current while it lives.
class Current {
 public:
  Current(const Driver& driver, const Device& device) : driver_(driver) {
    driver.check(driver.calls().cuCtxPushCurrent_v2(device.context), "cuCtxPushCurrent");
  }
  ~Current() {
    void* before = nullptr;
    driver_.calls().cuCtxPopCurrent_v2(&before);
  }
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  const Driver& driver_;
};

}  // namespace cuda
}  // namespace fusedrnn
