// The weights of one cell: a snapshot of what the user gave, and its packed forms, made when an ISA first needs them.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>

#include "buffer.hpp"
#include "cpu/dispatch.hpp"
#include "problem.hpp"

namespace fusedrnn {

template <class T>
class Weights {
 public:
  // weight_ih (G*H, I), weight_hh (G*H, H), biases (G*H,) or null, all contiguous; copied.
  Weights(CellId cell, std::int64_t input, std::int64_t hidden, const T* weight_ih, const T* weight_hh,
          const T* bias_ih, const T* bias_hh);

  CellId cell() const { return cell_; }
  std::int64_t input() const { return input_; }
  std::int64_t hidden() const { return hidden_; }
  const T* weight_ih() const { return weight_ih_.as<T>(); }
  const T* weight_hh() const { return weight_hh_.as<T>(); }
  const T* bias_ih() const { return bias_ih_.as<T>(); }  // null if none
  const T* bias_hh() const { return bias_hh_.as<T>(); }

  // Any thread may ask at any time.
  PackedWeights<T> packed(const Isa& isa, bool with_backward) const;

 private:
  struct Pack {
    Buffer forward, backward;
    PackedWeights<T> view{};
  };
  void pack_forward(const Kernels& kernels, Pack& pack) const;
  void pack_backward(const Kernels& kernels, Pack& pack) const;

  CellId cell_;
  std::int64_t gates_, input_, hidden_;
  Buffer weight_ih_, weight_hh_, bias_ih_, bias_hh_;
  mutable std::mutex mutex_;
  mutable Pack packs_[kMaxIsas];
};

}  // namespace fusedrnn
