// An OpenMP runtime for the stress test, which sanitizers see through: just what cpu/openmp.hpp asks for. Every third
// region has fewer threads than it was asked for.
#include <atomic>
#include <thread>
#include <vector>

#include "../../csrc/platform/compiler.hpp"

namespace {

thread_local int number = 0, count = 1;
std::atomic<unsigned> regions{0};

}  // namespace

extern "C" {
RNN_EXPORT int omp_in_parallel() { return count > 1; }
RNN_EXPORT int omp_get_thread_num() { return number; }
RNN_EXPORT int omp_get_num_threads() { return count; }
RNN_EXPORT void GOMP_parallel(void (*function)(void*), void* data, unsigned wanted, unsigned) {
  const int size = regions.fetch_add(1) % 3 == 2 ? 1 : static_cast<int>(wanted);
  const auto run = [&](int index) {
    number = index;
    count = size;
    function(data);
    number = 0;
    count = 1;
  };
  std::vector<std::thread> threads;
  for (int index = 1; index < size; ++index) threads.emplace_back(run, index);
  run(0);
  for (std::thread& thread : threads) thread.join();
}
}
