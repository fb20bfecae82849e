#include "nvml.hpp"

#include <memory>

#include "../platform/platform.hpp"

namespace fusedrnn {
namespace cuda {
namespace {

// The part of NVML's interface that is used here, with its own names (nvml.h). A result is an int, 0 for success; a
// handle is an opaque pointer.
// clang-format off
#define RNN_NVML_CALLS(X)                                          \
  X(int, nvmlInit_v2, ())                                          \
  X(int, nvmlShutdown, ())                                         \
  X(int, nvmlDeviceGetCount_v2, (unsigned*))                       \
  X(int, nvmlDeviceGetHandleByIndex_v2, (unsigned, void**))        \
  X(int, nvmlDeviceGetName, (void*, char*, unsigned))              \
  X(int, nvmlDeviceGetCudaComputeCapability, (void*, int*, int*))  \
  X(const char*, nvmlErrorString, (int))
// clang-format on

struct NvmlCalls {
#define RNN_NVML_POINTER(type, name, arguments) type(*name) arguments = nullptr;
  RNN_NVML_CALLS(RNN_NVML_POINTER)
#undef RNN_NVML_POINTER
};

std::string not_listed(const NvmlCalls& calls, int result) {
  const char* const text = calls.nvmlErrorString(result);
  return "the NVIDIA driver does not list its GPUs: NVML error " + std::to_string(result) +
         (text ? std::string(", ") + text : "");
}

GpuList list_with(const NvmlCalls& calls) {
  GpuList list;
  unsigned count = 0;
  const int result = calls.nvmlDeviceGetCount_v2(&count);
  if (result != 0) list.problem = not_listed(calls, result);
  for (unsigned i = 0; i < count; ++i) {
    void* device = nullptr;
    if (calls.nvmlDeviceGetHandleByIndex_v2(i, &device) != 0) continue;  // not for this process
    Gpu gpu;
    char name[256] = "";
    calls.nvmlDeviceGetName(device, name, sizeof name);
    calls.nvmlDeviceGetCudaComputeCapability(device, &gpu.major, &gpu.minor);
    gpu.name = name;
    list.gpus.push_back(gpu);
  }
  return list;
}

}  // namespace

GpuList list_gpus(const std::string& library_path) {
  const std::unique_ptr<void, void (*)(void*)> library(open_library(library_path), close_library);
  if (!library) return {{}, "the GPUs cannot be listed: " + library_path + " cannot be loaded"};
  NvmlCalls calls;
#define RNN_NVML_FIND(type, name, arguments)                                             \
  calls.name = reinterpret_cast<type(*) arguments>(find_function(library.get(), #name)); \
  if (!calls.name) return {{}, "the GPUs cannot be listed: " + library_path + " has no " #name};
  RNN_NVML_CALLS(RNN_NVML_FIND)
#undef RNN_NVML_FIND
  const int result = calls.nvmlInit_v2();
  if (result != 0) return {{}, not_listed(calls, result)};
  GpuList list = list_with(calls);
  calls.nvmlShutdown();
  return list;
}

}  // namespace cuda
}  // namespace fusedrnn
