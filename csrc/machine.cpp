#include "machine.hpp"

#include <locale.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <optional>
#include <stdexcept>

#include "read_file.hpp"

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
    const std::string level_text = read_file(cache + "level").value_or("");
    const std::string size_text = read_file(cache + "size").value_or("");
    const std::string type = read_file(cache + "type").value_or("");
    const long level = std::strtol(level_text.c_str(), nullptr, 10);
    char* unit = nullptr;
    const auto size = static_cast<double>(std::strtoll(size_text.c_str(), &unit, 10));
    if (type.rfind("Instruction", 0) == 0 || !(size > 0)) continue;
    const double bytes = size * (*unit == 'K' ? 1024 : *unit == 'M' ? 1024 * 1024 : 1);
    if (level == 1) m.l1_bytes = bytes;
    if (level == 2) m.l2_bytes = bytes;
    if (level == 3) m.l3_bytes = bytes;
  }
}

[[noreturn]] void refuse_file(const std::string& path) {
  throw std::invalid_argument("FUSEDRNN_MACHINE: expected a file that can be read, got '" + path + "'");
}

std::vector<std::string> words_of(const std::string& line) {
  constexpr const char* kSpaces = " \t\v\f\r";
  std::vector<std::string> words;
  for (std::size_t at = line.find_first_not_of(kSpaces); at != std::string::npos;) {
    const std::size_t end = line.find_first_of(kSpaces, at);
    words.push_back(line.substr(at, end - at));
    at = line.find_first_not_of(kSpaces, end);
  }
  return words;
}

// A decimal number, by the C locale whatever the process has set; none for a word that is anything else.
// std::from_chars would do, but gcc has it for double from 11 on.
std::optional<double> number_of(const std::string& word) {
  if (word.find_first_not_of("0123456789+-.eE") != std::string::npos) return std::nullopt;
  static const locale_t c_locale = newlocale(LC_ALL_MASK, "C", nullptr);
  char* end = nullptr;
  const double value = strtod_l(word.c_str(), &end, c_locale);
  if (end != word.c_str() + word.size()) return std::nullopt;
  return value;
}

void read_costs(Machine& m, const std::string& path) {
  const std::optional<std::string> text = read_file(path);
  if (!text) refuse_file(path);
  for (std::size_t at = 0; at < text->size();) {
    const std::size_t end = std::min(text->find('\n', at), text->size());
    const std::string line = text->substr(at, end - at);
    at = end + 1;
    const std::vector<std::string> words = words_of(line);
    if (words.empty() || words[0][0] == '#') continue;
    const std::optional<double> value = words.size() == 2 ? number_of(words[1]) : std::nullopt;
    if (!value) {
      throw std::invalid_argument("FUSEDRNN_MACHINE: expected lines of a name and a number, got '" + line + "'");
    }
    set_value(m, words[0], *value, "FUSEDRNN_MACHINE");
  }
}

}  // namespace

const Machine& machine() {
  if (const Machine* m = the_machine.load(std::memory_order_acquire)) return *m;
  auto made = std::make_unique<Machine>();
  ask_for_caches(*made);
  if (const char* path = std::getenv("FUSEDRNN_MACHINE"); path && *path) read_costs(*made, path);
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
