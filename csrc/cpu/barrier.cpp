#include "barrier.hpp"

#include <vector>

#include "spin.hpp"
#include "threads.hpp"

namespace fusedrnn {

void Barrier::prepare(int count, int groups) {
  const int members = count * groups;
  count_ = count;
  rounds_ = 0;
  while (1 << rounds_ < count) ++rounds_;
  crowded_ = useful_threads(members) < members;
  if (members > most_members_) {
    own_.reset(new Own[static_cast<std::size_t>(members)]);
    most_members_ = members;
  }
  const std::size_t flags = static_cast<std::size_t>(members) * static_cast<std::size_t>(rounds_);
  if (flags > most_flags_) {
    flags_.reset(new Flag[flags]);
    most_flags_ = flags;
  }
  for (int i = 0; i < members; ++i) own_[static_cast<std::size_t>(i)].meetings = 0;
  for (std::size_t i = 0; i < flags; ++i) flags_[i].meetings.store(0, std::memory_order_relaxed);
}

void Barrier::wait(int member) {
  const int at = member % count_, first = member - at;
  const unsigned meeting = ++own_[static_cast<std::size_t>(member)].meetings;
  for (int round = 0; round < rounds_; ++round) {
    const int after = at + (1 << round), to = first + (after < count_ ? after : after - count_);
    flag_of(to, round).meetings.store(meeting, std::memory_order_release);
    const Flag& flag = flag_of(member, round);
    // Its writer may have come to the next meeting already, and not to the one after that.
    spin_until(crowded_, [&] { return flag.meetings.load(std::memory_order_acquire) - meeting <= 1; });
  }
}

void barrier_wait(const Meeting& meeting) {
  if (meeting.barrier) meeting.barrier->wait(meeting.member);
}

namespace {

// Barriers that this thread has used and will use again.
std::vector<std::unique_ptr<Barrier>>& spare_barriers() {
  static thread_local std::vector<std::unique_ptr<Barrier>> spare;
  return spare;
}

}  // namespace

BarrierHandle::BarrierHandle(int count, int groups) {
  if (count < 2) return;
  auto& spare = spare_barriers();
  std::unique_ptr<Barrier> barrier;
  if (spare.empty()) {
    spare.reserve(spare.capacity() + 1);  // so that giving it back does not throw
    barrier = std::make_unique<Barrier>();
  } else {
    barrier = std::move(spare.back());
    spare.pop_back();
  }
  barrier->prepare(count, groups);
  barrier_ = barrier.release();
}

BarrierHandle::~BarrierHandle() {
  if (barrier_) spare_barriers().emplace_back(barrier_);
}

}  // namespace fusedrnn
