#include "run.hpp"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cstring>
#include <stdexcept>

#include "cpu/float_environment.hpp"
#include "cpu/threads.hpp"
#include "sizes.hpp"

namespace fusedrnn {

namespace {

using std::int64_t;

// How the recurrence is shared out: row_parts x tile_parts workers.
struct Schedule {
  int row_parts, tile_parts;
  int workers() const { return row_parts * tile_parts; }
};

constexpr const char* kScheduleNames[] = {"auto", "one", "rows", "units"};
std::atomic<int> asked_schedule{0};

// Where one schedule overtakes another, by bench/schedules.py on two cores with 2 MB of L2 each.
struct Thresholds {
  static constexpr double kTinyCall = 4e6;          // multiply-adds of a call that ends before other threads are awake
  static constexpr double kTinyStep = 20e3;         // multiply-adds of a step that costs less than a meeting of threads
  static constexpr double kSmallWeights = 256e3;    // bytes that are worth a thread's pass for a single row
  static constexpr double kPrivateWeights = 1.5e6;  // bytes that one core keeps to itself
  static constexpr int64_t kSomeRows = 4;           // rows that make a pass over private weights worthwhile
  static constexpr int64_t kManyRows = 24;  // rows that make it worthwhile to fetch weights from the shared cache
};

// Multiply-adds of all recurrent products of a step, for one row.
double recurrent_weights(const CellFacts& f, int64_t hidden) {
  double sum = 0;
  for (int i = 0; i < f.products; ++i) sum += static_cast<double>(f.product[i].gates) * f.product[i].depth;
  return sum * static_cast<double>(hidden) * static_cast<double>(hidden);
}

// Multiply-adds of one forward pass.
template <class C>
double multiply_adds(const Problem<C>& p, const CellFacts& f) {
  const double input = static_cast<double>(f.gates) * p.hidden * p.input;
  return static_cast<double>(p.seq_len) * p.batch * (input + recurrent_weights(f, p.hidden));
}

// The three schedules, all of which give the same bits: one thread for tiny problems; batch-parallel, where each thread
// has its own rows and never waits, if there are rows enough to make each pass over the weights worthwhile;
// else unit-parallel, where each thread keeps its part of the weights in its own cache and all meet in every step.
template <class F>
Schedule choose(const Problem<typename F::Compute>& p, const CellFacts& f, int64_t tiles, int threads) {
  const double per_row = recurrent_weights(f, p.hidden);
  const double per_step = per_row * p.batch;
  const Schedule rows{static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, p.batch))), 1};
  const Schedule units{1, static_cast<int>(std::min<int64_t>(threads, tiles))};
  if (const int asked = asked_schedule.load(std::memory_order_relaxed)) {
    return asked == 1 ? Schedule{1, 1} : asked == 2 ? rows : units;
  }
  if (threads <= 1 || multiply_adds(p, f) < Thresholds::kTinyCall) return {1, 1};
  const int64_t rows_each = p.batch / threads;
  const double bytes = per_row * sizeof(typename F::Storage);
  const int64_t enough = bytes <= Thresholds::kSmallWeights     ? 1
                         : bytes <= Thresholds::kPrivateWeights ? Thresholds::kSomeRows
                                                                : Thresholds::kManyRows;
  return rows_each >= enough || per_step < Thresholds::kTinyStep ? rows : units;
}

// Scratch of up to kKeep bytes is kept by the calling thread between calls.
class Scratch {
 public:
  explicit Scratch(std::size_t bytes) {
    static thread_local Buffer kept;
    if (bytes > kKeep) {
      own_ = Buffer(bytes);
      data_ = own_.data();
      return;
    }
    if (bytes > kept.bytes()) kept = Buffer(bytes);
    data_ = kept.data();
  }
  char* data() const { return data_; }

 private:
  static constexpr std::size_t kKeep = 4u << 20;
  Buffer own_;
  char* data_;
};

std::size_t round_up(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

// The first tile of each of `parts` parts of the tiles.
struct EvenCuts {
  int64_t operator()(int64_t tiles, int64_t part, int64_t parts) const { return tiles * part / parts; }
};

// The same, for a cell with clocks: parts whose forward steps cost the same. A tile costs the sum, over the clocks that
// have units in it, of the inputs of such a unit divided by the clock's period.
template <class F>
struct ClockCuts {
  const Problem<typename F::Compute>& p;
  const PackedWeights<F>& weights;
  int64_t lanes;

  double cost(int64_t tile) const {
    double sum = 0;
    for (int i = 0; i < weights.clock_count; ++i) {
      const Clock& clock = weights.clocks[i];
      if (clock.first >= (tile + 1) * lanes || clock.last <= tile * lanes) continue;
      sum += static_cast<double>(p.input + p.hidden - clock.first) / static_cast<double>(clock.period);
    }
    return sum;
  }
  int64_t operator()(int64_t tiles, int64_t part, int64_t parts) const {
    if (part == 0 || part == parts) return part == 0 ? 0 : tiles;
    double all = 0, before = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) all += cost(tile);
    int64_t tile = 0;
    for (; tile < tiles && before * static_cast<double>(parts) < all * static_cast<double>(part); ++tile) {
      before += cost(tile);
    }
    return std::clamp(tile, part, tiles - parts + part);  // so that no part begins past the last tile
  }
};

// Lays the schedule's workers out over rows and tiles. Workers beyond the schedule's own get nothing to do in the
// recurrence.
template <class Cuts>
Worker place(const Schedule& s, int index, int count, int64_t batch, int64_t tiles, const Cuts& cuts) {
  Worker worker{};
  worker.index = index;
  worker.count = count;
  if (index >= s.workers()) return worker;
  const int64_t row_part = index / s.tile_parts, tile_part = index % s.tile_parts;
  worker.row0 = batch * row_part / s.row_parts;
  worker.row1 = batch * (row_part + 1) / s.row_parts;
  worker.tile0 = cuts(tiles, tile_part, s.tile_parts);
  worker.tile1 = cuts(tiles, tile_part + 1, s.tile_parts);
  assert(worker.row0 <= worker.row1 && worker.row1 <= batch && worker.tile0 <= worker.tile1 && worker.tile1 <= tiles);
  return worker;
}

// The bytes of zeros with which the scratch of all workers begins.
template <class C>
std::size_t zero_bytes(const Problem<C>& p, const CellFacts& f) {
  return static_cast<std::size_t>(f.longest_state * p.hidden) * sizeof(C);
}

// The caller's part of the contract in problem.hpp.
template <class C>
void check([[maybe_unused]] const Problem<C>& p) {
#ifndef NDEBUG
  assert(p.seq_len >= 0 && p.batch >= 0 && p.input > 0 && p.hidden > 0);
  for (int64_t row = 0; row < p.batch; ++row) {
    assert(!p.lengths || (p.lengths[row] >= 0 && p.lengths[row] <= p.seq_len));
    assert(!p.start || (p.start[row] >= 0 && p.start[row] <= kMostSteps));
  }
#endif
}

// One job: `kernel(worker)` on every worker of the team, each with its own scratch.
template <class C, class Cuts, class LocalBytes, class Kernel>
void launch(const Problem<C>& p, const CellFacts& f, const Schedule& s, int64_t tiles, const Cuts& cuts, Team& team,
            int count, std::size_t shared_bytes, LocalBytes&& local_bytes, Kernel&& kernel) {
  std::size_t bytes = round_up(shared_bytes);
  for (int i = 0; i < count; ++i) bytes += round_up(local_bytes(place(s, i, count, p.batch, tiles, cuts)));
  assert(bytes <= static_cast<std::size_t>(most_call_bytes(f, p.hidden, p.input, p.seq_len, p.batch).value()));
  Scratch scratch(bytes);
  BarrierHandle steps(s.tile_parts), all(count);
  std::memset(scratch.data(), 0, zero_bytes(p, f));

  const auto work = [&](int index) {
    if (index >= count) return;
    const FloatEnvironment environment;
    Worker worker = place(s, index, count, p.batch, tiles, cuts);
    worker.shared = scratch.data();
    worker.local = scratch.data() + round_up(shared_bytes);
    for (int i = 0; i < index; ++i) worker.local += round_up(local_bytes(place(s, i, count, p.batch, tiles, cuts)));
    worker.local_bytes = local_bytes(worker);
    assert(worker.local + worker.local_bytes <= scratch.data() + bytes);
    worker.step_barrier = index < s.workers() ? steps.get() : nullptr;
    worker.all_barrier = all.get();
    kernel(worker);
  };
  using Work = decltype(work);
  team.run([](void* context, int index) { (*static_cast<Work*>(context))(index); },
           const_cast<void*>(static_cast<const void*>(&work)));
}

}  // namespace

void set_schedule(const std::string& name) {
  for (int i = 0; i < 4; ++i) {
    if (name == kScheduleNames[i]) return asked_schedule.store(i, std::memory_order_relaxed);
  }
  throw std::invalid_argument("schedule: expected one of 'auto', 'one', 'rows', 'units', got '" + name + "'");
}

namespace {

// The kernels and threads that a problem runs on.
template <class F>
struct Resources {
  const FormatKernels<F>& kernels;
  const CellFacts& facts;
  int64_t tiles;
  int threads;  // a schedule that is asked for, in tests, may have more threads than there are CPUs

  Resources(const Isa& isa, const Weights<F>& weights)
      : kernels(isa.kernels->of_format<F>()),
        facts(facts_of(weights.cell())),
        tiles((weights.hidden() + kernels.lanes - 1) / kernels.lanes),
        threads(asked_schedule.load(std::memory_order_relaxed) ? num_threads() : useful_threads()) {}
};

}  // namespace

template <class F>
std::pair<int, int> forward_schedule(const Weights<F>& weights, int64_t seq_len, int64_t batch) {
  const FloatEnvironment environment;
  Problem<typename F::Compute> p{};
  p.seq_len = seq_len;
  p.batch = batch;
  p.input = weights.input();
  p.hidden = weights.hidden();
  const Resources<F> resources(current_isa(), weights);
  const Schedule s = choose<F>(p, resources.facts, resources.tiles, resources.threads);
  return {s.row_parts, s.tile_parts};
}

template <class F>
void run_forward(const Weights<F>& weights, Problem<typename F::Compute> p) {
  const FloatEnvironment environment;  // choosing a schedule is arithmetic too
  if (p.batch == 0) p.seq_len = 0;     // no row has steps
  const Isa isa = current_isa();
  const Resources<F> resources(isa, weights);
  check(p);
  p.cell = weights.cell();
  const PackedWeights<F>& packed = weights.packed(isa, false);
  const SequenceKernels<F>& kernels = resources.kernels.sequence;
  const CellFacts& f = resources.facts;
  Team team(choose<F>(p, f, resources.tiles, resources.threads).workers());
  const Schedule s = choose<F>(p, f, resources.tiles, team.size());
  const auto launch_cut = [&](const auto& cuts) {
    launch(
        p, f, s, resources.tiles, cuts, team, s.workers(), kernels.forward_shared_bytes(p, packed),
        [&](const Worker& worker) {
          return kernels.forward_local_bytes(p, packed, worker.row1 - worker.row0, worker.tile1 - worker.tile0);
        },
        [&](const Worker& worker) { kernels.forward(p, packed, worker); });
  };
  if (f.clocked)
    launch_cut(ClockCuts<F>{p, packed, resources.kernels.lanes});
  else
    launch_cut(EvenCuts());
}

template <class F>
void run_backward(const Weights<F>& weights, Problem<typename F::Compute> p, const Gradients<typename F::Compute>& g) {
  const FloatEnvironment environment;
  if (p.batch == 0) p.seq_len = 0;
  const Isa isa = current_isa();
  const Resources<F> resources(isa, weights);
  check(p);
  p.cell = weights.cell();
  const PackedWeights<F>& packed = weights.packed(isa, true);
  const SequenceKernels<F>& kernels = resources.kernels.sequence;
  const CellFacts& f = resources.facts;
  const bool tiny =
      multiply_adds(p, f) < Thresholds::kTinyCall && choose<F>(p, f, resources.tiles, resources.threads).workers() == 1;
  Team team(tiny ? 1 : resources.threads);
  const Schedule s = choose<F>(p, f, resources.tiles, team.size());
  launch(
      p, f, s, resources.tiles, EvenCuts(), team, team.size(), zero_bytes(p, f),
      [&](const Worker& worker) {
        return kernels.backward_local_bytes(p, packed, worker.row1 - worker.row0, worker.tile1 - worker.tile0);
      },
      [&](const Worker& worker) { kernels.backward(p, packed, g, worker); });
}

#define RNN_INSTANTIATE(Format, ...)                                                               \
  template std::pair<int, int> forward_schedule<Format>(const Weights<Format>&, int64_t, int64_t); \
  template void run_forward<Format>(const Weights<Format>&, Problem<Format::Compute>);             \
  template void run_backward<Format>(const Weights<Format>&, Problem<Format::Compute>,             \
                                     const Gradients<Format::Compute>&);
RNN_FORMATS(RNN_INSTANTIATE)

}  // namespace fusedrnn
