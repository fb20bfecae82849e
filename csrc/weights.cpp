#include "weights.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>

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

template <class T>
int lanes_of(const Kernels& kernels) {
  return sizeof(T) == sizeof(float) ? kernels.lanes_f32 : kernels.lanes_f64;
}

int64_t tiles_of(int64_t units, int lanes) { return (units + lanes - 1) / lanes; }

template <class T>
const PackKernels<T>& pack_kernels(const Kernels& kernels) {
  if constexpr (sizeof(T) == sizeof(float))
    return kernels.pack_f32;
  else
    return kernels.pack_f64;
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

template <class T>
Weights<T>::Weights(CellId cell, int64_t input, int64_t hidden, const WeightArrays<T>& from)
    : cell_(cell), input_(input), hidden_(hidden), arrays_{} {
  const CellFacts& f = facts_of(cell_);
  Buffer* buffer = buffers_;
  arrays_.weight_ih = copy_to(*buffer++, from.weight_ih, f.gates * hidden * input);
  arrays_.bias_ih = copy_to(*buffer++, from.bias_ih, f.gates * hidden);
  arrays_.bias_hh = copy_to(*buffer++, from.bias_hh, f.recurrent_gates * hidden);
  arrays_.vectors = copy_to(*buffer++, from.vectors, f.vectors * hidden);
  arrays_.epsilon = from.epsilon;
  for (int m = 0; m < f.matrices; ++m) {
    const int64_t size = f.matrix[m].blocks * hidden * f.matrix[m].depth * hidden;
    arrays_.matrix[m] = copy_to(*buffer++, from.matrix[m], size);
  }
  arrays_.clocks = from.clocks;
}

template <class T>
Weights<T>::~Weights() {
  for (auto& slot : packs_) delete slot.load(std::memory_order_relaxed);
}

template <class T>
auto Weights<T>::pack_forward(const Kernels& kernels) const -> Pack {
  const CellFacts& f = facts_of(cell_);
  Pack pack;
  const int lanes = lanes_of<T>(kernels);
  const int64_t padded = tiles_of(hidden_, lanes) * lanes;
  const int64_t bias_size = padded * f.gates;
  int64_t lines = f.gates * input_;
  for (int i = 0; i < f.products; ++i) lines += f.product[i].gates * f.product[i].depth * hidden_;
  Buffer buffer(static_cast<std::size_t>(padded * lines + 2 * bias_size) * sizeof(T));
  T* to = buffer.as<T>();

  const PackKernels<T>& kernel = pack_kernels<T>(kernels);
  const auto pack_one = [&](const T* from, const int* blocks, int gates, int64_t depth) {
    T* const target = to;
    const int64_t size = padded * gates * depth;
    over_tiles(tiles_of(hidden_, lanes), static_cast<std::size_t>(size) * sizeof(T), [&](int64_t tile0, int64_t tile1) {
      kernel.gates(target, from, blocks, gates, hidden_, depth, tile0, tile1);
    });
    to += size;
    return target;
  };
  pack.view.ih = pack_one(arrays_.weight_ih, f.user_gate, f.gates, input_);
  for (int i = 0; i < f.products; ++i) {
    const Product& product = f.product[i];
    if (product.depth == 0) continue;
    int blocks[kMaxGates];
    for (int j = 0; j < product.gates; ++j) blocks[j] = block_of(f, product, j);
    pack.view.hh[i] = pack_one(arrays_.matrix[product.matrix], blocks, product.gates, product.depth * hidden_);
  }
  pack_biases(f, lanes, to, to + bias_size);
  pack.view.bias_pre = to;
  pack.view.bias_rec = to + bias_size;
  assert(reinterpret_cast<char*>(to + 2 * bias_size) == buffer.data() + buffer.bytes());
  pack.buffer = std::move(buffer);
  return pack;
}

// pre, rec: [tile][gate][lane].
template <class T>
void Weights<T>::pack_biases(const CellFacts& f, int lanes, T* pre, T* rec) const {
  const FloatEnvironment environment;
  const int64_t size = tiles_of(hidden_, lanes) * lanes * f.gates;
  std::fill(pre, pre + size, T(0));
  std::fill(rec, rec + size, T(0));
  for (int64_t unit = 0; unit < hidden_; ++unit) {
    for (int64_t gate = 0; gate < f.gates; ++gate) {
      const int64_t at = (unit / lanes * f.gates + gate) * lanes + unit % lanes;
      const int block = f.user_gate[gate];
      const T b_ih = arrays_.bias_ih ? arrays_.bias_ih[block * hidden_ + unit] : T(0);
      const bool has_hh = arrays_.bias_hh && block < f.recurrent_gates;
      const T b_hh = has_hh ? arrays_.bias_hh[block * hidden_ + unit] : T(0);
      pre[at] = f.split[gate] ? b_ih : b_ih + b_hh;
      rec[at] = f.split[gate] ? b_hh : T(0);
    }
  }
}

template <class T>
auto Weights<T>::pack_backward(const Kernels& kernels) const -> Pack {
  const CellFacts& f = facts_of(cell_);
  Pack pack;
  const int lanes = lanes_of<T>(kernels);
  const int64_t wide = tiles_of(input_, lanes) * lanes, high = tiles_of(hidden_, lanes) * lanes;
  int64_t size_all = f.gates * hidden_ * wide;
  for (int i = 0; i < f.products; ++i) size_all += f.product[i].gates * f.product[i].depth * hidden_ * high;
  Buffer buffer(static_cast<std::size_t>(size_all) * sizeof(T));
  T* to = buffer.as<T>();
  const PackKernels<T>& kernel = pack_kernels<T>(kernels);
  const auto pack_one = [&](const T* from, const int* blocks, int count, int64_t width, int64_t stride,
                            int64_t padded) {
    T* const target = to;
    const int64_t size = count * hidden_ * padded;
    over_tiles(padded / lanes, static_cast<std::size_t>(size) * sizeof(T), [&](int64_t tile0, int64_t tile1) {
      kernel.transposed(target, from, blocks, count, hidden_, width, stride, tile0, tile1);
    });
    to += size;
    return target;
  };
  int blocks[kMaxGates];
  for (int j = 0; j < f.gates; ++j) blocks[j] = f.user_gate[f.input_gate[j]];
  pack.view.ih_t = pack_one(arrays_.weight_ih, blocks, f.gates, input_, input_, wide);
  for (int i = 0; i < f.products; ++i) {
    const Product& product = f.product[i];
    for (int j = 0; j < product.gates; ++j) blocks[j] = block_of(f, product, j);
    const int64_t stride = product.depth * hidden_;
    for (int part = 0; part < product.depth; ++part) {
      const T* const from = arrays_.matrix[product.matrix] + part * hidden_;
      T* const target = pack_one(from, blocks, product.gates, hidden_, stride, high);
      if (part == 0) pack.view.hh_t[i] = target;
    }
  }
  assert(reinterpret_cast<char*>(to) == buffer.data() + buffer.bytes());
  pack.buffer = std::move(buffer);
  return pack;
}

template <class T>
PackedWeights<T> Weights<T>::packed(const Isa& isa, bool with_backward) const {
  std::atomic<const Pack*>& slot = packs_[2 * isa.index + with_backward];
  const Pack* pack = slot.load(std::memory_order_acquire);
  if (!pack) {
    auto made = std::make_unique<Pack>(with_backward ? pack_backward(*isa.kernels) : pack_forward(*isa.kernels));
    made->view.vectors = arrays_.vectors;
    made->view.epsilon = arrays_.epsilon;
    made->view.clocks = arrays_.clocks.data();
    made->view.clock_count = static_cast<int>(arrays_.clocks.size());
    if (slot.compare_exchange_strong(pack, made.get(), std::memory_order_acq_rel)) pack = made.release();
  }
  return pack->view;
}

template class Weights<float>;
template class Weights<double>;

}  // namespace fusedrnn
