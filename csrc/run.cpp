#include "run.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <vector>

#include "cpu/float_environment.hpp"
#include "cpu/threads.hpp"
#include "schedule.hpp"
#include "sizes.hpp"

namespace fusedrnn {

namespace {

using std::int64_t;

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

void meet(const BarrierHandle& barrier) {
  if (barrier.get()) barrier_wait(barrier.get());
}

// The caller's part of the contract in problem.hpp.
template <class C>
void check([[maybe_unused]] const Problem<C>& p) {
#ifndef NDEBUG
  assert(p.seq_len >= 0 && p.batch >= 0 && p.input > 0 && p.hidden > 0 && p.proj > 0 && p.y_stride >= p.proj);
  for (int64_t row = 0; row < p.batch; ++row) {
    assert(!p.lengths || (p.lengths[row] >= 0 && p.lengths[row] <= p.seq_len));
    assert(!p.start || (p.start[row] >= 0 && p.start[row] <= kMostSteps));
  }
#endif
}

// A direction of a layer, ready to run.
template <class F>
struct Job {
  Problem<typename F::Compute> p;
  const PackedWeights<F>* packed;
  const Gradients<typename F::Compute>* g;
};

// The jobs of a stack, what they need, and how the team's workers share them: all of them take one job after the other,
// or, *side by side*, each half of them takes one direction.
template <class F>
class Launch {
 public:
  using C = typename F::Compute;

  Launch(const Stack<F>& stack, bool backward)
      : stack_(stack),
        backward_(backward),
        isa_(current_isa()),
        facts_(facts_of(stack.layers[0].direction[0].weights->cell())),
        kernels_(isa_.kernels->of_format<F>()) {
    for (const Layer<F>& layer : stack.layers) {
      for (int d = 0; d < stack.directions; ++d) add(layer.direction[d]);
    }
    tiles_ = tiles_of(jobs_[0].p.hidden);
    h_tiles_ = tiles_of(jobs_[0].p.proj);
    // A schedule that is asked for, in tests, may have more threads than there are CPUs.
    threads_ = is_schedule_asked() ? num_threads() : useful_threads();
  }

  const CellFacts& facts() const { return facts_; }
  const SequenceKernels<F>& kernels() const { return kernels_.sequence; }
  int layers() const { return static_cast<int>(stack_.layers.size()); }
  const Job<F>& job(int layer, int direction) const {
    return jobs_[static_cast<std::size_t>(layer * stack_.directions + direction)];
  }
  int threads() const { return threads_; }

  // Sets the shares of a team of `threads` workers.
  void share_out(int threads) {
    const Problem<C>& p = jobs_[0].p;
    const bool worth_it = is_schedule_asked() || !is_tiny(work_);
    const bool halves = stack_.directions == 2 && threads % 2 == 0 && worth_it;
    sides_ = halves ? 2 : 1;
    s_ = choose(facts_, p.batch, p.hidden, p.proj, work_, tiles_, threads / sides_, sizeof(typename F::Storage));
    // Products over all steps at once have work for all workers, the recurrence may have less.
    each_ = backward_ && !(is_tiny(work_) && s_.workers() == 1) ? threads / sides_ : s_.workers();
  }
  const Schedule& schedule() const { return s_; }
  int workers() const { return sides_ * each_; }

  // Runs work(index, side, worker) for all workers: the worker's place in one direction, and in which if there are
  // sides. `all` is where all workers meet.
  template <class Work>
  void run(Team& team, Work&& work) {
    const std::size_t shared = round_up(shared_bytes());
    std::vector<std::size_t> local(static_cast<std::size_t>(workers()) + 1);
    local[0] = shared * static_cast<std::size_t>(stack_.directions);
    for (int i = 0; i < workers(); ++i) {
      local[static_cast<std::size_t>(i) + 1] = local[static_cast<std::size_t>(i)] + round_up(local_bytes(i % each_));
    }
    Scratch scratch(local.back());
    const std::size_t zeros = static_cast<std::size_t>(facts_.longest_state * jobs_[0].p.hidden) * sizeof(C);
    for (int d = 0; d < stack_.directions; ++d) {
      std::memset(scratch.data() + static_cast<std::size_t>(d) * shared, 0, zeros);
    }
    BarrierHandle steps0(s_.tile_parts), steps1(sides_ > 1 ? s_.tile_parts : 1), side0(each_),
        side1(sides_ > 1 ? each_ : 1);

    const auto task = [&](int index) {
      if (index >= workers()) return;
      const FloatEnvironment environment;
      const int side = index / each_, at = index % each_;
      Seat seat{scratch.data(), shared, scratch.data() + local[static_cast<std::size_t>(index)],
                local[static_cast<std::size_t>(index) + 1] - local[static_cast<std::size_t>(index)],
                at < s_.workers() ? (side ? steps1 : steps0).get() : nullptr, (side ? side1 : side0).get()};
      work(index, side, at, seat);
    };
    using Task = decltype(task);
    team.run([](void* context, int index) { (*static_cast<Task*>(context))(index); },
             const_cast<void*>(static_cast<const void*>(&task)));
  }

  // The memory and meetings of one of the team's workers.
  struct Seat {
    char* shared;  // of direction 0, and then of direction 1
    std::size_t shared_bytes;
    char* local;
    std::size_t local_bytes;
    Barrier *steps, *side;
  };

  Worker worker(const Job<F>& job, int direction, int at, const Seat& seat) const {
    Worker worker = placed(job, at);
    worker.shared = seat.shared + static_cast<std::size_t>(direction) * seat.shared_bytes;
    worker.local = seat.local;
    worker.local_bytes = seat.local_bytes;
    worker.step_barrier = seat.steps;
    worker.all_barrier = seat.side;
    return worker;
  }
  bool takes(int side, int direction) const { return sides_ == 1 || side == direction; }

 private:
  int64_t tiles_of(int64_t units) const { return (units + kernels_.lanes - 1) / kernels_.lanes; }

  void add(const Direction<F>& from) {
    const Weights<F>& weights = *from.weights;
    Job<F> job{from.p, &weights.packed(isa_, backward_), &from.g};
    Problem<C>& p = job.p;
    p.cell = weights.cell();
    p.input = weights.input();
    p.hidden = weights.hidden();
    p.proj = weights.proj();
    if (p.batch == 0) p.seq_len = 0;  // no row has steps
    check(p);
    work_ += multiply_adds(facts_, p.seq_len, p.batch, p.input, p.hidden, p.proj);
    jobs_.push_back(job);
  }

  Worker placed(const Job<F>& job, int at) const {
    const Problem<C>& p = job.p;
    if (facts_.clocked && !backward_) {
      return place(s_, at, each_, p.batch, tiles_, h_tiles_, ClockCuts<F>{p, *job.packed, kernels_.lanes});
    }
    return place(s_, at, each_, p.batch, tiles_, h_tiles_, EvenCuts());
  }

  // The scratch of the worker at this place, in whichever job.
  std::size_t local_bytes(int at) const {
    const auto& bytes = backward_ ? kernels().backward_local_bytes : kernels().forward_local_bytes;
    std::size_t most = 0;
    for (const Job<F>& job : jobs_) most = std::max(most, bytes(job.p, *job.packed, placed(job, at)));
    return most;
  }
  std::size_t shared_bytes() const {
    const Job<F>& job = jobs_[0];  // the same for all
    return backward_ ? static_cast<std::size_t>(facts_.longest_state * job.p.hidden) * sizeof(C)
                     : kernels().forward_shared_bytes(job.p, *job.packed);
  }

  const Stack<F>& stack_;
  const bool backward_;
  const Isa isa_;
  const CellFacts& facts_;
  const FormatKernels<F>& kernels_;
  std::vector<Job<F>> jobs_;
  double work_ = 0;
  int64_t tiles_ = 0, h_tiles_ = 0;
  int threads_ = 1, sides_ = 1, each_ = 1;
  Schedule s_{1, 1};
};

// This worker's share of the steps that dropout makes of `from`: (T, B, D*P).
template <class F>
void drop_share(const Stack<F>& stack, int layer, const Job<F>& job, const typename F::Compute* from,
                typename F::Compute* to, int index, int count) {
  const auto& p = job.p;
  const int64_t rows = p.seq_len * p.batch;
  for (int64_t at = rows * index / count; at < rows * (index + 1) / count; ++at) {
    for (int d = 0; d < stack.directions; ++d) {
      const int64_t first = (at * stack.directions + d) * p.proj;
      drop(stack.dropout, layer, d, at / p.batch, at % p.batch, from + first, to + first, p.proj);
    }
  }
}

}  // namespace

template <class F>
std::pair<int, int> forward_schedule(const Weights<F>& weights, int64_t seq_len, int64_t batch) {
  const FloatEnvironment environment;
  const Isa isa = current_isa();
  const int lanes = isa.kernels->of_format<F>().lanes;
  const CellFacts& f = facts_of(weights.cell());
  const double work = multiply_adds(f, seq_len, batch, weights.input(), weights.hidden(), weights.proj());
  const int threads = is_schedule_asked() ? num_threads() : useful_threads();
  const Schedule s = choose(f, batch, weights.hidden(), weights.proj(), work, (weights.hidden() + lanes - 1) / lanes,
                            threads, sizeof(typename F::Storage));
  return {s.row_parts, s.tile_parts};
}

template <class F>
void run_forward(const Stack<F>& stack) {
  const FloatEnvironment environment;  // choosing a schedule is arithmetic too
  Launch<F> launch(stack, false);
  launch.share_out(launch.threads());
  Team team(launch.workers());
  if (team.size() < launch.workers()) launch.share_out(team.size());
  const BarrierHandle all(launch.workers());
  launch.run(team, [&](int index, int side, int at, const typename Launch<F>::Seat& seat) {
    for (int layer = 0; layer < launch.layers(); ++layer) {
      for (int d = 0; d < stack.directions; ++d) {
        if (!launch.takes(side, d)) continue;
        const Job<F>& job = launch.job(layer, d);
        launch.kernels().forward(job.p, *job.packed, launch.worker(job, d, at, seat));
      }
      if (layer + 1 == launch.layers()) break;
      meet(all);
      if (auto* const dropped = stack.layers[static_cast<std::size_t>(layer)].dropped) {
        const Job<F>& job = launch.job(layer, 0);
        drop_share(stack, layer, job, job.p.y, dropped, index, launch.workers());
        meet(all);
      }
    }
  });
}

template <class F>
void run_backward(const Stack<F>& stack) {
  const FloatEnvironment environment;
  Launch<F> launch(stack, true);
  launch.share_out(launch.threads());
  Team team(launch.workers());
  if (team.size() < launch.workers()) launch.share_out(team.size());
  const BarrierHandle all(launch.workers());
  launch.run(team, [&](int index, int side, int at, const typename Launch<F>::Seat& seat) {
    for (int layer = launch.layers() - 1; layer >= 0; --layer) {
      for (int d = 0; d < stack.directions; ++d) {
        if (!launch.takes(side, d)) continue;
        const Job<F>& job = launch.job(layer, d);
        auto g = *job.g;
        if (stack.directions > 1) g.dx = nullptr;  // until the gradients of both directions are there
        launch.kernels().backward(job.p, *job.packed, g, launch.worker(job, d, at, seat));
      }
      if (stack.directions > 1) meet(all);
      for (int d = 0; d < stack.directions && stack.directions > 1; ++d) {
        const Job<F>& job = launch.job(layer, d);
        Worker worker = launch.worker(job, d, at, seat);
        worker.index = index;
        worker.count = launch.workers();
        launch.kernels().input_gradient(job.p, *job.packed, *job.g, worker, d > 0);
      }
      if (layer == 0) break;
      meet(all);
      if (stack.layers[static_cast<std::size_t>(layer) - 1].dropped) {
        auto* const dx = launch.job(layer, 0).g->dx;
        drop_share(stack, layer - 1, launch.job(layer - 1, 0), dx, dx, index, launch.workers());
        meet(all);
      }
    }
  });
}

#define RNN_INSTANTIATE(Format, ...)                                                               \
  template std::pair<int, int> forward_schedule<Format>(const Weights<Format>&, int64_t, int64_t); \
  template void run_forward<Format>(const Stack<Format>&);                                         \
  template void run_backward<Format>(const Stack<Format>&);
RNN_FORMATS(RNN_INSTANTIATE)

}  // namespace fusedrnn
