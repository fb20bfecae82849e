#include "weights.hpp"

#include <algorithm>
#include <cstring>

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

// to [tile][k][gate][lane] = from[(first_gate + gate) * H + unit][k]. In blocks of 16 k, so that the cache lines of
// `lanes` rows are read once.
template <class T>
void pack_gates(T* to, const T* from, int first_gate, int gates, int64_t hidden, int64_t depth, int lanes) {
  for (int64_t tile = 0; tile < tiles_of(hidden, lanes); ++tile) {
    const int64_t unit0 = tile * lanes;
    const int used = static_cast<int>(std::min<int64_t>(lanes, hidden - unit0));
    T* tile_to = to + tile * depth * gates * lanes;
    for (int64_t k0 = 0; k0 < depth; k0 += 16) {
      const int64_t k1 = std::min(k0 + 16, depth);
      for (int gate = 0; gate < gates; ++gate) {
        const T* rows = from + ((first_gate + gate) * hidden + unit0) * depth;
        for (int64_t k = k0; k < k1; ++k) {
          T* target = tile_to + (k * gates + gate) * lanes;
          for (int lane = 0; lane < used; ++lane) target[lane] = rows[lane * depth + k];
          for (int lane = used; lane < lanes; ++lane) target[lane] = T(0);
        }
      }
    }
  }
}

// to [tile][k][lane] = from[gate * H + unit][tile * lanes + lane], with k over the gates listed, then units.
template <class T>
void pack_transposed(T* to, const T* from, const int* gates, int gate_count, int64_t hidden, int64_t width,
                     int lanes) {
  for (int64_t tile = 0; tile < tiles_of(width, lanes); ++tile) {
    const int used = static_cast<int>(std::min<int64_t>(lanes, width - tile * lanes));
    for (int j = 0; j < gate_count; ++j) {
      const T* row = from + gates[j] * hidden * width + tile * lanes;
      for (int64_t unit = 0; unit < hidden; ++unit, row += width, to += lanes) {
        std::copy(row, row + used, to);
        std::fill(to + used, to + lanes, T(0));
      }
    }
  }
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

  pack.view.ih = to;
  pack_gates(to, weight_ih(), 0, static_cast<int>(gates_), hidden_, input_, lanes);
  to += padded * gates_ * input_;
  for (int phase = 0; phase < facts.phases; ++phase) {
    const auto& f = facts.phase[phase];
    pack.view.hh[phase] = to;
    pack_gates(to, weight_hh(), f.first_gate, f.gates, hidden_, hidden_, lanes);
    to += padded * f.gates * hidden_;
  }
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
  pack.view.ih_t = to;
  pack_transposed(to, weight_ih(), facts.input_gates, static_cast<int>(gates_), hidden_, input_, lanes);
  to += gates_ * hidden_ * wide;
  for (int phase = 0; phase < facts.phases; ++phase) {
    const auto& f = facts.phase[phase];
    pack.view.hh_t[phase] = to;
    pack_transposed(to, weight_hh(), f.column_gates, f.gates, hidden_, hidden_, lanes);
    to += f.gates * hidden_ * high;
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
