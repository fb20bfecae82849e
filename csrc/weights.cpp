#include "weights.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "arena.hpp"
#include "cpu/float_environment.hpp"
#include "cpu/threads.hpp"

namespace fusedrnn {

namespace {

using std::int64_t;

// A copy of `count` elements that lives in `buffer`; null for null.
template <class T>
const T* copy_to(Buffer& buffer, const T* from, int64_t count) {
  if (!from) return nullptr;
  buffer = Buffer(static_cast<std::size_t>(count) * sizeof(T));
  std::memcpy(buffer.data(), from, buffer.bytes());
  return buffer.as<T>();
}

int64_t tiles_of(int64_t units, int lanes) { return (units + lanes - 1) / lanes; }

std::size_t round_up(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

// The matrix of a product that has none: a valid place, from which nothing is read.
template <class Storage>
PackedMatrix<Storage> unread(PackedMatrix<Storage> valid) {
  valid.tile_stride = 0;
  return valid;
}

// Runs pack(tile0, tile1) over all tiles, on more than one thread where there are bytes enough to share.
template <class Pack>
void over_tiles(int64_t tiles, std::size_t bytes, Pack&& pack) {
  constexpr std::size_t kWorthSharing = 512 * 1024;
  Team team(bytes < kWorthSharing ? 1 : useful_threads());
  struct Job {
    Pack& pack;
    int64_t tiles;
    int size;
  } job{pack, tiles, team.size()};
  team.run(
      [](void* context, int index) {
        const FloatEnvironment environment;  // for formats that round
        Job& j = *static_cast<Job*>(context);
        j.pack(j.tiles * index / j.size, j.tiles * (index + 1) / j.size);
      },
      &job);
}

}  // namespace

std::vector<Clock> clocks_of(const std::vector<int64_t>& periods, int64_t hidden) {
  std::vector<Clock> clocks;
  for (std::size_t i = 0; i < periods.size(); ++i) {
    const auto size = hidden / static_cast<int64_t>(periods.size()), first = static_cast<int64_t>(i) * size;
    if (i == 0 || periods[i] != periods[i - 1]) clocks.push_back({first, first, periods[i]});
    clocks.back().last += size;
  }
  return clocks;
}

template <class F>
Weights<F>::Weights(CellId cell, int64_t input, int64_t hidden, int64_t proj, const WeightArrays<Compute>& from)
    : cell_(cell), input_(input), hidden_(hidden), proj_(proj), arrays_{} {
  const CellFacts& f = facts_of(cell);
  assert(sizes_fit(f, hidden, input) && proj >= 1);
  assert(f.projection < 0 ? proj == hidden : proj <= hidden);
  Buffer* buffer = buffers_;
  arrays_.weight_ih = copy_to(*buffer++, from.weight_ih, f.gates * hidden * input);
  arrays_.bias_ih = copy_to(*buffer++, from.bias_ih, f.gates * hidden);
  arrays_.bias_hh = copy_to(*buffer++, from.bias_hh, f.recurrent_gates * hidden);
  arrays_.vectors = copy_to(*buffer++, from.vectors, f.vectors * hidden);
  arrays_.epsilon = from.epsilon;
  for (int m = 0; m < f.matrices; ++m) {
    const int64_t size = f.matrix[m].blocks * block_rows(f, m, hidden, proj) * matrix_columns(f, m, hidden, proj);
    arrays_.matrix[m] = copy_to(*buffer++, from.matrix[m], size);
  }
  arrays_.clocks = from.clocks;
}

template <class F>
Weights<F>::~Weights() {
  for (auto& slot : packs_) delete slot.load(std::memory_order_relaxed);
}

template <class F>
auto Weights<F>::pack_forward(const FormatKernels<F>& kernels) const -> Pack {
  const CellFacts& f = facts_of(cell_);
  const PackKernels<F>& kernel = kernels.pack;
  const int64_t tiles = tiles_of(hidden_, kernels.lanes);
  const int64_t bias_count = tiles * kernels.lanes * f.gates;
  const std::size_t bias_bytes = static_cast<std::size_t>(bias_count) * sizeof(Compute);
  std::size_t bytes = round_up(kernel.bytes(tiles, input_, f.gates)) + 2 * round_up(bias_bytes);
  const auto units_of = [&](int i) { return product_units(f, i, hidden_, proj_); };
  const auto depth_of = [&](int i) { return operand_size(f.product[i].from, f.product[i].depth, hidden_, proj_); };
  for (int i = 0; i < f.products; ++i) {
    bytes += round_up(kernel.bytes(tiles_of(units_of(i), kernels.lanes), depth_of(i), f.product[i].gates));
  }
  assert(bytes <= static_cast<std::size_t>(most_weight_bytes(f, hidden_, input_).value()));
  Pack pack;
  pack.buffer = Buffer(bytes);
  Arena places(pack.buffer.data());

  const auto pack_one = [&](const Compute* from, const int* blocks, int gates, int64_t units, int64_t depth) {
    const int64_t count = tiles_of(units, kernels.lanes);
    const std::size_t size = kernel.bytes(count, depth, gates);
    char* const memory = places.take<char>(static_cast<int64_t>(size));
    over_tiles(count, size, [&](int64_t tile0, int64_t tile1) {
      kernel.interleaved(memory, from, blocks, gates, units, depth, tile0, tile1);
    });
    return kernel.at(memory, count, depth, gates);
  };
  pack.view.ih = pack_one(arrays_.weight_ih, f.user_gate, f.gates, hidden_, input_);
  for (int i = 0; i < f.products; ++i) {
    const Product& product = f.product[i];
    pack.view.hh[i] = unread(pack.view.ih);
    if (product.depth == 0) continue;
    int blocks[kMaxGates];
    for (int j = 0; j < product.gates; ++j) blocks[j] = block_of(f, product, j);
    pack.view.hh[i] = pack_one(arrays_.matrix[product.matrix], blocks, product.gates, units_of(i), depth_of(i));
  }
  Compute* const pre = places.take<Compute>(bias_count);
  Compute* const rec = places.take<Compute>(bias_count);
  pack_biases(f, kernels.lanes, pre, rec);
  pack.view.bias_pre = pre;
  pack.view.bias_rec = rec;
  assert(places.used == pack.buffer.bytes());
  return pack;
}

// pre, rec: [tile][gate][lane].
template <class F>
void Weights<F>::pack_biases(const CellFacts& f, int lanes, Compute* pre, Compute* rec) const {
  const FloatEnvironment environment;
  const int64_t size = tiles_of(hidden_, lanes) * lanes * f.gates;
  std::fill(pre, pre + size, Compute(0));
  std::fill(rec, rec + size, Compute(0));
  for (int64_t unit = 0; unit < hidden_; ++unit) {
    for (int64_t gate = 0; gate < f.gates; ++gate) {
      const int64_t at = (unit / lanes * f.gates + gate) * lanes + unit % lanes;
      const int block = f.user_gate[gate];
      const Compute b_ih = arrays_.bias_ih ? arrays_.bias_ih[block * hidden_ + unit] : Compute(0);
      const bool has_hh = arrays_.bias_hh && block < f.recurrent_gates;
      const Compute b_hh = has_hh ? arrays_.bias_hh[block * hidden_ + unit] : Compute(0);
      pre[at] = f.split[gate] ? b_ih : b_ih + b_hh;
      rec[at] = f.split[gate] ? b_hh : Compute(0);
    }
  }
}

template <class F>
auto Weights<F>::pack_backward(const FormatKernels<F>& kernels) const -> Pack {
  const CellFacts& f = facts_of(cell_);
  const PackKernels<F>& kernel = kernels.pack;
  const int64_t wide = tiles_of(input_, kernels.lanes);
  std::size_t bytes = round_up(kernel.bytes(wide, f.gates * hidden_, 1));
  const auto depth_of = [&](int i) { return f.product[i].gates * product_units(f, i, hidden_, proj_); };
  const auto width_of = [&](int i) { return operand_size(f.product[i].from, 1, hidden_, proj_); };  // of one vector
  for (int i = 0; i < f.products; ++i) {
    const int64_t tiles = tiles_of(width_of(i), kernels.lanes);
    bytes += f.product[i].depth * round_up(kernel.bytes(tiles, depth_of(i), 1));
  }
  assert(bytes <= static_cast<std::size_t>(most_weight_bytes(f, hidden_, input_).value()));
  Pack pack;
  pack.buffer = Buffer(bytes);
  Arena places(pack.buffer.data());

  // `from` has blocks of `units` rows.
  const auto pack_one = [&](const Compute* from, const int* blocks, int count, int64_t units, int64_t width,
                            int64_t stride) {
    const int64_t tiles = tiles_of(width, kernels.lanes);
    const std::size_t size = kernel.bytes(tiles, count * units, 1);
    char* const memory = places.take<char>(static_cast<int64_t>(size));
    over_tiles(tiles, size, [&](int64_t tile0, int64_t tile1) {
      kernel.transposed(memory, from, blocks, count, units, width, stride, tile0, tile1);
    });
    return kernel.at(memory, tiles, count * units, 1);
  };
  int blocks[kMaxGates];
  for (int j = 0; j < f.gates; ++j) blocks[j] = f.user_gate[f.input_gate[j]];
  pack.view.ih_t = pack_one(arrays_.weight_ih, blocks, f.gates, hidden_, input_, input_);
  for (int i = 0; i < f.products; ++i) {
    const Product& product = f.product[i];
    for (int j = 0; j < product.gates; ++j) blocks[j] = block_of(f, product, j);
    const int64_t units = product_units(f, i, hidden_, proj_), width = width_of(i);
    pack.view.hh_t[i][0] = unread(pack.view.ih_t);
    for (int part = 0; part < product.depth; ++part) {
      const Compute* const from = arrays_.matrix[product.matrix] + part * width;
      pack.view.hh_t[i][part] = pack_one(from, blocks, product.gates, units, width, product.depth * width);
    }
  }
  assert(places.used == pack.buffer.bytes());
  return pack;
}

template <class F>
const PackedWeights<F>& Weights<F>::packed(const Isa& isa, bool with_backward) const {
  std::atomic<const Pack*>& slot = packs_[2 * isa.index + with_backward];
  const Pack* pack = slot.load(std::memory_order_acquire);
  if (!pack) {
    const FormatKernels<F>& kernels = isa.kernels->of_format<F>();
    auto made = std::make_unique<Pack>(with_backward ? pack_backward(kernels) : pack_forward(kernels));
    made->view.vectors = arrays_.vectors;
    made->view.epsilon = arrays_.epsilon;
    made->view.clocks = arrays_.clocks.data();
    made->view.clock_count = static_cast<int>(arrays_.clocks.size());
    if (slot.compare_exchange_strong(pack, made.get(), std::memory_order_acq_rel)) pack = made.release();
  }
  return pack->view;
}

#define RNN_INSTANTIATE(Format, ...) template class Weights<Format>;
RNN_FORMATS(RNN_INSTANTIATE)

}  // namespace fusedrnn
