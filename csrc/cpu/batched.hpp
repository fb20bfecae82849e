// Backward's products over the steps of a chunk: dx, the gradients of weights and biases. Steps past a row's length
// take no part. Workers share the output out among them, so no sum depends on how many there are. A chunk's valid
// (step, row) pairs, from the last step to the first, rows in order, are cut evenly into *stretches* of at most
// kStretch pairs; each stretch is one product, and the stretches are added in order. The plan (cells/gradients.hpp)
// lists the sums.
#pragma once

#include <utility>

#include "../cells/gradients.hpp"
#include "carry.hpp"
#include "masks.hpp"

namespace {

using fusedrnn::GradientPlan;
using fusedrnn::GradientTerm;
using fusedrnn::Operand;

using fusedrnn::kStretch;
// Units whose gradients in a stretch stay in L2 while the operands pass over them, a whole number of vectors.
constexpr int64_t kStrip = 96;

// A stretch's part of dW[m][n] = sum over k of d[k][m] * v[k][n]; v packed as [tile][k][lane].
template <class Element>
struct WeightGradientOp {
  using Storage = Element;  // of v
  using Compute = Element;
  using C = Element;
  using V = Vec<C>;
  static constexpr bool kColumns = true, kFills = false, kDirect = false, kCold = true, kNewRows = false;
  static constexpr int64_t gates = 1, column_stride = kStrip;
  static constexpr Start<C> start{};
  WeightMatrix<C, C> weights;  // v
  int64_t depth;
  const C* d;  // [k][kStrip]
  C* to;
  int64_t width, stride;  // of a row of `to`, and from row to row
  bool add;

  WeightGradientOp(const C* panel, int64_t k_count, const C* d_columns, C* to_row, int64_t row_width,
                   int64_t row_stride, bool adds)
      : weights{{panel, k_count * V::width}, nullptr, 0, 0},
        depth(k_count),
        d(d_columns),
        to(to_row),
        width(row_width),
        stride(row_stride),
        add(adds) {}

  RNN_INLINE const C* columns(int64_t row, int64_t k) const { return d + k * kStrip + row; }
  RNN_INLINE void fetch_end(const Area& area) const {
    for_each_tile(area, [&](int64_t row, int64_t tile)
                            RNN_INLINE_LAMBDA { prefetch_write(to + row * stride + tile * V::width); });
  }
  RNN_INLINE void end(const Area& area, const C* sums) const {
    for_each_tile(area, [&](int64_t row, int64_t tile) RNN_INLINE_LAMBDA {
      const auto lanes = lanes_of<V>(tile, width);
      C* const target = to + row * stride + tile * V::width;
      const V sum = V::load(sums);
      (add ? V::load(target, lanes) + sum : sum).store(target, lanes);
      sums += V::width;
    });
  }
};

template <class F>
struct Batched {
  using C = typename F::Compute;
  using V = Vec<C>;
  static_assert(kStrip % V::width == 0);
  struct Pair {
    int64_t t, row;
  };
  // A place among the pairs of a chunk, valid or not.
  struct Cursor {
    int64_t step, row;
  };
  static constexpr int64_t kAhead = 8;  // rows of gradients lie too far apart for the hardware to see the next one

  const Problem<C>& p;
  const PackedWeights<F>& weights;
  const Gradients<C>& g;
  const Worker& worker;
  const CellFacts& f;
  const GradientPlan& plan;
  const Heads heads;
  const BackwardShared<C> shared;
  const States<C> states;
  const int64_t longest;                            // the most pairs of a stretch
  const C** d = nullptr;                            // rows of gradients: a stretch's, or kRowsTogether
  C** to = nullptr;                                 // kRowsTogether rows of dx
  const C** factors = nullptr;                      // of dropout: of kRowsTogether rows of dx, or of an operand's
  Pair* pairs = nullptr;                            // the pairs of a stretch
  C* columns = nullptr;                             // gradients of a stretch, [k][kStrip]
  const C** operands[fusedrnn::kMaxOperands] = {};  // a stretch's rows of each operand,
  C* panels[fusedrnn::kMaxOperands] = {};           // and, of the operands of matrices, [head][tile][k][lane]

  Batched(const Problem<C>& problem, const PackedWeights<F>& packed, const Gradients<C>& gradients, const Worker& mine,
          const CellFacts& facts, const GradientPlan& gradient_plan)
      : p(problem),
        weights(packed),
        g(gradients),
        worker(mine),
        f(facts),
        plan(gradient_plan),
        heads(problem.hidden, problem.heads, V::width),
        shared(problem, facts, mine),
        states{problem, facts, shared.empty, problem.h, problem.h_stride, problem.slots, false, problem.drop.c},
        longest(longest_stretch(problem, facts)) {}

  static int64_t longest_stretch(const Problem<C>& p, const CellFacts& f) {
    const int64_t pairs = most_chunk_steps(p, f.clocked) * p.batch;
    return pairs < kStretch ? pairs : kStretch;
  }

  void layout(Arena& arena) {
    d = arena.take<const C*>(longest > kRowsTogether ? longest : kRowsTogether);
    to = arena.take<C*>(kRowsTogether);
    const bool drops = p.drop.input || p.drop.recurrent;
    factors = arena.take<const C*>(!drops ? 0 : longest > kRowsTogether ? longest : kRowsTogether);
    columns = arena.take<C>(longest * kStrip);
    pairs = arena.take<Pair>(longest);
    for (int i = 0; i < plan.operands; ++i) {
      operands[i] = arena.take<const C*>(longest);
      const bool packed = plan.operand[i].of_matrix;
      panels[i] = arena.take<C>(packed ? heads_of(plan.operand[i]).all_tiles() * longest * V::width : 0);
    }
  }

  int64_t width_of(const Operand& operand) const {
    return operand.from == From::x ? p.input : fusedrnn::operand_size(operand.from, operand.depth, p.hidden, p.proj);
  }

  // Those of an operand of a matrix: a product with x has all of it.
  Heads heads_of(const Operand& operand) const {
    return {width_of(operand), operand.from == From::x ? 1 : heads.count, V::width};
  }

  static Cursor start_of(const Range& range) { return {range.last - 1, 0}; }

  // Lists the next pairs of the range that are `wanted`, at most `most`, from `at` on, which it moves; their number.
  template <class Wanted>
  int64_t list_pairs(const Range& range, Cursor& at, int64_t most, Wanted&& wanted) {
    assert(most <= longest);
    int64_t count = 0;
    for (; at.step >= range.first; --at.step, at.row = 0) {
      const int64_t t = time_of(p, at.step);
      for (; at.row < p.batch; ++at.row) {
        if (t >= length_of(p, at.row) || !wanted(t, at.row)) continue;
        if (count == most) return count;
        pairs[count] = {t, at.row};
        d[count++] = shared.at(t, at.row);
      }
    }
    return count;
  }

  int64_t count_pairs(const Range& range) const {
    if (!p.lengths) return (range.last - range.first) * p.batch;
    int64_t count = 0;
    for (int64_t step = range.first; step < range.last; ++step) count += live_rows(p, time_of(p, step));
    return count;
  }

  // This worker's share of 0..n-1.
  Span share(int64_t n) const { return part_of(n, worker.index, worker.count); }
  static Span part_of(int64_t n, int64_t part, int64_t parts) { return {n * part / parts, n * (part + 1) / parts}; }

  // The steps and rows of one of `parts` parts of a range: rows, if none has over an eighth more than its share, as the
  // recurrence shares rows too and has left their gradients in this core's caches; else steps.
  std::pair<Span, Span> part_of_pairs(const Range& range, int64_t part, int64_t parts) const {
    const int64_t most = (p.batch + parts - 1) / parts, steps = range.last - range.first;
    if (8 * most * parts <= 9 * p.batch) return {{range.first, range.last}, part_of(p.batch, part, parts)};
    const Span some = part_of(steps, part, parts);
    return {{range.first + some.first, range.first + some.last}, {0, p.batch}};
  }

  // dx and dc_below of this worker's share of the range; with `add`, dx is added to. Workers share out rows or steps,
  // and the inputs where there are few of both.
  void input_gradient(const Range& range, bool add) {
    const int64_t depth = f.gates * p.hidden, offset = f.input_column * p.hidden;
    const int64_t row_parts = row_parts_of_dx((range.last - range.first) * p.batch, worker.count);
    const int64_t tile_parts = worker.count / row_parts, tile_part = worker.index % tile_parts;
    const auto [steps, rows] = part_of_pairs(range, worker.index / tile_parts, row_parts);
    const Span tiles = part_of(tiles_of<V>(p.input), tile_part, tile_parts);
    const int64_t all = steps.size() * rows.size(), groups = (all + kRowsTogether - 1) / kRowsTogether;
    for (int64_t group = 0; group < groups; ++group) {
      const Span some = part_of(all, group, groups);
      int64_t n = 0;
      for (int64_t at = some.first; at < some.last; ++at) {
        const int64_t t = time_of(p, steps.first + at / rows.size()), row = rows.first + at % rows.size();
        if (t < length_of(p, row)) {
          d[n] = shared.at(t, row);
          if (p.drop.input) factors[n] = p.drop.input + row * p.input;
          to[n++] = g.dx + place_of(p, t, row) * p.input;
          continue;
        }
        if (!add) clear_past_length(p, g.dx, p.input, units_of<V>(tiles, p.input), t, row);
        if (tile_part == 0) clear_past_length(p, g.dbelow, p.hidden, {0, p.hidden}, t, row);
      }
      CarryOp<F, true> op(weights.ih_t, depth, d, offset, to, p.input, add);
      if (p.drop.input) op.factors = factors;
      sweep(op, {0, n}, tiles);
    }
  }

  // panel[tile][k] = rows[k][tile] from this element on, zeros past `width`, or what dropout by these factors leaves of
  // it. A few tiles at a time, so that rows are read in runs.
  void pack_panel(C* panel, const C* const* rows, const C* const* dropped_by, int64_t first, int64_t count,
                  int64_t width) {
    assert(count <= kStretch);
    constexpr int64_t kRun = 8;
    const int64_t tiles = tiles_of<V>(width);
    for (int64_t tile0 = 0; tile0 < tiles; tile0 += kRun) {
      const int64_t tile1 = tile0 + kRun < tiles ? tile0 + kRun : tiles;
      for (int64_t k = 0; k < count; ++k) {
        for (int64_t tile = tile0; tile < tile1; ++tile) {
          const auto lanes = lanes_of<V>(tile, width);
          V v = V::load(rows[k] + first + tile * V::width, lanes);
          if (dropped_by) v = left_by(V::load(dropped_by[k] + first + tile * V::width, lanes), v);
          v.store(panel + (tile * count + k) * V::width);
        }
      }
    }
  }

  // columns[k] = the gradients that slot `column` holds of units [first, first + n).
  void pack_columns(int column, int64_t first, int64_t n, int64_t count) {
    assert(n <= kStrip && count <= kStretch && first + n <= p.hidden);
    const int64_t offset = column * p.hidden + first;
    for (int64_t k = 0; k < count; ++k) {
      if (k + kAhead < count) {
        for (int64_t i = 0; i < n; i += kCacheLine / sizeof(C)) prefetch(d[k + kAhead] + offset + i);
      }
      // memcpy becomes an instruction that takes 30 cycles to begin.
      for (int64_t tile = 0; tile < tiles_of<V>(n); ++tile) {
        V::load(d[k] + offset + tile * V::width, lanes_of<V>(tile, n)).store(columns + k * kStrip + tile * V::width);
      }
    }
  }

  // Adds the columns' products with an operand to their rows of a weight gradient, `stride` apart. The columns begin
  // with this one.
  void add_products(C* dweight, const C* panel, int64_t first_row, int64_t n, int64_t count, int64_t width,
                    int64_t stride, bool add, int64_t column = 0) {
    const WeightGradientOp<C> op(panel, count, columns + column, dweight + first_row * stride, width, stride, add);
    sweep(op, {0, n}, {0, tiles_of<V>(width)});
  }
  // The same of weight_hh, where a row has the columns of its own head.
  void add_products_of_heads(C* dweight, const C* panel, const GradientTerm& term, int64_t first, int64_t n,
                             int64_t count, bool add) {
    for (int64_t unit = first; unit < first + n;) {
      const int64_t head = unit / heads.units, end = (head + 1) * heads.units;
      const int64_t some = (end < first + n ? end : first + n) - unit;
      add_products(dweight, panel + head * heads.tiles * count * V::width, term.block * p.hidden + unit, some, count,
                   heads.units, heads.units, add, unit - first);
      unit += some;
    }
  }

  // A sum in the order of the micro-kernel: add(sum, k) over k < count.
  template <class Add>
  static RNN_INLINE V sum_in_blocks(int64_t count, Add&& add) {
    V sum(0);
    for (int64_t k = 0; k < count;) {
      V block(0);
      for (const int64_t end = count - k < kBlock ? count : k + kBlock; k < end; ++k) block = add(block, k);
      sum = sum + block;
    }
    return sum;
  }

  void add_sums(C* dbias, int64_t first_row, int64_t n, int64_t count, bool add) {
    for (int64_t tile = 0; tile < tiles_of<V>(n); ++tile) {
      const auto lanes = lanes_of<V>(tile, n);
      const V sum = sum_in_blocks(
          count, [&](V so_far, int64_t k) { return so_far + V::load(columns + k * kStrip + tile * V::width, lanes); });
      C* target = dbias + first_row + tile * V::width;
      (add ? V::load(target, lanes) + sum : sum).store(target, lanes);
    }
  }

  // dvector += the columns' gradients times the vector's operand.
  void add_scaled_sums(C* dvector, const C* const* factor, int64_t first, int64_t n, int64_t count, bool add) {
    for (int64_t tile = 0; tile < tiles_of<V>(n); ++tile) {
      const auto lanes = lanes_of<V>(tile, n);
      const V sum = sum_in_blocks(count, [&](V so_far, int64_t k) {
        return fma(V::load(columns + k * kStrip + tile * V::width, lanes),
                   V::load(factor[k] + first + tile * V::width, lanes), so_far);
      });
      C* target = dvector + first + tile * V::width;
      (add ? V::load(target, lanes) + sum : sum).store(target, lanes);
    }
  }

  // Adds the part of units [first, first + n), whose gradients are in `columns`, to one block of a gradient.
  void add_term(const GradientTerm& term, int64_t first, int64_t n, int64_t count, bool add) {
    using Of = GradientTerm::Of;
    const int64_t row = term.block * p.hidden + first;
    switch (term.of) {
      case Of::weight_ih:
        if (!g.dweight_ih) return;
        return add_products(g.dweight_ih, panels[term.operand], row, n, count, p.input, p.input, add);
      case Of::matrix: {
        if (!g.dmatrix[term.index]) return;
        if (heads.count > 1) {
          return add_products_of_heads(g.dmatrix[term.index], panels[term.operand], term, first, n, count, add);
        }
        const int64_t width = width_of(plan.operand[term.operand]);
        return add_products(g.dmatrix[term.index], panels[term.operand], row, n, count, width, width, add);
      }
      case Of::bias_ih:
        if (g.dbias_ih) add_sums(g.dbias_ih, row, n, count, add);
        return;
      case Of::bias_hh:
        if (g.dbias_hh) add_sums(g.dbias_hh, row, n, count, add);
        return;
      case Of::vector:
        if (!g.dvectors) return;
        C* const dvector = g.dvectors + term.index * p.hidden;
        if (term.from == From::one) return add_sums(dvector, row, n, count, add);
        return add_scaled_sums(dvector, operands[term.operand], row, n, count, add);
    }
  }

  void column_gradients(int column, Span units, int64_t count, bool add) {
    for (int64_t first = units.first; first < units.last; first += kStrip) {
      const int64_t n = units.last - first < kStrip ? units.last - first : kStrip;
      pack_columns(column, first, n, count);
      for (int i = 0; i < plan.terms; ++i) {
        if (plan.term[i].column == column) add_term(plan.term[i], first, n, count, add);
      }
    }
  }

  // Where an operand lay in forward.
  const C* operand_at(const Operand& operand, int64_t t, int64_t row) const {
    if (const int state = state_of(operand.from); state >= 0) return states.before(state, states.origin(t, row), row);
    if (operand.from == From::x) return p.x + place_of(p, t, row) * p.input;
    if (operand.from == From::slots) return states.slots_at(t, row) + operand.slot * p.hidden;
    return p.below ? p.below + place_of(p, t, row) * p.hidden : states.empty.zeros;
  }

  // Rows of the i-th operand of the pairs that `pairs` lists, from this element on.
  void gather_operand(int i, int64_t count, int64_t offset = 0) {
    const Operand& operand = plan.operand[i];
    for (int64_t k = 0; k < count; ++k) operands[i][k] = operand_at(operand, pairs[k].t, pairs[k].row) + offset;
    if (!operand.of_matrix) return;
    const C* const all = operand.from == From::x        ? p.drop.input
                         : operand.from == From::h_prev ? p.drop.recurrent
                                                        : nullptr;
    for (int64_t k = 0; all && k < count; ++k) factors[k] = all + pairs[k].row * width_of(operand) + offset;
    const Heads of = heads_of(operand);
    for (int64_t head = 0; head < of.count; ++head) {
      C* const panel = panels[i] + head * of.tiles * count * V::width;
      pack_panel(panel, operands[i], all ? factors : nullptr, head * of.units, count, of.units - offset);
    }
  }

  // The units whose gradients a column holds.
  int64_t units_of_column(int column) const {
    return f.projection >= 0 && column == f.product[f.projection].column ? p.proj : p.hidden;
  }

  // Adds the sums of the pairs that are listed to the gradients of these units, among the units of all columns.
  void add_stretch(Span mine, int64_t count, bool add) {
    for (int i = 0; i < plan.operands; ++i) gather_operand(i, count);
    int64_t start = 0;  // of the column's units
    for (int i = 0; i < plan.columns; ++i) {
      const int64_t units = units_of_column(plan.column[i]);
      const int64_t first = mine.first > start ? mine.first - start : 0;
      const int64_t last = mine.last < start + units ? mine.last - start : units;
      if (first < last) column_gradients(plan.column[i], {first, last}, count, add);
      start += units;
    }
  }

  // All weight and bias gradients of a chunk. Workers share out the columns of gradients, units and all.
  void weight_gradients(const Range& range) {
    const bool is_last = range.last == p.seq_len;
    int64_t all = 0;
    for (int i = 0; i < plan.columns; ++i) all += units_of_column(plan.column[i]);
    const Span mine = share(all);
    const int64_t valid = count_pairs(range), stretches = (valid + kStretch - 1) / kStretch;
    if (valid == 0 && is_last) add_stretch(mine, 0, false);
    Cursor at = start_of(range);
    for (int64_t i = 0; i < stretches; ++i) {
      const int64_t count =
          list_pairs(range, at, part_of(valid, i, stretches).size(), [](int64_t, int64_t) { return true; });
      add_stretch(mine, count, !is_last || i > 0);
    }
  }

  void run_input_gradient(const Range& range, bool add) {
    lay_out(*this, worker);
    input_gradient(range, add);
  }
  void run_weight_gradients(const Range& range) {
    lay_out(*this, worker);
    weight_gradients(range);
  }
};

}  // namespace
