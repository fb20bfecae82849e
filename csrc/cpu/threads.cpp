#include "threads.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "../platform/platform.hpp"
#include "../problem.hpp"
#include "../sizes.hpp"
#include "openmp.hpp"
#include "spin.hpp"

namespace fusedrnn {

namespace {

constexpr auto kSpinTime = std::chrono::microseconds(50);

int clamped_cpus() {
  const int n = count_usable_cpus();
  return n > kMostThreads ? kMostThreads : n;
}

std::atomic<int> known_cpus{0};

int usable_cpus() {
  int n = known_cpus.load(std::memory_order_relaxed);
  if (n == 0) known_cpus.store(n = clamped_cpus(), std::memory_order_relaxed);
  return n;
}

// A positive integer, or 0 for anything else.
int parse_count(const char* text) {
  char* end = nullptr;
  const long n = std::strtol(text, &end, 10);
  return end != text && *end == '\0' && n >= 1 && n <= kMostThreads ? static_cast<int>(n) : 0;
}

std::atomic<int> chosen_threads{0};

}  // namespace

int num_threads() {
  if (const int n = chosen_threads.load(std::memory_order_relaxed)) return n;
  int n = 0;
  if (const char* text = std::getenv("FUSEDRNN_NUM_THREADS"); text && *text) {
    n = parse_count(text);
    if (n == 0) {
      throw std::invalid_argument(std::string("FUSEDRNN_NUM_THREADS: expected an integer in 1..1024, got '") + text +
                                  "'");
    }
  } else if (const char* omp = std::getenv("OMP_NUM_THREADS")) {
    n = parse_count(omp);  // OpenMP also allows lists here, which are ignored
  }
  if (n == 0) n = usable_cpus();
  chosen_threads.store(n, std::memory_order_relaxed);
  return n;
}

void set_num_threads(int n) {
  if (n < 1 || n > kMostThreads) {
    throw std::invalid_argument("n: expected an integer in 1..1024, got " + std::to_string(n));
  }
  known_cpus.store(clamped_cpus(), std::memory_order_relaxed);
  chosen_threads.store(n, std::memory_order_relaxed);
}

int useful_threads(int most) {
  const int cpus = usable_cpus();
  return most < cpus ? most : cpus;
}
int useful_threads() { return useful_threads(num_threads()); }

namespace {

constexpr const char* kSources[] = {"auto", "pool", "openmp"};
enum Source : int { kUnset = -1, kAuto, kPool, kOpenMP };
std::atomic<int> chosen_source{kUnset};

int source_by_name(const std::string& name, const std::string& what) {
  for (int i = 0; i < 3; ++i) {
    if (name == kSources[i]) return i;
  }
  throw std::invalid_argument(what + ": expected one of 'auto', 'pool', 'openmp', got '" + name + "'");
}

int asked_source() {
  int source = chosen_source.load(std::memory_order_relaxed);
  if (source != kUnset) return source;
  const char* const text = std::getenv("FUSEDRNN_THREAD_SOURCE");
  source = text && *text ? source_by_name(text, "FUSEDRNN_THREAD_SOURCE") : kAuto;
  chosen_source.store(source, std::memory_order_relaxed);
  return source;
}

}  // namespace

void set_thread_source(const std::string& name) {
  chosen_source.store(source_by_name(name, "source"), std::memory_order_relaxed);
}

const char* thread_source() { return kSources[asked_source()]; }

void wait_for(const std::atomic<std::int64_t>& value, std::int64_t least, bool crowded) {
  spin_until(crowded, [&] { return value.load(std::memory_order_acquire) >= least; });
}

namespace {

class Pool {
 public:
  bool try_enter() { return busy_.try_lock(); }
  void leave() { busy_.unlock(); }

  // Makes workers until there are `wanted`; returns their number.
  int grow(int wanted) {
    if (count() >= wanted) return wanted;
    const SignalsBlocked inherited;
    while (count() < wanted) {
      try {
        workers_.reserve(workers_.size() + 1);  // nothing may throw once the thread runs
        auto worker = std::make_unique<Worker>();
        std::thread(&Pool::work, this, worker.get(), count() + 1).detach();
        workers_.push_back(std::move(worker));
      } catch (const std::system_error&) {
        break;
      } catch (const std::bad_alloc&) {
        break;
      }
    }
    return count() < wanted ? count() : wanted;
  }

  // Runs task(context, 0..size-1); index 0 here. Further workers are left asleep.
  void run(int size, void (*task)(void*, int), void* context) {
    if (size == 1) return task(context, 0);
    task_ = task;
    context_ = context;
    missing_.store(size - 1, std::memory_order_relaxed);
    for (int i = 0; i < size - 1; ++i) {
      Worker& worker = *workers_[static_cast<std::size_t>(i)];
      worker.jobs.fetch_add(1, std::memory_order_seq_cst);
      if (worker.parked.load(std::memory_order_seq_cst)) {
        {
          std::lock_guard<std::mutex> lock(worker.mutex);
        }
        worker.wake.notify_one();
      }
    }
    task(context, 0);
    spin_until(size > usable_cpus(), [&] { return missing_.load(std::memory_order_acquire) == 0; });
  }

 private:
  struct Worker {
    alignas(64) std::atomic<std::uint64_t> jobs{0};  // given to this worker so far
    std::atomic<bool> parked{false};
    std::mutex mutex;
    std::condition_variable wake;
  };

  int count() const { return static_cast<int>(workers_.size()); }

  void work(Worker* worker, int index) {
    for (std::uint64_t done = 0;; ++done) {
      await_job(*worker, done);
      task_(context_, index);
      missing_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  // Returns when the worker has been given more jobs than it has done.
  static void await_job(Worker& worker, std::uint64_t done) {
    const auto start = std::chrono::steady_clock::now();
    for (int spins = 1;; ++spins) {
      if (worker.jobs.load(std::memory_order_acquire) != done) return;
      pause();
      if (spins % 64 == 0 && std::chrono::steady_clock::now() - start > kSpinTime) break;
    }
    std::unique_lock<std::mutex> lock(worker.mutex);
    worker.parked.store(true, std::memory_order_seq_cst);
    worker.wake.wait(lock, [&] { return worker.jobs.load(std::memory_order_seq_cst) != done; });
    worker.parked.store(false, std::memory_order_relaxed);
  }

  std::mutex busy_;
  std::vector<std::unique_ptr<Worker>> workers_;
  void (*task_)(void*, int) = nullptr;
  void* context_ = nullptr;
  alignas(64) std::atomic<int> missing_{0};
};

std::atomic<Pool*> the_pool{nullptr};

std::atomic<int> fork_count{0};

// The child of a fork has none of the workers: it starts over, and leaks the parent's pool, whose locks may be held.
void forget_pool() {
  fork_count.fetch_add(1, std::memory_order_relaxed);
  the_pool.store(nullptr, std::memory_order_relaxed);
}
const bool registered = call_in_children(forget_pool);

Pool* get_pool() {
  Pool* pool = the_pool.load(std::memory_order_acquire);
  if (pool) return pool;
  if (!registered) return nullptr;
  Pool* made = new Pool;
  if (the_pool.compare_exchange_strong(pool, made, std::memory_order_acq_rel)) return made;
  delete made;
  return pool;
}

}  // namespace

Team::Team(int wanted, bool from_front_end) {
  if (wanted <= 1) return;
  const int source = asked_source();
  if (source == kOpenMP || (source == kAuto && from_front_end)) {
    if (const OpenMP* const host = host_openmp()) {
      if (host->in_parallel()) return;
      openmp_ = host;
      size_ = wanted;
      return;
    }
  }
  Pool* pool = get_pool();
  if (!pool || !pool->try_enter()) return;
  size_ = 1 + pool->grow(wanted - 1);
  pool_ = pool;
}

int forks() { return fork_count.load(std::memory_order_relaxed); }

Team::~Team() {
  if (pool_) static_cast<Pool*>(pool_)->leave();
}

namespace {

// A region of OpenMP: its threads run the task if there are as many as were asked for.
struct Region {
  const OpenMP& host;
  int size;
  void (*task)(void*, int);
  void* context;
  std::atomic<bool> ran{false};

  static void enter(void* data) {
    Region& region = *static_cast<Region*>(data);
    if (region.host.num_threads() != region.size) return;
    region.ran.store(true, std::memory_order_relaxed);
    region.task(region.context, region.host.thread_num());
  }
};

}  // namespace

bool Team::run(void (*task)(void*, int), void* context) {
  if (openmp_) {
    Region region{*openmp_, size_, task, context};
    openmp_->parallel(&Region::enter, &region, static_cast<unsigned>(size_), 0);
    if (region.ran.load(std::memory_order_relaxed)) return true;
    openmp_ = nullptr;
    size_ = 1;
    return false;
  }
  if (pool_)
    static_cast<Pool*>(pool_)->run(size_, task, context);
  else
    task(context, 0);
  return true;
}

}  // namespace fusedrnn
