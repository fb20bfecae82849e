// Backward's products over all steps at once: dx, the gradients of weights and biases. Steps past a row's length take
// no part. Workers share the output out among them, so no sum depends on how many there are: sums over steps run in
// blocks of kSumBlock valid (t, row) pairs, in the order of t, then row; each block is one chain, and the blocks are
// added in order.
#pragma once

#include "driver.hpp"

namespace {

constexpr int64_t kSumBlock = 256;
constexpr int64_t kColumnBlock =
    96;  // rows of a weight gradient whose factors stay in L2 while the inputs pass over them

// to = W^T d.
template <class T>
struct InputGradientOp {
  using value_type = T;
  using V = Vec<T>;
  static constexpr int kGates = 1;
  static constexpr bool kColumns = false;
  static constexpr bool kPointwise = false, kCold = true;
  const T* weights;
  int64_t tile_stride, depth;
  const T* const* d;
  T* const* to;
  int64_t input;

  RNN_INLINE const T* column(int64_t) const { return nullptr; }
  RNN_INLINE const T* source(int64_t row) const { return d[row]; }
  RNN_INLINE void fetch_init(const Area&) const {}
  RNN_INLINE void fetch_end(const Area& area) const {
    for (int64_t row = area.row; row < area.row + area.rows; ++row) {
      for (int64_t tile = area.tile; tile < area.tile + area.tiles; ++tile) prefetch_write(to[row] + tile * V::width);
    }
  }
  RNN_INLINE V init(int64_t, int64_t, int) const { return V(0); }
  RNN_INLINE void finish(int64_t row, int64_t tile, const V* a) const {
    a[0].store(to[row] + tile * V::width, lanes_of<V>(tile, input));
  }
};

// One block of dW[m][n] = sum over k of d[k][m] * v[k][n]; v packed as [tile][k][lane].
template <class T>
struct WeightGradientOp {
  using value_type = T;
  using V = Vec<T>;
  static constexpr int kGates = 1;
  static constexpr bool kColumns = true;
  static constexpr bool kPointwise = false, kCold = true;
  const T* weights;
  int64_t tile_stride, depth;
  const T* columns;  // [k][kColumnBlock]
  T* to;
  int64_t width;
  bool add;

  RNN_INLINE const T* column(int64_t k) const { return columns + k * kColumnBlock; }
  RNN_INLINE const T* source(int64_t) const { return nullptr; }
  RNN_INLINE void fetch_init(const Area&) const {}
  RNN_INLINE void fetch_end(const Area& area) const {
    for (int64_t row = area.row; row < area.row + area.rows; ++row) {
      for (int64_t tile = area.tile; tile < area.tile + area.tiles; ++tile) {
        prefetch_write(to + row * width + tile * V::width);
      }
    }
  }
  RNN_INLINE V init(int64_t, int64_t, int) const { return V(0); }
  RNN_INLINE void finish(int64_t row, int64_t tile, const V* a) const {
    const auto lanes = lanes_of<V>(tile, width);
    T* target = to + row * width + tile * V::width;
    (add ? V::load(target, lanes) + a[0] : a[0]).store(target, lanes);
  }
};

template <class Cell, class T>
struct Batched {
  using V = Vec<T>;
  struct Pair {
    int64_t t, row;
  };
  static constexpr int64_t kAhead = 8;      // rows of gradients lie too far apart for the hardware to see the next one
  static constexpr int64_t kRowBlock = 96;  // rows of gradients that stay in L2 while the weights pass over them

  const Problem<T>& p;
  const Gradients<T>& g;
  const Worker& w;
  const T* const zeros = reinterpret_cast<const T*>(w.shared);
  const T** d = nullptr;           // kSumBlock rows of gradients
  const T** v = nullptr;           // kSumBlock rows of inputs
  T** to = nullptr;                // kRowBlock rows of dx
  Pair* pairs = nullptr;           // kSumBlock (t, row) pairs
  T* panel_x = nullptr;            // inputs of a block, [tile][k][lane]
  T* panel_h[Cell::kPhases] = {};  // and the rows that each phase reads
  T* columns = nullptr;            // gradients of a block, [k][kColumnBlock]

  void layout(Arena& arena) {
    d = arena.take<const T*>(kSumBlock);
    v = arena.take<const T*>(kSumBlock);
    to = arena.take<T*>(kRowBlock);
    columns = arena.take<T>(kSumBlock * kColumnBlock);
    pairs = arena.take<Pair>(kSumBlock);
    panel_x = arena.take<T>(tiles_of<V>(p.input) * kSumBlock * V::width);
    for (T*& panel : panel_h) panel = arena.take<T>(tiles_of<V>(p.hidden) * kSumBlock * V::width);
  }

  // Calls take(t, row) for the pairs from `from` on, until it has taken `most`; returns where it stopped.
  template <class F>
  int64_t valid_pairs(int64_t from, int64_t most, F&& take) const {
    const int64_t end = p.seq_len * p.batch;
    if (end == 0) return 0;
    int64_t t = from / p.batch, row = from % p.batch, taken = 0;
    for (; from < end && taken < most; ++from) {
      if (t < length_of(p, row)) take(taken++, t, row);
      if (++row == p.batch) row = 0, ++t;
    }
    return from;
  }

  T* slots_at(int64_t t, int64_t row) const { return p.slots + (t * p.batch + row) * Cell::kSlots * p.hidden; }

  // This worker's share of 0..n-1.
  Span share(int64_t n) const { return {n * w.index / w.count, n * (w.index + 1) / w.count}; }

  void input_gradient() {
    const Span steps = share(p.seq_len * p.batch);
    const int64_t H = p.hidden, depth = Cell::input_columns().count * H;
    int64_t from = steps.first;
    while (from < steps.last) {
      int64_t n = 0;
      for (; from < steps.last && n < kRowBlock; ++from) {
        const int64_t t = from / p.batch, row = from % p.batch;
        T* dx = g.dx + from * p.input;
        if (t >= length_of(p, row)) {
          std::memset(dx, 0, static_cast<std::size_t>(p.input) * sizeof(T));
          continue;
        }
        d[n] = slots_at(t, row) + Cell::input_columns().first * H;
        to[n++] = dx;
      }
      sweep(InputGradientOp<T>{p.weights.ih_t, depth * V::width, depth, d, to, p.input}, {0, n},
            {0, tiles_of<V>(p.input)});
    }
  }

  // panel[tile][k] = v[k][tile], zeros past `width`. A few tiles at a time, so that rows are read in runs.
  void pack_panel(T* panel, int64_t count, int64_t width) {
    constexpr int64_t kRun = 8;
    const int64_t tiles = tiles_of<V>(width);
    for (int64_t tile0 = 0; tile0 < tiles; tile0 += kRun) {
      const int64_t tile1 = tile0 + kRun < tiles ? tile0 + kRun : tiles;
      for (int64_t k = 0; k < count; ++k) {
        for (int64_t tile = tile0; tile < tile1; ++tile) {
          V::load(v[k] + tile * V::width, lanes_of<V>(tile, width)).store(panel + (tile * count + k) * V::width);
        }
      }
    }
  }

  // columns[k] = the gradients that slot `column` holds of units [first, first + n).
  void pack_columns(int column, int64_t first, int64_t n, int64_t count) {
    const int64_t offset = column * p.hidden + first;
    for (int64_t k = 0; k < count; ++k) {
      if (k + kAhead < count) {
        for (int64_t i = 0; i < n; i += kCacheLine / sizeof(T)) __builtin_prefetch(d[k + kAhead] + offset + i);
      }
      std::memcpy(columns + k * kColumnBlock, d[k] + offset, static_cast<std::size_t>(n) * sizeof(T));
    }
  }

  // Adds the columns' products with one kind of input row to their rows of a weight gradient.
  void add_products(T* dweight, const T* panel, int64_t first_row, int64_t n, int64_t count, int64_t width, bool add) {
    const WeightGradientOp<T> op{panel, count * V::width, count, columns, dweight + first_row * width, width, add};
    sweep(op, {0, n}, {0, tiles_of<V>(width)});
  }

  void add_sums(T* dbias, int64_t first_row, int64_t n, int64_t count, bool add) {
    for (int64_t tile = 0; tile < tiles_of<V>(n); ++tile) {
      const auto lanes = lanes_of<V>(tile, n);
      V sum(0);
      for (int64_t k = 0; k < count; ++k) {
        sum = sum + V::load(columns + k * kColumnBlock + tile * V::width, lanes);
      }
      T* target = dbias + first_row + tile * V::width;
      (add ? V::load(target, lanes) + sum : sum).store(target, lanes);
    }
  }

  static constexpr bool holds(Range range, int column) {
    return column >= range.first && column < range.first + range.count;
  }
  static constexpr bool is_gradient(int column) {
    bool held = holds(Cell::input_columns(), column);
    for (int phase = 0; phase < Cell::kPhases; ++phase) held = held || holds(Cell::phase_columns(phase), column);
    return held;
  }
  static constexpr int gradient_columns() {
    int count = 0;
    for (int column = 0; column < Cell::kSlots; ++column) count += is_gradient(column);
    return count;
  }

  // What the gradients in `column` of units [first, first + n) add to the weights and biases that they belong to.
  template <int Phase = 0>
  void recurrent_products(int column, int64_t row, int64_t n, int64_t count, bool add) {
    if constexpr (Phase < Cell::kPhases) {
      if (holds(Cell::phase_columns(Phase), column)) {
        add_products(g.dweight_hh, panel_h[Phase], row, n, count, p.hidden, add);
        if (g.dbias_hh) add_sums(g.dbias_hh, row, n, count, add);
      }
      recurrent_products<Phase + 1>(column, row, n, count, add);
    }
  }

  void column_gradients(int column, Span units, int64_t count, bool add) {
    for (int64_t first = units.first; first < units.last; first += kColumnBlock) {
      const int64_t n = units.last - first < kColumnBlock ? units.last - first : kColumnBlock;
      const int64_t row = Cell::column_gate(column) * p.hidden + first;
      pack_columns(column, first, n, count);
      if (holds(Cell::input_columns(), column)) {
        add_products(g.dweight_ih, panel_x, row, n, count, p.input, add);
        if (g.dbias_ih) add_sums(g.dbias_ih, row, n, count, add);
      }
      recurrent_products(column, row, n, count, add);
    }
  }

  // The rows that phase `Phase` and those after it read, of pairs that `pair` lists.
  template <int Phase = 0>
  void pack_recurrent_panels(int64_t count) {
    if constexpr (Phase < Cell::kPhases) {
      constexpr int source = Cell::phase_source(Phase);
      for (int64_t k = 0; k < count; ++k) {
        const auto [t, row] = pairs[k];
        if (source != kFromState) {
          v[k] = slots_at(t, row) + source * p.hidden;
        } else if (is_first(p, t, row)) {
          v[k] = initial_state(p, 0, row, zeros);
        } else {
          v[k] = p.h + (time_before(p, t) * p.batch + row) * p.hidden;
        }
      }
      pack_panel(panel_h[Phase], count, p.hidden);
      pack_recurrent_panels<Phase + 1>(count);
    }
  }

  // All weight and bias gradients. Workers share out the columns of gradients, units and all.
  void weight_gradients() {
    const int64_t H = p.hidden, end = p.seq_len * p.batch;
    const Span mine = share(gradient_columns() * H);
    int64_t from = 0;
    bool add = false;
    do {
      int64_t count = 0;
      from = valid_pairs(from, kSumBlock, [&](int64_t k, int64_t t, int64_t row) {
        pairs[k] = {t, row};
        d[k] = slots_at(t, row);
        v[k] = p.x + (t * p.batch + row) * p.input;
        count = k + 1;
      });
      pack_panel(panel_x, count, p.input);
      pack_recurrent_panels(count);
      int64_t start = 0;  // of the units of `column` among all columns' units
      for (int column = 0; column < Cell::kSlots; ++column) {
        if (!is_gradient(column)) continue;
        const int64_t first = mine.first > start ? mine.first - start : 0;
        const int64_t last = mine.last < start + H ? mine.last - start : H;
        if (first < last) column_gradients(column, {first, last}, count, add);
        start += H;
      }
      add = true;
    } while (from < end);
  }

  void run() {
    Arena arena{w.local};
    layout(arena);
    input_gradient();
    weight_gradients();
  }
};

}  // namespace
