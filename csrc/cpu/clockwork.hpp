// Forward and backward of cells whose units have clocks (Koutnik et al. 2014). Only units that tick are computed: the
// units of a clock are swept by themselves, over the rows whose step it is. A row's clocks count its own steps, so
// rows of different lengths may tick at different times when time runs backwards.
//
// A tile may hold units of two clocks. Clocks therefore take turns from the last to the first, and each writes its
// tiles from lane 0 to its own last unit. In a shared tile it thus overwrites units of the clock before it. That clock
// writes them anew if it ticks; otherwise the driver copies in the values that they keep.
#pragma once

#include <new>

#include "backward.hpp"
#include "batched.hpp"
#include "carry.hpp"
#include "forward.hpp"

namespace {

using fusedrnn::Clock;
using fusedrnn::kChunkPairs;

// Which steps of which rows are a clock's. Steps that are asked for in the order of time take no division.
template <class C>
class Ticks {
 public:
  Ticks(const Problem<C>& problem, const Clock& clock)
      : p_(&problem), period_(clock.period), phase_(clock.period - 1), count_(-1) {}
  bool at(int64_t t, int64_t row) {
    const int64_t count = p_->counts ? p_->counts[place_of(*p_, t, row)] : count_at(*p_, t, row);
    if (count == count_ + 1)
      phase_ = phase_ + 1 == period_ ? 0 : phase_ + 1;
    else if (count == count_ - 1)
      phase_ = phase_ == 0 ? period_ - 1 : phase_ - 1;
    else if (count != count_)
      phase_ = count % period_;
    count_ = count;
    return phase_ == 0;
  }

 private:
  const Problem<C>* p_;
  int64_t period_, phase_, count_;  // phase_ = count_ mod period_
};

// One for each clock.
template <class C, class F>
Ticks<C>* all_ticks(const Problem<C>& p, const PackedWeights<F>& weights, Arena& arena) {
  Ticks<C>* const ticks = arena.take<Ticks<C>>(weights.clock_count);
  for (int i = 0; ticks && i < weights.clock_count; ++i) new (ticks + i) Ticks<C>(p, weights.clocks[i]);
  return ticks;
}

inline Span both(Span a, Span b) { return {a.first > b.first ? a.first : b.first, a.last < b.last ? a.last : b.last}; }

// The tiles, among those of a worker, that hold units [first, last).
template <class V>
Span tiles_with(int64_t first, int64_t last, const Worker& worker) {
  return both({first / V::width, tiles_of<V>(last)}, {worker.tile0, worker.tile1});
}

template <class F>
struct ClockworkForward {
  using C = typename F::Compute;
  using V = Vec<C>;
  Forward<F> all;  // the work that is the same for all clocks
  const Problem<C>& p;
  const PackedWeights<F>& weights;
  const Worker& worker;
  ForwardRow<C>* ticking = nullptr;  // rows that tick
  C** pre_rows = nullptr;            // of each clock, where the step's part of `pre` begins
  Ticks<C>* ticks = nullptr;

  explicit ClockworkForward(const Forward<F>& forward)
      : all(forward), p(forward.p), weights(forward.weights), worker(forward.worker) {}

  void layout(Arena& arena) {
    const int64_t clocks = weights.clock_count;
    // A tile may belong to two clocks; a worker has units of no more clocks than it has units.
    const int64_t units = (worker.tile1 - worker.tile0) * V::width;
    all.layout(arena, clocks < units ? clocks : units);
    ticking = arena.take<ForwardRow<C>>(all.row_count);
    pre_rows = arena.take<C*>(clocks);
    ticks = all_ticks(p, weights, arena);
  }

  Span tiles_of_clock(const Clock& clock) const { return tiles_with<V>(clock.first, clock.last, worker); }

  // A step of this clock's units. Its part of `pre` begins at the clock's first tile.
  ForwardStep<C> step_of(const Clock& clock, C* from) const {
    ForwardStep<C> step = all.step_at(from);
    step.rows = ticking;
    step.tile0 = tiles_of_clock(clock).first;
    step.units = clock.last;
    return step;
  }

  void project_clock(const Clock& clock, C* from, int64_t first, int64_t last) {
    Ticks<C> of_clock(p, clock);
    int64_t n = 0;
    for (int64_t step = first; step < last; ++step) {
      const int64_t t = time_of(p, step);
      for (int64_t row = worker.row0; row < worker.row1; ++row) {
        if (t < length_of(p, row) && of_clock.at(t, row)) all.list_input(n++, t, row);
      }
    }
    all.sweep_inputs(ProjectOp<F>(p, weights, step_of(clock, from), all.x), n, tiles_of_clock(clock));
  }

  void project(int64_t first, int64_t last) {
    C* from = all.pre;
    for (int64_t i = 0; i < weights.clock_count; ++i) {
      const Clock& clock = weights.clocks[i];
      pre_rows[i] = from;
      const Span tiles = tiles_of_clock(clock);
      if (tiles.size() <= 0) continue;
      project_clock(clock, from, first, last);
      from += tiles.size() * all.pre_stride;
    }
  }

  // Units that keep what they hold.
  static void keep_units(const ForwardRow<C>& row, Span units) {
    if (units.size() <= 0) return;
    const std::size_t bytes = static_cast<std::size_t>(units.size()) * sizeof(C);
    std::memcpy(row.after[0] + units.first, row.before[0] + units.first, bytes);
    if (row.h_kept) std::memcpy(row.h_kept + units.first, row.before[0] + units.first, bytes);
  }

  void run_clock(int64_t index, int64_t t, bool backwards) {
    const Clock& clock = weights.clocks[index];
    const Span tiles = tiles_of_clock(clock);
    if (tiles.size() <= 0) return;
    const Span shared{clock.last / V::width * V::width, clock.last};  // in a tile with the clock after it
    const Span overwritten = both(both({clock.first, clock.last}, shared), units_of<V>(p, worker));
    int64_t r = 0, n = 0;
    for (int64_t row = worker.row0; row < worker.row1; ++row) {
      if (t >= length_of(p, row)) continue;
      if (ticks[index].at(t, row))
        ticking[n++] = all.rows[r];
      else
        keep_units(all.rows[r], overwritten);
      ++r;
    }
    if (n == 0) return;
    const ForwardStep<C> step = step_of(clock, pre_rows[index]);
    PhaseOp<F> op(p, weights, step, all.f, 0, all.steps.pointwise[0]);
    op.begin_at(clock.first);
    sweep(op, {0, n}, tiles, backwards);
    pre_rows[index] += n * all.f.gates * V::width;
  }

  void run([[maybe_unused]] const Range& range) {
    assert(range.first == 0 && range.last == p.seq_len);
    lay_out(*this, worker);
    const Clock* const clocks = weights.clocks;
    const Span slow = both({clocks[0].period == 1 ? clocks[0].last : 0, p.hidden}, units_of<V>(p, worker));
    for (int64_t first = 0; first < p.seq_len; first += all.chunk) {
      const int64_t last = first + all.chunk < p.seq_len ? first + all.chunk : p.seq_len;
      project(first, last);
      for (int64_t i = first; i < last; ++i) {
        const int64_t t = time_of(p, i), n = all.gather_rows(t);
        for (int64_t r = 0; r < n; ++r) keep_units(all.rows[r], slow);
        for (int64_t clock = weights.clock_count - 1; clock >= 0; --clock) run_clock(clock, t, i % 2 != 0);
        meet(worker.steps);
      }
    }
    all.last_states();
  }
};

// The gradient of h is carried in dstate0[0]: a step adds its dy, and units that tick take theirs out; the product with
// their gradients then goes back into the units that they see.
template <class F>
struct ClockworkBackward {
  using C = typename F::Compute;
  using V = Vec<C>;
  Backward<F> all;  // the work that is the same for all clocks
  const Problem<C>& p;
  const PackedWeights<F>& weights;
  const Worker& worker;
  BackwardRow<C>* ticking = nullptr;  // rows that tick,
  const C** d = nullptr;              // their gradients, and where that of their h is carried: [clock][row]
  C** carried = nullptr;
  const C** factors = nullptr;  // and those of dropout of h_prev
  int64_t* count = nullptr;     // and their number, by clock
  C* dh = nullptr;              // of one row, [tile of this worker][lane]
  Ticks<C>* ticks = nullptr;

  explicit ClockworkBackward(const Backward<F>& backward)
      : all(backward), p(backward.p), weights(backward.weights), worker(backward.worker) {}

  void layout(Arena& arena) {
    all.layout(arena);
    ticking = arena.take<BackwardRow<C>>(all.row_count);
    const int64_t clocks = weights.clock_count;
    d = arena.take<const C*>(clocks * all.row_count);
    carried = arena.take<C*>(clocks * all.row_count);
    factors = arena.take<const C*>(p.drop.recurrent ? clocks * all.row_count : 0);
    count = arena.take<int64_t>(clocks);
    dh = arena.take<C>(all.row_stride);
    ticks = all_ticks(p, weights, arena);
  }

  // The rows that are active at time t, whose gradients get dy. All clocks tick where an episode begins, so that what
  // is carried then is the gradient of the state before it.
  void gather_rows(int64_t t) {
    int64_t n = 0;
    for (int64_t row = worker.row0; row < worker.row1; ++row) {
      if (t >= length_of(p, row)) continue;
      if (t != last_time(p, row) && ends_at(p, t, row)) all.end_episode(row);
      all.take_row(n, t, row);
      const BackwardRow<C> r = all.rows[n++];
      if (!r.dy) continue;
      for (int64_t tile = worker.tile0; tile < worker.tile1; ++tile) {
        const auto lanes = lanes_of<V>(tile, p.hidden);
        const int64_t unit = tile * V::width;
        (V::load(r.carried[0] + unit, lanes) + V::load(r.dy + unit, lanes)).store(r.carried[0] + unit, lanes);
      }
    }
  }

  void gather_ticking(int64_t index, int64_t t) {
    int64_t r = 0, n = 0;
    for (int64_t row = worker.row0; row < worker.row1; ++row) {
      if (t >= length_of(p, row)) continue;
      if (ticks[index].at(t, row)) {
        ticking[n] = all.rows[r];
        d[index * all.row_count + n] = all.rows[r].gradients;
        if (p.drop.recurrent) factors[index * all.row_count + n] = all.rows[r].masks.recurrent;
        carried[index * all.row_count + n++] = all.rows[r].carried[0];
      }
      ++r;
    }
    count[index] = n;
  }

  // Gradients of pre-activations, of the units of one clock.
  void run_pointwise(int64_t index, int64_t t) {
    const Clock& clock = weights.clocks[index];
    gather_ticking(index, t);
    const Span tiles = tiles_with<V>(clock.first, clock.last, worker);
    if (tiles.size() <= 0 || count[index] == 0) return;
    const Span units = both({clock.first, clock.last}, units_of<V>(p, worker));
    const BackwardStep<C> step(p, weights, worker, ticking, clock.last);
    const int64_t tile_unit = tiles.first * V::width;
    const std::size_t before = clock.first > tile_unit ? static_cast<std::size_t>(clock.first - tile_unit) : 0;
    C kept[V::width];  // the gradients of the units before this clock's in its first tile
    for (int64_t r = 0; r < count[index]; ++r) {
      C* const row_dh = ticking[r].carried[0];
      const C* const keep = ticking[r].masks.keep_h;  // of zoneout, whose units are as those that do not tick
      if (before) std::memcpy(kept, ticking[r].gradients + tile_unit, before * sizeof(C));
      for (int64_t tile = tiles.first; tile < tiles.last; ++tile) {
        const auto lanes = lanes_of<V>(tile, clock.last);
        V of_step = V::load(row_dh + tile * V::width, lanes);
        if (keep) of_step = choose(V::load(keep + tile * V::width, lanes), V(0), of_step);
        of_step.store(dh + (tile - tiles.first) * V::width);
      }
      all.steps.pointwise[0](step, {r, r + 1}, tiles, dh);
      if (before) std::memcpy(ticking[r].gradients + tile_unit, kept, before * sizeof(C));
      if (!keep) std::memset(row_dh + units.first, 0, static_cast<std::size_t>(units.size()) * sizeof(C));
      for (int64_t unit = units.first; keep && unit < units.last; ++unit) {
        if (keep[unit] == C(0)) row_dh[unit] = C(0);
      }
    }
  }

  void run_product(int64_t index, bool backwards) {
    if (count[index] == 0) return;
    const Clock& clock = weights.clocks[index];
    CarryOp<F> op(without(weights.hh_t[0][0], clock.first, V::width), clock.last - clock.first,
                  d + index * all.row_count, clock.first, carried + index * all.row_count, p.hidden, true);
    op.first = clock.first;
    if (p.drop.recurrent) op.factors = factors + index * all.row_count;
    sweep(op, {0, count[index]}, tiles_with<V>(clock.first, p.hidden, worker), backwards);
  }

  void run([[maybe_unused]] const Range& range) {
    assert(range.first == 0 && range.last == p.seq_len);
    lay_out(*this, worker);
    all.begin();
    const int64_t clocks = weights.clock_count;
    for (int64_t step = p.seq_len - 1; step >= 0; --step) {
      const int64_t t = time_of(p, step);
      gather_rows(t);
      for (int64_t i = clocks - 1; i >= 0; --i) run_pointwise(i, t);
      meet(worker.steps);
      for (int64_t i = 0; i < clocks; ++i) run_product(i, step % 2 != 0);
    }
    for (int64_t row = worker.row0; row < worker.row1; ++row) {
      if (length_of(p, row) > 0 && begins_anew(p, first_time(p, row), row)) all.end_episode(row);
    }
  }
};

template <class F>
struct ClockworkBatched {
  using C = typename F::Compute;
  using V = Vec<C>;
  static constexpr int kX = 0, kHPrev = 1;  // operands of the plan (cells/facts.cpp)
  Batched<F> all;                           // the work that is the same for all clocks
  const Problem<C>& p;
  const PackedWeights<F>& weights;
  const Gradients<C>& g;
  C** ticking = nullptr;  // kRowsTogether rows of dx

  explicit ClockworkBatched(const Batched<F>& batched)
      : all(batched), p(batched.p), weights(batched.weights), g(batched.g) {}

  void layout(Arena& arena) {
    all.layout(arena);
    ticking = arena.take<C*>(kRowsTogether);
  }

  // Adds one clock's part to dx of these pairs.
  void add_input_gradient(const Clock& clock, Span places) {
    Ticks<C> ticks(p, clock);
    int64_t n = 0;
    for (int64_t at = places.first; at < places.last; ++at) {
      const int64_t t = at / p.batch, row = at % p.batch;
      if (t >= length_of(p, row) || !ticks.at(t, row)) continue;
      all.d[n] = all.shared.at(t, row);
      if (p.drop.input) all.factors[n] = p.drop.input + row * p.input;
      ticking[n++] = g.dx + place_of(p, t, row) * p.input;
    }
    CarryOp<F> op(without(weights.ih_t, clock.first, V::width), clock.last - clock.first, all.d, clock.first, ticking,
                  p.input, true);
    if (p.drop.input) op.factors = all.factors;
    sweep(op, {0, n}, {0, tiles_of<V>(p.input)});
  }

  void input_gradient(bool add) {
    const Span pairs = all.share(p.seq_len * p.batch);
    for (int64_t first = pairs.first; first < pairs.last; first += kRowsTogether) {
      const int64_t last = first + kRowsTogether < pairs.last ? first + kRowsTogether : pairs.last;
      for (int64_t at = first; at < last && !add; ++at) {
        const int64_t t = at / p.batch, row = at % p.batch;
        if (t < length_of(p, row) || is_padded(p)) {
          std::memset(g.dx + place_of(p, t, row) * p.input, 0, static_cast<std::size_t>(p.input) * sizeof(C));
        }
      }
      for (int i = 0; i < weights.clock_count; ++i) add_input_gradient(weights.clocks[i], {first, last});
    }
  }

  // Adds the gradients of units [first, first + n) of one clock to their rows of weights and biases.
  void add_gradients(const Clock& clock, int64_t first, int64_t n, int64_t count, bool add) {
    const int64_t H = p.hidden, seen = H - clock.first;
    all.pack_columns(0, first, n, count);
    if (g.dweight_ih) all.add_products(g.dweight_ih, all.panels[kX], first, n, count, p.input, p.input, add);
    if (g.dmatrix[0]) all.add_products(g.dmatrix[0] + clock.first, all.panels[kHPrev], first, n, count, seen, H, add);
    if (g.dbias_ih) all.add_sums(g.dbias_ih, first, n, count, add);
    if (g.dbias_hh) all.add_sums(g.dbias_hh, first, n, count, add);
  }

  // The pairs of a clock are cut into stretches of kChunkPairs; the last one has the rest.
  void weight_gradients_of(const Range& range, const Clock& clock, Span units) {
    Ticks<C> ticks(p, clock);
    const int64_t most = kChunkPairs < all.longest ? kChunkPairs : all.longest;
    auto at = Batched<F>::start_of(range);
    bool add = false;
    do {
      const int64_t count = all.list_pairs(range, at, most, [&](int64_t t, int64_t row) { return ticks.at(t, row); });
      if (count == 0 && add) return;
      all.gather_operand(kX, count);
      all.gather_operand(kHPrev, count, clock.first);
      for (int64_t first = units.first; first < units.last; first += kStrip) {
        const int64_t n = units.last - first < kStrip ? units.last - first : kStrip;
        add_gradients(clock, first, n, count, add);
      }
      add = true;
    } while (at.step >= range.first);
  }

  // The first unit of part number `part`, where all `parts` parts of the units sum over equally many steps of units.
  int64_t cut(int part, int parts) const {
    const Clock* const clocks = weights.clocks;
    const auto cost = [](const Clock& c) {
      return static_cast<double>(c.last - c.first) / static_cast<double>(c.period);
    };
    double left = 0;
    for (int i = 0; i < weights.clock_count; ++i) left += cost(clocks[i]);
    left *= static_cast<double>(part) / parts;
    for (int i = 0; i < weights.clock_count && part < parts; ++i) {
      const double here = cost(clocks[i]);
      if (left < here) return clocks[i].first + static_cast<int64_t>(left * static_cast<double>(clocks[i].period));
      left -= here;
    }
    return p.hidden;
  }

  void weight_gradients(const Range& range) {
    const Span mine{cut(all.worker.index, all.worker.count), cut(all.worker.index + 1, all.worker.count)};
    for (int i = 0; i < weights.clock_count; ++i) {
      const Clock& clock = weights.clocks[i];
      const Span units = both({clock.first, clock.last}, mine);
      if (units.size() <= 0) continue;
      weight_gradients_of(range, clock, units);
      for (int64_t unit = units.first; unit < units.last && g.dmatrix[0]; ++unit) {
        std::memset(g.dmatrix[0] + unit * p.hidden, 0, static_cast<std::size_t>(clock.first) * sizeof(C));
      }
    }
  }

  void run_input_gradient([[maybe_unused]] const Range& range, bool add) {
    assert(range.first == 0 && range.last == p.seq_len);
    lay_out(*this, all.worker);
    input_gradient(add);
  }
  void run_weight_gradients(const Range& range) {
    assert(range.first == 0 && range.last == p.seq_len);
    lay_out(*this, all.worker);
    weight_gradients(range);
  }
};

}  // namespace
