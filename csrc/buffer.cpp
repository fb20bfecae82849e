#include "buffer.hpp"

#include <cstdint>
#include <deque>
#include <mutex>
#include <new>

#include "platform/platform.hpp"

namespace fusedrnn {

namespace {

// Pieces of freed memory, the oldest first. A caller that finds the lock taken goes without: it may have been held
// across a fork.
class Kept {
 public:
  // A piece of at least `capacity` bytes, not much larger; its size in `capacity`. Null if there is none.
  char* take(std::size_t& capacity) {
    std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock) return nullptr;
    auto best = pieces_.end();
    for (auto it = pieces_.begin(); it != pieces_.end(); ++it) {
      if (it->bytes < capacity || it->bytes > capacity + capacity / 4) continue;
      if (best == pieces_.end() || it->bytes < best->bytes) best = it;
    }
    if (best == pieces_.end()) return nullptr;
    char* data = best->data;
    capacity = best->bytes;
    total_ -= best->bytes;
    pieces_.erase(best);
    return data;
  }

  // False if the piece is not wanted.
  bool give(char* data, std::size_t bytes) {
    std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock || bytes > kKeptBytes) return false;
    while (total_ + bytes > kKeptBytes || pieces_.size() >= kMostKept) free_oldest();
    try {
      pieces_.push_back({data, bytes});
    } catch (const std::bad_alloc&) {
      return false;  // a destructor asks, and must not throw
    }
    total_ += bytes;
    return true;
  }

  std::size_t bytes() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return total_;
  }

  void release() {
    std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    while (lock && !pieces_.empty()) free_oldest();
  }

 private:
  struct Piece {
    char* data;
    std::size_t bytes;
  };

  void free_oldest() {
    total_ -= pieces_.front().bytes;
    free_aligned(pieces_.front().data);
    pieces_.pop_front();
  }

  std::mutex mutex_;
  std::deque<Piece> pieces_;
  std::size_t total_ = 0;
};

// Never destroyed: buffers may outlive static objects.
Kept& kept = *new Kept;

}  // namespace

void release_kept_memory() { kept.release(); }
std::size_t kept_memory() { return kept.bytes(); }

Buffer::Buffer(std::size_t bytes) : bytes_(bytes) {
  const bool large = kHugePage > 0 && bytes >= kLargeBytes;
  const std::size_t align = large ? kHugePage : 64;
  if (bytes > SIZE_MAX - align) throw std::bad_alloc();
  capacity_ = bytes == 0 ? align : (bytes + align - 1) / align * align;
  if (bytes >= kSmallestKept) data_ = kept.take(capacity_);
  if (data_) return;
  data_ = static_cast<char*>(allocate_aligned(align, capacity_));
  if (!data_) throw std::bad_alloc();
  if (large) wish_for_huge_pages(data_, capacity_);
}

Buffer::~Buffer() {
  if (capacity_ >= kSmallestKept && kept.give(data_, capacity_)) return;
  free_aligned(data_);
}

}  // namespace fusedrnn
