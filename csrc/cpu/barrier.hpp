// Where workers meet again and again within one job: groups of workers of the same size, each of which meets by itself.
//
// A dissemination barrier (Hensgen, Finkel & Manber 1988): in round r, member i of n tells member i + 2^r (mod n) that
// it has come, and waits until member i - 2^r has told it the same. After log2(n) rounds, rounded up, all have heard of
// all. Each flag has a cache line of its own, one writer and one reader; no line is shared by all.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>

#include "../problem.hpp"

namespace fusedrnn {

class alignas(64) Barrier {
 public:
  // Makes it ready for `groups` groups of `count` members each; no thread is waiting. Throws std::bad_alloc.
  void prepare(int count, int groups);
  // Returns when all members of the group of `member`, which counts through all groups, have called it.
  void wait(int member);

 private:
  struct Flag {
    alignas(64) std::atomic<unsigned> meetings{0};  // that its writer has come to
  };
  struct Own {
    alignas(64) unsigned meetings = 0;  // of one member
  };
  Flag& flag_of(int member, int round) const {
    const auto at = static_cast<std::size_t>(member), rounds = static_cast<std::size_t>(rounds_);
    return flags_[at * rounds + static_cast<std::size_t>(round)];
  }
  std::unique_ptr<Flag[]> flags_;  // [member][round]: what the member waits for
  std::unique_ptr<Own[]> own_;
  std::size_t most_flags_ = 0;
  int most_members_ = 0;
  int count_ = 0, rounds_ = 0;
  bool crowded_ = false;
};

// A barrier that this thread keeps from one job to the next; for groups of one there is none.
class BarrierHandle {
 public:
  explicit BarrierHandle(int count, int groups = 1);
  ~BarrierHandle();
  BarrierHandle(const BarrierHandle&) = delete;
  BarrierHandle& operator=(const BarrierHandle&) = delete;
  Meeting of(int member) const { return {barrier_, member}; }

 private:
  Barrier* barrier_ = nullptr;
};

}  // namespace fusedrnn
