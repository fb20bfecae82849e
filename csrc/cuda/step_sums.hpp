// The sums of the stepwise kernels, as step_tile.hpp asks for them.
#pragma once

#include "step_tile.hpp"

namespace {

using fusedrnn::Product;
using fusedrnn::cuda::Sum;

// bias + W x, of the steps of a part.
template <class C>
struct InputSum : OneRange<C> {
  using OneRange<C>::place;
  struct Left {
    Row<C> row;
    int64_t batch_row;
  };
  int64_t first_time;

  RNN_DEVICE explicit InputSum(const StepLaunch& launch) : OneRange<C>(launch.a), first_time(launch.a.pre_first) {
    const StepArguments& a = launch.a;
    this->rows = (launch.last - launch.first) * a.batch;
    this->columns = a.facts.gates * a.hidden;
    this->depth = a.input;
  }
  RNN_DEVICE Left row(int64_t, int64_t m) const {
    const StepArguments& a = place.a;
    return {place.of_stored(a.x, first_time * a.batch + m, a.input), m % a.batch};
  }
  RNN_DEVICE C left(const Left& row, int64_t k) const {
    const StepArguments& a = place.a;
    const C x = place.read(row.row, k);
    return a.mask[fusedrnn::kInputDropout]
               ? left_by(place.factor(fusedrnn::kInputDropout, row.batch_row, a.input, k), x)
               : x;
  }
  RNN_DEVICE int64_t column(int64_t, int64_t n) const {
    const StepArguments& a = place.a;
    return a.facts.user_gate[n / a.hidden] * a.hidden + n % a.hidden;
  }
  RNN_DEVICE C start(int64_t, int64_t n) const {
    const StepArguments& a = place.a;
    const int gate = static_cast<int>(n / a.hidden), block = a.facts.user_gate[gate];
    const int64_t i = block * a.hidden + n % a.hidden;
    const C ih = a.bias_ih ? static_cast<const C*>(a.bias_ih)[i] : C(0);
    const bool has_hh = a.bias_hh && block < a.facts.recurrent_gates;
    const C hh = has_hh ? static_cast<const C*>(a.bias_hh)[i] : C(0);
    return a.facts.split[gate] ? ih : ih + hh;
  }
  RNN_DEVICE RowsOfMatrix<C> right(int64_t, int64_t k) const {
    const StepArguments& a = place.a;
    const int64_t stride = a.facts.gates * a.hidden;
    return {static_cast<const C*>(a.weight_ih_t) + k * stride, stride};
  }
  RNN_DEVICE void give(int64_t, int64_t m, int64_t n, C sum) const {
    static_cast<C*>(place.a.pre)[m * this->columns + n] = sum;
  }
};

// A recurrent product of a step.
template <class C>
struct ProductSum : OneRange<C> {
  using OneRange<C>::place;
  struct Left {
    Row<C> row;
    int64_t batch_row;
    bool drops;
  };
  const Product& product;
  const int index;
  const int64_t t;
  const int64_t clock_first;         // the first unit that takes part
  int64_t units, head_units, width;  // of a gate; of one head; of the operand in all heads
  bool is_last, is_split;            // of its phase; whether its first block begins with a bias

  RNN_DEVICE explicit ProductSum(const StepLaunch& launch)
      : OneRange<C>(launch.a),
        product(launch.a.facts.product[launch.product]),
        index(launch.product),
        t(place.time_of(launch.step)),
        clock_first(launch.clock.first) {
    const StepArguments& a = launch.a;
    const fusedrnn::CellFacts& f = a.facts;
    units = index == f.projection ? a.proj : a.hidden;
    width = fusedrnn::operand_size(product.from, product.depth, a.hidden, a.proj);
    this->heads = a.heads;
    head_units = units / a.heads;
    this->rows = a.batch;
    this->columns = product.gates * (head_units - left_out(launch));
    this->depth = width / a.heads - launch.clock.first;
    is_last = index + 1 == f.products || f.product[index + 1].phase != product.phase;
    is_split = false;
    for (int g = 0; g < product.gates && index != f.projection; ++g) {
      is_split = is_split || f.split[product.first_gate + g];
    }
  }
  // The units of other clocks.
  RNN_DEVICE static int64_t left_out(const StepLaunch& launch) {
    return launch.a.hidden - (launch.clock.last - launch.clock.first);
  }
  RNN_DEVICE Left row(int64_t head, int64_t m) const {
    const StepArguments& a = place.a;
    const int state = state_of(product.from);
    const bool drops = product.from == From::h_prev && a.mask[fusedrnn::kRecurrentDropout];
    Row<C> row{nullptr, nullptr, 0, C(0)};  // past the row's length: nothing is there, and nobody reads the sum
    if (place.is_active(t, m)) {
      row = state >= 0 ? place.before(state, t, m) : place.of_computed(place.slots_at(t, m) + product.slot * a.hidden);
    }
    const int64_t first = head * this->depth + clock_first;
    if (row.computed) row.computed += first;
    row.first += first;
    return {row, m * a.proj + first, drops};
  }
  RNN_DEVICE C left(const Left& row, int64_t k) const {
    const C v = place.read(row.row, k);
    return row.drops ? left_by(place.factor(fusedrnn::kRecurrentDropout, 0, 0, row.batch_row + k), v) : v;
  }
  RNN_DEVICE int gate_of(int64_t n) const { return static_cast<int>(n / head_units); }
  RNN_DEVICE int64_t unit_of(int64_t head, int64_t n) const { return clock_first + head * head_units + n % head_units; }
  RNN_DEVICE int64_t column(int64_t head, int64_t n) const {
    return fusedrnn::block_of(place.a.facts, product, gate_of(n)) * units + unit_of(head, n);
  }
  RNN_DEVICE C start(int64_t head, int64_t n) const {
    const StepArguments& a = place.a;
    const int gate = product.first_gate + gate_of(n), block = a.facts.user_gate[gate];
    if (!is_split || !a.facts.split[gate] || !a.bias_hh || block >= a.facts.recurrent_gates) return C(0);
    return static_cast<const C*>(a.bias_hh)[block * a.hidden + unit_of(head, n)];
  }
  RNN_DEVICE RowsOfMatrix<C> right(int64_t, int64_t k) const {
    const int64_t stride = place.a.facts.matrix[product.matrix].blocks * units;
    return {static_cast<const C*>(place.a.matrix_t[product.matrix]) + (clock_first + k) * stride, stride};
  }
  RNN_DEVICE void give(int64_t head, int64_t m, int64_t n, C sum) const {
    const StepArguments& a = place.a;
    const int64_t gate = gate_of(n), unit = unit_of(head, n);
    if (is_last) {
      static_cast<C*>(a.sums)[(m * product.gates + gate) * a.hidden + unit] = sum;
      return;
    }
    const int64_t row = (t - a.pre_first) * a.batch + m;
    C* const pre = static_cast<C*>(a.pre) + (row * a.facts.gates + product.first_gate + gate) * a.hidden + unit;
    *pre = *pre + sum;
  }
};

// Rows of a matrix in the order of a product's gates, then of the units of one head.
template <class C>
struct RowsOfGates {
  const fusedrnn::CellFacts& facts;
  const Product* product;  // null: the gates are those that the input sees
  const C* first;          // unit 0 of the head, in block 0
  int64_t stride, units, head_units;
  int gate;
  int64_t unit;
  const C* now;

  RNN_DEVICE RowsOfGates(const fusedrnn::CellFacts& f, const Product* of, const C* matrix, int64_t row, int64_t all,
                         int64_t of_head, int64_t k)
      : facts(f),
        product(of),
        first(matrix),
        stride(row),
        units(all),
        head_units(of_head),
        gate(static_cast<int>(k / of_head)),
        unit(k % of_head),
        now(found()) {}
  RNN_DEVICE const C* found() const {
    const int block = product ? fusedrnn::block_of(facts, *product, gate) : facts.user_gate[facts.input_gate[gate]];
    return first + (block * units + unit) * stride;
  }
  RNN_DEVICE C at(int64_t column) const { return now[column]; }
  RNN_DEVICE void next() {
    now += stride;
    if (++unit < head_units) return;
    unit = 0;
    ++gate;
    now = found();
  }
};

// A product of a stage of backward: a matrix, transposed, times the gradients in some columns.
template <class C>
struct StageSum : OneRange<C> {
  using OneRange<C>::place;
  const Product& product;
  const StepLaunch& launch;
  const int64_t t;
  int64_t units, head_units, width;  // of a gate of the product; of one head; of a vector of the operand, of one head

  RNN_DEVICE explicit StageSum(const StepLaunch& l)
      : OneRange<C>(l.a), product(l.a.facts.product[l.product]), launch(l), t(place.time_of(l.step)) {
    const StepArguments& a = l.a;
    units = l.product == a.facts.projection ? a.proj : a.hidden;
    this->heads = a.heads;
    head_units = units / a.heads;
    width = fusedrnn::operand_size(product.from, 1, a.hidden, a.proj) / a.heads;
    this->rows = a.batch;
    this->columns = width - l.clock.first;
    this->depth = is_clocked() ? l.clock.last - l.clock.first : product.gates * head_units;
  }
  RNN_DEVICE bool is_clocked() const { return launch.clock.period > 0; }
  // The time whose gradients a row takes: that of the step after in stage 0, but with clocks. A row whose step is the
  // last takes none, and what is summed up for it is not read.
  RNN_DEVICE int64_t time_of_row(int64_t m) const {
    const bool is_after = launch.phase == 0 && !is_clocked();
    const int64_t of_row = launch.from_beginning ? place.first_time(m) : is_after ? place.time_after(t) : t;
    return of_row < 0 ? 0 : of_row < place.a.seq_len ? of_row : place.a.seq_len - 1;
  }
  RNN_DEVICE const C* row(int64_t head, int64_t m) const {
    return place.gradients_at(time_of_row(m), m) + product.column * place.a.hidden + head * head_units +
           launch.clock.first;
  }
  RNN_DEVICE C left(const C* row, int64_t k) const { return row[k / head_units * place.a.hidden + k % head_units]; }
  RNN_DEVICE int64_t column(int64_t, int64_t n) const { return launch.part * width + launch.clock.first + n; }
  RNN_DEVICE C start(int64_t, int64_t) const { return C(0); }
  RNN_DEVICE RowsOfGates<C> right(int64_t head, int64_t k) const {
    const int64_t stride = product.depth * width;
    const C* const matrix = static_cast<const C*>(place.a.matrix[product.matrix]);
    const C* const first = matrix + (head * head_units + launch.clock.first) * stride;
    return {place.a.facts, &product, first, stride, units, head_units, k};
  }
  RNN_DEVICE void give(int64_t head, int64_t m, int64_t n, C sum) const {
    if (is_clocked()) return carry(m, launch.clock.first + n, sum);
    place.stage_sum_at(launch.extra, m)[head * width + n] = sum;
  }
  // With clocks, the gradient goes back into the units that they see.
  RNN_DEVICE void carry(int64_t row, int64_t unit, C sum) const {
    const StepArguments& a = place.a;
    if (!place.is_active(t, row) || !place.ticks(launch.clock.period, t, row)) return;
    if (a.mask[fusedrnn::kRecurrentDropout]) {
      sum = left_by(place.factor(fusedrnn::kRecurrentDropout, row, a.proj, unit), sum);
    }
    C& carried = place.run_at(0, row)[unit];
    carried = carried + sum;
  }
};

// dx of all steps.
template <class C>
struct InputGradientSum : OneRange<C> {
  using OneRange<C>::place;
  const StepLaunch& launch;

  RNN_DEVICE explicit InputGradientSum(const StepLaunch& l) : OneRange<C>(l.a), launch(l) {
    const StepArguments& a = launch.a;
    this->rows = a.seq_len * a.batch;
    this->columns = a.input;
    this->depth = a.facts.gates * (launch.clock.last - launch.clock.first);
  }
  RNN_DEVICE const C* row(int64_t, int64_t m) const {
    return place.gradients_at(0, m) + place.a.facts.input_column * place.a.hidden + launch.clock.first;
  }
  RNN_DEVICE C left(const C* row, int64_t k) const { return row[k]; }
  RNN_DEVICE int64_t column(int64_t, int64_t n) const { return n; }
  RNN_DEVICE C start(int64_t, int64_t) const { return C(0); }
  RNN_DEVICE RowsOfGates<C> right(int64_t, int64_t k) const {
    const StepArguments& a = place.a;
    const C* const first = static_cast<const C*>(a.weight_ih) + launch.clock.first * a.input;
    return {a.facts, nullptr, first, a.input, a.hidden, a.hidden, k};
  }
  RNN_DEVICE void give(int64_t, int64_t m, int64_t n, C sum) const {
    const StepArguments& a = place.a;
    const int64_t row = m % a.batch;
    const bool active = place.is_active(m / a.batch, row);
    if (a.mask[fusedrnn::kInputDropout]) sum = left_by(place.factor(fusedrnn::kInputDropout, row, a.input, n), sum);
    if (launch.clock.period > 0) sum = of_clocks(m, n, active, sum);
    if (launch.is_last_clock) write_stored(a.stored, a.dx, m * a.input + n, active ? sum : C(0));
  }
  // The sum of the clocks so far, which lies in `operand` meanwhile.
  RNN_DEVICE C of_clocks(int64_t m, int64_t n, bool active, C sum) const {
    const StepArguments& a = place.a;
    C& so_far = static_cast<C*>(a.operand)[m * a.input + n];
    const C before = launch.is_first_clock ? C(0) : so_far;
    so_far = active && place.ticks(launch.clock.period, m / a.batch, m % a.batch) ? before + sum : before;
    return so_far;
  }
};

// Common to sums over pairs: the ranges are stretches.
template <class C>
struct OverPairs {
  Place<C> place;
  const StepLaunch& launch;
  int64_t rows = 0, columns = 0, heads = 1;

  RNN_DEVICE explicit OverPairs(const StepLaunch& l) : place(l.a), launch(l) {}
  RNN_DEVICE int64_t ranges() const { return place.a.counts[0]; }
  RNN_DEVICE int64_t range_end(int64_t i) const { return place.a.stretch_ends[i]; }
  RNN_DEVICE const C* gradients_of(int64_t pair) const {
    return place.gradients_at(0, place.a.pairs[pair]) + launch.column * place.a.hidden;
  }
};

// The operand of pairs, on the right side.
template <class C>
struct RowsOfPairs {
  const int64_t* pair;
  const C* first;
  int64_t stride;
  RNN_DEVICE C at(int64_t column) const { return first[*pair * stride + column]; }
  RNN_DEVICE void next() { ++pair; }
};

// One block of the gradient of a matrix.
template <class C>
struct MatrixGradientSum : OverPairs<C> {
  using OverPairs<C>::place;
  using OverPairs<C>::launch;
  int64_t row_stride, first, column0;

  RNN_DEVICE explicit MatrixGradientSum(const StepLaunch& l) : OverPairs<C>(l) {
    const StepArguments& a = l.a;
    const bool of_h = a.facts.projection >= 0 && l.column == a.facts.product[a.facts.projection].column;
    const int64_t units = of_h ? a.proj : a.hidden;
    this->heads = l.matrix_heads;
    const bool sees_all = l.clock.period == 0 || l.from == From::x;  // units of a clock see no faster one's
    first = l.clock.first;
    column0 = sees_all ? 0 : first;
    this->rows = (l.clock.period == 0 ? units : l.clock.last - first) / this->heads;
    row_stride = l.width / this->heads;
    this->columns = row_stride - column0;
  }
  RNN_DEVICE int64_t row(int64_t head, int64_t m) const { return first + head * this->rows + m; }
  RNN_DEVICE C left(int64_t unit, int64_t k) const { return this->gradients_of(k)[unit]; }
  RNN_DEVICE int64_t column(int64_t head, int64_t n) const { return column0 + head * this->columns + n; }
  RNN_DEVICE C start(int64_t, int64_t) const { return C(0); }
  RNN_DEVICE RowsOfPairs<C> right(int64_t, int64_t k) const {
    return {place.a.pairs + k, static_cast<const C*>(launch.source) + launch.source_offset, launch.source_stride};
  }
  RNN_DEVICE void give(int64_t head, int64_t m, int64_t n, C sum) const {
    const int64_t unit = launch.block * place.a.hidden + row(head, m);
    static_cast<C*>(place.a.to)[unit * row_stride + column0 + n] = sum;
  }
};

// Gradients of a bias or a vector: a thread block for 32 units, whose warps take blocks of pairs.
template <class C>
RNN_DEVICE void sum_vector_gradient(const StepLaunch& launch) {
  const OverPairs<C> of(launch);
  const StepArguments& a = launch.a;
  const int warp = thread_index() / 32, lane = thread_index() % 32, warps = thread_count() / 32;
  C* const parts = reinterpret_cast<C*>(shared_memory());
  const C* const source = static_cast<const C*>(launch.source);
  const int64_t end = launch.clock.last;
  RNN_ROLLED for (int64_t unit0 = launch.clock.first + int64_t{thread_block_index()} * 32; unit0 < end;
                  unit0 += int64_t{thread_block_count()} * 32) {
    const int64_t mine = unit0 + lane, unit = mine < end ? mine : end - 1;
    C whole(0), of_range(0);
    int64_t k0 = 0;
    RNN_ROLLED for (int64_t range = 0; range < of.ranges(); ++range) {
      const int64_t k1 = of.range_end(range);
      of_range = C(0);
      RNN_ROLLED for (int64_t first = k0; first < k1; first += int64_t{kSumBlock} * warps) {
        const int64_t begin = first + int64_t{kSumBlock} * warp;
        C sum(0);
        for (int64_t k = begin; k < k1 && k < begin + kSumBlock; ++k) {
          const C d = of.gradients_of(k)[unit];
          const C other = source ? source[a.pairs[k] * launch.source_stride + launch.source_offset + unit] : C(1);
          sum = fused_exactly(d, other, sum);
        }
        parts[warp * 32 + lane] = sum;
        meet_thread_block();
        for (int w = 0; w < warps && first + int64_t{kSumBlock} * w < k1; ++w)
          of_range = of_range + parts[w * 32 + lane];
        meet_thread_block();
      }
      whole = range == 0 ? of_range : whole + of_range;
      k0 = k1;
    }
    if (warp == 0 && mine < end) static_cast<C*>(a.to)[launch.block * a.hidden + mine] = whole;
  }
}

template <class C>
RNN_DEVICE void step_sum(const StepLaunch& launch) {
  switch (launch.sum) {
    case Sum::input:
      return sum_all<C>(InputSum<C>(launch));
    case Sum::product:
      return sum_all<C>(ProductSum<C>(launch));
    case Sum::stage:
      return sum_all<C>(StageSum<C>(launch));
    case Sum::input_gradient:
      return sum_all<C>(InputGradientSum<C>(launch));
    case Sum::matrix_gradient:
      return sum_all<C>(MatrixGradientSum<C>(launch));
    case Sum::vector_gradient:
      return sum_vector_gradient<C>(launch);
  }
}

}  // namespace
