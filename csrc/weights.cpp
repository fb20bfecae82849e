#include "weights.hpp"

#include <algorithm>
#include <cstring>

#include "cpu/float_environment.hpp"
#include "cpu/threads.hpp"

namespace fusedrnn {

namespace {

using std::int64_t;

template <class T>
Buffer copy_of(const T* from, int64_t count) {
  if (!from) return {};
  Buffer buffer(static_cast<std::size_t>(count) * sizeof(T));
  std::memcpy(buffer.data(), from, buffer.bytes());
  return buffer;
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

template <class T>
Weights<T>::Weights(CellId cell, int64_t input, int64_t hidden, const T* weight_ih, const T* weight_hh,
                    const T* bias_ih, const T* bias_hh)
    : cell_(cell),
      gates_(current_isa().kernels->facts[static_cast<int>(cell)].gates),
      input_(input),
      hidden_(hidden),
      weight_ih_(copy_of(weight_ih, gates_ * hidden * input)),
      weight_hh_(copy_of(weight_hh, gates_ * hidden * hidden)),
      bias_ih_(copy_of(bias_ih, gates_ * hidden)),
      bias_hh_(copy_of(bias_hh, gates_ * hidden)) {}

template <class T>
void Weights<T>::pack_forward(const Kernels& kernels, Pack& pack) const {
  const CellFacts& facts = kernels.facts[static_cast<int>(cell_)];
  const int lanes = lanes_of<T>(kernels);
  const int64_t padded = tiles_of(hidden_, lanes) * lanes;
  const int64_t bias_size = padded * gates_;
  Buffer buffer(static_cast<std::size_t>(padded * gates_ * (input_ + hidden_) + 2 * bias_size) * sizeof(T));
  T* to = buffer.as<T>();

  const PackKernels<T>& kernel = pack_kernels<T>(kernels);
  const auto pack_one = [&](const T* from, int first_gate, int gates, int64_t depth) {
    T* const target = to;
    const int64_t size = padded * gates * depth;
    over_tiles(tiles_of(hidden_, lanes), static_cast<std::size_t>(size) * sizeof(T), [&](int64_t tile0, int64_t tile1) {
      kernel.gates(target, from, first_gate, gates, hidden_, depth, tile0, tile1);
    });
    to += size;
    return target;
  };
  pack.view.ih = pack_one(weight_ih(), 0, static_cast<int>(gates_), input_);
  for (int phase = 0; phase < facts.phases; ++phase) {
    pack.view.hh[phase] = pack_one(weight_hh(), facts.phase[phase].first_gate, facts.phase[phase].gates, hidden_);
  }
  const FloatEnvironment environment;
  T *pre = to, *rec = to + bias_size;
  pack.view.bias_pre = pre;
  pack.view.bias_rec = rec;
  std::fill(pre, pre + 2 * bias_size, T(0));
  for (int64_t unit = 0; unit < hidden_; ++unit) {
    for (int64_t gate = 0; gate < gates_; ++gate) {
      const int64_t at = (unit / lanes * gates_ + gate) * lanes + unit % lanes;
      const T b_ih = bias_ih() ? bias_ih()[gate * hidden_ + unit] : T(0);
      const T b_hh = bias_hh() ? bias_hh()[gate * hidden_ + unit] : T(0);
      pre[at] = facts.split[gate] ? b_ih : b_ih + b_hh;
      rec[at] = facts.split[gate] ? b_hh : T(0);
    }
  }
  pack.forward = std::move(buffer);
}

template <class T>
void Weights<T>::pack_backward(const Kernels& kernels, Pack& pack) const {
  const CellFacts& facts = kernels.facts[static_cast<int>(cell_)];
  const int lanes = lanes_of<T>(kernels);
  const int64_t wide = tiles_of(input_, lanes) * lanes, high = tiles_of(hidden_, lanes) * lanes;
  Buffer buffer(static_cast<std::size_t>(gates_ * hidden_ * (wide + high)) * sizeof(T));
  T* to = buffer.as<T>();
  const PackKernels<T>& kernel = pack_kernels<T>(kernels);
  const auto pack_one = [&](const T* from, const int* gates, int count, int64_t width, int64_t padded) {
    T* const target = to;
    const int64_t size = count * hidden_ * padded;
    over_tiles(padded / lanes, static_cast<std::size_t>(size) * sizeof(T), [&](int64_t tile0, int64_t tile1) {
      kernel.transposed(target, from, gates, count, hidden_, width, tile0, tile1);
    });
    to += size;
    return target;
  };
  pack.view.ih_t = pack_one(weight_ih(), facts.input_gates, static_cast<int>(gates_), input_, wide);
  for (int phase = 0; phase < facts.phases; ++phase) {
    const auto& f = facts.phase[phase];
    pack.view.hh_t[phase] = pack_one(weight_hh(), f.column_gates, f.gates, hidden_, high);
  }
  pack.backward = std::move(buffer);
}

template <class T>
PackedWeights<T> Weights<T>::packed(const Isa& isa, bool with_backward) const {
  std::lock_guard<std::mutex> lock(mutex_);
  Pack& pack = packs_[isa.index];
  if (!with_backward && !pack.forward.data()) pack_forward(*isa.kernels, pack);
  if (with_backward && !pack.backward.data()) pack_backward(*isa.kernels, pack);
  return pack.view;
}

template class Weights<float>;
template class Weights<double>;

}  // namespace fusedrnn
