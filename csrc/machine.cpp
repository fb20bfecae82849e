#include "machine.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <optional>
#include <stdexcept>

#include "platform/platform.hpp"
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

// Keeps what the system does not tell.
void ask_for_caches(Machine& m) {
  const CacheSizes sizes = cache_sizes();
  if (sizes.l1 > 0) m.l1_bytes = sizes.l1;
  if (sizes.l2 > 0) m.l2_bytes = sizes.l2;
  if (sizes.l3 > 0) m.l3_bytes = sizes.l3;
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
  char* end = nullptr;
  const double value = number_in_c_locale(word.c_str(), &end);
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
