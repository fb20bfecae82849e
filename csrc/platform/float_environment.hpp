// The floating-point environment of kernels, which does not depend on the caller's: round to nearest, no traps, and
// subnormal operands and results count as zeros. States and gradients that decay would otherwise take a detour
// through microcode in each operation below 2^-126. The caller's environment, flags included, is put back.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#elif defined(_M_ARM64) && !defined(__clang__)
#include <intrin.h>
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
#elif defined(__aarch64__) || defined(_M_ARM64)
  FloatEnvironment() : saved_(control()), flags_(status()) { set_control(kFlushToZero); }
  ~FloatEnvironment() {
    set_control(saved_);
    set_status(flags_);
  }

 private:
  static constexpr std::uint64_t kFlushToZero = std::uint64_t{1} << 24;
  std::uint64_t saved_, flags_;

#if defined(__GNUC__) || defined(__clang__)
  static std::uint64_t control() {
    std::uint64_t value;
    __asm__ volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static std::uint64_t status() {
    std::uint64_t value;
    __asm__ volatile("mrs %0, fpsr" : "=r"(value));
    return value;
  }
  static void set_control(std::uint64_t value) { __asm__ volatile("msr fpcr, %0" : : "r"(value)); }
  static void set_status(std::uint64_t value) { __asm__ volatile("msr fpsr, %0" : : "r"(value)); }
#else
  static constexpr int kControl = ARM64_SYSREG(3, 3, 4, 4, 0), kStatus = ARM64_SYSREG(3, 3, 4, 4, 1);
  static std::uint64_t control() { return static_cast<std::uint64_t>(_ReadStatusReg(kControl)); }
  static std::uint64_t status() { return static_cast<std::uint64_t>(_ReadStatusReg(kStatus)); }
  static void set_control(std::uint64_t value) { _WriteStatusReg(kControl, static_cast<__int64>(value)); }
  static void set_status(std::uint64_t value) { _WriteStatusReg(kStatus, static_cast<__int64>(value)); }
#endif
#else
#error "fusedrnn: no way is known to flush subnormals to zero on this architecture"
#endif
};

}  // namespace fusedrnn
