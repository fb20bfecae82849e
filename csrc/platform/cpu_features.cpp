// Asks by cpuid, as not all compilers have a function for it, and not all of these ask the system too.
#include "platform.hpp"

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#endif

namespace fusedrnn {

#if defined(__x86_64__) || defined(_M_X64)

namespace {

struct CpuId {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// What the processor tells under this number; zeros if it does not know it.
CpuId ask_cpu(unsigned leaf) {
  CpuId told;
#if defined(_MSC_VER) && !defined(__clang__)
  int registers[4] = {};
  __cpuid(registers, static_cast<int>(leaf & 0x80000000u));  // the last number of this half
  if (static_cast<unsigned>(registers[0]) < leaf) return told;
  __cpuidex(registers, static_cast<int>(leaf), 0);
  told.eax = static_cast<unsigned>(registers[0]), told.ebx = static_cast<unsigned>(registers[1]);
  told.ecx = static_cast<unsigned>(registers[2]), told.edx = static_cast<unsigned>(registers[3]);
#else
  __get_cpuid_count(leaf, 0, &told.eax, &told.ebx, &told.ecx, &told.edx);
#endif
  return told;
}

// Which registers the system saves, a bit each (XCR0).
std::uint64_t saved_registers() {
#if defined(_MSC_VER) && !defined(__clang__)
  return _xgetbv(0);
#else
  std::uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return std::uint64_t{high} << 32 | low;
#endif
}

constexpr bool all_of(std::uint64_t bits, std::uint64_t wanted) { return (bits & wanted) == wanted; }

// Bits of leaf 1, ecx; of leaf 7, ebx; of XCR0.
constexpr std::uint64_t kFma = 1u << 12, kXgetbv = 1u << 27, kAvx = 1u << 28;
constexpr std::uint64_t kAvx2 = 1u << 5;
constexpr std::uint64_t kAvx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
constexpr std::uint64_t kYmm = 0x06;

// What Microsoft's compiler uses besides, as it knows no narrower option than /arch:AVX2 and /arch:AVX512.
#if defined(_MSC_VER) && !defined(__clang__)
bool has_companions_of_avx2() {
  constexpr std::uint64_t kMovbe = 1u << 22, kF16c = 1u << 29, kBmi = 1u << 3 | 1u << 8, kLzcnt = 1u << 5;
  return all_of(ask_cpu(1).ecx, kMovbe | kF16c) && all_of(ask_cpu(7).ebx, kBmi) &&
         all_of(ask_cpu(0x80000001u).ecx, kLzcnt);
}
bool has_companions_of_avx512() { return all_of(ask_cpu(7).ebx, 1u << 28); }  // CD
#else
bool has_companions_of_avx2() { return true; }
bool has_companions_of_avx512() { return true; }
#endif

}  // namespace

bool has_avx2() {
  if (!all_of(ask_cpu(1).ecx, kFma | kXgetbv | kAvx)) return false;
  return all_of(saved_registers(), kYmm) && all_of(ask_cpu(7).ebx, kAvx2) && has_companions_of_avx2();
}

bool has_avx512() {
  if (!has_avx2() || !all_of(ask_cpu(7).ebx, kAvx512) || !has_companions_of_avx512()) return false;
#if defined(__APPLE__)
  return true;  // macOS begins to save them when they are first used, and its bits say so only then
#else
  constexpr std::uint64_t kZmm = 0xE6;
  return all_of(saved_registers(), kZmm);
#endif
}

#else

bool has_avx2() { return false; }
bool has_avx512() { return false; }

#endif

}  // namespace fusedrnn
