#include "run.hpp"

#include <algorithm>
#include <cassert>

#include "launch.hpp"
#include "wave.hpp"

namespace fusedrnn {

namespace {

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
      if (const std::uint8_t* const mask = stack.layers[static_cast<std::size_t>(layer)].dropout_mask)
        drop(stack.dropout, mask + ((t * p.batch + row) * stack.directions + d) * p.proj, from + first, to + first,
             p.proj);
      else
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
    barrier_wait(seat.all);
    if (!stack.layers[static_cast<std::size_t>(layer)].dropped) continue;
    drop_outputs(launch, stack, layer, all_steps(launch.first().p), seat.index, launch.workers());
    barrier_wait(seat.all);
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
void backward_of_job(const Launch<F>& launch, const Job<F>& job, const Worker& worker, const Meeting& chunks,
                     bool add) {
  const auto& kernels = launch.kernels();
  int64_t last = job.p.seq_len;
  do {
    const Range chunk{chunk_begin(job.p, launch.is_clocked(), last), last};
    kernels.backward(job.p, *job.packed, job.g, worker, chunk);
    barrier_wait(chunks);
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
    assert(apart);
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
      barrier_wait(seat.all);
      const Job<F>& job = launch.job(layer, 0);
      if (job.g.dx) add_apart(job.p, job.g.dx, seat.apart, seat.index, launch.workers());
    }
    if (layer == 0) return;
    barrier_wait(seat.all);
    if (!stack.layers[static_cast<std::size_t>(layer) - 1].dropped) continue;
    drop_gradients(launch, stack, layer - 1, all_steps(launch.first().p), seat.index, launch.workers());
    barrier_wait(seat.all);
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
  barrier_wait(seat.all);
  for (int layer = launch.layers() - 1; layer >= 0; --layer) {
    const Job<F>& job = launch.job(layer, 0);
    Worker worker = launch.worker(job, layer, seat);
    worker.index = seat.index;
    worker.count = launch.workers();
    launch.kernels().weight_gradients(job.p, *job.packed, job.g, worker, chunk_with(job.p, launch.is_clocked(), 0));
  }
}

template <class F>
CallSize one_layer(const Weights<F>& w, int64_t seq_len, int64_t batch, bool backward) {
  const Kind kind = kind_of_call<F>(facts_of(w.cell()), current_isa().kernels->of_format<F>());
  const LayerSize size{seq_len, batch, w.input(), w.hidden(), w.proj(), w.heads()};
  return {kind, size, size, 1, 1, backward, false};
}

}  // namespace

template <class F>
Shares shares_of(const Weights<F>& weights, int64_t seq_len, int64_t batch, int threads, bool backward) {
  const FloatEnvironment environment;
  const int most = threads > 0 ? threads : threads_of_call(0);
  return share_out(one_layer(weights, seq_len, batch, backward), most);
}

template <class F>
double cost_of(const Weights<F>& weights, int64_t seq_len, int64_t batch, const Schedule& s, int workers,
               bool backward) {
  const FloatEnvironment environment;
  return cost_of(one_layer(weights, seq_len, batch, backward), s, workers);
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
  launch.drop_weight_gradients();
}

#define RNN_INSTANTIATE(Format, ...)                                                                     \
  template Shares shares_of<Format>(const Weights<Format>&, int64_t, int64_t, int, bool);                \
  template double cost_of<Format>(const Weights<Format>&, int64_t, int64_t, const Schedule&, int, bool); \
  template void run_forward<Format>(const Stack<Format>&);                                               \
  template void run_backward<Format>(const Stack<Format>&);
RNN_FORMATS(RNN_INSTANTIATE)

}  // namespace fusedrnn
