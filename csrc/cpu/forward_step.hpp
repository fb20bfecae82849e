// The steps of forward, for any cell: where a row's operands lie, the arguments of pointwise functions, and the
// products.
#pragma once

#include "driver.hpp"
#include "masks.hpp"
#include "reduce.hpp"
#include "several.hpp"

namespace {

// Where one active row finds its operands at one time step; pointers are to unit 0, or to the first unit of a head.
template <class C>
struct ForwardRow {
  const C* before[kMaxStates];  // the states before the step
  const C* h_in;                // h before it, as products take it
  C* after[kMaxStates];         // and after it; h in y; c, with zoneout before that, or null
  C* c_zoned;                   // with zoneout: c after that
  C* h_kept;                    // a second place for h, in the reserve, or null
  C* c_of_step;                 // a second place for c, or null
  const C* below;
  C* slots;
  MaskRow<C> masks;

  // Points to the unit that comes so many after this one.
  void move(const CellFacts& f, bool has_slots, int64_t units) {
    for (int s = 0; s < f.states; ++s) {
      before[s] += units;
      if (after[s]) after[s] += units;
    }
    h_in += units;
    if (c_zoned) c_zoned += units;
    masks.move(units);
    if (h_kept) h_kept += units;
    if (has_slots) slots += units;
    if (!f.below) return;
    below += units;
    if (c_of_step) c_of_step += units;
  }

  // Where in a row the pointer to a product's operand is.
  static std::size_t place_of(From from) {
    const int state = state_of(from);
    if (state == 0) return offsetof(ForwardRow, h_in);
    return state < 0 ? offsetof(ForwardRow, slots) : offsetof(ForwardRow, before) + state * sizeof(const C*);
  }
};

// One step of one worker, as pointwise functions see it: the units of one head, and their tiles. `pre` is [tile of this
// worker][row][gate][lane].
template <class C>
struct ForwardStep {
  const ForwardRow<C>* rows;
  C* pre;
  int64_t pre_stride, tile0, hidden;
  int64_t units;  // only units before this one are written
  int64_t gates;
  const C* vectors;
  C epsilon;
  C* sums;  // [row][kMaxSums], for cells that need them
  ActiveMasks masks;
  C z_h, z_c;  // the probabilities of zoneout
  const fusedrnn::Activations& activations;

  // All units of the worker, whose rows and `pre` these are.
  template <class F>
  ForwardStep(const Problem<C>& p, const PackedWeights<F>& weights, const CellFacts& f, const Worker& worker,
              const ForwardRow<C>* step_rows, C* step_pre, int64_t stride, C* row_sums)
      : rows(step_rows),
        pre(step_pre),
        pre_stride(stride),
        tile0(worker.tile0),
        hidden(p.hidden),
        units(p.hidden),
        gates(f.gates),
        vectors(weights.vectors),
        epsilon(weights.epsilon),
        sums(row_sums),
        masks(p),
        z_h(static_cast<C>(p.drop.options.p[fusedrnn::kZoneoutH])),
        z_c(static_cast<C>(p.drop.options.p[fusedrnn::kZoneoutC])),
        activations(p.activations) {}

  // Goes on to the head that comes so many after this one, as its rows must.
  void move(const Heads& heads, int64_t by) {
    tile0 -= by * heads.tiles;
    if (vectors) vectors += by * heads.units;
  }
  // The same rows, for the units of h.
  ForwardStep of_h(const Problem<C>& p, const Worker& worker) const {
    ForwardStep step = *this;
    step.tile0 = worker.h_tile0;
    step.units = p.proj;
    return step;
  }

  RNN_INLINE C* pre_at(int64_t row, int64_t tile) const {
    return pre + (tile - tile0) * pre_stride + row * gates * Vec<C>::width;
  }
  Sums<C> pre_sums() const { return {pre - tile0 * pre_stride, gates * Vec<C>::width, pre_stride}; }
};

// Runs a phase's pointwise step on the sums [row][tile][gate][lane] of its last product.
template <class C>
using ForwardPointwise = void (*)(const ForwardStep<C>&, Span rows, Span tiles, const C* sums);

// Makes step.sums of the first `rows` rows, before a phase.
template <class C>
using ForwardReduce = void (*)(const ForwardStep<C>& step, int64_t rows);

// The `at` of cell.hpp, for N tiles.
template <class Cell, class C, bool kTrain, int N, class Math>
struct ForwardAt : TilesOfRows<C, ForwardRow<C>, N> {
  using Tiles = TilesOfRows<C, ForwardRow<C>, N>;
  using typename Tiles::Row;
  using typename Tiles::Tile;
  using typename Tiles::V;
  const ForwardStep<C>& step;
  C* pre_tile[N];

  RNN_INLINE ForwardAt(const ForwardStep<C>& s, const SomePlaces<N>& some) : Tiles(s.rows, s.units, some), step(s) {
    RNN_UNROLL for (int i = 0; i < N; ++i) pre_tile[i] = s.pre_at(some[i].row, some[i].tile);
  }

  RNN_INLINE Math math() const { return Math(step.activations); }
  RNN_INLINE V slot(int k) const {
    return this->load([&](const Row& row) RNN_INLINE_LAMBDA { return row.slots + k * step.hidden; });
  }
  RNN_INLINE V vector(int k) const {
    return this->load([&](const Row&) RNN_INLINE_LAMBDA { return step.vectors + k * step.hidden; });
  }
  RNN_INLINE V pre(int gate) const {
    return units_made<C, N>([&](int i) RNN_INLINE_LAMBDA { return Tile::load(pre_tile[i] + gate * Tile::width); });
  }
  RNN_INLINE void set_pre(int gate, const V& v) const {
    take_units<C, N>(
        v, [&](int i, Tile tile) RNN_INLINE_LAMBDA { tile.store(pre_tile[i] + gate * Tile::width, this->lanes[i]); });
  }
  RNN_INLINE V sum(int j) const { return this->sum_of(step.sums, j); }
  RNN_INLINE void save(int k, const V& v) const {
    if (kTrain || Cell::carried(k)) {
      this->store(v, [&](const Row& row) RNN_INLINE_LAMBDA { return row.slots + k * step.hidden; });
    }
  }
  RNN_INLINE void set_state(int s, const V& v) const {
    this->store(v, [&](const Row& row) RNN_INLINE_LAMBDA { return row.after[s]; });
  }
  RNN_INLINE void set_c(const V& v) const {
    if (step.masks.zoneout_c) return set_zoned_c(v);
    set_state(1, v);
    if (Cell::kBelow) this->store_if(v, [](const Row& row) RNN_INLINE_LAMBDA { return row.c_of_step; });
  }
  RNN_INLINE void set_h(const V& v) const {
    const auto keep = [](const Row& row) RNN_INLINE_LAMBDA { return row.masks.keep_h; };
    const V h = step.masks.zoneout_h ? zoned(v, this->h_prev(), keep, step.z_h) : v;
    set_state(0, h);
    if (kTrain) this->store_if(h, [](const Row& row) RNN_INLINE_LAMBDA { return row.h_kept; });
  }
  RNN_INLINE V candidate(const V& v) const {
    return step.masks.candidate ? this->dropped(v, [](const Row& row) RNN_INLINE_LAMBDA { return row.masks.candidate; })
                                : v;
  }
  RNN_INLINE V recurrent(const V& v) const {
    return step.masks.recurrent ? this->dropped(v, [](const Row& row) RNN_INLINE_LAMBDA { return row.masks.recurrent; })
                                : v;
  }

 private:
  // A state after zoneout: under a mask, or, in inference, as expected.
  template <class Keep>
  RNN_INLINE V zoned(const V& v, const V& before, Keep&& keep, C z) const {
    if constexpr (kTrain)
      return choose(this->load(keep), before, v);
    else
      return fma(V(z), before, V(C(1) - z) * v);
  }
  RNN_INLINE void set_zoned_c(const V& v) const {
    if constexpr (Cell::kStates > 1) {
      const auto keep = [](const Row& row) RNN_INLINE_LAMBDA { return row.masks.keep_c; };
      const V c = zoned(v, this->c_prev(), keep, step.z_c);
      this->store_if(v, [](const Row& row) RNN_INLINE_LAMBDA { return row.after[1]; });
      this->store(c, [](const Row& row) RNN_INLINE_LAMBDA { return row.c_zoned; });
      if (Cell::kBelow) this->store_if(c, [](const Row& row) RNN_INLINE_LAMBDA { return row.c_of_step; });
    }
  }
};

// The last product of a phase.
template <class Cell>
constexpr int last_product(int phase) {
  int last = 0;
  for (int i = 0; i < Cell::kProducts; ++i) last = Cell::product(i).phase == phase ? i : last;
  return last;
}

// Whether the sums of the j-th gate of a product are added to the input's part of the gate.
template <class Cell>
constexpr bool adds_to_pre(int product, int j) {
  return product != Cell::kProjection && !Cell::split(Cell::product(product).first_gate + j);
}

template <class Cell, class C, int Phase, bool kTrain, class Math>
void forward_pointwise(const ForwardStep<C>& step, Span rows, Span tiles, const C* sums) {
  using Tile = Vec<C>;
  constexpr int kProduct = last_product<Cell>(Phase), G = Cell::product(kProduct).gates;
  constexpr int kFirst = Cell::product(kProduct).first_gate;
  run_side_by_side<kTilesTogether<Math>>(rows, tiles, [&](const auto& places, int64_t first) RNN_INLINE_LAMBDA {
    constexpr int N = std::tuple_size_v<std::decay_t<decltype(places)>>;
    const ForwardAt<Cell, C, kTrain, N, Math> at(step, places);
    const C* const sum = sums + first * G * Tile::width;
    UnitsOf<C, N> a[G];
    RNN_UNROLL for (int g = 0; g < G; ++g) {
      a[g] = units_made<C, N>([&](int i) RNN_INLINE_LAMBDA { return Tile::load(sum + (i * G + g) * Tile::width); });
      if (adds_to_pre<Cell>(kProduct, g)) a[g] = at.pre(kFirst + g) + a[g];
    }
    Cell::template forward<Phase>(a, at);
  });
}

template <class Cell, class C, int Phase>
void forward_reduce(const ForwardStep<C>& step, int64_t rows) {
  for (int64_t row = 0; row < rows; ++row) {
    reduce_row<Cell, C, false, Phase>(step.hidden, step.epsilon, step.sums + row * kMaxSums, [&](int64_t tile) {
      return ForwardAt<Cell, C, false, 1, OwnMath>(step, {{{row, tile}}});
    });
  }
}

// pre = bias + W x.
template <class F>
struct ProjectOp {
  using Storage = typename F::Storage;
  using Compute = typename F::Compute;
  using C = Compute;
  using V = Vec<C>;
  static constexpr bool kColumns = false, kFills = false, kDirect = true, kCold = false, kNewRows = true;
  static constexpr int64_t source_stride = sizeof(const C*), source_offset = 0;
  WeightMatrix<Storage, Compute> weights;
  int64_t depth, gates;
  const C* const* x;
  Start<C> start;
  Sums<C> to;

  ProjectOp(const Problem<C>& p, const PackedWeights<F>& packed, const ForwardStep<C>& step, const C* const* x_rows)
      : weights(packed.ih),
        depth(p.input),
        gates(step.gates),
        x(x_rows),
        start{packed.bias_pre, gates * V::width},
        to(step.pre_sums()) {}
  RNN_INLINE const C* const* sources(int64_t row) const { return x + row; }
  RNN_INLINE void fetch_end(const Area&) const {}
};

// Common to the recurrent products of a phase: where rows lie, and that gates whose parts stay apart have a bias of
// their own.
template <class F>
struct RecurrentProduct {
  using Storage = typename F::Storage;
  using Compute = typename F::Compute;
  using C = Compute;
  using V = Vec<C>;
  static constexpr bool kColumns = false, kFills = false, kDirect = false, kCold = false, kNewRows = false;
  static constexpr int64_t source_stride = sizeof(ForwardRow<C>);
  WeightMatrix<Storage, Compute> weights;
  int64_t depth, gates;
  const ForwardStep<C>& step;
  const CellFacts& facts;
  std::size_t source;  // where in a ForwardRow the pointer is
  int64_t source_offset, first_gate;
  bool adds;  // to the input's part of its gates; a projection has none
  Start<C> start;

  RecurrentProduct(const Problem<C>& p, const PackedWeights<F>& packed, const ForwardStep<C>& s, const CellFacts& f,
                   int index)
      : step(s), facts(f), adds(index != f.projection) {
    assert(index >= 0 && index < fusedrnn::kMaxProducts);
    const fusedrnn::Product& product = f.product[index];
    weights = packed.hh[index];
    depth = fusedrnn::operand_size(product.from, product.depth, p.hidden, p.proj) / p.heads;
    gates = product.gates;
    first_gate = product.first_gate;
    source_offset = product.from == From::slots ? product.slot * p.hidden : 0;
    source = ForwardRow<C>::place_of(product.from);
    bool is_split = false;
    for (int64_t g = 0; adds && g < gates; ++g) is_split = is_split || f.split[first_gate + g];
    if (is_split) start = {packed.bias_rec + first_gate * V::width, s.gates * V::width};
  }
  // Goes on to the head that comes so many after this one.
  void move(const Heads& heads, int64_t by) {
    weights = from_tile(weights, by * heads.tiles);
    start = start.of(by * heads.tiles);
  }
  // Leaves out the units before this one, which the units of a clock do not see.
  void begin_at(int64_t unit) {
    weights = without(weights, unit, gates * V::width);
    depth -= unit;
    source_offset = unit;
  }
  RNN_INLINE const C* const* sources(int64_t row) const {
    return reinterpret_cast<const C* const*>(reinterpret_cast<const char*>(step.rows + row) + source);
  }
  RNN_INLINE void fetch_pre(int64_t row, int64_t tile) const {
    const C* const pre = step.pre_at(row, tile) + first_gate * V::width;
    for (int64_t gate = 0; gate < gates; ++gate) prefetch(pre + gate * V::width);
  }
};

// A product that is not its phase's last: pre += U row.
template <class F>
struct AccumulateOp : RecurrentProduct<F> {
  using C = typename F::Compute;
  using V = Vec<C>;
  using RecurrentProduct<F>::RecurrentProduct;

  RNN_INLINE void fetch_end(const Area& area) const {
    for_each_tile(area, [&](int64_t row, int64_t tile) RNN_INLINE_LAMBDA { this->fetch_pre(row, tile); });
  }
  RNN_INLINE void end(const Area& area, const C* sums) const {
    for_each_tile(area, [&](int64_t row, int64_t tile) RNN_INLINE_LAMBDA {
      C* const pre = this->step.pre_at(row, tile) + this->first_gate * V::width;
      for (int64_t g = 0; g < this->gates; ++g, sums += V::width) {
        (V::load(pre + g * V::width) + V::load(sums)).store(pre + g * V::width);
      }
    });
  }
};

// A phase's last product, and the cell's pointwise step on its sums.
template <class F>
struct PhaseOp : RecurrentProduct<F> {
  using C = typename F::Compute;
  ForwardPointwise<C> pointwise;

  PhaseOp(const Problem<C>& p, const PackedWeights<F>& packed, const ForwardStep<C>& step, const CellFacts& f,
          int index, ForwardPointwise<C> run)
      : RecurrentProduct<F>(p, packed, step, f, index), pointwise(run) {}
  RNN_INLINE void fetch_end(const Area& area) const {
    for_each_tile(area, [&](int64_t row, int64_t tile) RNN_INLINE_LAMBDA {
      const ForwardRow<C>& at = this->step.rows[row];
      if (this->adds) this->fetch_pre(row, tile);
      prefetch_write(at.after[0] + tile * Vec<C>::width);
      for (int s = 1; s < this->facts.states; ++s) prefetch(at.before[s] + tile * Vec<C>::width);
    });
  }
  RNN_INLINE void end(const Area& area, const C* sums) const {
    pointwise(this->step, {area.row, area.row + area.rows}, {area.tile, area.tile + area.tiles}, sums);
  }
};

// An op on the short last tile of a head, with its gates joined: brings the sums into the order in which the op takes
// them.
template <class Op>
struct JoinedOp {
  using Storage = typename Op::Storage;
  using Compute = typename Op::Compute;
  using C = Compute;
  using V = Vec<C>;
  static constexpr bool kColumns = false, kFills = false, kDirect = false, kCold = Op::kCold, kNewRows = Op::kNewRows;
  static constexpr int64_t source_stride = Op::source_stride;
  const Op& op;
  int64_t units;  // of the tile
  WeightMatrix<Storage, Compute> weights;
  int64_t depth, gates, source_offset;  // gates: vectors
  Start<C> start;

  JoinedOp(const Op& whole, const fusedrnn::JoinedTiles<Storage, Compute>& tiles, const Heads& heads, int64_t head)
      : op(whole),
        units(heads.units % V::width),
        weights{{tiles.packed.first + head * tiles.packed.tile_stride, 0}, nullptr, 0, 0},
        depth(whole.depth),
        gates(tiles.vectors),
        source_offset(whole.source_offset),
        start{tiles.bias + head * tiles.vectors * V::width, 0} {}
  RNN_INLINE const C* const* sources(int64_t row) const { return op.sources(row); }
  RNN_INLINE void fetch_end(const Area& area) const { op.fetch_end(area); }
  RNN_INLINE void spread(const C* sums, int64_t rows, C* to, int64_t stride) const {
    const typename V::Lanes lanes(static_cast<int>(units));
    for (int64_t row = 0; row < rows; ++row, sums += gates * V::width, to += stride) {
      for (int64_t gate = 0; gate < op.gates; ++gate) V::load(sums + gate * units, lanes).store(to + gate * V::width);
    }
  }
  RNN_INLINE void end(const Area& area, const C* sums) const {
    if constexpr (Op::kDirect) {
      spread(sums, area.rows, op.to.of(area.row, area.tile), op.to.row);
    } else {
      alignas(64) C apart[kMostKernelRows * kMaxGates * V::width];
      spread(sums, area.rows, apart, op.gates * V::width);
      op.end(area, apart);
    }
  }
};

// Whether so many rows of a sweep over `tiles` leave the last tile to a kernel of its own, which is then bound by the
// number of its multiply-adds, so that it pays to join its gates.
inline bool joins_last(int64_t rows, int64_t gates, int64_t tiles) {
  const int64_t together = Groups(rows, kShapes.most_rows(gates, tiles)).rows(0);
  return together * gates > fusedrnn::kChains && (tiles - 1) % (int64_t{1} << kShapes.log_tiles[gates][together]) == 0;
}

}  // namespace
