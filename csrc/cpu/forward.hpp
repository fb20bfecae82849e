// Forward over a whole sequence, for any cell: the time loop of one worker.
#pragma once

#include <optional>

#include "forward_step.hpp"

namespace {

template <class T>
struct Forward {
  using V = Vec<T>;
  // The projection of a chunk of steps waits in cache until the recurrence takes it: half of a private L2.
  static constexpr int64_t kChunkBytes = 512 * 1024;

  const Problem<T>& p;
  const Worker& w;
  const CellFacts& f;
  const ForwardPointwise<T>* const pointwise;  // of each phase
  const ForwardReduce<T>* const reduce;        // null for phases that need no sums
  const bool train = p.slots != nullptr;
  const bool has_slots = train || f.scratch_slots;
  const int64_t row_count = w.row1 - w.row0;
  const int64_t chunk = chunk_steps(f.gates);
  // A tile's part of the chunk lies together: rows a power of two apart would push each other out of L1.
  const int64_t pre_stride = chunk * row_count * f.gates * V::width;
  const T* const zeros = reinterpret_cast<const T*>(w.shared);
  T* pre = nullptr;
  const T** x = nullptr;
  ForwardRow<T>* rows = nullptr;
  T* scratch = nullptr;
  T* sums = nullptr;

  int64_t chunk_steps(int64_t gates) const {
    const int64_t step_bytes = row_count * (w.tile1 - w.tile0) * gates * V::width * static_cast<int64_t>(sizeof(T));
    const int64_t steps = step_bytes > 0 ? kChunkBytes / step_bytes : 1;
    return steps < 1 ? 1 : steps < p.seq_len ? steps : p.seq_len;
  }

  // Scratch shared by all workers: zeros; in inference, if a later phase or step reads slots, those of two steps, so
  // that a step does not write what others still read.
  void shared_layout(Arena& arena) {
    arena.take<T>(f.longest_state * p.hidden);
    if (!train && f.scratch_slots) scratch = arena.take<T>(2 * p.batch * f.slots * p.hidden);
  }
  void layout(Arena& arena, int64_t more_tiles = 0) {
    pre = arena.take<T>((w.tile1 - w.tile0 + more_tiles) * pre_stride);
    x = arena.take<const T*>(chunk * row_count);
    rows = arena.take<ForwardRow<T>>(row_count);
    sums = arena.take<T>(f.reduces ? row_count * kMaxSums : 0);
  }

  T* slots_at(int64_t t, int64_t row) const {
    const int64_t step = train ? t : time_of(p, t) % 2;
    return (train ? p.slots : scratch) + (step * p.batch + row) * f.slots * p.hidden;
  }

  // A step whose rows' part of `pre` begins there.
  ForwardStep<T> step_at(T* pre_rows) const {
    return {rows,     pre_rows, pre_stride,        w.tile0,           p.hidden,
            p.hidden, f.gates,  p.weights.vectors, p.weights.epsilon, sums};
  }

  // pre of all active rows of steps [first, last), in the order in which `gather_rows` finds them.
  void project(int64_t first, int64_t last) {
    int64_t n = 0;
    for (int64_t step = first; step < last; ++step) {
      const int64_t t = time_of(p, step);
      for (int64_t row = w.row0; row < w.row1; ++row) {
        if (t < length_of(p, row)) x[n++] = p.x + (t * p.batch + row) * p.input;
      }
    }
    assert(n <= chunk * row_count);
    sweep(ProjectOp<T>(p, step_at(pre), x), {0, n}, {w.tile0, w.tile1});
  }

  // What a row keeps in slots: its states other than h.
  void find_slots(ForwardRow<T>& r, int64_t t, int64_t row, bool first) const {
    const int64_t H = p.hidden;
    const T* const before = first ? nullptr : slots_at(time_before(p, t), row);
    r.slots = slots_at(t, row);
    if (f.states > 1) {
      r.c = r.slots + f.state[1].slot * H;
      r.c_prev = first ? initial_state(p, f, 1, row, zeros) : before + f.state[1].slot * H;
    }
    if (f.states > 2) {
      const int64_t units = f.state[2].units * H;
      r.slots_prev = !first ? before + f.state[2].slot * H : p.state0[2] ? p.state0[2] + row * units : zeros;
    }
  }

  // Zeros for this worker's units of one step of one row.
  void clear(T* sequence, int64_t t, int64_t row) const {
    const Span units = units_of<V>(p, w);
    std::memset(sequence + (t * p.batch + row) * p.hidden + units.first, 0,
                static_cast<std::size_t>(units.size()) * sizeof(T));
  }

  // The rows that are active at time t; their number.
  int64_t gather_rows(int64_t t) {
    const int64_t H = p.hidden, before = time_before(p, t);
    int64_t n = 0;
    for (int64_t row = w.row0; row < w.row1; ++row) {
      if (t >= length_of(p, row)) {
        clear(p.y, t, row);
        if (p.c) clear(p.c, t, row);
        continue;
      }
      const bool first = is_first(p, t, row);
      ForwardRow<T>& r = rows[n++];
      r.h_prev = first ? initial_state(p, f, 0, row, zeros) : p.y + (before * p.batch + row) * H;
      r.y = p.y + (t * p.batch + row) * H;
      if (has_slots)
        find_slots(r, t, row, first);
      else if (f.states > 1)
        r.c_prev = r.c = p.state_n[1] + row * H;
      if (f.below) {
        r.below = p.below ? p.below + (t * p.batch + row) * H : zeros;
        r.c_of_step = p.c ? p.c + (t * p.batch + row) * H : nullptr;
      }
    }
    return n;
  }

  // The steps whose projection lies in `pre`, from the one at time_of(p, first) on.
  void run_steps(int64_t first, int64_t last) {
    ForwardStep<T> step = step_at(pre);
    std::optional<AccumulateOp<T>> others[fusedrnn::kMaxProducts];  // products that are not their phase's last
    std::optional<PhaseOp<T>> lasts[fusedrnn::kMaxPhases];
    assert(f.products <= fusedrnn::kMaxProducts && f.phases <= fusedrnn::kMaxPhases);
    for (int i = 0; i < f.products; ++i) {
      const int phase = f.product[i].phase;
      if (i + 1 < f.products && f.product[i + 1].phase == phase)
        others[i].emplace(p, step, f, i);
      else
        lasts[phase].emplace(p, step, f, i, pointwise[phase]);
    }
    for (int phase = 0; phase < f.phases; ++phase) assert(lasts[phase]);
    const Span tiles{w.tile0, w.tile1};
    for (int64_t at = first; at < last; ++at) {
      const bool backwards = at % 2 != 0;
      const int64_t n = gather_rows(time_of(p, at)), size = n * f.gates * V::width;
      for (int phase = 0; phase < f.phases; ++phase) {
        if (reduce[phase]) reduce[phase](step, n);
        for (int i = 0; i + 1 < f.products; ++i) {
          if (others[i] && f.product[i].phase == phase) sweep(*others[i], {0, n}, tiles, backwards);
        }
        sweep(*lasts[phase], {0, n}, tiles, backwards);
        meet(w.step_barrier);
      }
      step.pre += size;
      for (auto& op : others) {
        if (op) op->advance(size);
      }
      for (int phase = 0; phase < f.phases; ++phase) lasts[phase]->advance(size);
    }
  }

  void last_states() {
    const int64_t H = p.hidden;
    const Span units = units_of<V>(p, w);
    const std::size_t bytes = static_cast<std::size_t>(units.last - units.first) * sizeof(T);
    for (int64_t row = w.row0; row < w.row1; ++row) {
      const int64_t length = length_of(p, row), last = p.reverse ? 0 : length - 1;
      const T* const h = length > 0 ? p.y + (last * p.batch + row) * H : initial_state(p, f, 0, row, zeros);
      if (p.state_n[0]) std::memcpy(p.state_n[0] + row * H + units.first, h + units.first, bytes);
      if (!has_slots) continue;
      if (f.states > 1) {
        const T* const c = length > 0 ? slots_at(last, row) + f.state[1].slot * H : initial_state(p, f, 1, row, zeros);
        std::memcpy(p.state_n[1] + row * H + units.first, c + units.first, bytes);
      }
      if (f.states <= 2) continue;
      for (int64_t i = 0; i < f.state[2].units; ++i) {
        const int64_t at = (row * f.state[2].units + i) * H + units.first;
        const T* const initial = p.state0[2] ? p.state0[2] + at : zeros;
        std::memcpy(p.state_n[2] + at,
                    length > 0 ? slots_at(last, row) + (f.state[2].slot + i) * H + units.first : initial, bytes);
      }
    }
  }

  void run() {
    Arena shared{w.shared};
    lay_out(*this, w);
    shared_layout(shared);
    if (f.states > 1 && !has_slots) copy_or_zero(p.state_n[1], p.state0[1], 1, p.hidden, w, units_of<V>(p, w));
    for (int64_t first = 0; first < p.seq_len; first += chunk) {
      const int64_t last = first + chunk < p.seq_len ? first + chunk : p.seq_len;
      project(first, last);
      run_steps(first, last);
    }
    last_states();
  }
};

}  // namespace
