#include <climits>
#include <cstdlib>
#include <string>
#include <thread>

#include "../read_file.hpp"
#include "platform.hpp"
#include "windows.hpp"

#if defined(__linux__)
#include <sched.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32)
#include <memory>
#endif

namespace fusedrnn {

#if defined(__linux__)

namespace {

// The CPUs that this thread may use; false if the system does not tell.
bool get_affinity(cpu_set_t& set) {
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) == 0;
}

// The cgroup's CPU quota in whole CPUs, rounded up; 0 where there is none.
int cgroup_cpus() {
  long long quota = 0, period = 0;
  if (const auto both = read_file("/sys/fs/cgroup/cpu.max")) {
    // Of version 2: "150000 100000"; or, for none, "max 100000", which reads as 0.
    char* rest = nullptr;
    quota = std::strtoll(both->c_str(), &rest, 10);
    period = std::strtoll(rest, nullptr, 10);
  } else {
    quota = std::strtoll(read_file("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").value_or("").c_str(), nullptr, 10);
    period = std::strtoll(read_file("/sys/fs/cgroup/cpu/cpu.cfs_period_us").value_or("").c_str(), nullptr, 10);
  }
  if (quota <= 0 || period <= 0) return 0;
  const long long cpus = quota / period + (quota % period != 0);
  return cpus < INT_MAX ? static_cast<int>(cpus) : INT_MAX;
}

int some_cpu() {
  cpu_set_t set;
  if (!get_affinity(set)) return 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) return cpu;
  }
  return 0;
}

}  // namespace

int count_usable_cpus() {
  cpu_set_t set;
  const int affinity = get_affinity(set) ? CPU_COUNT(&set) : static_cast<int>(std::thread::hardware_concurrency());
  const int quota = cgroup_cpus(), n = quota > 0 && quota < affinity ? quota : affinity;
  return n < 1 ? 1 : n;
}

CacheSizes cache_sizes() {  // in files: "48K", "2048K", "260M"
  CacheSizes sizes;
  const std::string folder = "/sys/devices/system/cpu/cpu" + std::to_string(some_cpu()) + "/cache/index";
  for (int index = 0; index < 8; ++index) {
    const std::string cache = folder + std::to_string(index) + "/";
    const std::string level_text = read_file(cache + "level").value_or("");
    const std::string size_text = read_file(cache + "size").value_or("");
    const std::string type = read_file(cache + "type").value_or("");
    const long level = std::strtol(level_text.c_str(), nullptr, 10);
    char* unit = nullptr;
    const auto size = static_cast<double>(std::strtoll(size_text.c_str(), &unit, 10));
    if (type.rfind("Instruction", 0) == 0 || !(size > 0)) continue;
    const double bytes = size * (*unit == 'K' ? 1024 : *unit == 'M' ? 1024 * 1024 : 1);
    if (level == 1) sizes.l1 = bytes;
    if (level == 2) sizes.l2 = bytes;
    if (level == 3) sizes.l3 = bytes;
  }
  return sizes;
}

#elif defined(__APPLE__)

namespace {

// A number that the system tells, of 4 or 8 bytes; 0 if it does not.
std::int64_t ask_system(const char* name) {
  std::int64_t value = 0;  // of which little-endian machines write the first bytes
  std::size_t bytes = sizeof value;
  return sysctlbyname(name, &value, &bytes, nullptr, 0) == 0 ? value : 0;
}

// The first that the system tells: of the fast cores, else of all.
std::int64_t ask_for_cores(const std::string& name) {
  const std::int64_t fast = ask_system(("hw.perflevel0." + name).c_str());
  return fast > 0 ? fast : ask_system(("hw." + name).c_str());
}

}  // namespace

int count_usable_cpus() {  // macOS has neither affinity nor quotas
  const auto cpus = static_cast<int>(ask_for_cores("logicalcpu"));
  return cpus < 1 ? 1 : cpus;
}

CacheSizes cache_sizes() {
  return {static_cast<double>(ask_for_cores("l1dcachesize")), static_cast<double>(ask_for_cores("l2cachesize")),
          static_cast<double>(ask_for_cores("l3cachesize"))};
}

#elif defined(_WIN32)

int count_usable_cpus() {
  DWORD_PTR mine = 0, all = 0;  // zero if the process has threads in several groups of 64 CPUs
  if (!GetProcessAffinityMask(GetCurrentProcess(), &mine, &all) || mine == 0) {
    const DWORD cpus = GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
    return cpus < 1 ? 1 : static_cast<int>(cpus);
  }
  int cpus = 0;
  for (; mine != 0; mine &= mine - 1) ++cpus;
  return cpus;
}

CacheSizes cache_sizes() {
  CacheSizes sizes;
  DWORD bytes = 0;
  GetLogicalProcessorInformation(nullptr, &bytes);
  const std::size_t count = bytes / sizeof(SYSTEM_LOGICAL_PROCESSOR_INFORMATION);
  const std::unique_ptr<SYSTEM_LOGICAL_PROCESSOR_INFORMATION[]> all(new SYSTEM_LOGICAL_PROCESSOR_INFORMATION[count]);
  if (!GetLogicalProcessorInformation(all.get(), &bytes)) return sizes;
  for (std::size_t i = 0; i < count; ++i) {
    const CACHE_DESCRIPTOR& cache = all[i].Cache;
    if (all[i].Relationship != RelationCache || cache.Type == CacheInstruction) continue;
    double& size = cache.Level == 1 ? sizes.l1 : cache.Level == 2 ? sizes.l2 : sizes.l3;
    if (size == 0) size = cache.Size;  // the first core's
  }
  return sizes;
}

#else
#error "fusedrnn: expected Linux, macOS or Windows"
#endif

}  // namespace fusedrnn
