#include "driver.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <optional>
#include <stdexcept>
#include <utility>

#include "../platform/platform.hpp"
#include "../read_file.hpp"

namespace fusedrnn {
namespace cuda {
namespace {

// From cuda.h: CUresult, CUdevice_attribute, CUfunction_attribute.
constexpr int kOutOfMemory = 2, kNoDevice = 100;
constexpr int kUnfit[] = {200, 209, 218, 222, 300};  // invalid image, no binary, invalid PTX, unsupported PTX, source
constexpr int kComputeMajor = 75, kComputeMinor = 76, kMultiprocessors = 16, kSharedPerBlockOptin = 97;
constexpr int kThreadsOfKernel = 0, kDynamicSharedBytes = 8;

constexpr int kOldestVersion = 12000;
constexpr int kOldestMajor = 8;  // sm_80: bfloat16 and tf32 on tensor cores

constexpr const char* kNoGpu = "the NVIDIA driver finds no GPU";
constexpr const char* kForked = "this process was forked from one that had opened the NVIDIA driver";

constexpr const char* kKindNames[kKinds] = {"forward", "backward", "exchange", "pack"};
#define RNN_STEP_NAME(name) #name,
constexpr const char* kStepNames[kStepKernels] = {RNN_STEP_KERNELS(RNN_STEP_NAME)};
#undef RNN_STEP_NAME

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// Whether CUDA_VISIBLE_DEVICES leaves none of this many GPUs: it names GPUs, as far as the first entry that does not.
bool hides(const char* visible, std::size_t gpus) {
  if (!visible) return false;
  const std::string first(visible + std::strspn(visible, " "));
  if (first.compare(0, 4, "GPU-") == 0 || first.compare(0, 4, "MIG-") == 0) return false;
  return first.empty() || first[0] < '0' || first[0] > '9' || std::strtoul(first.c_str(), nullptr, 10) >= gpus;
}

}  // namespace

Driver::Driver(Paths paths) : paths_(std::move(paths)) {
  missing_ = read_image();
  if (missing_.empty()) missing_ = open_library();
  if (missing_.empty()) missing_ = check_version();
  if (!missing_.empty()) return;
  const GpuList list = list_gpus(paths_.nvml);
  listed_ = list.gpus.size();
  unlisted_ = list.problem.empty() ? check_found(list.gpus) : list.problem;
}

std::string Driver::read_image() {
  const FileKind kind = file_kind(paths_.image);
  if (kind == FileKind::none) return "this build carries no CUDA kernels";
  if (kind != FileKind::file) return "the CUDA kernels cannot be read: " + paths_.image + " is no file";
  try {
    const std::optional<std::string> bytes = read_file(paths_.image);
    if (!bytes) return "the CUDA kernels cannot be read: " + paths_.image + ": " + std::strerror(errno);
    image_.assign(bytes->begin(), bytes->end());
  } catch (const std::exception& e) {  // there is no memory for it
    return "the CUDA kernels cannot be read: " + paths_.image + ": " + e.what();
  }
  if (image_.empty()) return "the CUDA kernels cannot be read: " + paths_.image + " is empty";
  image_.push_back('\0');  // images that are PTX end with one
  return "";
}

std::string Driver::open_library() {
  void* const library = fusedrnn::open_library(paths_.library);
  if (!library) return "no NVIDIA driver: " + paths_.library + " cannot be loaded";
  std::string absent;
#define RNN_DRIVER_FIND(name, arguments)                                           \
  calls_.name = reinterpret_cast<int(*) arguments>(find_function(library, #name)); \
  if (!calls_.name && absent.empty()) absent = #name;
  RNN_DRIVER_CALLS(RNN_DRIVER_FIND)
#undef RNN_DRIVER_FIND
  return absent.empty() ? "" : "the NVIDIA driver is too old: " + paths_.library + " has no " + absent;
}

std::string Driver::check_version() {
  const int result = calls_.cuDriverGetVersion(&version_);  // needs no start
  if (result != 0) return "the NVIDIA driver does not tell its version: " + error_text(result);
  if (version_ >= kOldestVersion) return "";
  return "the NVIDIA driver is too old: it has CUDA " + version_text(version_) + ", expected " +
         version_text(kOldestVersion) + " or later";
}

std::string Driver::start() {
  process_ = process_id();
  int result = calls_.cuInit(0);
  if (result == kNoDevice) return kNoGpu;
  if (result != 0) return "the NVIDIA driver does not start: " + error_text(result);
  result = calls_.cuDeviceGetCount(&device_count_);
  if (result != 0) return "the NVIDIA driver does not list its GPUs: " + error_text(result);
  devices_.resize(static_cast<std::size_t>(device_count_));
  std::vector<Gpu> gpus(devices_.size());
  for (int i = 0; i < device_count_; ++i) {
    Gpu& gpu = gpus[static_cast<std::size_t>(i)];
    int device = 0;
    char name[256] = "";
    calls_.cuDeviceGet(&device, i);
    calls_.cuDeviceGetName(name, sizeof name, device);
    calls_.cuDeviceGetAttribute(&gpu.major, kComputeMajor, device);
    calls_.cuDeviceGetAttribute(&gpu.minor, kComputeMinor, device);
    gpu.name = name;
  }
  return check_found(gpus);
}

std::string Driver::check_found(const std::vector<Gpu>& gpus) {
  bool fits = false;
  found_.clear();
  for (const Gpu& gpu : gpus) {
    found_ +=
        (found_.empty() ? "" : ", ") + gpu.name + " (sm_" + std::to_string(gpu.major) + std::to_string(gpu.minor) + ")";
    fits = fits || gpu.major >= kOldestMajor;
  }
  if (gpus.empty()) return kNoGpu;
  return fits ? "" : "no GPU of sm_80 or later: found " + found_;
}

std::string Driver::error_text(int result) const {
  const char *name = nullptr, *text = nullptr;
  if (calls_.cuGetErrorName) calls_.cuGetErrorName(result, &name);
  if (calls_.cuGetErrorString) calls_.cuGetErrorString(result, &text);
  return (name ? std::string(name) : "CUresult " + std::to_string(result)) + (text ? std::string(", ") + text : "");
}

bool Driver::forked() const {
  const std::int64_t process = process_;
  return process != 0 && process != process_id();
}

std::string Driver::problem() const {
  if (forked()) return kForked;  // before the lock, which a thread of the parent may have held
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!missing_.empty()) return missing_;
  if (process_ != 0) return refused_;
  return unlisted_.empty() && hides(std::getenv("CUDA_VISIBLE_DEVICES"), listed_) ? kNoGpu : unlisted_;
}

std::string Driver::status() const {
  std::string what = problem();
  if (!what.empty()) return what;
  const std::lock_guard<std::mutex> lock(mutex_);
  return "ok: " + found_ + ", driver for CUDA " + version_text(version_);
}

void Driver::check(int result, const char* what) const {
  if (result == 0) return;
  if (result == kOutOfMemory) throw std::bad_alloc();
  throw std::runtime_error(std::string("CUDA: ") + what + " failed: " + error_text(result));
}

const Device& Driver::device(int ordinal) {
  if (forked()) throw std::runtime_error(std::string("CUDA: ") + kForked);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (missing_.empty() && process_ == 0) missing_ = start();
  const std::string& what = missing_.empty() ? refused_ : missing_;
  if (!what.empty()) throw std::runtime_error("CUDA: " + what);
  if (ordinal < 0 || ordinal >= device_count_) {
    throw std::runtime_error("CUDA: expected a device in 0.." + std::to_string(device_count_ - 1) + ", got " +
                             std::to_string(ordinal));
  }
  std::unique_ptr<Device>& slot = devices_[static_cast<std::size_t>(ordinal)];
  if (!slot) {
    auto made = std::make_unique<Device>();
    made->ordinal = ordinal;
    load(*made);
    slot = std::move(made);
  }
  return *slot;
}

void Driver::load(Device& d) {
  int device = 0, major = 0;
  check(calls_.cuDeviceGet(&device, d.ordinal), "cuDeviceGet");
  char name[256] = "";
  check(calls_.cuDeviceGetName(name, sizeof name, device), "cuDeviceGetName");
  d.name = name;
  check(calls_.cuDeviceGetAttribute(&major, kComputeMajor, device), "cuDeviceGetAttribute");
  if (major < kOldestMajor) throw std::runtime_error("CUDA: expected a GPU of sm_80 or later, got " + d.name);
  check(calls_.cuDeviceGetAttribute(&d.multiprocessors, kMultiprocessors, device), "cuDeviceGetAttribute");
  check(calls_.cuDeviceGetAttribute(&d.shared_bytes, kSharedPerBlockOptin, device), "cuDeviceGetAttribute");
  check(calls_.cuDevicePrimaryCtxRetain(&d.context, device), "cuDevicePrimaryCtxRetain");
  const Current current(*this, d);
  void* module = nullptr;
  const int result = calls_.cuModuleLoadData(&module, image_.data());
  if (std::find(std::begin(kUnfit), std::end(kUnfit), result) != std::end(kUnfit)) {
    refused_ = "the kernels of this build do not fit " + d.name + " with a driver for CUDA " + version_text(version_) +
               ": " + error_text(result);
    throw std::runtime_error("CUDA: " + refused_);
  }
  check(result, "cuModuleLoadData");
  for (int kind = 0; kind < kKinds; ++kind) {
    for (int format = 0; format < kFormats; ++format) {
      const bool packs = kind == static_cast<int>(Kind::pack);
      int& most = d.most_threads[kind][format];
      for (int i = 0; i < (packs ? 1 : kTileCounts); ++i) {
        std::string called = std::string(kKindNames[kind]) + "_" + kFormatNames[format];
        if (!packs) called += "_" + std::to_string(1 << i);
        void*& kernel = d.kernel[kind][format][i];
        const int threads = find_kernel(module, called, kernel);
        most = i == 0 || threads < most ? threads : most;
        if (!packs) check(calls_.cuFuncSetAttribute(kernel, kDynamicSharedBytes, d.shared_bytes), "cuFuncSetAttribute");
      }
    }
  }
  for (int i = 0; i < kStepKernels; ++i) {
    for (int wide = 0; wide < 2; ++wide) {
      const std::string called = std::string("step_") + kStepNames[i] + (wide ? "_double" : "_float");
      d.step_threads[i][wide] = find_kernel(module, called, d.step[i][wide]);
    }
  }
}

int Driver::find_kernel(void* module, const std::string& name, void*& kernel) const {
  const std::string called = "fusedrnn_" + name;
  check(calls_.cuModuleGetFunction(&kernel, module, called.c_str()), called.c_str());
  int threads = 0;
  check(calls_.cuFuncGetAttribute(&threads, kThreadsOfKernel, kernel), "cuFuncGetAttribute");
  return threads;
}

Driver& driver(const Paths& paths) {
  static std::mutex mutex;
  static Driver* opened = nullptr;
  const auto known = [&] { return opened && opened->paths() == paths; };
  {
    const std::lock_guard<std::mutex> lock(mutex);
    if (known()) return *opened;
  }
  auto made = std::make_unique<Driver>(paths);  // outside the lock, which a fork could leave locked
  const std::lock_guard<std::mutex> lock(mutex);
  if (!known()) opened = made.release();
  return *opened;
}

}  // namespace cuda
}  // namespace fusedrnn
