// Forward and backward of cells whose units have clocks (Koutnik et al. 2014). What does not tick is not computed: the
// units of a clock are swept by themselves, over the rows whose step it is. A row's clocks count its own steps, so
// rows of different lengths may tick at different times when time runs backwards.
//
// A tile may hold units of two clocks. Clocks therefore take turns from the last to the first, and each writes its
// tiles from lane 0 to its own last unit: what it spoils of the clocks before it, these write anew, or is put back.
#pragma once

#include <new>

#include "backward.hpp"
#include "batched.hpp"
#include "carry.hpp"
#include "forward.hpp"

namespace {

using fusedrnn::Clock;

// Which steps of which rows are a clock's. One that is asked in the order of time does not divide.
template <class T>
class Ticks {
 public:
  Ticks(const Problem<T>& problem, const Clock& clock)
      : p_(&problem), period_(clock.period), phase_(clock.period - 1), count_(-1) {}
  bool at(int64_t t, int64_t row) {
    const int64_t steps = p_->reverse ? length_of(*p_, row) - 1 - t : t;
    const int64_t count = steps + (p_->start ? p_->start[row] : 0);
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
  const Problem<T>* p_;
  int64_t period_, phase_, count_;  // phase_ = count_ mod period_
};

// One for each clock.
template <class T>
Ticks<T>* all_ticks(const Problem<T>& p, Arena& arena) {
  Ticks<T>* const ticks = arena.take<Ticks<T>>(p.weights.clock_count);
  for (int i = 0; ticks && i < p.weights.clock_count; ++i) new (ticks + i) Ticks<T>(p, p.weights.clocks[i]);
  return ticks;
}

inline Span both(Span a, Span b) { return {a.first > b.first ? a.first : b.first, a.last < b.last ? a.last : b.last}; }

// The tiles, among those of a worker, that hold units [first, last).
template <class V>
Span tiles_with(int64_t first, int64_t last, const Worker& w) {
  return both({first / V::width, tiles_of<V>(last)}, {w.tile0, w.tile1});
}

template <class T>
struct ClockworkForward : Forward<T> {
  using V = Vec<T>;
  using Base = Forward<T>;
  using Base::p, Base::w, Base::rows, Base::row_count, Base::chunk, Base::pre_stride, Base::pre, Base::x, Base::f;
  ForwardRow<T>* ticking = nullptr;  // of the rows
  T** pre_rows = nullptr;            // of each clock, where the step's part of `pre` begins
  Ticks<T>* ticks = nullptr;

  void layout(Arena& arena) {
    const int64_t clocks = p.weights.clock_count;
    Base::layout(arena, clocks);  // a tile may belong to two
    ticking = arena.take<ForwardRow<T>>(row_count);
    pre_rows = arena.take<T*>(clocks);
    ticks = all_ticks(p, arena);
  }

  Span tiles_of_clock(const Clock& clock) const { return tiles_with<V>(clock.first, clock.last, w); }

  // A step of this clock's units. Its part of `pre` begins at the clock's first tile.
  ForwardStep<T> step_of(const Clock& clock, T* from) const {
    ForwardStep<T> step = Base::step_at(from);
    step.rows = ticking;
    step.tile0 = tiles_of_clock(clock).first;
    step.units = clock.last;
    return step;
  }

  void project_clock(const Clock& clock, T* from, int64_t first, int64_t last) {
    Ticks<T> ticks(p, clock);
    int64_t n = 0;
    for (int64_t step = first; step < last; ++step) {
      const int64_t t = time_of(p, step);
      for (int64_t row = w.row0; row < w.row1; ++row) {
        if (t < length_of(p, row) && ticks.at(t, row)) x[n++] = p.x + (t * p.batch + row) * p.input;
      }
    }
    sweep(ProjectOp<T>(p, step_of(clock, from), x), {0, n}, tiles_of_clock(clock));
  }

  void project_all(int64_t first, int64_t last) {
    T* from = pre;
    for (int64_t i = 0; i < p.weights.clock_count; ++i) {
      const Clock& clock = p.weights.clocks[i];
      pre_rows[i] = from;
      const Span tiles = tiles_of_clock(clock);
      if (tiles.size() <= 0) continue;
      project_clock(clock, from, first, last);
      from += tiles.size() * pre_stride;
    }
  }

  static void copy_units(const ForwardRow<T>& row, Span units) {
    if (units.size() <= 0) return;
    std::memcpy(row.y + units.first, row.h_prev + units.first, static_cast<std::size_t>(units.size()) * sizeof(T));
  }

  void run_clock(int64_t index, int64_t t, bool backwards) {
    const Clock& clock = p.weights.clocks[index];
    const Span tiles = tiles_of_clock(clock);
    if (tiles.size() <= 0) return;
    const Span spoiled{clock.last / V::width * V::width, clock.last};  // by the clock after it
    const Span kept = both(both({clock.first, clock.last}, spoiled), units_of<V>(p, w));
    int64_t r = 0, n = 0;
    for (int64_t row = w.row0; row < w.row1; ++row) {
      if (t >= length_of(p, row)) continue;
      if (ticks[index].at(t, row))
        ticking[n++] = rows[r];
      else
        copy_units(rows[r], kept);
      ++r;
    }
    if (n == 0) return;
    const ForwardStep<T> step = step_of(clock, pre_rows[index]);
    PhaseOp<T> op(p, step, f, 0, this->pointwise[0]);
    op.weights += clock.first * op.gates * V::width;
    op.depth -= clock.first;
    op.source_offset = clock.first;
    sweep(op, {0, n}, tiles, backwards);
    pre_rows[index] += n * f.gates * V::width;
  }

  void run() {
    lay_out(*this, w);
    const Clock* const clocks = p.weights.clocks;
    const Span slow = both({clocks[0].period == 1 ? clocks[0].last : 0, p.hidden}, units_of<V>(p, w));
    for (int64_t first = 0; first < p.seq_len; first += chunk) {
      const int64_t last = first + chunk < p.seq_len ? first + chunk : p.seq_len;
      project_all(first, last);
      for (int64_t i = first; i < last; ++i) {
        const int64_t t = time_of(p, i), n = Base::gather_rows(t);
        for (int64_t r = 0; r < n; ++r) copy_units(rows[r], slow);
        for (int64_t clock = p.weights.clock_count - 1; clock >= 0; --clock) run_clock(clock, t, i % 2 != 0);
        meet(w.step_barrier);
      }
    }
    Base::last_states();
  }
};

// The gradient of h is carried in dstate0[0]: a step adds its dy, units that tick take theirs out, and what they come
// to goes back into the units that they see.
template <class T>
struct ClockworkBackward : Backward<T> {
  using V = Vec<T>;
  using Base = Backward<T>;
  using Base::p, Base::g, Base::w, Base::f, Base::rows, Base::row_count, Base::row_stride;
  BackwardRow<T>* ticking = nullptr;
  const T** d = nullptr;  // slots of the rows that tick, and where the gradient of their h is carried: [clock][row]
  T** carried = nullptr;
  int64_t* count = nullptr;  // of them, by clock
  T* sums = nullptr;
  Ticks<T>* ticks = nullptr;

  void layout(Arena& arena) {
    Base::layout(arena);
    ticking = arena.take<BackwardRow<T>>(row_count);
    const int64_t clocks = p.weights.clock_count;
    d = arena.take<const T*>(clocks * row_count);
    carried = arena.take<T*>(clocks * row_count);
    count = arena.take<int64_t>(clocks);
    sums = arena.take<T>(row_stride);
    ticks = all_ticks(p, arena);
  }

  // The rows that are active at time t, whose gradients get dy.
  void gather_rows(int64_t t) {
    const Span tiles{w.tile0, w.tile1};
    int64_t n = 0;
    for (int64_t row = w.row0; row < w.row1; ++row) {
      if (t >= length_of(p, row)) continue;
      const BackwardRow<T> r = rows[n++] = Base::row_at(t, row);
      if (!r.dy) continue;
      for (int64_t tile = tiles.first; tile < tiles.last; ++tile) {
        const auto lanes = lanes_of<V>(tile, p.hidden);
        const int64_t unit = tile * V::width;
        (V::load(r.direct + unit, lanes) + V::load(r.dy + unit, lanes)).store(r.direct + unit, lanes);
      }
    }
  }

  void gather_ticking(int64_t index, int64_t t) {
    int64_t r = 0, n = 0;
    for (int64_t row = w.row0; row < w.row1; ++row) {
      if (t >= length_of(p, row)) continue;
      if (ticks[index].at(t, row)) {
        ticking[n] = rows[r];
        d[index * row_count + n] = rows[r].slots;
        carried[index * row_count + n++] = rows[r].direct;
      }
      ++r;
    }
    count[index] = n;
  }

  // Gradients of pre-activations, of the units of one clock.
  void run_pointwise(int64_t index, int64_t t) {
    const Clock& clock = p.weights.clocks[index];
    gather_ticking(index, t);
    const Span tiles = tiles_with<V>(clock.first, clock.last, w);
    if (tiles.size() <= 0 || count[index] == 0) return;
    const Span units = both({clock.first, clock.last}, units_of<V>(p, w));
    const BackwardStep<T> step{ticking, p.hidden, clock.last, p.weights.vectors, nullptr,
                               0,       0,        w.tile0,    p.weights.epsilon, nullptr};
    const int64_t tile_unit = tiles.first * V::width;
    const std::size_t spoiled = clock.first > tile_unit ? static_cast<std::size_t>(clock.first - tile_unit) : 0;
    T kept[V::width];  // what forward saved of the clocks before this one
    for (int64_t r = 0; r < count[index]; ++r) {
      T* const dh = ticking[r].direct;
      if (spoiled) std::memcpy(kept, ticking[r].slots + tile_unit, spoiled * sizeof(T));
      for (int64_t tile = tiles.first; tile < tiles.last; ++tile) {
        V::load(dh + tile * V::width, lanes_of<V>(tile, clock.last)).store(sums + (tile - tiles.first) * V::width);
      }
      this->pointwise[0](step, {r, r + 1}, tiles, sums);
      if (spoiled) std::memcpy(ticking[r].slots + tile_unit, kept, spoiled * sizeof(T));
      std::memset(dh + units.first, 0, static_cast<std::size_t>(units.size()) * sizeof(T));
    }
  }

  void run_product(int64_t index, bool backwards) {
    if (count[index] == 0) return;
    const Clock& clock = p.weights.clocks[index];
    const CarryOp<T> op{p.weights.hh_t[0] + clock.first * V::width,
                        p.hidden * V::width,
                        clock.last - clock.first,
                        d + index * row_count,
                        clock.first,
                        carried + index * row_count,
                        p.hidden,
                        true,
                        clock.first};
    sweep(op, {0, count[index]}, tiles_with<V>(clock.first, p.hidden, w), backwards);
  }

  void run() {
    lay_out(*this, w);
    copy_or_zero(g.dstate0[0], g.dstate_n[0], 1, p.hidden, w, units_of<V>(p, w));
    const int64_t clocks = p.weights.clock_count;
    for (int64_t step = p.seq_len - 1; step >= 0; --step) {
      const int64_t t = time_of(p, step);
      gather_rows(t);
      for (int64_t i = clocks - 1; i >= 0; --i) run_pointwise(i, t);
      meet(w.step_barrier);
      for (int64_t i = 0; i < clocks; ++i) run_product(i, step % 2 != 0);
    }
  }
};

template <class T>
struct ClockworkBatched : Batched<T> {
  using V = Vec<T>;
  using Base = Batched<T>;
  using Base::p, Base::g, Base::w, Base::f, Base::d, Base::to, Base::kRowBlock;
  T** ticking = nullptr;  // kRowBlock rows of dx

  void layout(Arena& arena) {
    Base::layout(arena);
    ticking = arena.take<T*>(kRowBlock);
  }

  // Adds one clock's part to dx of steps [first, last), whose rows are in `to`.
  void add_input_gradient(const Clock& clock, int64_t first, int64_t last) {
    Ticks<T> ticks(p, clock);
    int64_t n = 0;
    for (int64_t at = first; at < last; ++at) {
      const int64_t t = at / p.batch, row = at % p.batch;
      if (t >= length_of(p, row) || !ticks.at(t, row)) continue;
      d[n] = Base::slots_at(t, row);
      ticking[n++] = g.dx + at * p.input;
    }
    const CarryOp<T> op{p.weights.ih_t + clock.first * V::width,
                        p.hidden * V::width,
                        clock.last - clock.first,
                        d,
                        clock.first,
                        ticking,
                        p.input,
                        true,
                        0};
    sweep(op, {0, n}, {0, tiles_of<V>(p.input)});
  }

  void input_gradient() {
    const Span steps = Base::share(p.seq_len * p.batch);
    if (steps.size() <= 0) return;
    std::memset(g.dx + steps.first * p.input, 0, static_cast<std::size_t>(steps.size() * p.input) * sizeof(T));
    for (int64_t first = steps.first; first < steps.last; first += kRowBlock) {
      const int64_t last = first + kRowBlock < steps.last ? first + kRowBlock : steps.last;
      for (int i = 0; i < p.weights.clock_count; ++i) add_input_gradient(p.weights.clocks[i], first, last);
    }
  }

  // What the gradients of units [first, first + n) of one clock add to their rows of weights and biases.
  void add_gradients(const Clock& clock, int64_t first, int64_t n, int64_t count, bool add) {
    const int64_t H = p.hidden, seen = H - clock.first;
    Base::pack_columns(0, first, n, count);
    Base::add_products(g.dweight_ih, Base::panels[0], first, n, count, p.input, p.input, add);
    Base::add_products(g.dmatrix[0] + clock.first, Base::panels[1], first, n, count, seen, H, add);
    if (g.dbias_ih) Base::add_sums(g.dbias_ih, first, n, count, add);
    if (g.dbias_hh) Base::add_sums(g.dbias_hh, first, n, count, add);
  }

  void weight_gradients_of(const Clock& clock, Span units) {
    const int64_t end = p.seq_len * p.batch;
    Ticks<T> ticks(p, clock);
    const auto ticking_at = [&](int64_t t, int64_t row) { return ticks.at(t, row); };
    int64_t from = 0;
    bool add = false;
    do {
      int64_t count = 0;
      from = Base::valid_pairs(from, kSumBlock, ticking_at, [&](int64_t k, int64_t t, int64_t row) {
        d[k] = Base::slots_at(t, row);
        Base::pairs[k] = {t, row};
        count = k + 1;
      });
      Base::gather_operand(0, count);
      Base::gather_operand(1, count, clock.first);
      for (int64_t first = units.first; first < units.last; first += kColumnBlock) {
        const int64_t n = units.last - first < kColumnBlock ? units.last - first : kColumnBlock;
        add_gradients(clock, first, n, count, add);
      }
      add = true;
    } while (from < end);
  }

  // Where the part-th of so many parts of the units begins, each of which sums over as many steps of units.
  int64_t cut(int part, int parts) const {
    const Clock* const clocks = p.weights.clocks;
    const auto cost = [](const Clock& c) {
      return static_cast<double>(c.last - c.first) / static_cast<double>(c.period);
    };
    double left = 0;
    for (int i = 0; i < p.weights.clock_count; ++i) left += cost(clocks[i]);
    left *= static_cast<double>(part) / parts;
    for (int i = 0; i < p.weights.clock_count && part < parts; ++i) {
      const double here = cost(clocks[i]);
      if (left < here) return clocks[i].first + static_cast<int64_t>(left * static_cast<double>(clocks[i].period));
      left -= here;
    }
    return p.hidden;
  }

  void weight_gradients() {
    const Span mine{cut(w.index, w.count), cut(w.index + 1, w.count)};
    for (int i = 0; i < p.weights.clock_count; ++i) {
      const Clock& clock = p.weights.clocks[i];
      const Span units = both({clock.first, clock.last}, mine);
      if (units.size() <= 0) continue;
      weight_gradients_of(clock, units);
      for (int64_t unit = units.first; unit < units.last; ++unit) {
        std::memset(g.dmatrix[0] + unit * p.hidden, 0, static_cast<std::size_t>(clock.first) * sizeof(T));
      }
    }
  }

  void run() {
    lay_out(*this, w);
    input_gradient();
    weight_gradients();
  }
};

}  // namespace
