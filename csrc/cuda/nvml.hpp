// The GPUs of this machine as NVIDIA's management library lists them. Unlike the CUDA driver's own list, it leaves a
// process whose children can use CUDA.
#pragma once

#include <string>
#include <vector>

namespace fusedrnn {
namespace cuda {

struct Gpu {
  std::string name;
  int major = 0, minor = 0;  // sm_...
};

struct GpuList {
  std::vector<Gpu> gpus;
  std::string problem;  // in one sentence; empty if the list could be read
};

// Opens the library at this path, and closes it.
GpuList list_gpus(const std::string& library_path);

}  // namespace cuda
}  // namespace fusedrnn
