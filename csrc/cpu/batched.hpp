// Backward's products over all steps at once: dx, the gradients of weights and biases. Steps past a row's length take
// no part. Workers share the output out among them, so no sum depends on how many there are: sums over steps run in
// blocks of kSumBlock valid (t, row) pairs, in the order of t, then row; each block is one chain, and the blocks are
// added in order.
#pragma once

#include "../cells/gradients.hpp"
#include "driver.hpp"

namespace {

using fusedrnn::From;
using fusedrnn::GradientPlan;
using fusedrnn::GradientTerm;
using fusedrnn::Operand;

constexpr int64_t kSumBlock = 256;
constexpr int64_t kColumnBlock =
    96;  // rows of a weight gradient whose factors stay in L2 while the inputs pass over them

// to = W^T d.
template <class T>
struct InputGradientOp {
  using value_type = T;
  using V = Vec<T>;
  static constexpr bool kColumns = false, kFills = false, kDirect = false, kCold = true;
  static constexpr int64_t gates = 1, source_stride = sizeof(const T*), source_offset = 0;
  static constexpr const Sums<const T>* from = kFromZero<T>;
  const T* weights;
  int64_t tile_stride, depth;
  const T* const* d;
  T* const* to;
  int64_t input;

  RNN_INLINE const T* const* sources(int64_t row) const { return d + row; }
  RNN_INLINE void fetch_start(const Area&) const {}
  RNN_INLINE void fetch_end(const Area& area) const {
    for (int64_t row = area.row; row < area.row + area.rows; ++row) {
      for (int64_t tile = area.tile; tile < area.tile + area.tiles; ++tile) prefetch_write(to[row] + tile * V::width);
    }
  }
  RNN_INLINE void end(const Area& area, const T* sums) const {
    for (int64_t row = area.row; row < area.row + area.rows; ++row) {
      for (int64_t tile = area.tile; tile < area.tile + area.tiles; ++tile, sums += V::width) {
        V::load(sums).store(to[row] + tile * V::width, lanes_of<V>(tile, input));
      }
    }
  }
};

// One block of dW[m][n] = sum over k of d[k][m] * v[k][n]; v packed as [tile][k][lane].
template <class T>
struct WeightGradientOp {
  using value_type = T;
  using V = Vec<T>;
  static constexpr bool kColumns = true, kFills = false, kDirect = false, kCold = true;
  static constexpr int64_t gates = 1, column_stride = kColumnBlock;
  static constexpr const Sums<const T>* from = kFromZero<T>;
  const T* weights;
  int64_t tile_stride, depth;
  const T* columns_at;  // [k][kColumnBlock]
  T* to;
  int64_t width, stride;  // of a row of `to`, and from row to row
  bool add;

  RNN_INLINE const T* columns(int64_t row, int64_t k) const { return columns_at + k * kColumnBlock + row; }
  RNN_INLINE void fetch_start(const Area&) const {}
  RNN_INLINE void fetch_end(const Area& area) const {
    for (int64_t row = area.row; row < area.row + area.rows; ++row) {
      for (int64_t tile = area.tile; tile < area.tile + area.tiles; ++tile) {
        prefetch_write(to + row * stride + tile * V::width);
      }
    }
  }
  RNN_INLINE void end(const Area& area, const T* sums) const {
    for (int64_t row = area.row; row < area.row + area.rows; ++row) {
      for (int64_t tile = area.tile; tile < area.tile + area.tiles; ++tile, sums += V::width) {
        const auto lanes = lanes_of<V>(tile, width);
        T* const target = to + row * stride + tile * V::width;
        const V sum = V::load(sums);
        (add ? V::load(target, lanes) + sum : sum).store(target, lanes);
      }
    }
  }
};

template <class T>
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
  const CellFacts& f;
  const GradientPlan& plan;
  const T* const zeros = reinterpret_cast<const T*>(w.shared);
  const T** d = nullptr;                            // kSumBlock rows of gradients
  T** to = nullptr;                                 // kRowBlock rows of dx
  Pair* pairs = nullptr;                            // kSumBlock (t, row) pairs
  T* columns = nullptr;                             // gradients of a block, [k][kColumnBlock]
  const T** operands[fusedrnn::kMaxOperands] = {};  // kSumBlock rows of each operand,
  T* panels[fusedrnn::kMaxOperands] = {};           // and, of those that matrices are multiplied by, [tile][k][lane]

  void layout(Arena& arena) {
    d = arena.take<const T*>(kSumBlock);
    to = arena.take<T*>(kRowBlock);
    columns = arena.take<T>(kSumBlock * kColumnBlock);
    pairs = arena.take<Pair>(kSumBlock);
    for (int i = 0; i < plan.operands; ++i) {
      operands[i] = arena.take<const T*>(kSumBlock);
      const bool packed = plan.operand[i].of_matrix;
      panels[i] = arena.take<T>(packed ? tiles_of<V>(width_of(plan.operand[i])) * kSumBlock * V::width : 0);
    }
  }

  int64_t width_of(const Operand& operand) const {
    return operand.from == From::x ? p.input : operand.depth * p.hidden;
  }

  // Calls take(k, t, row) for the pairs from `from` on that are `wanted`, until it has taken `most`; returns where it
  // stopped.
  template <class Wanted, class F>
  int64_t valid_pairs(int64_t from, int64_t most, Wanted&& wanted, F&& take) const {
    const int64_t end = p.seq_len * p.batch;
    if (end == 0) return 0;
    int64_t t = from / p.batch, row = from % p.batch, taken = 0;
    for (; from < end && taken < most; ++from) {
      if (t < length_of(p, row) && wanted(t, row)) take(taken++, t, row);
      if (++row == p.batch) row = 0, ++t;
    }
    return from;
  }

  T* slots_at(int64_t t, int64_t row) const { return p.slots + (t * p.batch + row) * f.slots * p.hidden; }

  // This worker's share of 0..n-1.
  Span share(int64_t n) const { return {n * w.index / w.count, n * (w.index + 1) / w.count}; }

  void input_gradient() {
    const Span steps = share(p.seq_len * p.batch);
    const int64_t H = p.hidden, depth = f.gates * H;
    int64_t from = steps.first;
    while (from < steps.last) {
      int64_t n = 0;
      for (; from < steps.last && n < kRowBlock; ++from) {
        const int64_t t = from / p.batch, row = from % p.batch;
        T* dx = g.dx + from * p.input;
        if (t >= length_of(p, row)) {
          std::memset(dx, 0, static_cast<std::size_t>(p.input) * sizeof(T));
          if (g.dbelow) std::memset(g.dbelow + from * H, 0, static_cast<std::size_t>(H) * sizeof(T));
          continue;
        }
        d[n] = slots_at(t, row) + f.input_column * H;
        to[n++] = dx;
      }
      sweep(InputGradientOp<T>{p.weights.ih_t, depth * V::width, depth, d, to, p.input}, {0, n},
            {0, tiles_of<V>(p.input)});
    }
  }

  // panel[tile][k] = rows[k][tile], zeros past `width`. A few tiles at a time, so that rows are read in runs.
  void pack_panel(T* panel, const T* const* rows, int64_t count, int64_t width) {
    assert(count <= kSumBlock);
    constexpr int64_t kRun = 8;
    const int64_t tiles = tiles_of<V>(width);
    for (int64_t tile0 = 0; tile0 < tiles; tile0 += kRun) {
      const int64_t tile1 = tile0 + kRun < tiles ? tile0 + kRun : tiles;
      for (int64_t k = 0; k < count; ++k) {
        for (int64_t tile = tile0; tile < tile1; ++tile) {
          V::load(rows[k] + tile * V::width, lanes_of<V>(tile, width)).store(panel + (tile * count + k) * V::width);
        }
      }
    }
  }

  // columns[k] = the gradients that slot `column` holds of units [first, first + n).
  void pack_columns(int column, int64_t first, int64_t n, int64_t count) {
    assert(n <= kColumnBlock && count <= kSumBlock && first + n <= p.hidden);
    const int64_t offset = column * p.hidden + first;
    for (int64_t k = 0; k < count; ++k) {
      if (k + kAhead < count) {
        for (int64_t i = 0; i < n; i += kCacheLine / sizeof(T)) __builtin_prefetch(d[k + kAhead] + offset + i);
      }
      std::memcpy(columns + k * kColumnBlock, d[k] + offset, static_cast<std::size_t>(n) * sizeof(T));
    }
  }

  // Adds the columns' products with one kind of input row to their rows of a weight gradient, `stride` apart.
  void add_products(T* dweight, const T* panel, int64_t first_row, int64_t n, int64_t count, int64_t width,
                    int64_t stride, bool add) {
    const WeightGradientOp<T> op{panel, count * V::width, count, columns, dweight + first_row * stride,
                                 width, stride,           add};
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

  // dvector += the columns' gradients times what the vector multiplied.
  void add_scaled_sums(T* dvector, const T* const* factor, int64_t first, int64_t n, int64_t count, bool add) {
    for (int64_t tile = 0; tile < tiles_of<V>(n); ++tile) {
      const auto lanes = lanes_of<V>(tile, n);
      V sum(0);
      for (int64_t k = 0; k < count; ++k) {
        sum = fma(V::load(columns + k * kColumnBlock + tile * V::width, lanes),
                  V::load(factor[k] + first + tile * V::width, lanes), sum);
      }
      T* target = dvector + first + tile * V::width;
      (add ? V::load(target, lanes) + sum : sum).store(target, lanes);
    }
  }

  // What the gradients in the columns of units [first, first + n) add to one block of a gradient.
  void add_term(const GradientTerm& term, int64_t first, int64_t n, int64_t count, bool add) {
    using Of = GradientTerm::Of;
    const int64_t row = term.block * p.hidden + first, depth = term.depth * p.hidden;
    switch (term.of) {
      case Of::weight_ih:
        return add_products(g.dweight_ih, panels[term.operand], row, n, count, p.input, p.input, add);
      case Of::matrix:
        return add_products(g.dmatrix[term.index], panels[term.operand], row, n, count, depth, depth, add);
      case Of::bias_ih:
        if (g.dbias_ih) add_sums(g.dbias_ih, row, n, count, add);
        return;
      case Of::bias_hh:
        if (g.dbias_hh) add_sums(g.dbias_hh, row, n, count, add);
        return;
      case Of::vector:
        T* const dvector = g.dvectors + term.index * p.hidden;
        if (term.from == From::one) return add_sums(dvector, row, n, count, add);
        return add_scaled_sums(dvector, operands[term.operand], row, n, count, add);
    }
  }

  void column_gradients(int column, Span units, int64_t count, bool add) {
    for (int64_t first = units.first; first < units.last; first += kColumnBlock) {
      const int64_t n = units.last - first < kColumnBlock ? units.last - first : kColumnBlock;
      pack_columns(column, first, n, count);
      for (int i = 0; i < plan.terms; ++i) {
        if (plan.term[i].column == column) add_term(plan.term[i], first, n, count, add);
      }
    }
  }

  // Where an operand lay in forward.
  const T* operand_at(const Operand& operand, int64_t t, int64_t row) const {
    const int64_t H = p.hidden, here = t * p.batch + row;
    if (operand.from == From::x) return p.x + here * p.input;
    if (operand.from == From::slots) return slots_at(t, row) + operand.slot * H;
    if (operand.from == From::below) return p.below ? p.below + here * H : zeros;
    const int state = state_of(operand.from);
    assert(state >= 0 && state < f.states);
    if (is_first(p, t, row)) return initial_state(p, f, state, row, zeros);
    const int64_t before = time_before(p, t);
    return state == 0 ? p.h + (before * p.batch + row) * H : slots_at(before, row) + f.state[state].slot * H;
  }

  // Rows of the i-th operand of the pairs that `pairs` lists, from this element on.
  void gather_operand(int i, int64_t count, int64_t offset = 0) {
    const Operand& operand = plan.operand[i];
    for (int64_t k = 0; k < count; ++k) operands[i][k] = operand_at(operand, pairs[k].t, pairs[k].row) + offset;
    if (operand.of_matrix) pack_panel(panels[i], operands[i], count, width_of(operand) - offset);
  }

  // All weight and bias gradients. Workers share out the columns of gradients, units and all.
  void weight_gradients() {
    const int64_t H = p.hidden, end = p.seq_len * p.batch;
    const Span mine = share(plan.columns * H);
    const auto all = [](int64_t, int64_t) { return true; };
    int64_t from = 0;
    bool add = false;
    do {
      int64_t count = 0;
      from = valid_pairs(from, kSumBlock, all, [&](int64_t k, int64_t t, int64_t row) {
        pairs[k] = {t, row};
        d[k] = slots_at(t, row);
        count = k + 1;
      });
      for (int i = 0; i < plan.operands; ++i) gather_operand(i, count);
      int64_t start = 0;  // of the column's units among all columns' units
      for (int i = 0; i < plan.columns; ++i) {
        const int64_t first = mine.first > start ? mine.first - start : 0;
        const int64_t last = mine.last < start + H ? mine.last - start : H;
        if (first < last) column_gradients(plan.column[i], {first, last}, count, add);
        start += H;
      }
      add = true;
    } while (from < end);
  }

  void run() {
    lay_out(*this, w);
    input_gradient();
    weight_gradients();
  }
};

}  // namespace
