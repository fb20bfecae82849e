// The weights of one cell: a snapshot of what the user gave, and its packed forms, made when an ISA first needs them.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "buffer.hpp"
#include "cpu/dispatch.hpp"
#include "problem.hpp"

namespace fusedrnn {

// What a cell is given, all contiguous; facts.hpp says which shapes. Null where there is none: biases, or all vectors
// or matrices of a cell that has none.
template <class T>
struct WeightArrays {
  const T* weight_ih;             // (G*H, I)
  const T* matrix[kMaxMatrices];  // (gates*H, depth*H) each; the first is weight_hh
  const T *bias_ih, *bias_hh;     // (G*H,), (recurrent_gates*H,)
  const T* vectors;               // (vectors, H)
  T epsilon;                      // what normalisation adds to a variance
  std::vector<Clock> clocks;      // of cells that have them; what a unit would see of a faster clock is not read
};

// Those of groups of equal size with these periods, which are positive and do not fall: one for each different period.
std::vector<Clock> clocks_of(const std::vector<std::int64_t>& periods, std::int64_t hidden);

template <class T>
class Weights {
 public:
  // Copies the arrays.
  Weights(CellId cell, std::int64_t input, std::int64_t hidden, const WeightArrays<T>& arrays);
  ~Weights();
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;

  CellId cell() const { return cell_; }
  std::int64_t input() const { return input_; }
  std::int64_t hidden() const { return hidden_; }
  const WeightArrays<T>& arrays() const { return arrays_; }

  // What forward reads, or what backward reads, packed at first. Any thread may ask at any time. No lock is held while
  // packing, which the child of a fork would wait for: of threads that pack at the same time, one keeps its result.
  PackedWeights<T> packed(const Isa& isa, bool with_backward) const;

 private:
  struct Pack {
    Buffer buffer;
    PackedWeights<T> view{};
  };
  Pack pack_forward(const Kernels& kernels) const;
  void pack_biases(const CellFacts& f, int lanes, T* pre, T* rec) const;
  Pack pack_backward(const Kernels& kernels) const;

  CellId cell_;
  std::int64_t input_, hidden_;
  Buffer buffers_[4 + kMaxMatrices];
  WeightArrays<T> arrays_;                                     // its pointers are to buffers_
  mutable std::atomic<const Pack*> packs_[2 * kMaxIsas] = {};  // for each ISA, of forward and of backward
};

}  // namespace fusedrnn
