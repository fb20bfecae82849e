// The machine's ceilings, as the benchmarks ask for them. Nothing here needs the GIL.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../buffer.hpp"
#include "../cpu/barrier.hpp"
#include "../cpu/dispatch.hpp"
#include "../cpu/threads.hpp"
#include "../sizes.hpp"
#include "arrays.hpp"
#include "gil.hpp"
#include "register.hpp"

namespace fusedrnn {
namespace {

using std::int64_t;

// Seconds that work(index) takes on all threads of the team at once. begin() comes before, again if the team is smaller
// after all.
template <class Begin, class Work>
double seconds(Team& team, Begin&& begin, Work&& work) {
  const auto task = [](void* context, int index) { (*static_cast<std::remove_reference_t<Work>*>(context))(index); };
  auto start = std::chrono::steady_clock::now();
  do {
    begin();
    start = std::chrono::steady_clock::now();
  } while (!team.run(task, const_cast<void*>(static_cast<const void*>(&work))));
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Runs probe(index) on all of these threads at once, and returns the rate of all together, in units of 1e9 a second.
template <class Probe>
double rate(int threads, Probe&& probe) {
  Team team(threads);
  std::vector<double> done(static_cast<std::size_t>(team.size()));
  const double taken = seconds(team, [] {}, [&](int index) { done[static_cast<std::size_t>(index)] = probe(index); });
  return std::accumulate(done.begin(), done.end(), 0.0) / taken / 1e9;
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

// How many threads met, at most as many as are asked for, and the nanoseconds of a meeting. Throws std::runtime_error
// if one leaves a meeting to which another has not come.
std::pair<int, double> meeting_time(int threads, int64_t rounds) {
  struct Place {
    alignas(64) int64_t round = 0;
  };
  Team team(threads);
  std::vector<Place> places;
  std::atomic<bool> is_early{false};
  std::unique_ptr<BarrierHandle> barrier;
  const auto begin = [&] {
    barrier = std::make_unique<BarrierHandle>(team.size());
    places.assign(static_cast<std::size_t>(team.size()), Place{});
  };
  const double taken = seconds(team, begin, [&](int index) {
    for (int64_t round = 1; round <= rounds; ++round) {
      places[static_cast<std::size_t>(index)].round = round;
      barrier_wait(barrier->of(index));
      const std::size_t other = (static_cast<std::size_t>(index) + static_cast<std::size_t>(round)) % places.size();
      if (places[other].round != round) is_early = true;
      barrier_wait(barrier->of(index));
    }
  });
  if (is_early) throw std::runtime_error("a thread left a meeting before all had come");
  return {team.size(), taken * 1e9 / static_cast<double>(2 * rounds)};
}

}  // namespace

void register_probes(py::module_& m) {
  m.def("probe_meeting", [](int threads, int64_t rounds) {
    require_positive("threads", threads, kMostThreads);
    require_positive("rounds", rounds, int64_t{1} << 40);
    std::pair<int, double> met;
    without_gil([&] { met = meeting_time(threads, rounds); });
    return met;
  });
  m.def("probe_fma", [](bool f64, int64_t rounds) {
    const Kernels& k = *current_isa().kernels;
    require_positive("rounds", rounds, int64_t{1} << 40);
    double result = 0;
    without_gil([&] {
      result = f64 ? fma_rate(k.of_type<double>().probe, rounds) : fma_rate(k.of_type<float>().probe, rounds);
    });
    return result;
  });
  m.def("probe_read", [](bool f64, int64_t bytes_each, int64_t rounds) {
    const Kernels& k = *current_isa().kernels;
    require_positive("bytes_each", bytes_each, int64_t{1} << 34);
    require_positive("rounds", rounds, int64_t{1} << 40);
    double result = 0;
    without_gil([&] {
      result = f64 ? read_rate(k.of_type<double>().probe, bytes_each, rounds)
                   : read_rate(k.of_type<float>().probe, bytes_each, rounds);
    });
    return result;
  });
}

}  // namespace fusedrnn
