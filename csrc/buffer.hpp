// Aligned memory that throws std::bad_alloc; large blocks ask for huge pages, as packed weights and reserves are walked
// over a wide range of addresses in every step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fusedrnn {

class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t bytes) : bytes_(bytes) {
    constexpr std::size_t huge = 2u << 20;
    const std::size_t align = bytes >= 2 * huge ? huge : 64;
    if (bytes > SIZE_MAX - align) throw std::bad_alloc();
    const std::size_t rounded = (bytes + align - 1) / align * align;
    data_ = static_cast<char*>(std::aligned_alloc(align, rounded ? rounded : align));
    if (!data_) throw std::bad_alloc();
#if defined(__linux__)
    if (align == huge) (void)madvise(data_, rounded, MADV_HUGEPAGE);  // a wish; it may be refused
#endif
  }
  ~Buffer() { std::free(data_); }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

  char* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  char* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace fusedrnn
