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

// to = W^T d, a block of k at a time.
template <class T>
struct InputGradientOp {
  using value_type = T;
  using V = Vec<T>;
  static constexpr int kGates = 1;
  static constexpr bool kColumns = false;
  static constexpr int kUnrolledFinish = kAccumulators;
  const T* weights;
  int64_t tile_stride, depth;
  const T* const* d;
  T* const* to;
  int64_t k0, input;

  RNN_INLINE const T* column(int64_t) const { return nullptr; }
  RNN_INLINE const T* source(int64_t row) const { return d[row] + k0; }
  RNN_INLINE V init(int64_t row, int64_t tile, int) const {
    return k0 == 0 ? V(0) : V::load(to[row] + tile * V::width, lanes_of<V>(tile, input));
  }
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
  static constexpr int kUnrolledFinish = kAccumulators;
  const T* weights;
  int64_t tile_stride, depth;
  const T* columns;  // [k][kColumnBlock]
  T* to;
  int64_t width;
  bool add;

  RNN_INLINE const T* column(int64_t k) const { return columns + k * kColumnBlock; }
  RNN_INLINE const T* source(int64_t) const { return nullptr; }
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
  static constexpr int64_t kRowBlock = 96;  // rows of gradients that stay in L2 while the weights pass over them
  static constexpr int64_t kBlock = 64 * 1024 / (sizeof(T) * V::width * Plan<1>::kMainTiles);

  const Problem<T>& p;
  const Gradients<T>& g;
  const Worker& w;
  const T* const zeros = reinterpret_cast<const T*>(w.shared);
  const T** d = nullptr;  // kSumBlock rows of gradients
  const T** v = nullptr;  // kSumBlock rows of inputs
  T** to = nullptr;       // kRowBlock rows of dx
  T* panel = nullptr;     // inputs of a block, [tile][k][lane]
  T* columns = nullptr;   // gradients of a block, [k][kColumnBlock]

  void layout(Arena& arena) {
    d = arena.take<const T*>(kSumBlock);
    v = arena.take<const T*>(kSumBlock);
    to = arena.take<T*>(kRowBlock);
    columns = arena.take<T>(kSumBlock * kColumnBlock);
    const int64_t widest = p.input > p.hidden ? p.input : p.hidden;
    panel = arena.take<T>(tiles_of<V>(widest) * kSumBlock * V::width);
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
      for (int64_t k0 = 0; k0 < depth; k0 += kBlock) {
        const InputGradientOp<T> op{p.weights.ih_t + k0 * V::width,
                                    depth * V::width,
                                    depth - k0 < kBlock ? depth - k0 : kBlock,
                                    d,
                                    to,
                                    k0,
                                    p.input};
        sweep(op, {0, n}, {0, tiles_of<V>(p.input)});
      }
    }
  }

  // panel[tile][k] = v[k][tile], zeros past `width`.
  void pack_panel(int64_t count, int64_t width) {
    for (int64_t tile = 0; tile < tiles_of<V>(width); ++tile) {
      const auto lanes = lanes_of<V>(tile, width);
      T* to_tile = panel + tile * count * V::width;
      for (int64_t k = 0; k < count; ++k) V::load(v[k] + tile * V::width, lanes).store(to_tile + k * V::width);
    }
  }

  // Rows [units) of one gate's part of a weight gradient, of `count` pairs; the gradients stand in slot `column`.
  void weight_block(T* dweight, int column, int gate, Span units, int64_t count, int64_t width, bool add) {
    for (int64_t first = units.first; first < units.last; first += kColumnBlock) {
      const int64_t n = units.last - first < kColumnBlock ? units.last - first : kColumnBlock;
      for (int64_t k = 0; k < count; ++k) {
        std::memcpy(columns + k * kColumnBlock, d[k] + column * p.hidden + first,
                    static_cast<std::size_t>(n) * sizeof(T));
      }
      const WeightGradientOp<T> op{
          panel, count * V::width, count, columns, dweight + (gate * p.hidden + first) * width, width, add};
      sweep(op, {0, n}, {0, tiles_of<V>(width)});
    }
  }

  void bias_block(T* dbias, int column, int gate, Span units, int64_t count, bool add) {
    for (int64_t u = units.first; u < units.last; u += V::width) {
      const int64_t left = units.last - u;
      const typename V::Lanes lanes(left < V::width ? static_cast<int>(left) : V::width);
      const int64_t offset = column * p.hidden + u;
      V sum(0);
      for (int64_t k = 0; k < count; ++k) sum = sum + V::load(d[k] + offset, lanes);
      T* target = dbias + gate * p.hidden + u;
      (add ? V::load(target, lanes) + sum : sum).store(target, lanes);
    }
  }

  // The gradients of the weights that `columns` have with one kind of input row, and of their bias.
  template <class InputRow>
  void weight_gradient(T* dweight, T* dbias, Range columns, int64_t width, InputRow&& input_row) {
    const int64_t H = p.hidden, end = p.seq_len * p.batch;
    const Span mine = share(columns.count * H);
    int64_t from = 0;
    bool add = false;
    do {
      int64_t count = 0;
      from = valid_pairs(from, kSumBlock, [&](int64_t k, int64_t t, int64_t row) {
        d[k] = slots_at(t, row);
        v[k] = input_row(t, row);
        count = k + 1;
      });
      pack_panel(count, width);
      for (int j = 0; j < columns.count; ++j) {
        const int64_t first = mine.first > j * H ? mine.first - j * H : 0;
        const int64_t last = mine.last < (j + 1) * H ? mine.last - j * H : H;
        if (first >= last) continue;
        const int column = columns.first + j, gate = Cell::column_gate(column);
        weight_block(dweight, column, gate, {first, last}, count, width, add);
        if (dbias) bias_block(dbias, column, gate, {first, last}, count, add);
      }
      add = true;
    } while (from < end);
  }

  template <int Phase>
  void recurrent_gradients() {
    if constexpr (Phase < Cell::kPhases) {
      constexpr int source = Cell::phase_source(Phase);
      weight_gradient(g.dweight_hh, g.dbias_hh, Cell::phase_columns(Phase), p.hidden, [&](int64_t t, int64_t row) {
        if (source != kFromState) return static_cast<const T*>(slots_at(t, row) + source * p.hidden);
        if (is_first(p, t, row)) return initial_state(p, 0, row, zeros);
        return p.h + (time_before(p, t) * p.batch + row) * p.hidden;
      });
      recurrent_gradients<Phase + 1>();
    }
  }

  void run() {
    Arena arena{w.local};
    layout(arena);
    input_gradient();
    weight_gradient(g.dweight_ih, g.dbias_ih, Cell::input_columns(), p.input,
                    [&](int64_t t, int64_t row) { return p.x + (t * p.batch + row) * p.input; });
    recurrent_gradients<0>();
  }
};

}  // namespace
