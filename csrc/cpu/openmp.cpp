#include "openmp.hpp"

#include <atomic>
#include <cstring>
#include <memory>
#include <utility>

#include "../platform/platform.hpp"
#include "threads.hpp"

namespace fusedrnn {

namespace {

struct Found {
  OpenMP functions;
  std::string file;
};

// Found once, kept as long as the process.
std::atomic<const Found*> found{nullptr};
// The libraries that had been loaded when none was found.
std::atomic<unsigned long long> seen{0};

bool is_runtime(const char* path) {
  const char* const slash = std::strrchr(path, '/');
  const char* const name = slash ? slash + 1 : path;
  for (const char* const prefix : {"libgomp", "libiomp5", "libomp"}) {
    const std::size_t n = std::strlen(prefix);
    // Not another library whose name goes on, as libomptarget's does.
    if (std::strncmp(name, prefix, n) == 0 && (name[n] == '.' || name[n] == '-')) return true;
  }
  return false;
}

template <class Function>
bool resolve(void* library, const char* name, Function& to) {
  to = reinterpret_cast<Function>(find_function(library, name));
  return to != nullptr;
}

// The runtime in this file, which is loaded; null if it lacks a function.
std::unique_ptr<Found> open(const char* path) {
  void* const library = open_loaded_library(path);
  if (!library) return nullptr;
  auto made = std::make_unique<Found>();
  made->file = path;
  OpenMP& f = made->functions;
  const bool all =
      resolve(library, "GOMP_parallel", f.parallel) && resolve(library, "omp_in_parallel", f.in_parallel) &&
      resolve(library, "omp_get_thread_num", f.thread_num) && resolve(library, "omp_get_num_threads", f.num_threads);
  return all ? std::move(made) : nullptr;
}

const Found* find() {
  if (const Found* const known = found.load(std::memory_order_acquire)) return known;
  const unsigned long long loaded = count_loaded_libraries();
  if (loaded == seen.load(std::memory_order_relaxed)) return nullptr;
  const std::string path = loaded_library(is_runtime);
  std::unique_ptr<Found> made = path.empty() ? nullptr : open(path.c_str());
  if (!made) {
    seen.store(loaded, std::memory_order_relaxed);
    return nullptr;
  }
  const Found* known = nullptr;
  if (found.compare_exchange_strong(known, made.get(), std::memory_order_acq_rel)) known = made.release();
  return known;
}

const int forks_at_start = forks();

}  // namespace

const OpenMP* host_openmp() {
  if (forks() != forks_at_start) return nullptr;
  const Found* const known = find();
  return known ? &known->functions : nullptr;
}

std::string host_openmp_file() {
  const Found* const known = find();
  return known ? known->file : std::string();
}

}  // namespace fusedrnn
