// Aligned memory that throws std::bad_alloc. Memory that is freed is kept for the next taker, unless it is small, as a
// training step frees and takes the same sizes again, and the system would take their pages back and zero fresh ones
// each time. Large buffers ask for huge pages: each step passes over a wide range of addresses in packed weights and
// reserves.
#pragma once

#include <cstddef>
#include <utility>

namespace fusedrnn {

// Pieces of at least kSmallestKept bytes are kept, at most kMostKept of them with at most kKeptBytes in all, until
// release_kept_memory.
constexpr std::size_t kSmallestKept = 128u << 10;
constexpr std::size_t kKeptBytes = 256u << 20;
constexpr std::size_t kMostKept = 256;
constexpr std::size_t kLargeBytes = 4u << 20;
void release_kept_memory();
std::size_t kept_memory();  // in bytes; for tests

class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(capacity_, other.capacity_);
  }

  char* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  char* data_ = nullptr;
  std::size_t bytes_ = 0, capacity_ = 0;
};

}  // namespace fusedrnn
