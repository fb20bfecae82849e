#include "run.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <memory>
#include <vector>

#include "cpu/float_environment.hpp"
#include "cpu/threads.hpp"
#include "schedule.hpp"
#include "sizes.hpp"
#include "steps.hpp"
#include "wave.hpp"

namespace fusedrnn {

namespace {

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

void meet(Barrier* barrier) {
  if (barrier) barrier_wait(barrier);
}

// The caller's part of the contract in problem.hpp.
template <class C>
void check([[maybe_unused]] const Problem<C>& p) {
#ifndef NDEBUG
  assert(p.seq_len >= 0 && p.batch >= 0 && p.input > 0 && p.hidden > 0 && p.proj > 0 && p.y_stride >= p.proj);
  assert(!p.slots || (p.h_stride >= p.proj && (p.h || p.seq_len * p.batch == 0)));
  assert(!p.offsets || p.lengths);
  for (int64_t row = 0; row < p.batch; ++row) {
    assert(!p.lengths || (p.lengths[row] >= 0 && p.lengths[row] <= p.seq_len));
    assert(!p.start || (p.start[row] >= 0 && p.start[row] <= kMostSteps));
    assert(!p.offsets || row == 0 || p.lengths[row] <= p.lengths[row - 1]);
  }
#endif
}

// A direction of a layer, ready to run.
template <class F>
struct Job {
  Problem<typename F::Compute> p;
  const PackedWeights<F>* packed;
  Gradients<typename F::Compute> g;
  const WeightView<typename F::Compute>* view;  // of weights that are not packed; else null
};

// The jobs of a stack, what they need, and how the team's workers share them: all of them take one job after the other;
// or, *side by side*, each half of them takes one direction; or each takes ranges of layers of a *wave* front.
template <class F>
class Launch {
 public:
  using C = typename F::Compute;

  Launch(const Stack<F>& stack, bool backward)
      : stack_(stack),
        backward_(backward),
        isa_(current_isa()),
        facts_(facts_of(stack.layers[0].direction[0].where().cell)),
        kernels_(isa_.kernels->of_format<F>()) {
    jobs_.swap(spare().jobs);
    make_packings();
    for (const Layer<F>& layer : stack.layers) {
      for (int d = 0; d < stack.directions; ++d) add(layer.direction[d]);
    }
    tiles_ = tiles_of(first().p.hidden);
    h_tiles_ = tiles_of(first().p.proj);
    // A schedule that is asked for, in tests, may have more threads than there are CPUs.
    share_out(threads_of_call());
  }

  ~Launch() {
    jobs_.clear();
    jobs_.swap(spare().jobs);
  }
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  // Sets the shares of a team of up to this many workers.
  void share_out(int threads) {
    const Problem<C>& p = first().p;
    const bool alone = work_.is_tiny() && !is_schedule_asked();
    sides_ = stack_.directions == 2 && threads % 2 == 0 && !alone ? 2 : 1;
    s_ = choose(facts_, p.batch, p.hidden, p.proj, work_, tiles_, threads / sides_, sizeof(typename F::Storage));
    wave_steps_ = stack_.directions > 1 || !stack_.apart || alone
                      ? 0
                      : wave_steps(facts_, s_, p.seq_len, p.batch, p.hidden, p.proj, layers(), threads,
                                   sizeof(typename F::Storage));
    if (wave_steps_ > 0) {
      s_ = {1, 1};
      sides_ = std::min(threads, layers());
    }
    // Products over all steps at once have work for all workers, the recurrence may have less.
    const bool all = backward_ && wave_steps_ == 0 && !(work_.is_tiny() && s_.workers() == 1);
    each_ = all ? threads / sides_ : s_.workers();
    set_ring();
  }

  int layers() const { return static_cast<int>(stack_.layers.size()); }
  int directions() const { return stack_.directions; }
  int workers() const { return sides_ * each_; }
  std::int64_t wave_steps_of_task() const { return wave_steps_; }
  const SequenceKernels<F>& kernels() const { return kernels_.sequence; }
  const Job<F>& job(int layer, int direction) const {
    return jobs_[static_cast<std::size_t>(layer) * static_cast<std::size_t>(stack_.directions) +
                 static_cast<std::size_t>(direction)];
  }
  const Job<F>& first() const { return jobs_[0]; }

  // One of the team's workers: its number, its side and its place there, its memory and meetings.
  struct Seat {
    int index, side, at;
    char* shared;
    std::size_t shared_bytes;  // of a direction, or of a layer of a wave front
    char* local;
    std::size_t local_bytes;
    Barrier *steps, *chunks, *all;  // of workers that share rows; of its side; of the team
    C* apart;                       // backward: dx of the second direction, where it has its own
  };

  // Runs work(seat) for all workers. Returns false, with nothing run and new shares, if the team is smaller after all.
  template <class Work>
  bool run(Team& team, Work&& work) {
    const std::size_t shared = round_up(shared_bytes());
    const std::size_t sets = static_cast<std::size_t>(wave_steps_ > 0 ? layers() : stack_.directions);
    std::size_t most = 0;
    for (int at = 0; at < each_; ++at) most = std::max(most, round_up(local_bytes(at)));
    const std::size_t apart = round_up(apart_bytes());
    const std::size_t bytes = sets * shared + static_cast<std::size_t>(workers()) * most + apart;
    assert(bytes <= jobs_.size() * most_bytes());
    Scratch scratch(bytes + packing_bytes_);
    char* packed = scratch.data() + bytes;
    for (std::size_t i = 0; i < lent_; ++i) {
      packings_[i].move_to(packed);
      packed += packings_[i].bytes();
    }
    const std::size_t zeros = static_cast<std::size_t>(facts_.longest_state * first().p.hidden) * sizeof(C);
    for (std::size_t set = 0; set < sets; ++set) std::memset(scratch.data() + set * shared, 0, zeros);
    char* const locals = scratch.data() + sets * shared + apart;
    const bool halves = side_by_side();
    const BarrierHandle steps[] = {BarrierHandle(s_.tile_parts), BarrierHandle(halves ? s_.tile_parts : 1)};
    const int in_chunks = backward_ ? each_ : 1;
    const BarrierHandle chunks[] = {BarrierHandle(in_chunks), BarrierHandle(halves ? in_chunks : 1)};
    const BarrierHandle all(workers());

    const auto task = [&](int index) {
      if (index >= workers()) return;
      const FloatEnvironment environment;
      const int side = index / each_, at = index % each_, half = halves ? side : 0;
      for (std::size_t i = 0; i < lent_; ++i) packings_[i].run(index, workers());
      if (lent_ > 0) meet(all.get());
      work(Seat{index, side, at, scratch.data(), shared, locals + static_cast<std::size_t>(index) * most, most,
                at < s_.workers() ? steps[half].get() : nullptr, chunks[half].get(), all.get(),
                apart > 0 ? reinterpret_cast<C*>(scratch.data() + sets * shared) : nullptr});
    };
    using Task = decltype(task);
    const bool ran = team.run([](void* context, int index) { (*static_cast<Task*>(context))(index); },
                              const_cast<void*>(static_cast<const void*>(&task)));
    if (!ran) share_out(team.size());
    return ran;
  }

  // The worker of a job at a seat; `set` is the job's direction, or its layer in a wave front.
  Worker worker(const Job<F>& job, int set, const Seat& seat) const {
    Worker worker = placed(job, seat.at);
    worker.shared = seat.shared + static_cast<std::size_t>(set) * seat.shared_bytes;
    worker.local = seat.local;
    worker.local_bytes = seat.local_bytes;
    worker.step_barrier = seat.steps;
    worker.ring = ring_;
    return worker;
  }
  bool is_clocked() const { return facts_.clocked; }
  // Whether the second of two directions has a dx of its own in backward, which is added to the first one's: where both
  // run at the same time, and where dx itself is a sum over clocks.
  bool sums_apart() const { return stack_.directions == 2 && (side_by_side() || facts_.clocked); }
  bool takes(const Seat& seat, int direction) const { return sides_ == 1 || seat.side == direction; }

 private:
  int64_t tiles_of(int64_t units) const { return (units + kernels_.lanes - 1) / kernels_.lanes; }

  // The memory of this thread's launches, from one to the next: a step of a stream allocates nothing.
  struct Spare {
    std::vector<Job<F>> jobs;
    std::unique_ptr<Packing<F>[]> packings;
    std::size_t packing_count = 0;
  };
  static Spare& spare() {
    static thread_local Spare spare;
    return spare;
  }

  int threads_of_call() const {
    const int most = stack_.threads > 0 ? stack_.threads : num_threads();
    // A schedule that is asked for, in tests, may have more threads than there are CPUs.
    return is_schedule_asked() ? most : useful_threads(most);
  }

  // Packed forms that live as long as the call, for weights that are not packed.
  void make_packings() {
    std::size_t count = 0;
    for (const Layer<F>& layer : stack_.layers) {
      for (int d = 0; d < stack_.directions; ++d) count += !layer.direction[d].weights;
    }
    Spare& s = spare();
    if (count > s.packing_count) {
      s.packings.reset(new Packing<F>[count]);
      s.packing_count = count;
    }
    packings_ = s.packings.get();
  }
  bool in_place(const Problem<C>& p) const {
    if (facts_.clocked) return false;
    Work one;
    one.add(facts_, 1, 1, p.input, p.hidden, p.proj, sizeof(typename F::Storage));
    const int64_t groups = (p.batch + kernels_.rows_together - 1) / kernels_.rows_together;
    return worth_in_place(p.seq_len * groups, one.weight_bytes);
  }

  void add(const Direction<F>& from) {
    const WeightView<C>& weights = from.where();
    Job<F> job{from.p, nullptr, from.g, from.weights ? nullptr : from.view};
    Problem<C>& p = job.p;
    p.cell = weights.cell;
    p.input = weights.input;
    p.hidden = weights.hidden;
    p.proj = weights.proj;
    if (p.batch == 0) p.seq_len = 0;  // no row has steps
    if (job.view) {
      packing_bytes_ += packings_[lent_].lay_out(weights, kernels_, backward_, in_place(p), nullptr);
      job.packed = &packings_[lent_++].packed();
    } else {
      job.packed = &from.weights->packed(isa_, backward_);
    }
    check(p);
    assert(!stack_.apart || stack_.directions > 1 || !p.reverse);  // a wave front runs in the order of time
    work_.add(facts_, p.seq_len, p.batch, p.input, p.hidden, p.proj, sizeof(typename F::Storage));
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
  // What sizes.hpp says of one of the jobs.
  std::size_t most_bytes() const {
    std::int64_t most = 0;
    for (const Job<F>& job : jobs_) {
      const Problem<C>& p = job.p;
      most = std::max(most, most_call_bytes(facts_, p.hidden, p.input, p.seq_len, p.batch).value());
    }
    return static_cast<std::size_t>(most);
  }
  std::size_t shared_bytes() const {  // the same for all jobs
    return backward_ ? kernels().backward_shared_bytes(first().p, ring_)
                     : kernels().forward_shared_bytes(first().p, *first().packed);
  }
  bool side_by_side() const { return sides_ > 1 && wave_steps_ == 0; }
  // dx of the second direction, of any layer.
  std::size_t apart_bytes() const {
    if (!backward_ || !sums_apart()) return 0;
    int64_t most = 0;
    for (const Job<F>& job : jobs_) most = std::max(most, job.g.dx ? rows_of(job.p) * job.p.input : 0);
    return static_cast<std::size_t>(most) * sizeof(C);
  }
  // Workers that share a chunk's sums begin with the next chunk before all of them have ended.
  void set_ring() {
    if (!backward_) return;
    const Problem<C>& p = first().p;
    const int64_t steps = most_chunk_steps(p, facts_.clocked);
    ring_ = std::max<int64_t>(1, std::min(p.seq_len, each_ > 1 ? 2 * steps : steps + 1));
  }

  const Stack<F>& stack_;
  const bool backward_;
  const Isa isa_;
  const CellFacts& facts_;
  const FormatKernels<F>& kernels_;
  std::vector<Job<F>> jobs_;
  Packing<F>* packings_ = nullptr;
  std::size_t lent_ = 0, packing_bytes_ = 0;
  Work work_;
  int64_t tiles_ = 0, h_tiles_ = 0, wave_steps_ = 0, ring_ = 0;
  int sides_ = 1, each_ = 1;
  Schedule s_{1, 1};
};

template <class C>
Range all_steps(const Problem<C>& p) {
  return {0, p.seq_len};
}

// Dropout of the outputs of a layer at these steps, `from` (T, B, D*P): the share of one of `count` workers.
template <class F>
void drop_share(const Stack<F>& stack, int layer, const Job<F>& job, const Range& range,
                const typename F::Compute* from, typename F::Compute* to, int index, int count) {
  const auto& p = job.p;
  const int64_t start = range.first * p.batch, pairs = (range.last - range.first) * p.batch;
  for (int64_t at = start + pairs * index / count; at < start + pairs * (index + 1) / count; ++at) {
    const int64_t t = at / p.batch, row = at % p.batch;
    if (!is_padded(p) && t >= length_of(p, row)) continue;
    for (int d = 0; d < stack.directions; ++d) {
      const int64_t first = (place_of(p, t, row) * stack.directions + d) * p.proj;
      drop(stack.dropout, layer, d, t, row, from + first, to + first, p.proj);
    }
  }
}

// What dropout makes of a layer's outputs, and of their gradients.
template <class F>
void drop_outputs(const Launch<F>& launch, const Stack<F>& stack, int layer, const Range& range, int index, int count) {
  if (auto* const dropped = stack.layers[static_cast<std::size_t>(layer)].dropped) {
    drop_share(stack, layer, launch.job(layer, 0), range, launch.job(layer, 0).p.y, dropped, index, count);
  }
}
template <class F>
void drop_gradients(const Launch<F>& launch, const Stack<F>& stack, int layer, const Range& range, int index,
                    int count) {
  if (!stack.layers[static_cast<std::size_t>(layer)].dropped) return;
  auto* const dx = launch.job(layer + 1, 0).g.dx;
  drop_share(stack, layer, launch.job(layer, 0), range, dx, dx, index, count);
}

template <class F>
void forward_in_turn(const Launch<F>& launch, const Stack<F>& stack, const typename Launch<F>::Seat& seat) {
  for (int layer = 0; layer < launch.layers(); ++layer) {
    for (int d = 0; d < launch.directions(); ++d) {
      if (!launch.takes(seat, d)) continue;
      const Job<F>& job = launch.job(layer, d);
      launch.kernels().forward(job.p, *job.packed, launch.worker(job, d, seat), all_steps(job.p));
    }
    if (layer + 1 == launch.layers()) return;
    meet(seat.all);
    if (!stack.layers[static_cast<std::size_t>(layer)].dropped) continue;
    drop_outputs(launch, stack, layer, all_steps(launch.first().p), seat.index, launch.workers());
    meet(seat.all);
  }
}

template <class F>
void forward_in_a_wave(const Launch<F>& launch, const Stack<F>& stack, const typename Launch<F>::Seat& seat,
                       Wave& wave) {
  wave.work(false, [&](int layer, const Range& range) {
    const Job<F>& job = launch.job(layer, 0);
    launch.kernels().forward(job.p, *job.packed, launch.worker(job, layer, seat), range);
    drop_outputs(launch, stack, layer, range, 0, 1);
  });
}

// The chunk of backward that has this step.
template <class C>
Range chunk_with(const Problem<C>& p, bool clocked, int64_t step) {
  Range chunk{p.seq_len, p.seq_len};
  do {
    chunk = {chunk_begin(p, clocked, chunk.first), chunk.first};
  } while (chunk.first > step);
  return chunk;
}

// Backward of a job, chunk after chunk, by the workers of a side; `add`: to dx.
template <class F>
void backward_of_job(const Launch<F>& launch, const Job<F>& job, const Worker& worker, Barrier* chunks, bool add) {
  const auto& kernels = launch.kernels();
  int64_t last = job.p.seq_len;
  do {
    const Range chunk{chunk_begin(job.p, launch.is_clocked(), last), last};
    kernels.backward(job.p, *job.packed, job.g, worker, chunk);
    meet(chunks);
    if (job.g.dx) kernels.input_gradient(job.p, *job.packed, job.g, worker, chunk, add);
    kernels.weight_gradients(job.p, *job.packed, job.g, worker, chunk);
    last = chunk.first;
  } while (last > 0);
}

// dx += dx of the second direction: the share of one of `count` workers.
template <class C>
void add_apart(const Problem<C>& p, C* dx, const C* apart, int index, int count) {
  const int64_t pairs = p.seq_len * p.batch;
  for (int64_t at = pairs * index / count; at < pairs * (index + 1) / count; ++at) {
    const int64_t t = at / p.batch, row = at % p.batch;
    if (t >= length_of(p, row)) continue;  // the first direction has cleared it, or it is the caller's
    const int64_t first = place_of(p, t, row) * p.input;
    for (int64_t i = first; i < first + p.input; ++i) dx[i] += apart[i];
  }
}

// dx is the sum of the directions', in their order.
template <class F>
void backward_in_turn(const Launch<F>& launch, const Stack<F>& stack, const typename Launch<F>::Seat& seat) {
  for (int layer = launch.layers() - 1; layer >= 0; --layer) {
    for (int d = 0; d < launch.directions(); ++d) {
      if (!launch.takes(seat, d)) continue;
      Job<F> job = launch.job(layer, d);
      if (launch.sums_apart() && d > 0 && job.g.dx) job.g.dx = seat.apart;
      backward_of_job(launch, job, launch.worker(job, d, seat), seat.chunks,
                      d > 0 ? !launch.sums_apart() : layer == 0 && stack.add_dx);
    }
    if (launch.sums_apart()) {
      meet(seat.all);
      const Job<F>& job = launch.job(layer, 0);
      if (job.g.dx) add_apart(job.p, job.g.dx, seat.apart, seat.index, launch.workers());
    }
    if (layer == 0) return;
    meet(seat.all);
    if (!stack.layers[static_cast<std::size_t>(layer) - 1].dropped) continue;
    drop_gradients(launch, stack, layer - 1, all_steps(launch.first().p), seat.index, launch.workers());
    meet(seat.all);
  }
}

// A range of a job in a wave. The sums of the chunk of the first steps are left.
template <class F>
void backward_of_range(const Launch<F>& launch, const Job<F>& job, const Worker& worker, const Range& range, bool add) {
  const auto& kernels = launch.kernels();
  for (int64_t last = range.last; last > range.first;) {
    const Range chunk = chunk_with(job.p, launch.is_clocked(), last - 1);
    const Range some{std::max(range.first, chunk.first), last};
    kernels.backward(job.p, *job.packed, job.g, worker, some);
    if (job.g.dx) kernels.input_gradient(job.p, *job.packed, job.g, worker, some, add);
    if (some.first == chunk.first && chunk.first > 0) {
      kernels.weight_gradients(job.p, *job.packed, job.g, worker, chunk);
    }
    last = some.first;
  }
}

template <class F>
void backward_in_a_wave(const Launch<F>& launch, const Stack<F>& stack, const typename Launch<F>::Seat& seat,
                        Wave& wave) {
  wave.work(true, [&](int layer, const Range& range) {
    const Job<F>& job = launch.job(layer, 0);
    backward_of_range(launch, job, launch.worker(job, layer, seat), range, layer == 0 && stack.add_dx);
    if (layer > 0) drop_gradients(launch, stack, layer - 1, range, 0, 1);
  });
  meet(seat.all);
  for (int layer = launch.layers() - 1; layer >= 0; --layer) {
    const Job<F>& job = launch.job(layer, 0);
    Worker worker = launch.worker(job, layer, seat);
    worker.index = seat.index;
    worker.count = launch.workers();
    launch.kernels().weight_gradients(job.p, *job.packed, job.g, worker, chunk_with(job.p, launch.is_clocked(), 0));
  }
}

}  // namespace

template <class F>
std::pair<int, int> forward_schedule(const Weights<F>& weights, int64_t seq_len, int64_t batch) {
  const FloatEnvironment environment;
  const Isa isa = current_isa();
  const int lanes = isa.kernels->of_format<F>().lanes;
  const CellFacts& f = facts_of(weights.cell());
  Work work;
  work.add(f, seq_len, batch, weights.input(), weights.hidden(), weights.proj(), sizeof(typename F::Storage));
  const int threads = is_schedule_asked() ? num_threads() : useful_threads();
  const Schedule s = choose(f, batch, weights.hidden(), weights.proj(), work, (weights.hidden() + lanes - 1) / lanes,
                            threads, sizeof(typename F::Storage));
  return {s.row_parts, s.tile_parts};
}

// Runs in_turn(seat), or in_a_wave(seat, wave), as the shares say.
template <class F, class InTurn, class InAWave>
void run_launch(Launch<F>& launch, bool from_front_end, InTurn&& in_turn, InAWave&& in_a_wave) {
  Team team(launch.workers(), from_front_end);
  if (team.size() < launch.workers()) launch.share_out(team.size());  // as large as could be had
  for (bool ran = false; !ran;) {
    if (const int64_t steps = launch.wave_steps_of_task()) {
      Wave wave(launch.layers(), launch.first().p.seq_len, steps, launch.workers());
      ran = launch.run(team, [&](const auto& seat) { in_a_wave(seat, wave); });
    } else {
      ran = launch.run(team, in_turn);
    }
  }
}

template <class F>
void run_forward(const Stack<F>& stack) {
  const FloatEnvironment environment;  // choosing a schedule is arithmetic too
  Launch<F> launch(stack, false);
  run_launch(
      launch, stack.from_front_end, [&](const auto& seat) { forward_in_turn(launch, stack, seat); },
      [&](const auto& seat, Wave& wave) { forward_in_a_wave(launch, stack, seat, wave); });
}

template <class F>
void run_backward(const Stack<F>& stack) {
  const FloatEnvironment environment;
  Launch<F> launch(stack, true);
  run_launch(
      launch, stack.from_front_end, [&](const auto& seat) { backward_in_turn(launch, stack, seat); },
      [&](const auto& seat, Wave& wave) { backward_in_a_wave(launch, stack, seat, wave); });
}

#define RNN_INSTANTIATE(Format, ...)                                                               \
  template std::pair<int, int> forward_schedule<Format>(const Weights<Format>&, int64_t, int64_t); \
  template void run_forward<Format>(const Stack<Format>&);                                         \
  template void run_backward<Format>(const Stack<Format>&);
RNN_FORMATS(RNN_INSTANTIATE)

}  // namespace fusedrnn
