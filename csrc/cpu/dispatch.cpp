#include "dispatch.hpp"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "../platform/platform.hpp"

namespace fusedrnn {

// Some of these are built, at least one: RNN_HAVE_... says which.
extern const Kernels kernels_avx512, kernels_avx2, kernels_neon, kernels_portable;

namespace {

struct Candidate {
  const Kernels* kernels;
  bool (*supported)();
};

const Candidate kCandidates[] = {
#if defined(RNN_HAVE_AVX512)
    {&kernels_avx512, has_avx512},
#endif
#if defined(RNN_HAVE_AVX2)
    {&kernels_avx2, has_avx2},
#endif
#if defined(RNN_HAVE_NEON)
    {&kernels_neon, [] { return true; }},  // every 64-bit ARM has it, with multiply-adds
#endif
#if defined(RNN_HAVE_PORTABLE)
    {&kernels_portable, [] { return true; }},
#endif
};
constexpr int kCandidateCount = sizeof kCandidates / sizeof *kCandidates;
static_assert(kCandidateCount <= kMaxIsas);

std::atomic<int> chosen{-1};

int find(const std::string& name, const std::string& who) {
  std::string valid;
  for (int i = 0; i < kCandidateCount; ++i) {
    if (!kCandidates[i].supported()) continue;
    if (name == kCandidates[i].kernels->isa) return i;
    valid += (valid.empty() ? "'" : ", '") + std::string(kCandidates[i].kernels->isa) + "'";
  }
  throw std::invalid_argument(who + ": expected one of " + valid + " on this CPU, got '" + name + "'");
}

int first_choice() {
  if (const char* name = std::getenv("FUSEDRNN_ISA"); name && *name) return find(name, "FUSEDRNN_ISA");
  for (int i = 0; i < kCandidateCount; ++i) {
    if (kCandidates[i].supported()) return i;
  }
  throw std::runtime_error("this build has no kernels for this CPU");
}

}  // namespace

Isa current_isa() {
  int i = chosen.load(std::memory_order_relaxed);
  if (i < 0) {
    i = first_choice();
    chosen.store(i, std::memory_order_relaxed);
  }
  return {kCandidates[i].kernels, i};
}

void set_isa(const std::string& name) { chosen.store(find(name, "isa"), std::memory_order_relaxed); }

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Candidate& c : kCandidates) {
    if (c.supported()) names.emplace_back(c.kernels->isa);
  }
  return names;
}

}  // namespace fusedrnn
