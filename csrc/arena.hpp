// Places in memory that the host made, one after another.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>

// Internal linkage: kernels.cpp, which is compiled once per ISA, calls this when it runs.
namespace {

// Each place begins at a multiple of 64 bytes, if `base` does. Over null it only measures.
struct Arena {
  char* base;
  std::size_t used = 0;

  explicit Arena(char* memory) : base(memory) {}
  template <class T>
  T* take(std::int64_t count) {
    assert(count >= 0);
    T* const p = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return p;
  }
};

}  // namespace
