// Where threads come from. A small pool of our own: it is made when first needed, spins briefly for the next job and
// then parks, is forgotten in the child of a fork, and is never torn down: a process may exit while workers are parked.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

namespace fusedrnn {

struct OpenMP;

// Or the threads of the host's OpenMP runtime (openmp.hpp), which spin for milliseconds after each of its regions, on
// the cores that other threads would need. "pool", "openmp" (the pool where there is no runtime), or "auto": the pool
// for calls from NumPy, OpenMP for calls from front ends. Throws std::invalid_argument for any other name.
void set_thread_source(const std::string& name);
// set_thread_source, else FUSEDRNN_THREAD_SOURCE, else "auto". Throws std::invalid_argument where the variable is set
// to anything else.
const char* thread_source();

// Threads for one caller: the pool, which one caller has at a time, or OpenMP's. Where another caller has the pool,
// where the caller is in a region of OpenMP already, or where threads cannot be made, the team is smaller, down to the
// calling thread alone; results do not depend on its size.
class Team {
 public:
  explicit Team(int wanted, bool from_front_end = false);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;
  int size() const { return size_; }

  // Calls task(context, index) for index 0..size()-1, index 0 on the calling thread, all of them at the same time.
  // Tasks must not throw. Returns false, with no task called, if there were not so many threads after all; the team has
  // one thread then.
  [[nodiscard]] bool run(void (*task)(void* context, int index), void* context);

 private:
  void* pool_ = nullptr;
  const OpenMP* openmp_ = nullptr;
  int size_ = 1;
};

// How many forks lie between the first process and this one.
int forks();

// Waits until the value is at least `least`, as other threads make it; `crowded`: there are more of them than CPUs.
void wait_for(const std::atomic<std::int64_t>& value, std::int64_t least, bool crowded);

// FUSEDRNN_NUM_THREADS, else OMP_NUM_THREADS, else the CPUs that affinity and the cgroup leave this process.
// Throws std::invalid_argument where FUSEDRNN_NUM_THREADS is set to anything but a positive integer.
int num_threads();
void set_num_threads(int n);  // n >= 1
// The threads that a call uses: no more than there are CPUs, as threads that share a CPU wait for each other in every
// step.
int useful_threads();
int useful_threads(int most);  // of a call that may use so many

}  // namespace fusedrnn
