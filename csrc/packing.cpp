#include "packing.hpp"

#include <algorithm>
#include <cassert>

#include "arena.hpp"
#include "platform/float_environment.hpp"
#include "sizes.hpp"

namespace fusedrnn {

namespace {

using std::int64_t;

// Blocks of `units` rows each.
template <class C>
RowMatrix<C> row_matrix(bool transposed, const C* from, const int* blocks, int count, int64_t units, int64_t width,
                        int64_t stride, int64_t heads = 1) {
  RowMatrix<C> m{from, transposed, {}, count, units, width, stride, heads};
  std::copy(blocks, blocks + count, m.block);
  return m;
}

}  // namespace

template <class F>
std::size_t Packing<F>::lay_out(const WeightView<C>& w, const FormatKernels<F>& kernels, bool backward, bool in_place,
                                char* memory) {
  w_ = w;
  kernels_ = &kernels;
  backward_ = backward;
  in_place_ = in_place;
  memory_ = memory;
  used_ = 0;
  packed_ = {};
  count_ = tasks_ = 0;
  joins_ = 0;
  pre_ = rec_ = nullptr;
  if (backward)
    lay_out_backward();
  else
    lay_out_forward();
  assert(used_ <= static_cast<std::size_t>(most_weight_bytes(facts_of(w.cell), w.hidden, w.input, w.heads).value()));
  packed_.vectors = w.arrays.vectors;
  packed_.epsilon = w.arrays.epsilon;
  packed_.clocks = w.arrays.clocks;
  packed_.clock_count = w.arrays.clock_count;
  return used_;
}

template <class F>
void Packing<F>::move_to(char* memory) {
  if (!in_place_) {
    lay_out(w_, *kernels_, backward_, false, memory);
    return;
  }
  memory_ = memory;
  used_ = 0;
  if (!backward_) take_biases();
}

// As an arena's (arena.hpp).
template <class F>
template <class T>
T* Packing<F>::take(int64_t count) {
  Arena arena(memory_);
  arena.used = used_;
  T* const place = arena.take<T>(count);
  used_ = arena.used;
  return place;
}

template <class F>
auto Packing<F>::add(const RowMatrix<C>& from, int64_t left_out) -> Matrix {
  assert(count_ < kMost);
  RowMatrix<C>& rows = rows_[count_++] = from;
  if (in_place_) return {{nullptr, 0}, &rows, 0, 0};
  const int64_t tiles = rows.heads * rows.tiles_of_head(kernels_->lanes) - left_out;
  const auto& kernel = kernels_->pack;
  char* const memory = take<char>(static_cast<int64_t>(kernel.bytes(tiles, rows.depth(), rows.gates())));
  task_[tasks_++] = {memory, &rows, tiles};
  return {kernel.at(memory, tiles, rows.depth(), rows.gates()), nullptr, 0, 0};
}

template <class F>
auto Packing<F>::join(RowMatrix<C> from, int first_gate, bool recurrent) -> Joined {
  if (in_place_) return {};
  const CellFacts& f = facts_of(w_.cell);
  from.joined = joined_vectors(f, from.blocks, from.units / from.heads, from.width, kernels_->lanes);
  if (from.joined == 0) return {};
  const PackedMatrix<typename F::Storage> packed = add(from).packed;
  C* const bias = take<C>(from.heads * from.joined * kernels_->lanes);
  joined_[joins_++] = {bias, first_gate, from.blocks, from.joined, recurrent};
  return {from.joined, packed, bias};
}

// Of a product without a matrix: a valid place, from which nothing is read.
template <class F>
auto Packing<F>::unread(Matrix valid) -> Matrix {
  valid.packed.tile_stride = 0;
  return valid;
}

template <class F>
void Packing<F>::lay_out_forward() {
  const CellFacts& f = facts_of(w_.cell);
  const RowMatrix<C> ih =
      row_matrix(false, w_.arrays.weight_ih, f.user_gate, f.gates, w_.hidden, w_.input, w_.input, w_.heads);
  packed_.ih_joined = join(ih, 0, false);
  packed_.ih = add(ih, packed_.ih_joined.vectors > 0 && w_.heads == 1 ? 1 : 0);
  for (int i = 0; i < f.products; ++i) {
    const Product& product = f.product[i];
    packed_.hh[i] = unread(packed_.ih);
    if (product.depth == 0) continue;
    int blocks[kMaxGates];
    for (int j = 0; j < product.gates; ++j) blocks[j] = block_of(f, product, j);
    const int64_t depth = operand_size(product.from, product.depth, w_.hidden, w_.proj) / w_.heads;
    const int64_t units = product_units(f, i, w_.hidden, w_.proj);
    const RowMatrix<C> hh =
        row_matrix(false, w_.arrays.matrix[product.matrix], blocks, product.gates, units, depth, depth, w_.heads);
    packed_.hh[i] = add(hh);
    packed_.hh_joined[i] = join(hh, product.first_gate, true);
  }
  take_biases();
}

template <class F>
void Packing<F>::take_biases() {
  const CellFacts& f = facts_of(w_.cell);
  const int64_t biases = Heads(w_.hidden, w_.heads, kernels_->lanes).all_tiles() * kernels_->lanes * f.gates;
  packed_.bias_pre = pre_ = take<C>(biases);
  packed_.bias_rec = rec_ = take<C>(biases);
}

template <class F>
void Packing<F>::lay_out_backward() {
  const CellFacts& f = facts_of(w_.cell);
  int blocks[kMaxGates];
  for (int j = 0; j < f.gates; ++j) blocks[j] = f.user_gate[f.input_gate[j]];
  packed_.ih_t = add(row_matrix(true, w_.arrays.weight_ih, blocks, f.gates, w_.hidden, w_.input, w_.input));
  for (int i = 0; i < f.products; ++i) {
    const Product& product = f.product[i];
    for (int j = 0; j < product.gates; ++j) blocks[j] = block_of(f, product, j);
    const int64_t width = operand_size(product.from, 1, w_.hidden, w_.proj) / w_.heads;  // of one vector
    const int64_t units = product_units(f, i, w_.hidden, w_.proj);
    packed_.hh_t[i][0] = unread(packed_.ih_t);
    for (int part = 0; part < product.depth; ++part) {
      packed_.hh_t[i][part] = add(row_matrix(true, w_.arrays.matrix[product.matrix] + part * width, blocks,
                                             product.gates, units, width, product.depth * width, w_.heads));
    }
  }
}

template <class F>
void Packing<F>::run(int part, int parts) const {
  const FloatEnvironment environment;  // biases are added, and formats may round
  const auto& kernel = kernels_->pack;
  for (int i = 0; i < tasks_; ++i) {
    const Task& task = task_[i];
    kernel.pack(task.memory, *task.from, task.tiles * part / parts, task.tiles * (part + 1) / parts);
  }
  if (!pre_) return;
  const int64_t tiles = Heads(w_.hidden, w_.heads, kernels_->lanes).all_tiles();
  pack_biases(tiles * part / parts, tiles * (part + 1) / parts);
}

// [tile][gate][lane], zeros in lanes past the last unit.
template <class F>
void Packing<F>::pack_biases(int64_t tile0, int64_t tile1) const {
  const CellFacts& f = facts_of(w_.cell);
  const WeightArrays<C>& a = w_.arrays;
  const int lanes = kernels_->lanes;
  const Heads heads(w_.hidden, w_.heads, lanes);
  std::fill(pre_ + tile0 * lanes * f.gates, pre_ + tile1 * lanes * f.gates, C(0));
  std::fill(rec_ + tile0 * lanes * f.gates, rec_ + tile1 * lanes * f.gates, C(0));
  for (int64_t unit = heads.unit_of(tile0); unit < heads.unit_of(tile1); ++unit) {
    const int64_t head = unit / heads.units, of_head = unit % heads.units;
    const int64_t tile = head * heads.tiles + of_head / lanes;
    for (int64_t gate = 0; gate < f.gates; ++gate) {
      const int64_t at = (tile * f.gates + gate) * lanes + of_head % lanes;
      const int block = f.user_gate[gate];
      const C b_ih = a.bias_ih ? a.bias_ih[block * w_.hidden + unit] : C(0);
      const bool has_hh = a.bias_hh && block < f.recurrent_gates;
      const C b_hh = has_hh ? a.bias_hh[block * w_.hidden + unit] : C(0);
      pre_[at] = f.split[gate] ? b_ih : b_ih + b_hh;
      rec_[at] = f.split[gate] ? b_hh : C(0);
    }
  }
  if (joins_ == 0) return;
  for (int64_t head = tile0 / heads.tiles; head < heads.count; ++head) {
    const int64_t tile = (head + 1) * heads.tiles - 1;  // the short one
    if (tile0 <= tile && tile < tile1) join_biases(head, tile, heads.units % lanes);
  }
}

// Of a head's short tile: [vector][lane].
template <class F>
void Packing<F>::join_biases(int64_t head, int64_t tile, int64_t units) const {
  const int64_t lanes = kernels_->lanes, gates = facts_of(w_.cell).gates;
  for (int i = 0; i < joins_; ++i) {
    const JoinedBias& joined = joined_[i];
    C* to = joined.to + head * joined.vectors * lanes;
    std::fill(to, to + joined.vectors * lanes, C(0));
    const C* from = (joined.recurrent ? rec_ : pre_) + (tile * gates + joined.first_gate) * lanes;
    for (int gate = 0; gate < joined.gates; ++gate, from += lanes, to += units) std::copy(from, from + units, to);
  }
}

#define RNN_INSTANTIATE(Format, ...) template class Packing<Format>;
RNN_FORMATS(RNN_INSTANTIATE)

}  // namespace fusedrnn
