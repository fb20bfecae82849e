// A libcuda.so.1 and libnvidia-ml.so.1 for tests: memory of the device is the process's own, kernels run in the
// emulator when they are launched. FAKE_CUDA_FAIL="cuInit:100" makes a call fail; FAKE_CUDA_WAIT="cuInit" makes it wait
// for fake_cuda_go, and fail if that does not come; FAKE_CUDA_DEVICES, FAKE_CUDA_VERSION, FAKE_CUDA_MAJOR,
// FAKE_CUDA_MULTIPROCESSORS, FAKE_CUDA_SHARED, FAKE_CUDA_THREADS, FAKE_CUDA_OCCUPANCY set what it says of itself.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>

#include "../../csrc/cuda/kernels.cu"
#include "../../csrc/platform/float_environment.hpp"

namespace {

int setting(const char* name, int otherwise) {
  const char* const value = std::getenv(name);
  return value ? std::atoi(value) : otherwise;
}

std::atomic<bool> waiting{false}, go{false};

// Whether FAKE_CUDA_WAIT names the call, and nobody comes for 10 seconds.
bool waits_in_vain(const char* call) {
  const char* const asked = std::getenv("FAKE_CUDA_WAIT");
  if (!asked || std::strcmp(asked, call) != 0) return false;
  waiting = true;
  for (int i = 0; i < 10000 && !go; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return !go;
}

// The result that a call shall have instead of its work, or 0.
int failure(const char* call) {
  if (waits_in_vain(call)) return 999;
  const char* const asked = std::getenv("FAKE_CUDA_FAIL");
  const std::size_t n = std::strlen(call);
  return asked && std::strncmp(asked, call, n) == 0 && asked[n] == ':' ? std::atoi(asked + n + 1) : 0;
}
#define MAY_FAIL(call) \
  if (const int result = failure(call)) return result

struct Kernel {
  const char* name;
  void (*run)(void** parameters);
};

template <class A, void (*kernel)(A)>
void run_with(void** parameters) {
  kernel(*static_cast<const A*>(parameters[0]));
}

#define RNN_FAKE_KERNEL(kind, name, tiles) \
  {"fusedrnn_" #kind "_" #name "_" #tiles, run_with<const Arguments, fusedrnn_##kind##_##name##_##tiles>},
#define RNN_FAKE_KERNELS_OF(name, tiles) \
  RNN_FAKE_KERNEL(forward, name, tiles)  \
  RNN_FAKE_KERNEL(backward, name, tiles) \
  RNN_FAKE_KERNEL(exchange, name, tiles)
#define RNN_FAKE_KERNELS(name, bytes) \
  RNN_FAKE_KERNELS_OF(name, 1)        \
  RNN_FAKE_KERNELS_OF(name, 2)        \
  RNN_FAKE_KERNELS_OF(name, 4){"fusedrnn_pack_" #name, run_with<const PackArguments, fusedrnn_pack_##name>},
#define RNN_FAKE_STEP_KERNEL(name)                                                             \
  {"fusedrnn_step_" #name "_float", run_with<const StepLaunch, fusedrnn_step_##name##_float>}, \
      {"fusedrnn_step_" #name "_double", run_with<const StepLaunch, fusedrnn_step_##name##_double>},
const Kernel kKernels[] = {RNN_CUDA_FORMATS(RNN_FAKE_KERNELS) RNN_STEP_KERNELS(RNN_FAKE_STEP_KERNEL)};

constexpr int kThreads = 64;
thread_local int contexts = 0;  // pushed and not popped
std::atomic<int> launches{0}, cooperative_launches{0};
std::atomic<void*> last_stream{nullptr};
std::mutex emulating;
pid_t initialised = 0;  // the process
char context, module;

int launch(void* f, unsigned blocks, unsigned threads, unsigned shared, void* stream, void** parameters) {
  if (contexts == 0) return 201;  // invalid context
  if (static_cast<int>(threads) > setting("FAKE_CUDA_THREADS", kThreads) || blocks == 0 ||
      static_cast<int>(shared) > setting("FAKE_CUDA_SHARED", 49152))
    return 1;
  ++launches;
  last_stream = stream;
  const Kernel& kernel = *static_cast<const Kernel*>(f);
  const std::lock_guard<std::mutex> lock(emulating);
  const fusedrnn::FloatEnvironment environment;  // as kernels are compiled: subnormals count as zeros
  const emulator::End end =
      emulator::run(static_cast<int>(blocks), static_cast<int>(threads), shared, [&] { kernel.run(parameters); });
  return end == emulator::End::done ? 0 : end == emulator::End::stuck ? 702 : 719;  // launch timeout, launch failed
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int cuInit(unsigned) {
  MAY_FAIL("cuInit");
  if (initialised != 0 && initialised != getpid()) return 3;  // not initialised, and never in this process
  initialised = getpid();
  return 0;
}
#ifndef FAKE_CUDA_ANCIENT
EXPORT int cuDriverGetVersion(int* version) {
  MAY_FAIL("cuDriverGetVersion");
  *version = setting("FAKE_CUDA_VERSION", 13000);
  return 0;
}
#endif
EXPORT int cuDeviceGetCount(int* count) {
  MAY_FAIL("cuDeviceGetCount");
  *count = setting("FAKE_CUDA_DEVICES", 1);
  return 0;
}
EXPORT int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return 0;
}
EXPORT int cuDeviceGetName(char* name, int size, int) {
  std::snprintf(name, static_cast<std::size_t>(size), "Emulated GPU");
  return 0;
}
EXPORT int cuDeviceGetAttribute(int* value, int attribute, int) {
  MAY_FAIL("cuDeviceGetAttribute");
  *value = attribute == 75   ? setting("FAKE_CUDA_MAJOR", 9)
           : attribute == 16 ? setting("FAKE_CUDA_MULTIPROCESSORS", 5)
           : attribute == 97 ? setting("FAKE_CUDA_SHARED", 49152)
                             : 0;
  return 0;
}
EXPORT int cuDevicePrimaryCtxRetain(void** to, int) {
  MAY_FAIL("cuDevicePrimaryCtxRetain");
  *to = &context;
  return 0;
}
EXPORT int cuCtxPushCurrent_v2(void*) {
  ++contexts;
  return 0;
}
EXPORT int cuCtxPopCurrent_v2(void**) {
  --contexts;
  return 0;
}
EXPORT int cuModuleLoadData(void** to, const void*) {
  MAY_FAIL("cuModuleLoadData");
  *to = &module;
  return 0;
}
EXPORT int cuModuleGetFunction(void** f, void*, const char* name) {
  for (const Kernel& kernel : kKernels) {
    if (std::strcmp(name, kernel.name) != 0) continue;
    *f = const_cast<Kernel*>(&kernel);
    return 0;
  }
  return 500;  // not found
}
EXPORT int cuFuncGetAttribute(int* value, int, void*) {
  *value = setting("FAKE_CUDA_THREADS", kThreads);
  return 0;
}
EXPORT int cuFuncSetAttribute(void*, int, int) { return 0; }
EXPORT int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void*, int, std::size_t) {
  *blocks = setting("FAKE_CUDA_OCCUPANCY", 1);
  return 0;
}
EXPORT int cuLaunchKernel(void* f, unsigned blocks, unsigned, unsigned, unsigned threads, unsigned, unsigned,
                          unsigned shared, void* stream, void** parameters, void**) {
  MAY_FAIL("cuLaunchKernel");
  return launch(f, blocks, threads, shared, stream, parameters);
}
EXPORT int cuLaunchCooperativeKernel(void* f, unsigned blocks, unsigned, unsigned, unsigned threads, unsigned, unsigned,
                                     unsigned shared, void* stream, void** parameters) {
  MAY_FAIL("cuLaunchCooperativeKernel");
  ++cooperative_launches;
  return launch(f, blocks, threads, shared, stream, parameters);
}
EXPORT int cuMemsetD8Async(std::uint64_t p, unsigned char value, std::size_t bytes, void*) {
  MAY_FAIL("cuMemsetD8Async");
  std::memset(reinterpret_cast<void*>(p), value, bytes);
  return 0;
}
EXPORT int cuGetErrorName(int result, const char** name) {
  *name = result == 719   ? "CUDA_ERROR_LAUNCH_FAILED"
          : result == 200 ? "CUDA_ERROR_INVALID_IMAGE"
          : result == 209 ? "CUDA_ERROR_NO_BINARY_FOR_GPU"
          : result == 218 ? "CUDA_ERROR_INVALID_PTX"
          : result == 300 ? "CUDA_ERROR_INVALID_SOURCE"
          : result == 222 ? "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"
          : result == 702 ? "CUDA_ERROR_LAUNCH_TIMEOUT"
                          : nullptr;
  return *name ? 0 : 1;
}
EXPORT int cuGetErrorString(int, const char** text) {
  *text = nullptr;
  return 1;
}

EXPORT int nvmlInit_v2() {
  MAY_FAIL("nvmlInit_v2");
  return 0;
}
EXPORT int nvmlShutdown() { return 0; }
EXPORT int nvmlDeviceGetCount_v2(unsigned* count) {
  MAY_FAIL("nvmlDeviceGetCount_v2");
  *count = static_cast<unsigned>(setting("FAKE_CUDA_DEVICES", 1));
  return 0;
}
EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned, void** device) {
  MAY_FAIL("nvmlDeviceGetHandleByIndex_v2");
  *device = nullptr;
  return 0;
}
EXPORT int nvmlDeviceGetName(void*, char* name, unsigned size) {
  std::snprintf(name, size, "Emulated GPU");
  return 0;
}
EXPORT int nvmlDeviceGetCudaComputeCapability(void*, int* major, int* minor) {
  *major = setting("FAKE_CUDA_MAJOR", 9);
  *minor = 0;
  return 0;
}
EXPORT const char* nvmlErrorString(int) { return "Fake"; }

// What tests ask.
EXPORT int fake_cuda_initialised() { return initialised == getpid(); }
EXPORT void fake_cuda_seed(unsigned seed) { emulator::shuffler.seed(seed); }
EXPORT int fake_cuda_launches(bool cooperative) { return cooperative ? cooperative_launches : launches; }
EXPORT void* fake_cuda_last_stream() { return last_stream; }
EXPORT int fake_cuda_waiting() { return waiting; }
EXPORT void fake_cuda_go() { go = true; }
EXPORT int fake_cuda_contexts() { return contexts; }
