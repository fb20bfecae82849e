// The machine's ceilings, as the benchmarks ask for them. Nothing here needs the GIL.
#pragma once

#include <algorithm>
#include <chrono>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "../buffer.hpp"
#include "../cpu/dispatch.hpp"
#include "../cpu/threads.hpp"
#include "arrays.hpp"

namespace fusedrnn {
namespace {

using std::int64_t;

// Runs probe(index) on so many threads at once and returns the rate of all together, in units of 1e9 a second.
template <class Probe>
double rate(int threads, Probe&& probe) {
  Team team(threads);
  struct Job {
    Probe& probe;
    std::vector<double> done;
  } job{probe, std::vector<double>(static_cast<std::size_t>(team.size()))};
  const auto start = std::chrono::steady_clock::now();
  team.run(
      [](void* context, int index) {
        Job& j = *static_cast<Job*>(context);
        j.done[static_cast<std::size_t>(index)] = j.probe(index);
      },
      &job);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return std::accumulate(job.done.begin(), job.done.end(), 0.0) / seconds / 1e9;
}

template <class T>
double fma_rate(const ProbeKernels<T>& kernels, int64_t rounds) {
  return rate(useful_threads(), [&](int) {
    alignas(64) T sink[64];
    return kernels.fma(rounds, sink);
  });
}

template <class T>
double read_rate(const ProbeKernels<T>& kernels, int64_t bytes_each, int64_t rounds) {
  const int64_t n = bytes_each / static_cast<int64_t>(sizeof(T));
  const int threads = useful_threads();
  std::vector<Buffer> data;
  for (int i = 0; i < threads; ++i) {
    data.emplace_back(static_cast<std::size_t>(bytes_each));
    std::fill_n(data.back().as<T>(), n, T(1));
  }
  const auto probe = [&](int index) {
    alignas(64) T sink[64];
    return kernels.read(data[static_cast<std::size_t>(index)].template as<T>(), n, rounds, sink);
  };
  const int64_t wanted = std::exchange(rounds, 1);
  rate(threads, probe);  // brings the data into the caches that can hold it
  rounds = wanted;
  return rate(threads, probe);
}

int64_t require_positive(const char* name, int64_t n, int64_t most) {
  if (n < 1 || n > most) {
    throw py::value_error(std::string(name) + ": expected an integer in 1.." + std::to_string(most) + ", got " +
                          std::to_string(n));
  }
  return n;
}

}  // namespace
}  // namespace fusedrnn
