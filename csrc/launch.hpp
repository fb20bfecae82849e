// One run of a stack: its jobs, what they need, and how the workers of a team share them.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "cpu/barrier.hpp"
#include "cpu/threads.hpp"
#include "empty.hpp"
#include "heads.hpp"
#include "platform/float_environment.hpp"
#include "run.hpp"
#include "schedule.hpp"
#include "sizes.hpp"
#include "steps.hpp"

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

// The caller's part of the contract in problem.hpp.
template <class C>
void check([[maybe_unused]] const Problem<C>& p) {
#ifndef NDEBUG
  assert(p.seq_len >= 0 && p.batch >= 0 && p.input > 0 && p.hidden > 0 && p.proj > 0 && p.y_stride >= p.proj);
  assert(p.heads > 0 && p.hidden % p.heads == 0 && (p.heads == 1 || takes_heads(facts_of(p.cell))));
  assert(!p.slots || (p.h_stride >= p.proj && (p.h || p.seq_len * p.batch == 0)));
  assert(!p.offsets || p.lengths);
  for (int64_t row = 0; row < p.batch; ++row) {
    assert(!p.lengths || (p.lengths[row] >= 0 && p.lengths[row] <= p.seq_len));
    assert(!p.start || (p.start[row] >= 0 && p.start[row] <= kMostSteps));
    assert(!p.offsets || row == 0 || p.lengths[row] <= p.lengths[row - 1]);
  }
#endif
}

// The threads of a call that may use so many; 0: as many as are set for all calls. A schedule that is asked for, in
// tests, may have more than there are CPUs.
int threads_of_call(int asked) {
  const int most = asked > 0 ? asked : num_threads();
  return is_schedule_asked() ? most : useful_threads(most);
}

template <class F>
Kind kind_of_call(const CellFacts& f, const FormatKernels<F>& kernels) {
  return {&f, kernels.shapes, kernels.lanes, sizeof(typename F::Storage), sizeof(typename F::Compute)};
}
template <class C>
LayerSize size_of(const Problem<C>& p) {
  return {std::max<int64_t>(p.seq_len, 1), std::max<int64_t>(p.batch, 1), p.input, p.hidden, p.proj, p.heads};
}

// Weights under dropout of weight_hh: a copy of it, with what dropout leaves.
template <class C>
struct DroppedWeights {
  std::vector<C> matrix;
  WeightView<C> view;

  DroppedWeights(const WeightView<C>& from, const Regularisation<C>& drop) : view(from) {
    matrix.resize(static_cast<std::size_t>(rows() * columns()));
    const C* const whole = from.arrays.matrix[0];
    view.arrays.matrix[0] = matrix.data();
    std::copy(whole, whole + rows() * columns(), matrix.data());
    apply(drop, matrix.data());
  }
  // Drops elements of an array like weight_hh: of its gradient too.
  void apply(const Regularisation<C>& drop, C* to) const {
    const int64_t all = rows(), n = columns();
    std::vector<C> row_factors(static_cast<std::size_t>(n));
    C* const factors = row_factors.data();
    const C scale = static_cast<C>(drop.options.scale(kWeightDropout));
    for (int64_t row = 0; row < all; ++row, to += n) {
      read_mask(drop.options, drop.source, kWeightDropout, 0, row, all, n, 0, n, C(0), scale, factors);
      for (int64_t k = 0; k < n; ++k) {
        const C choice[2] = {C(0), to[k] * factors[k]};  // a branch on random numbers would be mispredicted
        to[k] = choice[factors[k] > C(0)];
      }
    }
  }

 private:
  const CellFacts& facts() const { return facts_of(view.cell); }
  int64_t rows() const { return facts().matrix[0].blocks * block_rows(facts(), 0, view.hidden, view.proj); }
  int64_t columns() const { return matrix_columns(facts(), 0, view.hidden, view.proj, view.heads); }
};

// A direction of a layer, ready to run.
template <class F>
struct Job {
  Problem<typename F::Compute> p;
  const PackedWeights<F>* packed;
  Gradients<typename F::Compute> g;
  const WeightView<typename F::Compute>* view;         // of weights that are not packed; else null
  const DroppedWeights<typename F::Compute>* dropped;  // with dropout of weights; else null
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
    tiles_ = heads_of(first().p.hidden).all_tiles();
    h_tiles_ = heads_of(first().p.proj).all_tiles();
    share_out(threads_of_call(stack.threads));
  }

  ~Launch() {
    jobs_.clear();
    jobs_.swap(spare().jobs);
  }
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  // Sets the shares of a team of up to this many workers.
  void share_out(int threads) {
    const CallSize size = size_of_call();
    shares_ = fusedrnn::share_out(size, threads);
    set_ring();
  }

  int layers() const { return static_cast<int>(stack_.layers.size()); }
  int directions() const { return stack_.directions; }
  int workers() const { return shares_.sides * shares_.each; }
  std::int64_t wave_steps_of_task() const { return shares_.wave_steps; }
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
    Meeting steps, chunks, all;  // of workers that share rows; of its side; of the team
    C* apart;                    // backward: dx of the second direction, where it has its own
  };

  // Runs work(seat) for all workers. Returns false, with nothing run and new shares, if the team is smaller after all.
  template <class Work>
  bool run(Team& team, Work&& work) {
    const std::size_t shared = round_up(shared_bytes());
    const std::size_t sets = static_cast<std::size_t>(shares_.wave_steps > 0 ? layers() : stack_.directions);
    std::size_t most = 0;
    for (int at = 0; at < shares_.each; ++at) most = std::max(most, round_up(local_bytes(at)));
    const std::size_t apart = round_up(apart_bytes());
    const std::size_t bytes = sets * shared + static_cast<std::size_t>(workers()) * most + apart;
    assert(bytes <= jobs_.size() * most_bytes());
    Scratch scratch(bytes + packing_bytes_);
    char* packed = scratch.data() + bytes;
    for (std::size_t i = 0; i < lent_; ++i) {
      packings_[i].move_to(packed);
      packed += packings_[i].bytes();
    }
    for (std::size_t set = 0; set < sets; ++set) {
      const int64_t hidden = first().p.hidden;
      EmptyStates<C>(Arena(scratch.data() + set * shared), facts_, hidden).fill(facts_, hidden);
    }
    char* const locals = scratch.data() + sets * shared + apart;
    const int halves = side_by_side() ? 2 : 1, own = shares_.schedule.workers();
    const BarrierHandle steps(workers_that_meet(), halves * shares_.schedule.row_parts);
    const bool all_meet = lent_ > 0 || layers() > 1 || sums_apart() || shares_.wave_steps > 0;
    const BarrierHandle chunks(backward_ ? shares_.each : 1, halves), all(all_meet ? workers() : 1);

    const auto task = [&](int index) {
      if (index >= workers()) return;
      const FloatEnvironment environment;
      const int side = index / shares_.each, at = index % shares_.each, half = halves > 1 ? side : 0;
      for (std::size_t i = 0; i < lent_; ++i) packings_[i].run(index, workers());
      if (lent_ > 0) barrier_wait(all.of(index));
      work(Seat{index, side, at, scratch.data(), shared, locals + static_cast<std::size_t>(index) * most, most,
                at < own ? steps.of(half * own + at) : Meeting{}, chunks.of(half * shares_.each + at), all.of(index),
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
    worker.steps = seat.steps;
    worker.ring = ring_;
    return worker;
  }
  // After backward, where weights were dropped.
  void drop_weight_gradients() const {
    for (const Job<F>& job : jobs_) {
      if (job.dropped && job.g.dmatrix[0]) job.dropped->apply(job.p.drop, job.g.dmatrix[0]);
    }
  }
  bool is_clocked() const { return facts_.clocked; }
  // Whether the second of two directions has a dx of its own in backward, which is added to the first one's: where both
  // run at the same time, and where dx itself is a sum over clocks.
  bool sums_apart() const { return stack_.directions == 2 && (side_by_side() || facts_.clocked); }
  bool takes(const Seat& seat, int direction) const { return shares_.sides == 1 || seat.side == direction; }

 private:
  Heads heads_of(int64_t units) const { return {units, first().p.heads, kernels_.lanes}; }
  // Workers that share rows and meet in every phase of a step: none where each has whole heads.
  int workers_that_meet() const {
    const int parts = shares_.schedule.tile_parts;
    return heads_of(first().p.hidden).are_whole(parts) ? 1 : parts;
  }

  CallSize size_of_call() const {
    const LayerSize lowest = size_of(first().p), above = size_of(job(layers() - 1, 0).p);
    return {kind_of_call<F>(facts_, kernels_),
            lowest,
            above,
            layers(),
            stack_.directions,
            backward_,
            stack_.apart && stack_.directions == 1 && !facts_.clocked};
  }

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

  // Packed forms that live as long as the call, for weights that are not packed.
  void make_packings() {
    std::size_t count = 0;
    for (const Layer<F>& layer : stack_.layers) {
      for (int d = 0; d < stack_.directions; ++d)
        count += !layer.direction[d].weights || drops_weights(layer.direction[d]);
    }
    Spare& s = spare();
    if (count > s.packing_count) {
      s.packings.reset(new Packing<F>[count]);
      s.packing_count = count;
    }
    packings_ = s.packings.get();
  }
  // In training.
  static bool drops_weights(const Direction<F>& from) {
    return from.p.slots && from.where().options.has(kWeightDropout);
  }
  // Sets what the call drops. Masks that hold for all steps are made here, once.
  void set_drop(Problem<C>& p, const Probabilities& options) {
    p.drop.options = options;
    if (!p.slots) return;
    if (options.has(kInputDropout)) p.drop.input = factors(p, kInputDropout, p.input);
    if (options.has(kRecurrentDropout)) p.drop.recurrent = factors(p, kRecurrentDropout, p.proj);
  }
  const C* factors(const Problem<C>& p, Mask mask, int64_t units) {
    factors_.emplace_back(static_cast<std::size_t>(p.batch * units));
    C* const to = factors_.back().data();
    const C scale = static_cast<C>(p.drop.options.scale(mask));
    for (int64_t row = 0; row < p.batch; ++row) {
      read_mask(p.drop.options, p.drop.source, mask, 0, row, p.batch, units, 0, units, C(0), scale, to + row * units);
    }
    return to;
  }

  // Whether it costs less to bring weights into order on the way, once for each pass over them, than to pack them
  // before.
  bool in_place(const Problem<C>& p) const {
    if (facts_.clocked) return false;
    const double weights = multiply_adds(facts_, size_of(p));
    const int64_t together = kernels_.shapes->main_rows(1), groups = (p.batch + together - 1) / together;
    return worth_in_place(p.seq_len * groups, weights * sizeof(typename F::Storage));
  }

  void add(const Direction<F>& from) {
    const WeightView<C>& weights = from.where();
    Job<F> job{from.p, nullptr, from.g, from.weights ? nullptr : from.view, nullptr};
    Problem<C>& p = job.p;
    p.cell = weights.cell;
    p.input = weights.input;
    p.hidden = weights.hidden;
    p.proj = weights.proj;
    p.heads = weights.heads;
    if (p.batch == 0) p.seq_len = 0;  // no row has steps
    p.activations = weights.activations;
    set_drop(p, weights.options);
    if (drops_weights(from)) {
      dropped_.push_back(std::make_unique<DroppedWeights<C>>(weights, p.drop));
      job.dropped = dropped_.back().get();
      job.view = &job.dropped->view;
    }
    if (facts_.clocked && p.resets) {
      counts_.emplace_back(static_cast<std::size_t>(rows_of(p)));
      count_steps(p, counts_.back().data());
      p.counts = counts_.back().data();
    }
    if (job.view) {
      packing_bytes_ += packings_[lent_].lay_out(*job.view, kernels_, backward_, in_place(p), nullptr);
      job.packed = &packings_[lent_++].packed();
    } else {
      job.packed = &from.weights->packed(isa_, backward_);
    }
    check(p);
    assert(!stack_.apart || stack_.directions > 1 || !p.reverse);  // a wave front runs in the order of time
    jobs_.push_back(job);
  }

  Worker placed(const Job<F>& job, int at) const {
    const Problem<C>& p = job.p;
    if (facts_.clocked && !backward_) {
      return place(shares_.schedule, at, shares_.each, p.batch, tiles_, h_tiles_,
                   ClockCuts<F>{p, *job.packed, kernels_.lanes});
    }
    return place(shares_.schedule, at, shares_.each, p.batch, tiles_, h_tiles_, EvenCuts());
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
      most = std::max(most, most_call_bytes(facts_, p.hidden, p.input, p.seq_len, p.batch, p.heads).value());
    }
    return static_cast<std::size_t>(most);
  }
  std::size_t shared_bytes() const {  // the same for all jobs
    return backward_ ? kernels().backward_shared_bytes(first().p, ring_)
                     : kernels().forward_shared_bytes(first().p, *first().packed);
  }
  bool side_by_side() const { return shares_.sides > 1 && shares_.wave_steps == 0; }
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
    ring_ = std::max<int64_t>(1, std::min(p.seq_len, shares_.each > 1 ? 2 * steps : steps + 1));
  }

  const Stack<F>& stack_;
  const bool backward_;
  const Isa isa_;
  const CellFacts& facts_;
  const FormatKernels<F>& kernels_;
  std::vector<Job<F>> jobs_;
  std::vector<std::unique_ptr<DroppedWeights<C>>> dropped_;
  std::vector<std::vector<C>> factors_;       // of dropout with one mask for all steps
  std::vector<std::vector<int64_t>> counts_;  // what clocks count, of each job that has resets
  Packing<F>* packings_ = nullptr;
  std::size_t lent_ = 0, packing_bytes_ = 0;
  int64_t tiles_ = 0, h_tiles_ = 0, ring_ = 0;
  Shares shares_{{1, 1}, 1, 1, 0};
};

}  // namespace

}  // namespace fusedrnn
