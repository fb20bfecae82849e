// Aligned memory that throws std::bad_alloc. All but small blocks are kept for the next taker when freed, as a training
// step frees and takes the same sizes again, and the system would take their pages back and zero fresh ones each time.
// Large blocks ask for huge pages: packed weights and reserves are walked over a wide range of addresses in each step.
#pragma once

#include <cstddef>
#include <utility>

namespace fusedrnn {

// At most so many bytes are kept, in at most so many blocks of at least kKeptBlock, until release_kept_memory.
constexpr std::size_t kKeptBlock = 128u << 10;
constexpr std::size_t kKeptBytes = 256u << 20;
constexpr std::size_t kKeptBlocks = 256;
constexpr std::size_t kLargeBlock = 4u << 20;
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
