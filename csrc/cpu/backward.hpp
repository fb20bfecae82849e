// Backward through a whole sequence, for any cell: the time loop of one worker. Only what the recurrence needs is done
// here; the products over all steps at once are in batched.hpp.
#pragma once

#include "carry.hpp"
#include "driver.hpp"
#include "reduce.hpp"

namespace {

// Where one active row finds its operands at one step of backward; pointers are to unit 0.
template <class T>
struct BackwardRow {
  const T* dy;        // null: zeros
  const T* dc_given;  // null: zeros
  const T* below;
  T* dbelow;  // or null
  const T* h_prev;
  const T* c_prev;
  T* direct;  // the row of dstate0[0]: gradient of h carried from the step after
  T* dc;      // the row of dstate0[1]: gradient of c carried from the step after
  T* third;   // the row of dstate0[2]
  T* slots;
  const T* source;  // slots of the step after, which hold its gradients by now; not read in a row's last step
};

// One step of one worker, as pointwise functions see it. `extras` is [extra][row][tile of this worker][lane].
template <class T>
struct BackwardStep {
  const BackwardRow<T>* rows;
  int64_t hidden;
  int64_t units;  // those from here on are not written
  const T* vectors;
  T* extras;
  int64_t extra_stride, row_stride, tile0;
  T epsilon;
  T* sums;  // [row][kMaxSums], for cells that need them

  RNN_INLINE T* extra_at(int64_t extra, int64_t row, int64_t tile) const {
    return extras + extra * extra_stride + row * row_stride + (tile - tile0) * Vec<T>::width;
  }
};

// Runs a stage's pointwise step on the sums [row][tile][lane] of its product.
template <class T>
using BackwardPointwise = void (*)(const BackwardStep<T>&, Span rows, Span tiles, const T* sums);

// Makes step.sums of the first `rows` rows, before a stage.
template <class T>
using BackwardReduce = void (*)(const BackwardStep<T>& step, int64_t rows);

// The `at` of cell.hpp.
template <class T>
struct BackwardAt {
  using V = Vec<T>;
  const BackwardRow<T>& row;
  const BackwardStep<T>& step;
  int64_t index, tile, unit, hidden;
  typename V::Lanes lanes;

  RNN_INLINE V load(const T* p) const { return V::load(p + unit, lanes); }
  RNN_INLINE V h_prev() const { return load(row.h_prev); }
  RNN_INLINE V c_prev() const { return load(row.c_prev); }
  RNN_INLINE V slot(int k) const { return load(row.slots + k * hidden); }
  RNN_INLINE V vector(int k) const { return load(step.vectors + k * hidden); }
  RNN_INLINE V sum(int j) const { return V(step.sums[index * kMaxSums + j]); }
  RNN_INLINE V extra(int j) const { return V::load(step.extra_at(j, index, tile)); }
  RNN_INLINE V dc() const { return load(row.dc); }
  RNN_INLINE V dc_given() const { return row.dc_given ? load(row.dc_given) : V(0); }
  RNN_INLINE V below() const { return load(row.below); }
  RNN_INLINE void set_dbelow(V v) const {
    if (row.dbelow) v.store(row.dbelow + unit, lanes);
  }
  RNN_INLINE void set_dc(V v) const { v.store(row.dc + unit, lanes); }
  RNN_INLINE V direct() const { return load(row.direct); }
  RNN_INLINE void set_direct(V v) const { v.store(row.direct + unit, lanes); }
  RNN_INLINE void grad(int column, V v) const { v.store(row.slots + column * hidden + unit, lanes); }
};

template <class Cell, class T, int Stage>
void backward_pointwise(const BackwardStep<T>& step, Span span, Span tiles, const T* sums) {
  using V = Vec<T>;
  const int64_t hidden = step.hidden;
  for (int64_t r = span.first; r < span.last; ++r) {
    const BackwardRow<T> row = step.rows[r];
    for (int64_t tile = tiles.first; tile < tiles.last; ++tile, sums += V::width) {
      Cell::template backward<Stage>(
          V::load(sums), BackwardAt<T>{row, step, r, tile, tile * V::width, hidden, lanes_of<V>(tile, step.units)});
    }
  }
}

template <class Cell, class T, int Stage>
void backward_reduce(const BackwardStep<T>& step, int64_t rows) {
  using V = Vec<T>;
  for (int64_t r = 0; r < rows; ++r) {
    const BackwardRow<T> row = step.rows[r];
    reduce_row<Cell, T, true, Stage>(step.hidden, step.epsilon, step.sums + r * kMaxSums,
                                     [&](int64_t tile, typename V::Lanes lanes) {
                                       return BackwardAt<T>{row, step, r, tile, tile * V::width, step.hidden, lanes};
                                     });
  }
}

// One product of a stage: U^T times the gradients in some slots, of the step after (stage 0) or of this one. Sums start
// from dy and `direct` where they are the gradient of h, from what the caller gave where they are that of a third state
// in a row's last step, else from zero; they go to the pointwise step if there is one, else to `extra`.
template <class T>
struct StageOp {
  using value_type = T;
  using V = Vec<T>;
  static constexpr bool kColumns = false, kFills = true, kDirect = false, kCold = true;
  static constexpr int64_t gates = 1, source_stride = sizeof(BackwardRow<T>);
  const T* weights;
  int64_t tile_stride, depth;
  const BackwardStep<T>& step;
  const CellFacts& facts;
  bool first_stage, add_direct;
  BackwardPointwise<T> pointwise;  // or null
  int extra;
  int third;              // the part of the third state to start from, or -1
  int64_t source_offset;  // where the gradients begin among the slots
  int64_t k0;             // this block of k begins here
  bool last;              // and is the last one
  T* partial;             // [row][tile of this worker][lane]: what the blocks before came to

  RNN_INLINE bool is_dh() const { return first_stage && pointwise; }
  RNN_INLINE T* partial_at(int64_t row, int64_t tile) const {
    return partial + row * step.row_stride + (tile - step.tile0) * V::width;
  }
  RNN_INLINE const T* const* sources(int64_t row) const {
    const BackwardRow<T>& at = step.rows[row];
    return first_stage ? &at.source : &at.slots;
  }
  RNN_INLINE V initial(const BackwardRow<T>& row, int64_t r, int64_t tile) const {
    if (k0 > 0) return V::load(partial_at(r, tile));
    const auto lanes = lanes_of<V>(tile, step.hidden);
    if (third >= 0) return V::load(row.third + third * step.hidden + tile * V::width, lanes);
    if (!is_dh()) return V(0);
    const V dy = row.dy ? V::load(row.dy + tile * V::width, lanes) : V(0);
    return add_direct ? dy + V::load(row.direct + tile * V::width, lanes) : dy;
  }
  RNN_INLINE void fill(const Area& area, T* sums) const {
    for (int64_t r = area.row; r < area.row + area.rows; ++r) {
      const BackwardRow<T> row = step.rows[r];
      for (int64_t tile = area.tile; tile < area.tile + area.tiles; ++tile, sums += V::width) {
        initial(row, r, tile).store(sums);
      }
    }
  }
  RNN_INLINE void fetch_start(const Area& area) const {
    if (k0 > 0 || !is_dh()) return;
    for (int64_t r = area.row; r < area.row + area.rows; ++r) {
      for (int64_t tile = area.tile; tile < area.tile + area.tiles; ++tile) {
        if (step.rows[r].dy) __builtin_prefetch(step.rows[r].dy + tile * V::width);
      }
    }
  }
  RNN_INLINE void fetch_end(const Area& area) const {
    if (!last || !pointwise) return;
    for (int64_t r = area.row; r < area.row + area.rows; ++r) {
      const BackwardRow<T>& row = step.rows[r];
      for (int64_t tile = area.tile; tile < area.tile + area.tiles; ++tile) {
        if (facts.states > 1) __builtin_prefetch(row.c_prev + tile * V::width);
        for (int k = 0; k < facts.slots; ++k) prefetch_write(row.slots + k * step.hidden + tile * V::width);
      }
    }
  }
  RNN_INLINE void end(const Area& area, const T* sums) const {
    if (last && pointwise) {
      return pointwise(step, {area.row, area.row + area.rows}, {area.tile, area.tile + area.tiles}, sums);
    }
    for (int64_t r = area.row; r < area.row + area.rows; ++r) {
      for (int64_t tile = area.tile; tile < area.tile + area.tiles; ++tile, sums += V::width) {
        V::load(sums).store(last ? step.extra_at(extra, r, tile) : partial_at(r, tile));
      }
    }
  }
};

template <class T>
struct Backward {
  using V = Vec<T>;
  // Gradients that the rows of a block of k take up, so that they stay in L2 while all tiles pass over them.
  static constexpr int64_t kSourceBytes = 512 * 1024;

  const Problem<T>& p;
  const Gradients<T>& g;
  const Worker& w;
  const CellFacts& f;
  const BackwardPointwise<T>* const pointwise;  // of each stage
  const BackwardReduce<T>* const reduce;        // null for stages that need no sums
  const int64_t row_count = w.row1 - w.row0;
  const int64_t row_stride = (w.tile1 - w.tile0) * V::width;
  const T* const zeros = reinterpret_cast<const T*>(w.shared);
  BackwardRow<T>* rows = nullptr;
  T* partial = nullptr;
  T* extras = nullptr;
  T* sums = nullptr;
  const T** from = nullptr;
  T** to = nullptr;

  BackwardRow<T> row_at(int64_t t, int64_t row) const {
    const int64_t H = p.hidden, here = t * p.batch + row;
    const int64_t prev = time_before(p, t) * p.batch + row, next = time_after(p, t) * p.batch + row;
    const bool first = is_first(p, t, row);
    BackwardRow<T> r{};
    r.dy = g.dy ? g.dy + here * H : nullptr;
    r.h_prev = first ? initial_state(p, f, 0, row, zeros) : p.h + prev * H;
    r.direct = g.dstate0[0] + row * H;
    r.slots = p.slots + here * f.slots * H;
    r.source = is_last(p, t, row) ? r.slots : p.slots + next * f.slots * H;
    if (f.below) {
      r.dc_given = g.dc ? g.dc + here * H : nullptr;
      r.below = p.below ? p.below + here * H : zeros;
      r.dbelow = g.dbelow ? g.dbelow + here * H : nullptr;
    }
    if (f.states > 2) r.third = g.dstate0[2] + row * f.state[2].units * H;
    if (f.states > 1) {
      r.dc = g.dstate0[1] + row * H;
      r.c_prev = first ? initial_state(p, f, 1, row, zeros) : p.slots + (prev * f.slots + f.state[1].slot) * H;
    }
    return r;
  }

  // The vectors among the rows of products other than h_prev's that come from the step before.
  static bool gives_extras(const fusedrnn::Product& product) {
    return product.from == fusedrnn::From::c_prev || product.from == fusedrnn::From::slots_prev;
  }
  int extra_count() const {
    int count = 0;
    for (int i = 0; i < f.products; ++i) count += gives_extras(f.product[i]) ? f.product[i].depth : 0;
    return count;
  }

  // The product whose row's gradient a stage works on: the last of its phase.
  int product_of(int stage) const {
    int last = 0;
    for (int i = 0; i < f.products; ++i) last = f.product[i].phase == (stage ? f.phases - stage : 0) ? i : last;
    return last;
  }
  int64_t depth_of(int product) const { return f.product[product].depth > 0 ? f.product[product].gates * p.hidden : 0; }
  // The transposed weights of the `part`-th vector of a product's row.
  const T* weights_of(int product, int part) const {
    if (depth_of(product) == 0) return p.weights.ih_t;  // which no kernel will read
    return p.weights.hh_t[product] + part * depth_of(product) * tiles_of<V>(p.hidden) * V::width;
  }

  // Rows of `span` over one product; depth 0 where there is no step after. Extras are numbered; the main product's is
  // -1.
  void run_product(const BackwardStep<T>& step, Span span, int stage, int product, int extra, int part, int64_t depth,
                   bool add_direct, bool backwards) {
    if (span.first == span.last) return;
    const int third = depth == 0 && f.product[product].from == fusedrnn::From::slots_prev ? part : -1;
    const int64_t rows_bytes = (span.last - span.first) * static_cast<int64_t>(sizeof(T));
    const int64_t block = depth * rows_bytes <= kSourceBytes ? depth : kSourceBytes / rows_bytes;
    const T* const weights = weights_of(product, part);
    int64_t k0 = 0;
    do {
      const int64_t left = depth - k0;
      const StageOp<T> op{weights + k0 * V::width,
                          depth_of(product) * V::width,
                          left < block ? left : block,
                          step,
                          f,
                          stage == 0,
                          add_direct,
                          extra < 0 ? pointwise[stage] : nullptr,
                          extra,
                          third,
                          f.product[product].column * p.hidden + k0,
                          k0,
                          left <= block,
                          partial};
      sweep(op, span, {w.tile0, w.tile1}, backwards);
      k0 += block;
    } while (k0 < depth);
  }

  // Stage 0 of some rows, all of them in their last step or none.
  void run_first_stage(const BackwardStep<T>& step, Span span, bool ending, bool backwards) {
    int extra = 0;
    for (int i = 0; i < f.products; ++i) {
      if (!gives_extras(f.product[i])) continue;
      for (int part = 0; part < f.product[i].depth; ++part) {
        run_product(step, span, 0, i, extra++, part, ending ? 0 : depth_of(i), false, backwards);
      }
    }
    const int main = product_of(0);
    run_product(step, span, 0, main, -1, 0, ending ? 0 : depth_of(main), ending || f.state[0].carries, backwards);
  }

  // Rows in their last step come first: their dh is dy + dh_n, without a product.
  void run_step(int64_t step_index) {
    const int64_t t = time_of(p, step_index);
    const bool backwards = step_index % 2 != 0;
    int64_t ending = 0, n = 0;
    for (int64_t row = w.row0; row < w.row1; ++row) {
      if (t < length_of(p, row) && is_last(p, t, row)) rows[ending++] = row_at(t, row);
    }
    n = ending;
    for (int64_t row = w.row0; row < w.row1; ++row) {
      if (t < length_of(p, row) && !is_last(p, t, row)) rows[n++] = row_at(t, row);
    }
    const BackwardStep<T> step{
        rows,    p.hidden,          p.hidden, p.weights.vectors, extras, row_count * row_stride, row_stride,
        w.tile0, p.weights.epsilon, sums};
    run_first_stage(step, {0, ending}, true, backwards);
    run_first_stage(step, {ending, n}, false, backwards);
    meet(w.step_barrier);
    for (int stage = 1; stage < f.phases; ++stage) {
      const int product = product_of(stage);
      if (reduce[stage]) {
        reduce[stage](step, n);
        meet(w.step_barrier);  // others may still be reading what this one is about to overwrite
      }
      run_product(step, {0, n}, stage, product, -1, 0, depth_of(product), false, backwards);
      meet(w.step_barrier);
    }
  }

  void run_initial(int64_t n, int product, int part, bool add) {
    const int64_t depth = depth_of(product);
    const int64_t column = f.product[product].column * p.hidden;
    const CarryOp<T> op{weights_of(product, part), depth * V::width, depth, from, column, to, p.hidden, add, 0};
    sweep(op, {0, n}, {w.tile0, w.tile1});
  }

  void initial_state_gradients() {
    int64_t n = 0;
    const auto gather = [&](int state, int units, int part) {
      n = 0;
      for (int64_t row = w.row0; row < w.row1; ++row) {
        const int64_t length = length_of(p, row);
        if (length == 0) continue;
        from[n] = row_at(p.reverse ? length - 1 : 0, row).slots;
        to[n++] = g.dstate0[state] + (row * units + part) * p.hidden;
      }
    };
    gather(0, 1, 0);
    run_initial(n, product_of(0), 0, f.state[0].carries);
    for (int i = 0; i < f.products; ++i) {
      if (!gives_extras(f.product[i])) continue;
      const int state = f.product[i].from == fusedrnn::From::c_prev ? 1 : 2;
      for (int part = 0; part < f.product[i].depth; ++part) {
        gather(state, f.product[i].depth, part);
        run_initial(n, i, part, state == 1);
      }
    }
  }

  void layout(Arena& arena) {
    rows = arena.take<BackwardRow<T>>(row_count);
    from = arena.take<const T*>(row_count);
    to = arena.take<T*>(row_count);
    partial = arena.take<T>(row_count * row_stride);
    sums = arena.take<T>(f.reduces ? row_count * kMaxSums : 0);
    extras = arena.take<T>(extra_count() * row_count * row_stride);
  }

  void run() {
    lay_out(*this, w);
    const Span units = units_of<V>(p, w);
    for (int s = 0; s < f.states; ++s) {
      copy_or_zero(g.dstate0[s], g.dstate_n[s], f.state[s].units, p.hidden, w, units);
    }
    for (int64_t step = p.seq_len - 1; step >= 0; --step) run_step(step);
    initial_state_gradients();
  }
};

}  // namespace
