// The steps of backward, for any cell: where a row's operands lie, the arguments of pointwise functions, and the
// products.
#pragma once

#include "driver.hpp"
#include "masks.hpp"
#include "reduce.hpp"
#include "several.hpp"

namespace {

// Where one active row finds its operands at one step of backward; pointers are to unit 0, or to the first unit of a
// head.
template <class C>
struct BackwardRow {
  const C* dy;        // null: zeros
  const C* dc_given;  // null: zeros
  const C* below;
  C* dbelow;                    // or null
  const C* h;                   // after the step
  const C* before[kMaxStates];  // the states before it; null for one without a history
  C* carried[kMaxStates];       // rows of dstate0: gradients of states, carried from the step after
  const C* slots;
  C* gradients;  // of the step's pre-activations, by column
  // Those of the step after; with heads, what the head's product reads, brought together. Not read in a row's last
  // step.
  const C* source;
  MaskRow<C> masks;

  // Points to the unit that comes so many after this one; what `source` points to stays.
  void move(const CellFacts& f, int64_t units) {
    if (dy) dy += units;
    h += units;
    for (int s = 0; s < f.states; ++s) {
      if (before[s]) before[s] += units;
      carried[s] += units;
    }
    slots += units;
    gradients += units;
    masks.move(units);
    if (!f.below) return;
    below += units;
    if (dc_given) dc_given += units;
    if (dbelow) dbelow += units;
  }
};

// One step of one worker, as pointwise functions see it: the units of one head, and their tiles. `extras` is
// [extra][row][tile of this worker][lane].
template <class C>
struct BackwardStep {
  const BackwardRow<C>* rows;
  int64_t hidden;
  int64_t units;  // only units before this one are written
  const C* vectors;
  C* extras;
  int64_t extra_stride, row_stride, tile0;
  C epsilon;
  C* sums;  // [row][kMaxSums], for cells that need them
  ActiveMasks masks;
  const fusedrnn::Activations& activations;
  // With zoneout: the parts of gradients of h and c that are those of h_prev and c_prev, [row][tile of this
  // worker][lane].
  C *kept_h = nullptr, *kept_c = nullptr;

  // Without extras and sums.
  template <class F>
  BackwardStep(const Problem<C>& p, const PackedWeights<F>& weights, const Worker& worker,
               const BackwardRow<C>* step_rows, int64_t units_end)
      : rows(step_rows),
        hidden(p.hidden),
        units(units_end),
        vectors(weights.vectors),
        extras(nullptr),
        extra_stride(0),
        row_stride(0),
        tile0(worker.tile0),
        epsilon(weights.epsilon),
        sums(nullptr),
        masks(p),
        activations(p.activations) {}

  // Goes on to the head that comes so many after this one, as its rows must.
  void move(const Heads& heads, int64_t by) {
    tile0 -= by * heads.tiles;
    if (vectors) vectors += by * heads.units;
  }
  // The same rows, for the units of h.
  BackwardStep of_h(const Problem<C>& p, const Worker& worker) const {
    BackwardStep step = *this;
    step.tile0 = worker.h_tile0;
    step.units = p.proj;
    return step;
  }

  RNN_INLINE C* extra_at(int64_t extra, int64_t row, int64_t tile) const {
    return extras + extra * extra_stride + row * row_stride + (tile - tile0) * Vec<C>::width;
  }
};

// Runs a stage's pointwise step on the sums [row][tile][lane] of its product.
template <class C>
using BackwardPointwise = void (*)(const BackwardStep<C>&, Span rows, Span tiles, const C* sums);

// Makes step.sums of the first `rows` rows, before a stage.
template <class C>
using BackwardReduce = void (*)(const BackwardStep<C>& step, int64_t rows);

// The `at` of cell.hpp, for N tiles.
template <class C, int N, class Math>
struct BackwardAt : TilesOfRows<C, BackwardRow<C>, N> {
  using Tiles = TilesOfRows<C, BackwardRow<C>, N>;
  using typename Tiles::Row;
  using typename Tiles::Tile;
  using typename Tiles::V;
  const BackwardStep<C>& step;

  RNN_INLINE BackwardAt(const BackwardStep<C>& s, const SomePlaces<N>& some) : Tiles(s.rows, s.units, some), step(s) {}

  RNN_INLINE Math math() const { return Math(step.activations); }
  RNN_INLINE V h() const {
    return this->load([](const Row& row) RNN_INLINE_LAMBDA { return row.h; });
  }
  RNN_INLINE V slot(int k) const {
    return this->load([&](const Row& row) RNN_INLINE_LAMBDA { return row.slots + k * step.hidden; });
  }
  RNN_INLINE V vector(int k) const {
    return this->load([&](const Row&) RNN_INLINE_LAMBDA { return step.vectors + k * step.hidden; });
  }
  RNN_INLINE V sum(int j) const { return this->sum_of(step.sums, j); }
  RNN_INLINE V extra(int j) const {
    return units_made<C, N>([&](int i) RNN_INLINE_LAMBDA {
      return Tile::load(step.extra_at(j, this->places[i].row, this->places[i].tile));
    });
  }
  RNN_INLINE V dstate(int s) const {
    return this->load([&](const Row& row) RNN_INLINE_LAMBDA { return row.carried[s]; });
  }
  RNN_INLINE void set_dstate(int s, const V& v) const {
    this->store(v, [&](const Row& row) RNN_INLINE_LAMBDA { return row.carried[s]; });
  }
  RNN_INLINE V dc() const { return dstate(1); }
  RNN_INLINE void set_dc(const V& v) const { set_dstate(1, v); }
  RNN_INLINE V dc_given() const {
    return this->load_if([](const Row& row) RNN_INLINE_LAMBDA { return row.dc_given; });
  }
  RNN_INLINE void set_dbelow(const V& v) const {
    this->store_if(v, [](const Row& row) RNN_INLINE_LAMBDA { return row.dbelow; });
  }
  RNN_INLINE V direct() const { return dstate(0); }
  RNN_INLINE void set_direct(const V& v) const { set_dstate(0, v); }
  RNN_INLINE V candidate(const V& v) const {
    if (!step.masks.candidate) return v;
    return this->dropped(v, [](const Row& row) RNN_INLINE_LAMBDA { return row.masks.candidate; });
  }
  RNN_INLINE V recurrent(const V& v) const {
    if (!step.masks.recurrent) return v;
    return this->dropped(v, [](const Row& row) RNN_INLINE_LAMBDA { return row.masks.recurrent; });
  }
  RNN_INLINE V gradient(int column) const {
    return this->load([&](const Row& row) RNN_INLINE_LAMBDA { return row.gradients + column * step.hidden; });
  }
  RNN_INLINE void grad(int column, const V& v) const {
    this->store(v, [&](const Row& row) RNN_INLINE_LAMBDA { return row.gradients + column * step.hidden; });
  }
};

template <class Cell, class C, int Stage, class Math>
void backward_pointwise(const BackwardStep<C>& step, Span rows, Span tiles, const C* sums) {
  using Tile = Vec<C>;
  run_side_by_side<kTilesTogether<Math>>(rows, tiles, [&](const auto& places, int64_t first) RNN_INLINE_LAMBDA {
    constexpr int N = std::tuple_size_v<std::decay_t<decltype(places)>>;
    const C* const sum = sums + first * Tile::width;
    Cell::template backward<Stage>(
        units_made<C, N>([&](int i) RNN_INLINE_LAMBDA { return Tile::load(sum + i * Tile::width); }),
        BackwardAt<C, N, Math>(step, places));
  });
}

template <class Cell, class C, int Stage>
void backward_reduce(const BackwardStep<C>& step, int64_t rows) {
  for (int64_t row = 0; row < rows; ++row) {
    reduce_row<Cell, C, true, Stage>(step.hidden, step.epsilon, step.sums + row * kMaxSums,
                                     [&](int64_t tile) { return BackwardAt<C, 1, OwnMath>(step, {{{row, tile}}}); });
  }
}

// One product of a stage: U^T times the gradients in some columns, of the step after (stage 0) or of this one. The sums
// go to the stage's pointwise step, if the product is the stage's main one, else to `extra`.
template <class F>
struct StageProduct {
  using C = typename F::Compute;
  WeightMatrix<typename F::Storage, C> weights;
  int64_t depth;                   // 0: the sums stay as they begin
  int64_t units;                   // of the operand, whose gradient the sums are
  int64_t source_offset;           // where the gradients begin among the columns
  bool first_stage;                // the gradients belong to the step after
  bool from_source;                // rows have them in `source`, else in `gradients`
  BackwardPointwise<C> pointwise;  // of the main product; else null,
  int extra;                       // and this is the number of the extra
  bool add_carried;                // sums of h's gradient begin with dy; if this is set, with the carried gradient too
  int carried_state;               // sums of an extra begin with the carried gradient of this state, with zeros if -1;
  int64_t carried_offset;          // from this element on
  bool of_c;                       // the operand is c_prev
};

// A slice of the product's k. The sums of all slices but the last go to `partial`, [row][tile of this worker][lane];
// the last adds to the whole what the sums of the stage begin with.
template <class F>
struct StageOp {
  using Storage = typename F::Storage;
  using Compute = typename F::Compute;
  using C = Compute;
  using V = Vec<C>;
  static constexpr bool kColumns = false, kFills = true, kDirect = false, kCold = true, kNewRows = false;
  static constexpr int64_t gates = 1, source_stride = sizeof(BackwardRow<C>);
  static constexpr Start<C> start{};
  const BackwardStep<C>& step;
  const CellFacts& facts;
  const StageProduct<F> product;
  WeightMatrix<Storage, Compute> weights;
  int64_t depth, source_offset;
  bool continues, last;  // not the first slice; the last one
  C* partial;

  StageOp(const BackwardStep<C>& at, const CellFacts& f, const StageProduct<F>& whole, C* sums_so_far, int64_t k0,
          int64_t count)
      : step(at),
        facts(f),
        product(whole),
        weights(without(whole.weights, k0, V::width)),
        depth(count),
        source_offset(whole.source_offset + k0),
        continues(k0 > 0),
        last(k0 + count == whole.depth),
        partial(sums_so_far) {}

  RNN_INLINE bool is_dh() const { return product.first_stage && product.pointwise; }
  RNN_INLINE C* partial_at(int64_t row, int64_t tile) const {
    return partial + row * step.row_stride + (tile - step.tile0) * V::width;
  }
  RNN_INLINE const C* const* sources(int64_t row) const {
    const BackwardRow<C>& at = step.rows[row];
    return product.from_source ? &at.source : &at.gradients;
  }
  RNN_INLINE V initial(const BackwardRow<C>& row, int64_t tile) const {
    const auto lanes = lanes_of<V>(tile, product.units);
    const int64_t unit = tile * V::width;
    if (product.carried_state >= 0) {
      return V::load(row.carried[product.carried_state] + product.carried_offset + unit, lanes);
    }
    if (!is_dh()) return V(0);
    const V dy = row.dy ? V::load(row.dy + unit, lanes) : V(0);
    return product.add_carried ? dy + V::load(row.carried[0] + unit, lanes) : dy;
  }
  // The gradient of h, whose products took what dropout left of it.
  RNN_INLINE V of_operand(const BackwardRow<C>& row, int64_t tile, V sum) const {
    if (!is_dh() || !step.masks.recurrent) return sum;
    return left_by(V::load(row.masks.recurrent + tile * V::width, lanes_of<V>(tile, product.units)), sum);
  }
  // Parts the gradient of a state in that of the step and, where zoneout has kept the old value, that of the old value,
  // which is added to what is `kept`, or begins it.
  RNN_INLINE void part(const C* keep_units, int64_t row, int64_t tile, V d, bool add, C* kept, C* of_step) const {
    const V keep = V::load(keep_units + tile * V::width, lanes_of<V>(tile, product.units));
    C* const to = kept + row * step.row_stride + (tile - step.tile0) * V::width;
    const V old = choose(keep, d, V(0));
    choose(keep, V(0), d).store(of_step);
    (add ? V::load(to) + old : old).store(to);
  }
  RNN_INLINE void fill(const Area& area, C* sums) const {
    for_each_tile(area, [&](int64_t row, int64_t tile) RNN_INLINE_LAMBDA {
      V::load(partial_at(row, tile)).store(sums);
      sums += V::width;
    });
  }
  RNN_INLINE void fetch_end(const Area& area) const {
    if (!last || !product.pointwise) return;
    for_each_tile(area, [&](int64_t row, int64_t tile) RNN_INLINE_LAMBDA {
      const BackwardRow<C>& at = step.rows[row];
      if (is_dh() && at.dy) prefetch(at.dy + tile * V::width);
      for (int s = 1; s < facts.states; ++s) {
        if (at.before[s]) prefetch(at.before[s] + tile * V::width);
      }
      for (int k = 0; k < facts.slots; ++k) prefetch(at.slots + k * step.hidden + tile * V::width);
      for (int k = 0; k < facts.columns; ++k) prefetch_write(at.gradients + k * step.hidden + tile * V::width);
    });
  }
  RNN_INLINE void end(const Area& area, C* sums) const {
    if (!last) {
      return for_each_tile(area, [&](int64_t row, int64_t tile) RNN_INLINE_LAMBDA {
        V::load(sums).store(partial_at(row, tile));
        sums += V::width;
      });
    }
    C* sum = sums;
    for_each_tile(
        area, [&](int64_t row) { return step.rows[row]; },
        [&](const BackwardRow<C>& at, int64_t row, int64_t tile) RNN_INLINE_LAMBDA {
          const V whole = initial(at, tile) + of_operand(at, tile, V::load(sum));
          C* const target = product.pointwise ? sum : step.extra_at(product.extra, row, tile);
          if (is_dh() && step.masks.zoneout_h)
            part(at.masks.keep_h, row, tile, whole, false, step.kept_h, target);
          else if (product.of_c && step.masks.zoneout_c)
            part(at.masks.keep_c, row, tile, whole, true, step.kept_c, target);
          else
            whole.store(target);
          sum += V::width;
        });
    if (product.pointwise) {
      product.pointwise(step, {area.row, area.row + area.rows}, {area.tile, area.tile + area.tiles}, sums);
    }
  }
};

}  // namespace
