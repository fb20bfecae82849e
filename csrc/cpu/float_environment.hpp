// The floating-point environment of kernels, which does not depend on the caller's: round to nearest, no traps, and
// subnormal operands and results count as zeros. States and gradients that decay would otherwise take a detour
// through microcode in each operation below 2^-126. The caller's environment, flags included, is put back.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace fusedrnn {

class FloatEnvironment {
 public:
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

#if defined(__x86_64__) || defined(_M_X64)
  FloatEnvironment() : saved_(_mm_getcsr()) { _mm_setcsr(kMaskedExceptions | kFlushToZero | kDenormalsAreZeros); }
  ~FloatEnvironment() { _mm_setcsr(saved_); }

 private:
  static constexpr unsigned kMaskedExceptions = 0x1F80, kFlushToZero = 0x8000, kDenormalsAreZeros = 0x0040;
  unsigned saved_;
#elif defined(__aarch64__)
  FloatEnvironment() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("mrs %0, fpsr" : "=r"(flags_));
    asm volatile("msr fpcr, %0" : : "r"(kFlushToZero));
  }
  ~FloatEnvironment() {
    asm volatile("msr fpcr, %0" : : "r"(saved_));
    asm volatile("msr fpsr, %0" : : "r"(flags_));
  }

 private:
  static constexpr std::uint64_t kFlushToZero = std::uint64_t{1} << 24;
  std::uint64_t saved_, flags_;
#else
#error "fusedrnn: no way is known to flush subnormals to zero on this architecture"
#endif
};

}  // namespace fusedrnn
