#include <cstdlib>

#include "platform.hpp"

#if defined(_WIN32)
#include <malloc.h>
#elif defined(__linux__)
#include <sys/mman.h>
#endif

namespace fusedrnn {

#if defined(_WIN32)
void* allocate_aligned(std::size_t align, std::size_t bytes) noexcept { return _aligned_malloc(bytes, align); }
void free_aligned(void* memory) noexcept { _aligned_free(memory); }
#elif defined(__APPLE__)
void* allocate_aligned(std::size_t align, std::size_t bytes) noexcept {  // aligned_alloc is there from macOS 10.15 on
  void* memory = nullptr;
  return posix_memalign(&memory, align, bytes) == 0 ? memory : nullptr;
}
void free_aligned(void* memory) noexcept { std::free(memory); }
#else
void* allocate_aligned(std::size_t align, std::size_t bytes) noexcept { return std::aligned_alloc(align, bytes); }
void free_aligned(void* memory) noexcept { std::free(memory); }
#endif

#if defined(__linux__)
void wish_for_huge_pages(void* memory, std::size_t bytes) noexcept { (void)madvise(memory, bytes, MADV_HUGEPAGE); }
#else
void wish_for_huge_pages(void*, std::size_t) noexcept {}
#endif

}  // namespace fusedrnn
