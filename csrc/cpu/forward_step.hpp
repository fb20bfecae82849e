// The steps of forward, for any cell: where a row's operands lie, what pointwise functions see, and the products.
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
  Sums<const T> from[kMaxGates] = {};

  RecurrentProduct(const Problem<T>& p, const ForwardStep<T>& s, const CellFacts& f, int index) : step(s), facts(f) {
    assert(index >= 0 && index < fusedrnn::kMaxProducts);
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
  // The step's part of `pre` begins so many elements later now; biases, whose rows lie 0 apart, stay where they are.
  RNN_INLINE void advance(int64_t elements) {
    for (int64_t g = 0; g < gates; ++g) {
      if (from[g].row > 0) from[g].at += elements;
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
  RNN_INLINE void advance(int64_t elements) {
    RecurrentProduct<T>::advance(elements);
    to.at += elements;
  }
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

}  // namespace
