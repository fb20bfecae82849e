// The weights of one cell: a snapshot of the user's arrays, and its packed forms, made when an ISA first needs them.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "buffer.hpp"
#include "cpu/dispatch.hpp"
#include "problem.hpp"
#include "sizes.hpp"

namespace fusedrnn {

// The arrays of a cell, all contiguous, in shapes that its facts give. Null where there is none: biases, or all vectors
// or matrices of a cell that has none.
template <class C>
struct WeightArrays {
  const C* weight_ih;             // (G*H, I)
  const C* matrix[kMaxMatrices];  // (blocks*H, depth*H) each, but for h's units (facts.hpp); the first is weight_hh
  const C *bias_ih, *bias_hh;     // (G*H,), (recurrent_gates*H,)
  const C* vectors;               // (vectors, H)
  C epsilon;                      // added to a variance before its root is taken
  std::vector<Clock> clocks;      // of cells that have them; weights between a unit and a faster clock are not read
};

// The clocks of groups of equal size with these periods, which are positive and do not fall: one for each different
// period.
std::vector<Clock> clocks_of(const std::vector<std::int64_t>& periods, std::int64_t hidden);

template <class F>
class Weights {
 public:
  using Compute = typename F::Compute;

  // Copies the arrays. Sizes fit (sizes.hpp).
  // proj: the units of h, which is `hidden` for cells that do not project, and less for others.
  Weights(CellId cell, std::int64_t input, std::int64_t hidden, std::int64_t proj, const WeightArrays<Compute>& arrays);
  ~Weights();
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;

  CellId cell() const { return cell_; }
  std::int64_t input() const { return input_; }
  std::int64_t hidden() const { return hidden_; }
  std::int64_t proj() const { return proj_; }
  const WeightArrays<Compute>& arrays() const { return arrays_; }

  // The weights packed for forward, or for backward. The first call packs. Any thread may call at any time. Packing
  // holds no lock, as the child of a fork might then wait for ever: of threads that pack at the same time, one keeps
  // its result.
  const PackedWeights<F>& packed(const Isa& isa, bool with_backward) const;

 private:
  struct Pack {
    Buffer buffer;
    PackedWeights<F> view{};
  };
  Pack pack_forward(const FormatKernels<F>& kernels) const;
  void pack_biases(const CellFacts& f, int lanes, Compute* pre, Compute* rec) const;
  Pack pack_backward(const FormatKernels<F>& kernels) const;

  CellId cell_;
  std::int64_t input_, hidden_, proj_;
  Buffer buffers_[4 + kMaxMatrices];
  WeightArrays<Compute> arrays_;                               // its pointers are to buffers_
  mutable std::atomic<const Pack*> packs_[2 * kMaxIsas] = {};  // for each ISA, of forward and of backward
};

}  // namespace fusedrnn
