// Forward over a whole sequence, for any cell: the time loop of one worker.
#pragma once

#include "driver.hpp"
#include "reduce.hpp"

namespace {

// Where one active row finds its operands at one time step; pointers are to unit 0.
template <class T>
struct ForwardRow {
  const T* h_prev;
  const T* c_prev;
  const T* slots_prev;  // the vectors that products take from the step before, or the initial state
  const T* below;
  T* c;
  T* c_of_step;  // a second place for c, or null
  T* y;
  T* slots;

  // Where the pointer to a product's row is.
  static std::size_t place_of(fusedrnn::From from) {
    switch (from) {
      case fusedrnn::From::h_prev:
        return offsetof(ForwardRow, h_prev);
      case fusedrnn::From::c_prev:
        return offsetof(ForwardRow, c_prev);
      case fusedrnn::From::slots_prev:
        return offsetof(ForwardRow, slots_prev);
      default:
        return offsetof(ForwardRow, slots);
    }
  }
};

// One step of one worker, as pointwise functions see it. `pre` is [tile of this worker][row][gate][lane].
template <class T>
struct ForwardStep {
  const ForwardRow<T>* rows;
  T* pre;
  int64_t pre_stride, tile0, hidden;
  int64_t units;  // those from here on are not written
  int64_t gates;
  const T* vectors;
  T epsilon;
  T* sums;  // [row][kMaxSums], for cells that need them

  RNN_INLINE T* pre_at(int64_t row, int64_t tile) const {
    return pre + (tile - tile0) * pre_stride + row * gates * Vec<T>::width;
  }
  Sums<T> pre_sums(int64_t gate) const {
    const int64_t line = gates * Vec<T>::width;
    return {pre + gate * Vec<T>::width - tile0 * pre_stride, line, pre_stride};
  }
};

// Runs a phase's pointwise step on the sums [row][tile][gate][lane] of its last product.
template <class T>
using ForwardPointwise = void (*)(const ForwardStep<T>&, Span rows, Span tiles, const T* sums);

// Makes step.sums of the first `rows` rows, before a phase.
template <class T>
using ForwardReduce = void (*)(const ForwardStep<T>& step, int64_t rows);

// The `at` of cell.hpp.
template <class Cell, class T, bool kTrain>
struct ForwardAt {
  using V = Vec<T>;
  const ForwardRow<T>& row;
  const ForwardStep<T>& step;
  int64_t index, unit, hidden;
  T* pre_tile;
  typename V::Lanes lanes;

  RNN_INLINE V load(const T* p) const { return V::load(p + unit, lanes); }
  RNN_INLINE V h_prev() const { return load(row.h_prev); }
  RNN_INLINE V c_prev() const { return load(row.c_prev); }
  RNN_INLINE V pre(int gate) const { return V::load(pre_tile + gate * V::width); }
  RNN_INLINE V slot(int k) const { return load(row.slots + k * hidden); }
  RNN_INLINE V vector(int k) const { return load(step.vectors + k * hidden); }
  RNN_INLINE V sum(int j) const { return V(step.sums[index * kMaxSums + j]); }
  RNN_INLINE void save(int k, V v) const {
    if (kTrain || Cell::carried(k)) v.store(row.slots + k * hidden + unit, lanes);
  }
  RNN_INLINE void set_pre(int gate, V v) const { v.store(pre_tile + gate * V::width); }
  RNN_INLINE V below() const { return load(row.below); }
  RNN_INLINE void set_c(V v) const {
    v.store(row.c + unit, lanes);
    if (Cell::kBelow && row.c_of_step) v.store(row.c_of_step + unit, lanes);
  }
  RNN_INLINE void set_h(V v) const { v.store(row.y + unit, lanes); }
};

// The gates that a phase's last product ends with.
template <class Cell>
constexpr int gates_of_phase(int phase) {
  int gates = 0;
  for (int i = 0; i < Cell::kProducts; ++i) gates = Cell::product(i).phase == phase ? Cell::product(i).gates : gates;
  return gates;
}

template <class Cell, class T, int Phase, bool kTrain>
void forward_pointwise(const ForwardStep<T>& step, Span span, Span tiles, const T* sums) {
  using V = Vec<T>;
  constexpr int G = gates_of_phase<Cell>(Phase);
  const int64_t hidden = step.hidden;
  for (int64_t r = span.first; r < span.last; ++r) {
    const ForwardRow<T> row = step.rows[r];
    for (int64_t tile = tiles.first; tile < tiles.last; ++tile, sums += G * V::width) {
      V a[G];
      RNN_UNROLL for (int g = 0; g < G; ++g) a[g] = V::load(sums + g * V::width);
      Cell::template forward<Phase>(a, ForwardAt<Cell, T, kTrain>{row, step, r, tile * V::width, hidden,
                                                                  step.pre_at(r, tile), lanes_of<V>(tile, step.units)});
    }
  }
}

template <class Cell, class T, int Phase>
void forward_reduce(const ForwardStep<T>& step, int64_t rows) {
  using V = Vec<T>;
  for (int64_t r = 0; r < rows; ++r) {
    const ForwardRow<T> row = step.rows[r];
    reduce_row<Cell, T, false, Phase>(
        step.hidden, step.epsilon, step.sums + r * kMaxSums, [&](int64_t tile, typename V::Lanes lanes) {
          return ForwardAt<Cell, T, false>{row, step, r, tile * V::width, step.hidden, nullptr, lanes};
        });
  }
}

// pre = bias + W x.
template <class T>
struct ProjectOp {
  using value_type = T;
  using V = Vec<T>;
  static constexpr bool kColumns = false, kFills = false, kDirect = true, kCold = false;
  static constexpr int64_t source_stride = sizeof(const T*), source_offset = 0;
  const T* weights;
  int64_t tile_stride, depth, gates;
  const T* const* x;
  Sums<const T> from[kMaxGates];
  Sums<T> to;

  ProjectOp(const Problem<T>& p, const ForwardStep<T>& step, const T* const* x_rows)
      : weights(p.weights.ih),
        tile_stride(p.input * step.gates * V::width),
        depth(p.input),
        gates(step.gates),
        x(x_rows),
        to(step.pre_sums(0)) {
    for (int64_t g = 0; g < gates; ++g) from[g] = {p.weights.bias_pre + g * V::width, 0, gates * V::width};
  }
  RNN_INLINE const T* const* sources(int64_t row) const { return x + row; }
  RNN_INLINE void fetch_start(const Area&) const {}
  RNN_INLINE void fetch_end(const Area&) const {}
};

// What the recurrent products of a phase share: where rows lie, and that sums start from the input's part.
template <class T>
struct RecurrentProduct {
  using V = Vec<T>;
  static constexpr bool kColumns = false, kFills = false, kCold = false;
  static constexpr int64_t source_stride = sizeof(ForwardRow<T>);
  const T* weights;
  int64_t tile_stride, depth, gates;
  const ForwardStep<T>& step;
  const CellFacts& facts;
  std::size_t source;  // where in a ForwardRow the pointer is
  int64_t source_offset, first_gate;
  Sums<const T> from[kMaxGates];

  RecurrentProduct(const Problem<T>& p, const ForwardStep<T>& s, const CellFacts& f, int index) : step(s), facts(f) {
    const fusedrnn::Product& product = f.product[index];
    weights = p.weights.hh[index];
    depth = product.depth * p.hidden;
    gates = product.gates;
    tile_stride = depth * gates * V::width;
    first_gate = product.first_gate;
    source_offset = product.from == fusedrnn::From::slots ? product.slot * p.hidden : 0;
    source = ForwardRow<T>::place_of(product.from);
    const int64_t line = s.gates * V::width;
    for (int64_t g = 0; g < gates; ++g) {
      const int64_t gate = first_gate + g;
      if (f.split[gate])
        from[g] = {p.weights.bias_rec + gate * V::width, 0, line};
      else
        from[g] = {s.pre_sums(gate).at, line, s.pre_stride};
    }
  }
  RNN_INLINE const T* const* sources(int64_t row) const {
    return reinterpret_cast<const T* const*>(reinterpret_cast<const char*>(step.rows + row) + source);
  }
  RNN_INLINE void fetch_start(const Area& area) const {
    for (int64_t r = area.row; r < area.row + area.rows; ++r) {
      for (int64_t tile = area.tile; tile < area.tile + area.tiles; ++tile) {
        const T* const pre = step.pre_at(r, tile) + first_gate * V::width;
        for (int64_t gate = 0; gate < gates; ++gate) __builtin_prefetch(pre + gate * V::width);
      }
    }
  }
};

// A product that is not its phase's last: pre += U row.
template <class T>
struct AccumulateOp : RecurrentProduct<T> {
  using value_type = T;
  static constexpr bool kDirect = true;
  Sums<T> to;

  AccumulateOp(const Problem<T>& p, const ForwardStep<T>& step, const CellFacts& f, int index)
      : RecurrentProduct<T>(p, step, f, index), to(step.pre_sums(this->first_gate)) {}
  RNN_INLINE void fetch_end(const Area&) const {}
};

// A phase's last product, and the cell's pointwise step on its sums.
template <class T>
struct PhaseOp : RecurrentProduct<T> {
  using value_type = T;
  static constexpr bool kDirect = false;
  ForwardPointwise<T> pointwise;

  PhaseOp(const Problem<T>& p, const ForwardStep<T>& step, const CellFacts& f, int index, ForwardPointwise<T> run)
      : RecurrentProduct<T>(p, step, f, index), pointwise(run) {}
  RNN_INLINE void fetch_end(const Area& area) const {
    const ForwardStep<T>& step = this->step;
    for (int64_t r = area.row; r < area.row + area.rows; ++r) {
      for (int64_t tile = area.tile; tile < area.tile + area.tiles; ++tile) {
        prefetch_write(step.rows[r].y + tile * Vec<T>::width);
        if (this->facts.states > 1) __builtin_prefetch(step.rows[r].c_prev + tile * Vec<T>::width);
      }
    }
  }
  RNN_INLINE void end(const Area& area, const T* sums) const {
    pointwise(this->step, {area.row, area.row + area.rows}, {area.tile, area.tile + area.tiles}, sums);
  }
};

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
    arena.take<T>(f.longest_state() * p.hidden);
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
    sweep(ProjectOp<T>(p, step_at(pre), x), {0, n}, {w.tile0, w.tile1});
  }

  // What a row keeps in slots: its states other than h.
  void find_slots(ForwardRow<T>& r, int64_t t, int64_t row, bool first) const {
    const int64_t H = p.hidden;
    const T* const before = first ? nullptr : slots_at(time_before(p, t), row);
    r.slots = slots_at(t, row);
    if (f.state_slot >= 0) {
      r.c = r.slots + f.state_slot * H;
      r.c_prev = first ? initial_state(p, 1, row, zeros) : before + f.state_slot * H;
    }
    if (f.states > 2) {
      const int64_t units = f.state_units[2] * H;
      r.slots_prev = !first ? before + f.third_state_slot() * H : p.state0[2] ? p.state0[2] + row * units : zeros;
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
      r.h_prev = first ? initial_state(p, 0, row, zeros) : p.y + (before * p.batch + row) * H;
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

  void run_phase(int phase, const ForwardStep<T>& step, int64_t n, bool backwards) {
    if (reduce[phase]) reduce[phase](step, n);
    int last = 0;
    for (int i = 0; i < f.products; ++i) last = f.product[i].phase == phase ? i : last;
    for (int i = 0; i <= last; ++i) {
      if (f.product[i].phase != phase) continue;
      if (i == last)
        sweep(PhaseOp<T>(p, step, f, i, pointwise[phase]), {0, n}, {w.tile0, w.tile1}, backwards);
      else
        sweep(AccumulateOp<T>(p, step, f, i), {0, n}, {w.tile0, w.tile1}, backwards);
    }
    meet(w.step_barrier);
  }

  void last_states() {
    const int64_t H = p.hidden;
    const Span units = units_of<V>(p, w);
    const std::size_t bytes = static_cast<std::size_t>(units.last - units.first) * sizeof(T);
    for (int64_t row = w.row0; row < w.row1; ++row) {
      const int64_t length = length_of(p, row), last = p.reverse ? 0 : length - 1;
      const T* const h = length > 0 ? p.y + (last * p.batch + row) * H : initial_state(p, 0, row, zeros);
      if (p.state_n[0]) std::memcpy(p.state_n[0] + row * H + units.first, h + units.first, bytes);
      if (!has_slots) continue;
      if (f.state_slot >= 0) {
        const T* const c = length > 0 ? slots_at(last, row) + f.state_slot * H : initial_state(p, 1, row, zeros);
        std::memcpy(p.state_n[1] + row * H + units.first, c + units.first, bytes);
      }
      if (f.states <= 2) continue;
      for (int64_t i = 0; i < f.state_units[2]; ++i) {
        const int64_t at = (row * f.state_units[2] + i) * H + units.first;
        const T* const initial = p.state0[2] ? p.state0[2] + at : zeros;
        std::memcpy(p.state_n[2] + at,
                    length > 0 ? slots_at(last, row) + (f.third_state_slot() + i) * H + units.first : initial, bytes);
      }
    }
  }

  void run() {
    Arena arena{w.local}, shared{w.shared};
    layout(arena);
    shared_layout(shared);
    if (f.states > 1 && !has_slots) copy_or_zero(p.state_n[1], p.state0[1], 1, p.hidden, w, units_of<V>(p, w));
    for (int64_t first = 0; first < p.seq_len; first += chunk) {
      const int64_t last = first + chunk < p.seq_len ? first + chunk : p.seq_len;
      project(first, last);
      T* pre_rows = pre;
      for (int64_t i = first; i < last; ++i) {
        const int64_t n = gather_rows(time_of(p, i));
        const ForwardStep<T> step = step_at(pre_rows);
        for (int phase = 0; phase < f.phases; ++phase) run_phase(phase, step, n, i % 2 != 0);
        pre_rows += n * f.gates * V::width;
      }
    }
    last_states();
  }
};

}  // namespace
