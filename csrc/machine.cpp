#include "machine.hpp"

#include <sched.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <stdexcept>

namespace fusedrnn {

namespace {

std::atomic<const Machine*> the_machine{nullptr};

double* value_of(Machine& m, const std::string& name) {
#define RNN_FIND(member, value) \
  if (name == #member) return &m.member;
  RNN_MACHINE(RNN_FIND)
#undef RNN_FIND
  return nullptr;
}

void set_value(Machine& m, const std::string& name, double value, const std::string& who) {
  double* const at = value_of(m, name);
  if (!at) {
    std::string names;
#define RNN_NAME(member, value) names += (names.empty() ? "" : ", ") + std::string(#member);
    RNN_MACHINE(RNN_NAME)
#undef RNN_NAME
    throw std::invalid_argument(who + ": expected names among " + names + ", got '" + name + "'");
  }
  if (!(value > 0) || !std::isfinite(value)) {
    throw std::invalid_argument(who + ": " + name + ": expected a positive number, got " + std::to_string(value));
  }
  *at = value;
}

// A CPU that this thread may use.
int some_cpu() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) return cpu;
  }
  return 0;
}

// The caches of a core as the system tells them: "48K", "2048K", "260M".
void ask_for_caches(Machine& m) {
  const std::string folder = "/sys/devices/system/cpu/cpu" + std::to_string(some_cpu()) + "/cache/index";
  for (int index = 0; index < 8; ++index) {
    const std::string cache = folder + std::to_string(index) + "/";
    int level = 0;
    double size = 0;
    char unit = 0;
    std::string type;
    std::ifstream(cache + "level") >> level;
    std::ifstream(cache + "type") >> type;
    std::ifstream(cache + "size") >> size >> unit;
    if (type == "Instruction" || !(size > 0)) continue;
    const double bytes = size * (unit == 'K' ? 1024 : unit == 'M' ? 1024 * 1024 : 1);
    if (level == 1) m.l1_bytes = bytes;
    if (level == 2) m.l2_bytes = bytes;
    if (level == 3) m.l3_bytes = bytes;
  }
}

[[noreturn]] void refuse_file(const std::string& path) {
  throw std::invalid_argument("FUSEDRNN_MACHINE: expected a file that can be read, got '" + path + "'");
}

void read_file(Machine& m, const std::string& path) {
  std::ifstream file(path);
  if (!file) refuse_file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name, rest;
    double value = 0;
    if (!(words >> name) || name[0] == '#') continue;
    if (!(words >> value) || words >> rest) {
      throw std::invalid_argument("FUSEDRNN_MACHINE: expected lines of a name and a number, got '" + line + "'");
    }
    set_value(m, name, value, "FUSEDRNN_MACHINE");
  }
  if (file.bad()) refuse_file(path);
}

}  // namespace

const Machine& machine() {
  if (const Machine* m = the_machine.load(std::memory_order_acquire)) return *m;
  auto made = std::make_unique<Machine>();
  ask_for_caches(*made);
  if (const char* path = std::getenv("FUSEDRNN_MACHINE"); path && *path) read_file(*made, path);
  const Machine* other = nullptr;  // that another thread has read meanwhile
  if (the_machine.compare_exchange_strong(other, made.get(), std::memory_order_acq_rel)) return *made.release();
  return *other;
}

std::vector<std::pair<std::string, double>> machine_values() {
  const Machine& m = machine();
  std::vector<std::pair<std::string, double>> values;
#define RNN_GIVE(name, value) values.emplace_back(#name, m.name);
  RNN_MACHINE(RNN_GIVE)
#undef RNN_GIVE
  return values;
}

void set_machine(const std::vector<std::pair<std::string, double>>& values) {
  auto made = std::make_unique<Machine>(machine());
  for (const auto& [name, value] : values) set_value(*made, name, value, "set_machine");
  the_machine.store(made.release(), std::memory_order_release);  // others may still be reading the one before
}

}  // namespace fusedrnn
