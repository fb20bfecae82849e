// What compilers write differently: gcc, clang (AppleClang and clang-cl among them), and Microsoft's cl. Nothing here
// asks the operating system; platform.hpp does. tests/test_house.py holds all other sources to standard C++.
#pragma once

#include <cstdint>

#if !defined(__GNUC__) && !defined(__clang__)
#if !defined(_MSC_VER)
#error "fusedrnn: expected gcc, clang or Microsoft's compiler"
#endif
#include <intrin.h>
#endif

// RNN_INLINE: inline it, whatever the compiler thinks of its size. RNN_NOINLINE: never inline it. RNN_SELDOM: nor take
// it for a function that is called often. RNN_EXPORT: a C function that other libraries find in the module.
// RNN_INLINE_LAMBDA, before a lambda's body: inline it before anything else; gcc takes a function that does nothing but
// prefetch for one without effect, and drops its calls, unless it is gone before gcc looks. cl has no such place for a
// lambda, and inlines small ones anyway.
#if defined(__GNUC__) || defined(__clang__)
#define RNN_INLINE inline __attribute__((always_inline))
#define RNN_NOINLINE __attribute__((noinline))
#define RNN_SELDOM __attribute__((noinline, cold))
#define RNN_INLINE_LAMBDA __attribute__((always_inline))
#else
#define RNN_INLINE __forceinline
#define RNN_NOINLINE __declspec(noinline)
#define RNN_SELDOM __declspec(noinline)
#define RNN_INLINE_LAMBDA
#endif
#if defined(_WIN32)
#define RNN_EXPORT __declspec(dllexport)
#else
#define RNN_EXPORT __attribute__((visibility("default")))
#endif

// gcc keeps an array of vectors in registers only if every index into it is a constant early enough. RNN_UNROLL before
// a loop of constant length makes it so. RNN_ROLLED is for nvcc (cells/math.hpp).
#if defined(__clang__)
#define RNN_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define RNN_UNROLL _Pragma("GCC unroll 64")
#else
#define RNN_UNROLL
#endif
#define RNN_ROLLED

// Keeps gcc from computing dozens of addresses from these two before a long loop that precedes their use, and from
// spilling them meanwhile.
#if defined(__GNUC__) || defined(__clang__)
#define RNN_HERE(pointer, stride) __asm__ volatile("" : "+r"(pointer), "+r"(stride))
#else
#define RNN_HERE(pointer, stride)
#endif

namespace fusedrnn {

// Fetch the cache line of an address that is wanted soon: for reading, for writing, or as far as L2 only.
#if defined(__GNUC__) || defined(__clang__)
RNN_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }
RNN_INLINE void prefetch_write(const void* p) { __builtin_prefetch(p, 1); }
RNN_INLINE void prefetch_into_l2(const void* p) { __builtin_prefetch(p, 0, 2); }
#elif defined(_M_X64)
RNN_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
RNN_INLINE void prefetch_write(const void* p) { prefetch(p); }  // the other instruction is not on every processor
RNN_INLINE void prefetch_into_l2(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }
#else
RNN_INLINE void prefetch(const void* p) { __prefetch(p); }
RNN_INLINE void prefetch_write(const void* p) { __prefetch(p); }
RNN_INLINE void prefetch_into_l2(const void* p) { __prefetch(p); }
#endif

// Tells the processor that this thread spins. On ARM most cores take `yield` for nothing, but wait a little at `isb`.
#if defined(__x86_64__)
RNN_INLINE void pause() { __builtin_ia32_pause(); }
#elif defined(_M_X64)
RNN_INLINE void pause() { _mm_pause(); }
#elif defined(__aarch64__)
RNN_INLINE void pause() { __asm__ volatile("isb"); }
#else
RNN_INLINE void pause() { __isb(_ARM64_BARRIER_SY); }
#endif

// Whether a + b or a * b is more than 64 bits can count; else it is in `to`.
#if defined(__GNUC__) || defined(__clang__)
inline bool add_overflows(std::int64_t a, std::int64_t b, std::int64_t& to) {
  return __builtin_add_overflow(a, b, &to);
}
inline bool multiply_overflows(std::int64_t a, std::int64_t b, std::int64_t& to) {
  return __builtin_mul_overflow(a, b, &to);
}
#else
inline bool add_overflows(std::int64_t a, std::int64_t b, std::int64_t& to) {
  if (b > 0 ? a > INT64_MAX - b : a < INT64_MIN - b) return true;
  to = a + b;
  return false;
}
inline bool multiply_overflows(std::int64_t a, std::int64_t b, std::int64_t& to) {
  const std::int64_t high = __mulh(a, b);
  to = static_cast<std::int64_t>(static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b));
  return high != (to < 0 ? -1 : 0);
}
#endif

// The product of two numbers of 64 bits.
struct Product128 {
  std::uint64_t low, high;
};
#if defined(__SIZEOF_INT128__)
inline Product128 wide_product(std::uint64_t a, std::uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  const Wide product = Wide{a} * b;
  return {static_cast<std::uint64_t>(product), static_cast<std::uint64_t>(product >> 64)};
}
#else
inline Product128 wide_product(std::uint64_t a, std::uint64_t b) { return {a * b, __umulh(a, b)}; }
#endif

}  // namespace fusedrnn
