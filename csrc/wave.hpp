// A wave front: layers run a range of steps at a time, each range once the layer before has run it, so that layers work
// at the same time where one layer has too little work for all threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>

#include "cpu/threads.hpp"
#include "problem.hpp"

namespace fusedrnn {

class Wave {
 public:
  Wave(int layers, std::int64_t seq_len, std::int64_t steps_each, int threads)
      : layers_(layers),
        seq_len_(seq_len),
        each_(steps_each),
        ranges_((seq_len + steps_each - 1) / steps_each),
        crowded_(threads > useful_threads()),
        done_(new Done[static_cast<std::size_t>(layers)]) {}

  // Runs run(layer, range) for tasks that no other thread has taken, until there are none. Forward begins with layer 0
  // and the first steps, backward with the highest layer and the last steps. Tasks are taken by diagonals, so that a
  // task waits only for tasks that have been taken before.
  template <class Run>
  void work(bool backward, Run&& run) {
    std::int64_t diagonal = 0, first = 0;  // the diagonal, and the number of its first task
    for (;;) {
      const std::int64_t task = next_.fetch_add(1, std::memory_order_relaxed);
      while (diagonal < ranges_ + layers_ - 1 && task >= first + tasks_of(diagonal)) first += tasks_of(diagonal++);
      if (diagonal == ranges_ + layers_ - 1) return;
      const std::int64_t layer = lowest(diagonal) + task - first, at = diagonal - layer;
      if (layer > 0) wait_for(done_[layer - 1].ranges, at + 1, crowded_);
      wait_for(done_[layer].ranges, at, crowded_);
      const std::int64_t range = backward ? ranges_ - 1 - at : at;
      run(static_cast<int>(backward ? layers_ - 1 - layer : layer),
          Range{range * each_, std::min((range + 1) * each_, seq_len_)});
      done_[layer].ranges.store(at + 1, std::memory_order_release);
    }
  }

 private:
  struct Done {
    alignas(64) std::atomic<std::int64_t> ranges{0};
  };

  std::int64_t lowest(std::int64_t diagonal) const { return std::max<std::int64_t>(0, diagonal - ranges_ + 1); }
  std::int64_t tasks_of(std::int64_t diagonal) const {
    return std::min<std::int64_t>(layers_ - 1, diagonal) - lowest(diagonal) + 1;
  }

  const std::int64_t layers_, seq_len_, each_, ranges_;
  const bool crowded_;
  std::unique_ptr<Done[]> done_;
  alignas(64) std::atomic<std::int64_t> next_{0};
};

}  // namespace fusedrnn
