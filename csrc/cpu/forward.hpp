// Forward over a whole sequence, for any cell: the time loop of one worker.
#pragma once

#include <optional>

#include "forward_step.hpp"

namespace {

// A cell's pointwise steps, by phase.
template <class C>
struct ForwardSteps {
  const ForwardPointwise<C>* pointwise;
  const ForwardReduce<C>* reduce;  // null for phases that need no sums
};

template <class F>
struct Forward {
  using C = typename F::Compute;
  using V = Vec<C>;
  const Problem<C>& p;
  const PackedWeights<F>& weights;
  const Worker& worker;
  const CellFacts& f;
  const ForwardSteps<C> steps;
  const bool train, has_slots;
  const Heads heads;
  const int64_t row_count, chunk;
  // A tile's part of the chunk lies together: rows a power of two apart would push each other out of L1.
  const int64_t pre_stride;
  States<C> states;
  StepMasks<C> masks;
  C* pre = nullptr;
  const C** x = nullptr;
  const C** x_factors = nullptr;  // where the input is dropped: of the rows of x,
  C* x_dropped = nullptr;         // and kRowsTogether rows of what dropout leaves
  C* h_dropped = nullptr;         // where h_prev is: [row][unit of h]
  ForwardRow<C>* rows = nullptr;
  C* sums = nullptr;

  Forward(const Problem<C>& problem, const PackedWeights<F>& packed, const Worker& mine, const CellFacts& facts,
          const ForwardSteps<C>& cell_steps)
      : p(problem),
        weights(packed),
        worker(mine),
        f(facts),
        steps(cell_steps),
        train(problem.slots != nullptr),
        has_slots(train || facts.scratch_slots),
        heads(problem.hidden, problem.heads, V::width),
        row_count(mine.row1 - mine.row0),
        chunk(chunk_steps(problem, facts, mine)),
        pre_stride(chunk * row_count * facts.gates * V::width),
        states{problem,
               facts,
               EmptyStates<C>(Arena(mine.shared), facts, problem.hidden),
               train ? problem.h : problem.y,
               train ? problem.h_stride : problem.y_stride,
               problem.slots,
               !train,
               problem.drop.c},
        masks(problem, mine) {}

  // The steps whose projection waits in cache until the recurrence takes it: half of a private L2.
  static int64_t chunk_steps(const Problem<C>& p, const CellFacts& f, const Worker& mine) {
    const int64_t elements = (mine.row1 - mine.row0) * (mine.tile1 - mine.tile0) * f.gates * V::width;
    const int64_t step_bytes = elements * static_cast<int64_t>(sizeof(C));
    const int64_t fitting = step_bytes > 0 ? fusedrnn::kProjectionBytes / step_bytes : 1;
    return fitting < 1 ? 1 : fitting < p.seq_len ? fitting : p.seq_len;
  }

  // Scratch shared by all workers: empty states; and, in inference, the slots of two steps if a later phase or step
  // reads slots, so that a step overwrites none that other workers still read.
  void shared_layout(Arena& arena) {
    states.empty = EmptyStates<C>(arena, f, p.hidden);
    if (!train && f.scratch_slots) {
      states.slots = arena.take<C>(2 * p.batch * f.slots * p.hidden);
      if (p.drop.has(fusedrnn::kZoneoutC)) states.zoned_c = arena.take<C>(2 * p.batch * p.hidden);
    }
  }
  void layout(Arena& arena, int64_t more_tiles = 0) {
    pre = arena.take<C>((worker.tile1 - worker.tile0 + more_tiles) * pre_stride);
    x = arena.take<const C*>(chunk * row_count);
    x_factors = arena.take<const C*>(p.drop.input ? chunk * row_count : 0);
    x_dropped = arena.take<C>(p.drop.input ? kRowsTogether * p.input : 0);
    h_dropped = arena.take<C>(p.drop.recurrent ? row_count * p.proj : 0);
    masks.layout(arena);
    rows = arena.take<ForwardRow<C>>(row_count);
    sums = arena.take<C>(f.reduces ? row_count * kMaxSums : 0);
  }

  // A step whose part of `pre` begins at pre_rows.
  ForwardStep<C> step_at(C* pre_rows) const { return {p, weights, f, worker, rows, pre_rows, pre_stride, sums}; }

  // pre of all active rows of steps [first, last), in the order in which `gather_rows` finds them.
  void project(int64_t first, int64_t last) {
    int64_t n = 0;
    for (int64_t step = first; step < last; ++step) {
      const int64_t t = time_of(p, step);
      for (int64_t row = worker.row0; row < worker.row1; ++row) {
        if (t < length_of(p, row)) list_input(n++, t, row);
      }
    }
    assert(n <= chunk * row_count);
    sweep_inputs(ProjectOp<F>(p, weights, step_at(pre), x), n, tiles_of_worker(worker));
  }
  void list_input(int64_t n, int64_t t, int64_t row) {
    x[n] = p.x + place_of(p, t, row) * p.input;
    if (p.drop.input) x_factors[n] = p.drop.input + row * p.input;
  }
  // Runs the input's product over the n inputs that are listed, or over what dropout leaves of them.
  void sweep_inputs(const ProjectOp<F>& op, int64_t n, Span tiles) {
    if (!p.drop.input) return sweep_inputs(op, {0, n}, tiles);
    for (int64_t first = 0; first < n; first += kRowsTogether) {
      const int64_t last = first + kRowsTogether < n ? first + kRowsTogether : n;
      for (int64_t i = first; i < last; ++i) {
        C* const dropped = x_dropped + (i - first) * p.input;
        drop_units(x[i], x_factors[i], dropped, p.input);
        x[i] = dropped;
      }
      sweep_inputs(op, {first, last}, tiles);
    }
  }
  void sweep_inputs(const ProjectOp<F>& op, Span listed, Span tiles) const {
    if (weights.ih_joined.vectors == 0) return sweep(op, listed, tiles);
    for_each_head(heads, tiles, false, [&](int64_t head, Span some) {
      const int64_t start = head * heads.tiles;
      const Span here{start + some.first, start + some.last};
      const int64_t joined = start + heads.tiles - 1;
      if (here.last <= joined) return sweep(op, listed, here);
      sweep(op, listed, {here.first, joined});
      sweep(JoinedOp<ProjectOp<F>>(op, weights.ih_joined, heads, head), listed, {joined, joined + 1});
    });
  }

  // Runs a recurrent product over the first n rows and some tiles of a head.
  template <class Op>
  void sweep_head(const Op& op, int product, int64_t head, int64_t n, Span tiles, bool backwards) const {
    const auto& joined = weights.hh_joined[product];
    const int64_t last = heads.tiles - 1;
    if (joined.vectors == 0 || tiles.last <= last || !joins_last(n, op.gates, tiles.size())) {
      return sweep(op, {0, n}, tiles, backwards);
    }
    const JoinedOp<Op> joined_op(op, joined, heads, head);
    if (backwards) sweep(joined_op, {0, n}, {last, tiles.last});
    sweep(op, {0, n}, {tiles.first, last}, backwards);
    if (!backwards) sweep(joined_op, {0, n}, {last, tiles.last});
  }

  // A state other than h that has no slots is updated in place.
  bool in_place(int s) const { return s > 0 && (!has_slots || f.state[s].slot < 0); }

  // The worker's units of a state that is updated in place, where an episode begins.
  void begin_anew(int s, int64_t row) const {
    const Span units = units_of<V>(p, worker);
    const int64_t size = states.size(s);
    if (units.size() <= 0) return;
    for (int64_t at = units.first; at < size; at += p.hidden) {
      std::memcpy(p.state_n[s] + row * size + at, states.anew(s, row) + at,
                  static_cast<std::size_t>(units.size()) * sizeof(C));
    }
  }

  void find_states(ForwardRow<C>& r, int64_t t, int64_t row) const {
    const auto origin = states.origin(t, row);
    r.after[0] = p.y + place_of(p, t, row) * p.y_stride;
    r.h_kept = train && p.h != p.y ? p.h + place_of(p, t, row) * p.h_stride : nullptr;
    if (has_slots) r.slots = states.slots_at(t, row);
    for (int s = 0; s < f.states; ++s) {
      if (in_place(s)) {
        r.before[s] = r.after[s] = p.state_n[s] + row * states.size(s);
        if (origin.anew) begin_anew(s, row);
        continue;
      }
      r.before[s] = states.before(s, origin, row);
      if (s > 0) r.after[s] = r.slots + f.state[s].slot * p.hidden;
    }
    if (f.states > 1 && p.drop.has(fusedrnn::kZoneoutC)) find_zoned_c(r, t, row);
  }
  // With zoneout, c before that is kept beside c after it, if slots are.
  void find_zoned_c(ForwardRow<C>& r, int64_t t, int64_t row) const {
    r.c_zoned = has_slots ? states.zoned_c + states.kept_at(t, row) * p.hidden : r.after[1];
    if (!has_slots) r.after[1] = nullptr;
  }

  // The masks of the n-th row of a step, and h_prev as products take it.
  void find_masks(ForwardRow<C>& r, int64_t n, int64_t t, int64_t row) const {
    masks.find(r.masks, n, t, row);
    r.h_in = r.before[0];
    if (!p.drop.recurrent) return;
    C* const dropped = h_dropped + n * p.proj;
    drop_units(r.before[0], r.masks.recurrent, dropped, p.proj);
    r.h_in = dropped;
  }

  // The rows that are active at time t; their number.
  int64_t gather_rows(int64_t t) {
    int64_t n = 0;
    for (int64_t row = worker.row0; row < worker.row1; ++row) {
      if (t >= length_of(p, row)) {
        clear_past_length(p, p.y, p.y_stride, h_units_of<V>(p, worker), t, row);
        clear_past_length(p, p.c, p.hidden, units_of<V>(p, worker), t, row);
        continue;
      }
      ForwardRow<C>& r = rows[n];
      find_states(r, t, row);
      find_masks(r, n++, t, row);
      if (f.below) {
        r.below = p.below ? p.below + place_of(p, t, row) * p.hidden : states.empty.zeros;
        r.c_of_step = p.c ? p.c + place_of(p, t, row) * p.hidden : nullptr;
      }
    }
    return n;
  }

  // Moves the first n rows, and what runs on them, by so many heads.
  template <class Ops>
  void move_heads(int64_t by, int64_t n, ForwardStep<C>& step, Ops& ops) const {
    if (by == 0) return;
    for (int64_t r = 0; r < n; ++r) rows[r].move(f, has_slots, by * heads.units);
    step.move(heads, by);
    for (auto& op : ops) {
      if (op) op->move(heads, by);
    }
  }

  // The steps whose projection lies in `pre`, from the one at time_of(p, first) on.
  void run_steps(int64_t first, int64_t last) {
    ForwardStep<C> step = step_at(pre);
    step.units = heads.units;
    const ForwardStep<C> projected = step.of_h(p, worker);
    std::optional<AccumulateOp<F>> others[fusedrnn::kMaxProducts];  // products that are not their phase's last
    std::optional<PhaseOp<F>> lasts[fusedrnn::kMaxPhases];
    int last_products[fusedrnn::kMaxPhases] = {};
    assert(heads.count == 1 || takes_heads(f));  // with heads, a product is its phase's last
    assert(f.products <= fusedrnn::kMaxProducts && f.phases <= fusedrnn::kMaxPhases);
    for (int i = 0; i < f.products; ++i) {
      const int phase = f.product[i].phase;
      if (i + 1 < f.products && f.product[i + 1].phase == phase)
        others[i].emplace(p, weights, step, f, i);
      else
        lasts[phase].emplace(p, weights, i == f.projection ? projected : step, f, last_products[phase] = i,
                             steps.pointwise[phase]);
    }
    for (int phase = 0; phase < f.phases; ++phase) assert(lasts[phase]);
    const Span tiles = tiles_of_worker(worker), h_tiles = h_tiles_of(worker);
    const int last_phase = f.phases - 1;
    for (int64_t at = first; at < last; ++at) {
      const bool backwards = at % 2 != 0;
      const int64_t n = gather_rows(time_of(p, at)), size = n * f.gates * V::width;
      for (int phase = 0; phase < f.phases; ++phase) {
        if (steps.reduce[phase]) steps.reduce[phase](step, n);
        for (int i = 0; i + 1 < f.products; ++i) {
          if (others[i] && f.product[i].phase == phase) sweep_head(*others[i], i, 0, n, tiles, backwards);
        }
        int64_t here = 0;  // the head at which rows and products are
        for_each_head(heads, f.projection >= 0 && phase == last_phase ? h_tiles : tiles, backwards,
                      [&](int64_t head, Span some) {
                        move_heads(head - here, n, step, lasts);
                        here = head;
                        sweep_head(*lasts[phase], last_products[phase], head, n, some, backwards);
                      });
        move_heads(-here, n, step, lasts);
        meet(worker.steps);
      }
      step.pre += size;
    }
  }

  // The states of this worker's units after the last step of each row, but for states that are there already.
  void last_states() const {
    assert(f.states <= kMaxStates);
    for (int s = 0; s < f.states; ++s) {
      if (in_place(s)) continue;
      const Span units = s == 0 ? h_units_of<V>(p, worker) : units_of<V>(p, worker);
      if (!p.state_n[s] || units.size() <= 0) continue;
      const int64_t vector = s == 0 ? p.proj : p.hidden;
      const std::size_t bytes = static_cast<std::size_t>(units.size()) * sizeof(C);
      for (int64_t row = worker.row0; row < worker.row1; ++row) {
        const C* const from = length_of(p, row) > 0 ? states.after(s, last_time(p, row), row) : states.initial(s, row);
        C* const to = p.state_n[s] + row * states.size(s);
        for (int64_t at = units.first; at < states.size(s); at += vector) std::memcpy(to + at, from + at, bytes);
      }
    }
  }

  void run(const Range& range) {
    Arena shared(worker.shared);
    lay_out(*this, worker);
    shared_layout(shared);
    assert(f.states <= kMaxStates);
    for (int s = 1; s < f.states && range.first == 0; ++s) {
      if (!in_place(s)) continue;
      copy_or_fill(p.state_n[s], p.state0[s], f.state[s].units, p.hidden, worker, units_of<V>(p, worker),
                   static_cast<C>(value_of(f.state[s].empty)));
    }
    for (int64_t first = range.first; first < range.last; first += chunk) {
      const int64_t last = first + chunk < range.last ? first + chunk : range.last;
      project(first, last);
      run_steps(first, last);
    }
    if (range.last == p.seq_len) last_states();
  }
};

}  // namespace
