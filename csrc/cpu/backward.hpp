// Backward through a whole sequence, for any cell: the time loop of one worker. Only what the recurrence needs is done
// here; the products over all steps at once are in batched.hpp.
#pragma once

#include "driver.hpp"

namespace {

// Where one active row finds its operands at one step of backward; pointers are to unit 0.
template <class T>
struct BackwardRow {
  const T* dy;  // null: zeros
  const T* h_prev;
  const T* c_prev;
  T* direct;  // the row of dstate0[0]: gradient of h carried from the step after
  T* dc;      // the row of dstate0[1]: gradient of c carried from the step after
  T* slots;
  const T* source;  // slots of the step after, which hold its gradients by now; unused in a row's last step
};

// The `at` of cell.hpp.
template <class T>
struct BackwardAt {
  using V = Vec<T>;
  const BackwardRow<T>& row;
  int64_t unit, hidden;
  typename V::Lanes lanes;

  RNN_INLINE V load(const T* p) const { return V::load(p + unit, lanes); }
  RNN_INLINE V h_prev() const { return load(row.h_prev); }
  RNN_INLINE V c_prev() const { return load(row.c_prev); }
  RNN_INLINE V slot(int k) const { return load(row.slots + k * hidden); }
  RNN_INLINE V dc() const { return load(row.dc); }
  RNN_INLINE void set_dc(V v) const { v.store(row.dc + unit, lanes); }
  RNN_INLINE V direct() const { return load(row.direct); }
  RNN_INLINE void set_direct(V v) const { v.store(row.direct + unit, lanes); }
  RNN_INLINE void grad(int column, V v) const { v.store(row.slots + column * hidden + unit, lanes); }
};

// Stage 0: dh = dy + direct + U^T (gradients of the step after). Later stages: the gradient of the row that phase
// kPhases - Stage read. Then the cell's pointwise backward on the sums.
template <class Cell, class T, int Stage>
struct StageOp {
  using value_type = T;
  using V = Vec<T>;
  static constexpr int kPhase = Stage == 0 ? 0 : Cell::kPhases - Stage;
  static constexpr int kGates = 1;
  static constexpr bool kColumns = false;
  static constexpr bool kPointwise = true, kCold = true;
  const T* weights;
  int64_t tile_stride, depth;
  const BackwardRow<T>* rows;
  int64_t hidden;
  bool add_direct;
  int64_t k0;  // this block of k begins here
  bool last;   // and is the last one
  T* sums;     // [row][tile of this worker][lane]: what the blocks before came to
  int64_t sums_stride, tile0;

  RNN_INLINE const T* column(int64_t) const { return nullptr; }
  RNN_INLINE const T* source(int64_t row) const {
    const T* slots = Stage == 0 ? rows[row].source : rows[row].slots;
    return slots + Cell::phase_columns(kPhase).first * hidden + k0;
  }
  RNN_INLINE T* sum_at(int64_t row, int64_t tile) const { return sums + row * sums_stride + (tile - tile0) * V::width; }
  RNN_INLINE V init(int64_t row, int64_t tile, int) const {
    if (k0 > 0) return V::load(sum_at(row, tile));
    if (Stage > 0) return V(0);
    const auto lanes = lanes_of<V>(tile, hidden);
    const BackwardRow<T>& r = rows[row];
    const V dy = r.dy ? V::load(r.dy + tile * V::width, lanes) : V(0);
    return add_direct ? dy + V::load(r.direct + tile * V::width, lanes) : dy;
  }
  RNN_INLINE void fetch_init(const Area& area) const {
    if (k0 > 0 || Stage > 0) return;
    for (int64_t r = area.row; r < area.row + area.rows; ++r) {
      for (int64_t tile = area.tile; tile < area.tile + area.tiles; ++tile) {
        if (rows[r].dy) __builtin_prefetch(rows[r].dy + tile * V::width);
      }
    }
  }
  RNN_INLINE void fetch_end(const Area& area) const {
    if (!last) return;
    for (int64_t r = area.row; r < area.row + area.rows; ++r) {
      for (int64_t tile = area.tile; tile < area.tile + area.tiles; ++tile) {
        if (Cell::kStates > 1) __builtin_prefetch(rows[r].c_prev + tile * V::width);
        for (int k = 0; k < Cell::kSlots; ++k) prefetch_write(rows[r].slots + k * hidden + tile * V::width);
      }
    }
  }
  void pointwise(Span span, Span tiles, const V* a) const {
    for (int64_t row = span.first; row < span.last; ++row) {
      for (int64_t tile = tiles.first; tile < tiles.last; ++tile, ++a) {
        if (last) {
          Cell::template backward<Stage>(*a,
                                         BackwardAt<T>{rows[row], tile * V::width, hidden, lanes_of<V>(tile, hidden)});
        } else {
          a->store(sum_at(row, tile));
        }
      }
    }
  }
};

// dh0 = direct + U^T (gradients of the first step).
template <class T>
struct InitialStateOp {
  using value_type = T;
  using V = Vec<T>;
  static constexpr int kGates = 1;
  static constexpr bool kColumns = false;
  static constexpr bool kPointwise = false, kCold = false;
  const T* weights;
  int64_t tile_stride, depth;
  const BackwardRow<T>* rows;
  int64_t hidden, first;  // first: where in its slots the gradients that the product sees begin
  bool add_direct;

  RNN_INLINE const T* column(int64_t) const { return nullptr; }
  RNN_INLINE const T* source(int64_t row) const { return rows[row].source + first; }
  RNN_INLINE void fetch_init(const Area&) const {}
  RNN_INLINE void fetch_end(const Area&) const {}
  RNN_INLINE V init(int64_t row, int64_t tile, int) const {
    return add_direct ? V::load(rows[row].direct + tile * V::width, lanes_of<V>(tile, hidden)) : V(0);
  }
  RNN_INLINE void finish(int64_t row, int64_t tile, const V* a) const {
    a[0].store(rows[row].direct + tile * V::width, lanes_of<V>(tile, hidden));
  }
};

template <class Cell, class T>
struct Backward {
  using V = Vec<T>;
  static constexpr int kColumns0 = Cell::phase_columns(0).count;
  // Gradients that the rows of a block of k take up, so that they stay in L2 while all tiles pass over them.
  static constexpr int64_t kSourceBytes = 512 * 1024;

  const Problem<T>& p;
  const Gradients<T>& g;
  const Worker& w;
  const T* const zeros = reinterpret_cast<const T*>(w.shared);
  BackwardRow<T>* rows = nullptr;
  T* sums = nullptr;

  BackwardRow<T> row_at(int64_t t, int64_t row) const {
    const int64_t H = p.hidden, here = t * p.batch + row;
    const int64_t prev = time_before(p, t) * p.batch + row, next = time_after(p, t) * p.batch + row;
    const bool first = is_first(p, t, row);
    BackwardRow<T> r{};
    r.dy = g.dy ? g.dy + here * H : nullptr;
    r.h_prev = first ? initial_state(p, 0, row, zeros) : p.h + prev * H;
    r.direct = g.dstate0[0] + row * H;
    r.slots = p.slots + here * Cell::kSlots * H;
    r.source = is_last(p, t, row) ? nullptr : p.slots + next * Cell::kSlots * H;
    if constexpr (Cell::kStates > 1) {
      r.dc = g.dstate0[1] + row * H;
      if (first)
        r.c_prev = initial_state(p, 1, row, zeros);
      else
        r.c_prev = p.slots + (prev * Cell::kSlots + Cell::kStateSlot) * H;
    }
    return r;
  }

  template <int Stage>
  void run_stage(Span span, int64_t depth, bool add_direct, bool backwards) {
    constexpr int phase = StageOp<Cell, T, Stage>::kPhase;
    if (span.first == span.last) return;
    const int64_t rows_bytes = (span.last - span.first) * static_cast<int64_t>(sizeof(T));
    const int64_t block = depth * rows_bytes <= kSourceBytes ? depth : kSourceBytes / rows_bytes;
    int64_t k0 = 0;
    do {
      const int64_t left = depth - k0;
      const StageOp<Cell, T, Stage> op{p.weights.hh_t[phase] + k0 * V::width,
                                       Cell::phase_columns(phase).count * p.hidden * V::width,
                                       left < block ? left : block,
                                       rows,
                                       p.hidden,
                                       add_direct,
                                       k0,
                                       left <= block,
                                       sums,
                                       (w.tile1 - w.tile0) * V::width,
                                       w.tile0};
      sweep(op, span, {w.tile0, w.tile1}, backwards);
      k0 += block;
    } while (k0 < depth);
  }

  template <int Stage>
  void run_later_stages(int64_t n, bool backwards) {
    if constexpr (Stage < Cell::kPhases) {
      run_stage<Stage>({0, n}, Cell::phase_columns(Cell::kPhases - Stage).count * p.hidden, false, backwards);
      meet(w.step_barrier);
      run_later_stages<Stage + 1>(n, backwards);
    }
  }

  // Rows in their last step come first: their dh is dy + dh_n, without a product.
  void run_step(int64_t step) {
    const int64_t t = time_of(p, step);
    const bool backwards = step % 2 != 0;
    int64_t ending = 0, n = 0;
    for (int64_t row = w.row0; row < w.row1; ++row) {
      if (t < length_of(p, row) && is_last(p, t, row)) rows[ending++] = row_at(t, row);
    }
    n = ending;
    for (int64_t row = w.row0; row < w.row1; ++row) {
      if (t < length_of(p, row) && !is_last(p, t, row)) rows[n++] = row_at(t, row);
    }
    run_stage<0>({0, ending}, 0, true, backwards);
    run_stage<0>({ending, n}, kColumns0 * p.hidden, Cell::kDirect, backwards);
    meet(w.step_barrier);
    run_later_stages<1>(n, backwards);
  }

  void initial_state_gradient() {
    int64_t n = 0;
    for (int64_t row = w.row0; row < w.row1; ++row) {
      const int64_t length = length_of(p, row);
      if (length == 0) continue;
      rows[n] = row_at(p.reverse ? length - 1 : 0, row);
      rows[n].source = rows[n].slots;
      ++n;
    }
    const InitialStateOp<T> op{p.weights.hh_t[0], kColumns0 * p.hidden * V::width,         kColumns0 * p.hidden, rows,
                               p.hidden,          Cell::phase_columns(0).first * p.hidden, Cell::kDirect};
    sweep(op, {0, n}, {w.tile0, w.tile1});
  }

  void layout(Arena& arena) {
    rows = arena.take<BackwardRow<T>>(w.row1 - w.row0);
    sums = arena.take<T>((w.row1 - w.row0) * (w.tile1 - w.tile0) * V::width);
  }

  void run() {
    Arena arena{w.local};
    layout(arena);
    const Span units = units_of<V>(p, w);
    for (int s = 0; s < Cell::kStates; ++s) copy_or_zero(g.dstate0[s], g.dstate_n[s], p.hidden, w, units);
    for (int64_t step = p.seq_len - 1; step >= 0; --step) run_step(step);
    initial_state_gradient();
  }
};

}  // namespace
