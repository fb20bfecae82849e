// Backward through a whole sequence, for any cell: the time loop of one worker. Only what the recurrence needs is done
// here; the products over all steps at once are in batched.hpp.
#pragma once

#include "backward_step.hpp"
#include "carry.hpp"

namespace {

// A cell's pointwise steps, by stage.
template <class C>
struct BackwardSteps {
  const BackwardPointwise<C>* pointwise;
  const BackwardReduce<C>* reduce;  // null for stages that need no sums
};

template <class F>
struct Backward {
  using C = typename F::Compute;
  using V = Vec<C>;
  // Gradients that the rows of a slice of k, which is whole blocks, take up, so that they stay in L2 while all tiles
  // pass over them.
  static constexpr int64_t kSliceBytes = 512 * 1024;
  static constexpr int kMain = -1;  // in place of an extra's number

  const Problem<C>& p;
  const PackedWeights<F>& weights;
  const Gradients<C>& g;
  const Worker& worker;
  const CellFacts& f;
  const BackwardSteps<C> steps;
  const Heads heads;
  const int64_t row_count, row_stride;
  const BackwardShared<C> shared;
  const States<C> states;
  StepMasks<C> masks;
  C *kept_h = nullptr, *kept_c = nullptr;  // with zoneout: the parts of gradients that are the old values'
  const C** factors = nullptr;             // of rows of `to`
  BackwardRow<C>* rows = nullptr;
  C* partial = nullptr;
  C* extras = nullptr;
  C* sums = nullptr;
  const C** from = nullptr;
  C** to = nullptr;
  C* gathered = nullptr;  // with heads: of each row, the gradients that a head's product reads

  Backward(const Problem<C>& problem, const PackedWeights<F>& packed, const Gradients<C>& gradients, const Worker& mine,
           const CellFacts& facts, const BackwardSteps<C>& cell_steps)
      : p(problem),
        weights(packed),
        g(gradients),
        worker(mine),
        f(facts),
        steps(cell_steps),
        heads(problem.hidden, problem.heads, V::width),
        row_count(mine.row1 - mine.row0),
        row_stride(most(tiles_of_worker(mine).size(), h_tiles_of(mine).size()) * V::width),
        shared(problem, facts, mine),
        states{problem, facts, shared.empty, problem.h, problem.h_stride, problem.slots, false, problem.drop.c},
        masks(problem, mine) {}

  static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

  BackwardRow<C> row_at(int64_t t, int64_t row) const {
    const int64_t H = p.hidden, here = place_of(p, t, row);
    const auto origin = states.origin(t, row);
    assert(f.states >= 1 && f.states <= kMaxStates);
    BackwardRow<C> r{};
    r.dy = g.dy ? g.dy + here * g.dy_stride : nullptr;
    r.h = states.after(0, t, row);
    r.slots = states.slots_at(t, row);
    r.gradients = shared.at(t, row);
    r.source = ends_at(p, t, row) ? r.gradients : shared.at(time_after(p, t), row);
    for (int s = 0; s < f.states; ++s) {
      if (states.has_history(s)) r.before[s] = states.before(s, origin, row);
      r.carried[s] = g.dstate0[s] + row * states.size(s);
    }
    if (f.below) {
      r.dc_given = g.dc ? g.dc + here * H : nullptr;
      r.below = p.below ? p.below + here * H : states.empty.zeros;
      r.dbelow = g.dbelow ? g.dbelow + here * H : nullptr;
    }
    return r;
  }

  // Whether a part of the gradient of a state goes past the products.
  bool carries(int state) const { return f.state[state].carries || (state == 0 && masks.active.zoneout_h); }

  // Extras are the vectors among the operands of products that read states other than h.
  static bool gives_extras(const fusedrnn::Product& product) { return state_of(product.from) > 0; }
  int extra_count() const {
    int count = 0;
    for (int i = 0; i < f.products; ++i) count += gives_extras(f.product[i]) ? f.product[i].depth : 0;
    return count;
  }

  // The main product of a stage is the last of its phase: the stage works on the gradient of its operand.
  int main_product(int stage) const {
    int last = 0;
    for (int i = 0; i < f.products; ++i) last = f.product[i].phase == (stage ? f.phases - stage : 0) ? i : last;
    return last;
  }
  int64_t depth_of(int product) const {  // of a head
    const fusedrnn::Product& of = f.product[product];
    return of.depth > 0 ? of.gates * heads.share(fusedrnn::product_units(f, product, p.hidden, p.proj)) : 0;
  }

  // One product for the vector `part` of its operand. In rows that are `ending`, which are in the last step of an
  // episode or of all, the step after gives nothing.
  StageProduct<F> stage_product(int stage, int product, int extra, int part, bool ending) const {
    const fusedrnn::Product& of = f.product[product];
    const int state = state_of(of.from);
    StageProduct<F> s{};
    s.weights = weights.hh_t[product][part];
    s.depth = ending ? 0 : depth_of(product);
    s.units = heads.share(fusedrnn::operand_size(of.from, 1, p.hidden, p.proj));
    s.source_offset = heads.count == 1 ? of.column * p.hidden : 0;
    s.first_stage = stage == 0;
    s.from_source = s.first_stage || heads.count > 1;
    s.pointwise = extra == kMain ? steps.pointwise[stage] : nullptr;
    s.extra = extra;
    s.add_carried = stage == 0 && (ending || carries(0));
    s.carried_state = extra != kMain && ending && !f.state[state].carries ? state : -1;
    s.carried_offset = part * p.hidden;
    s.of_c = stage == 0 && state == 1;
    return s;
  }

  // Rows of `span` over one product, a slice of k at a time.
  void run_product(const BackwardStep<C>& step, Span span, Span tiles, const StageProduct<F>& product, bool backwards) {
    if (span.size() == 0) return;
    const int64_t rows_bytes = span.size() * static_cast<int64_t>(sizeof(C)), depth = product.depth;
    const int64_t blocks = kSliceBytes / (rows_bytes * kBlock), slice = most(blocks, 1) * kBlock;
    int64_t k0 = 0;
    do {
      const int64_t left = depth - k0;
      const StageOp<F> op(step, f, product, partial, k0, left < slice ? left : slice);
      sweep(op, span, tiles, backwards);
      k0 += slice;
    } while (k0 < depth);
  }

  // A row's part of `gathered`, a line longer than needed: see BackwardShared.
  int64_t gathered_size() const { return f.gates * heads.units + kCacheLine / static_cast<int64_t>(sizeof(C)); }
  // The gradients of a head's units in the columns of a product, which the columns of all units lie between.
  const C* gather(int64_t row, const C* gradients, int product, int64_t head) const {
    C* const target = gathered + row * gathered_size();
    for (int64_t gate = 0; gate < f.product[product].gates; ++gate) {
      const C* const column = gradients + (f.product[product].column + gate) * p.hidden + head * heads.units;
      std::memcpy(target + gate * heads.units, column, static_cast<std::size_t>(heads.units) * sizeof(C));
    }
    return target;
  }

  // The main product of a stage, head after head.
  void run_main_product(BackwardStep<C> step, Span span, Span tiles, int stage, bool ending, bool backwards) {
    const int main = main_product(stage);
    StageProduct<F> product = stage_product(stage, main, kMain, 0, ending);
    if (heads.count == 1) return run_product(step, span, tiles, product, backwards);
    for (int64_t r = span.first; r < span.last; ++r) from[r] = stage == 0 ? rows[r].source : rows[r].gradients;
    int64_t here = 0;  // the head at which rows and products are
    const auto move_to = [&](int64_t head) {
      for (int64_t r = span.first; r < span.last; ++r) rows[r].move(f, (head - here) * heads.units);
      step.move(heads, head - here);
      product.weights = from_tile(product.weights, (head - here) * heads.tiles);
      here = head;
    };
    for_each_head(heads, tiles, backwards, [&](int64_t head, Span some) {
      move_to(head);
      for (int64_t r = span.first; r < span.last && product.depth > 0; ++r) {
        rows[r].source = gather(r, from[r], main, head);
      }
      run_product(step, span, some, product, backwards);
    });
    move_to(0);
  }

  // Stage 0 of some rows, all of them `ending` or none.
  void run_first_stage(const BackwardStep<C>& step, Span span, bool ending, bool backwards) {
    int extra = 0;
    for (int i = 0; i < f.products; ++i) {
      if (!gives_extras(f.product[i])) continue;
      for (int part = 0; part < f.product[i].depth; ++part) {
        run_product(step, span, tiles_of_worker(worker), stage_product(0, i, extra++, part, ending), backwards);
      }
    }
    const BackwardStep<C> of_h = heads.count == 1 ? step.of_h(p, worker) : step;
    run_main_product(of_h, span, h_tiles_of(worker), 0, ending, backwards);
  }

  // Lists the rows that are active at time t, rows that are `ending` first; returns the number of all, and sets
  // `ending` to the number of those.
  int64_t gather_rows(int64_t t, int64_t& ending) {
    int64_t n = 0;
    for (int64_t row = worker.row0; row < worker.row1; ++row) {
      if (t < length_of(p, row) && ends_at(p, t, row)) take_row(n++, t, row);
    }
    ending = n;
    for (int64_t row = worker.row0; row < worker.row1; ++row) {
      if (t < length_of(p, row) && !ends_at(p, t, row)) take_row(n++, t, row);
    }
    return n;
  }
  void take_row(int64_t n, int64_t t, int64_t row) {
    rows[n] = row_at(t, row);
    masks.find(rows[n].masks, n, t, row);
  }

  // run(row, unit, lanes, place): of all tiles of some units of the first n rows; place is that in a scratch of
  // [row][tile of this worker][lane].
  template <class Run>
  void for_units(int64_t n, Span tiles, int64_t units, Run&& run) const {
    const int64_t each = heads.share(units);
    for (int64_t row = 0; row < n; ++row) {
      for_each_head(heads, tiles, false, [&](int64_t head, Span some) {
        const int64_t before = heads.count == 1 ? 0 : head * heads.tiles;
        for (int64_t tile = some.first; tile < some.last; ++tile) {
          run(rows[row], head * each + tile * V::width, lanes_of<V>(tile, each),
              row * row_stride + (before + tile - tiles.first) * V::width);
        }
      });
    }
  }
  // Zoneout parts the gradient of c in that of the step, which is carried on to its pointwise functions, and in that of
  // c_prev, which is kept until they have run. That of h is parted where it is made (StageOp).
  void part_c(int64_t n) {
    for (int64_t row = 0; row < n; ++row) assert(rows[row].masks.keep_c || worker.tile0 == worker.tile1);
    for_units(n, tiles_of_worker(worker), p.hidden,
              [&](BackwardRow<C>& row, int64_t unit, const auto& lanes, int64_t place) {
                V dc = V::load(row.carried[1] + unit, lanes);
                if (row.dc_given) dc = dc + V::load(row.dc_given + unit, lanes);
                const V keep = V::load(row.masks.keep_c + unit, lanes);
                choose(keep, V(0), dc).store(row.carried[1] + unit, lanes);
                choose(keep, dc, V(0)).store(kept_c + place);
              });
    for (int64_t row = 0; row < n; ++row) rows[row].dc_given = nullptr;
  }
  void join_c(int64_t n) const {
    for_units(n, tiles_of_worker(worker), p.hidden,
              [&](BackwardRow<C>& row, int64_t unit, const auto& lanes, int64_t place) {
                C* const to = row.carried[1] + unit;
                (V::load(to, lanes) + V::load(kept_c + place)).store(to, lanes);
              });
  }
  void join_h(int64_t n) const {
    for_units(n, h_tiles_of(worker), p.proj, [&](BackwardRow<C>& row, int64_t unit, const auto& lanes, int64_t place) {
      C* const to = row.carried[0] + unit;
      const V kept = V::load(kept_h + place);
      (f.state[0].carries ? V::load(to, lanes) + kept : kept).store(to, lanes);
    });
  }

  void run_step(int64_t step_index) {
    const bool backwards = step_index % 2 != 0;
    const int64_t t = time_of(p, step_index);
    if (p.resets && step_index + 1 < p.seq_len) end_episodes(time_after(p, t));
    int64_t ending = 0;
    const int64_t n = gather_rows(t, ending);
    BackwardStep<C> step(p, weights, worker, rows, heads.units);
    step.extras = extras;
    step.extra_stride = row_count * row_stride;
    step.row_stride = row_stride;
    step.sums = sums;
    step.kept_h = kept_h;
    step.kept_c = kept_c;
    if (masks.active.zoneout_c) part_c(n);
    run_first_stage(step, {0, ending}, true, backwards);
    run_first_stage(step, {ending, n}, false, backwards);
    meet(worker.steps);
    for (int stage = 1; stage < f.phases; ++stage) {
      if (steps.reduce[stage]) {
        steps.reduce[stage](step, n);
        meet(worker.steps);  // others may still be reading what this one is about to overwrite
      }
      run_main_product(step, {0, n}, tiles_of_worker(worker), stage, false, backwards);
      meet(worker.steps);
    }
    if (masks.active.zoneout_c) join_c(n);
    if (masks.active.zoneout_h) join_h(n);
  }

  // Of some rows, whose steps t = time(row) all take a state that no step of the row has made: the gradient of the
  // vector `part` of that state, which is the part that is carried, and the product with the step's gradients.
  template <class Time>
  void state_gradient(int product, int part, Time&& time) {
    const int state = state_of(f.product[product].from);
    assert(state >= 0 && state < f.states && f.states <= kMaxStates);
    const bool one = heads.count == 1;
    const Span tiles = state == 0 ? h_tiles_of(worker) : tiles_of_worker(worker);
    for_each_head(heads, tiles, false, [&](int64_t head, Span some) {
      int64_t n = 0;
      for (int64_t row = worker.row0; row < worker.row1; ++row) {
        const int64_t t = time(row);
        if (t < 0) continue;
        from[n] = one ? shared.at(t, row) : gather(n, shared.at(t, row), product, head);
        if (p.drop.recurrent) factors[n] = p.drop.recurrent + row * p.proj + head * heads.units;
        to[n++] = g.dstate0[state] + row * states.size(state) + part * p.hidden + head * heads.units;
      }
      CarryOp<F> op(from_tile(weights.hh_t[product][part], head * heads.tiles), depth_of(product), from,
                    one ? f.product[product].column * p.hidden : 0, to, heads.share(state == 0 ? p.proj : p.hidden),
                    carries(state));
      if (state == 0 && p.drop.recurrent) op.factors = factors;
      sweep(op, {0, n}, some);
    });
  }

  // The same for all states; time(row) is negative for the other rows.
  template <class Time>
  void state_gradients(Time&& time) {
    state_gradient(main_product(0), 0, time);
    for (int i = 0; i < f.products; ++i) {
      if (!gives_extras(f.product[i])) continue;
      for (int part = 0; part < f.product[i].depth; ++part) state_gradient(i, part, time);
    }
  }

  // The gradients of this worker's units that are carried into the begin of a row's episode are those of reset_state.
  // None is carried on.
  void end_episode(int64_t row) const {
    for (int s = 0; s < f.states; ++s) {
      const Span units = s == 0 ? h_units_of<V>(p, worker) : units_of<V>(p, worker);
      if (units.size() <= 0) continue;
      const int64_t vector = s == 0 ? p.proj : p.hidden, size = states.size(s);
      for (int64_t at = row * size + units.first; at < (row + 1) * size; at += vector) {
        for (int64_t u = at; g.dreset[s] && u < at + units.size(); ++u) g.dreset[s][u] += g.dstate0[s][u];
        std::memset(g.dstate0[s] + at, 0, static_cast<std::size_t>(units.size()) * sizeof(C));
      }
    }
  }

  // Of rows whose episode begins with the step at time t, which has run.
  void end_episodes(int64_t t) {
    const auto begins = [&](int64_t row) { return t < length_of(p, row) && begins_anew(p, t, row); };
    if (asks_for_reset()) state_gradients([&](int64_t row) { return begins(row) ? t : int64_t{-1}; });
    for (int64_t row = worker.row0; row < worker.row1; ++row) {
      if (begins(row)) end_episode(row);
    }
  }
  bool asks_for_reset() const {
    bool asks = false;
    for (int s = 0; s < f.states; ++s) asks = asks || g.dreset[s];
    return asks;
  }

  // Of initial states, of rows whose first step is in this range.
  void initial_state_gradients(const Range& range) {
    const auto first_of = [&](int64_t row) {
      const int64_t t = first_time(p, row), step = time_of(p, t);
      return length_of(p, row) > 0 && step >= range.first && step < range.last ? t : int64_t{-1};
    };
    state_gradients(first_of);
    for (int64_t row = worker.row0; p.resets && row < worker.row1; ++row) {
      if (const int64_t t = first_of(row); t >= 0 && begins_anew(p, t, row)) end_episode(row);
    }
  }

  void layout(Arena& arena) {
    rows = arena.take<BackwardRow<C>>(row_count);
    from = arena.take<const C*>(row_count);
    to = arena.take<C*>(row_count);
    factors = arena.take<const C*>(p.drop.recurrent ? row_count : 0);
    masks.layout(arena);
    kept_h = arena.take<C>(masks.active.zoneout_h ? row_count * row_stride : 0);
    kept_c = arena.take<C>(masks.active.zoneout_c ? row_count * row_stride : 0);
    partial = arena.take<C>(row_count * row_stride);
    sums = arena.take<C>(f.reduces ? row_count * kMaxSums : 0);
    extras = arena.take<C>(extra_count() * row_count * row_stride);
    gathered = arena.take<C>(heads.count == 1 ? 0 : row_count * gathered_size());
  }

  // The gradients of the last states, as they come in.
  void begin() const {
    assert(f.states <= kMaxStates);
    copy_or_fill(g.dstate0[0], g.dstate_n[0], 1, p.proj, worker, h_units_of<V>(p, worker));
    for (int s = 1; s < f.states; ++s) {
      copy_or_fill(g.dstate0[s], g.dstate_n[s], f.state[s].units, p.hidden, worker, units_of<V>(p, worker));
    }
    const C* const zeros = nullptr;
    if (g.dreset[0]) copy_or_fill(g.dreset[0], zeros, 1, p.proj, worker, h_units_of<V>(p, worker));
    for (int s = 1; s < f.states; ++s) {
      if (g.dreset[s]) copy_or_fill(g.dreset[s], zeros, f.state[s].units, p.hidden, worker, units_of<V>(p, worker));
    }
  }

  void run(const Range& range) {
    lay_out(*this, worker);
    if (range.last == p.seq_len) begin();
    for (int64_t step = range.last - 1; step >= range.first; --step) run_step(step);
    initial_state_gradients(range);
  }
};

}  // namespace
