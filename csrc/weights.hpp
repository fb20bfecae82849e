// The weights of one cell: a snapshot of the user's arrays, and its packed forms, made when an ISA first needs them.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "buffer.hpp"
#include "cpu/dispatch.hpp"
#include "packing.hpp"
#include "sizes.hpp"

namespace fusedrnn {

// The clocks of groups of equal size with these periods, which are positive and do not fall: one for each different
// period.
std::vector<Clock> clocks_of(const std::vector<std::int64_t>& periods, std::int64_t hidden);

template <class F>
class Weights {
 public:
  using Compute = typename F::Compute;

  // Copies the arrays. Sizes fit (sizes.hpp).
  explicit Weights(const WeightView<Compute>& from);
  ~Weights();
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;

  CellId cell() const { return view_.cell; }
  std::int64_t input() const { return view_.input; }
  std::int64_t hidden() const { return view_.hidden; }
  std::int64_t proj() const { return view_.proj; }
  std::int64_t heads() const { return view_.heads; }
  const WeightView<Compute>& view() const { return view_; }
  const WeightArrays<Compute>& arrays() const { return view_.arrays; }

  // The weights packed for forward, or for backward. The first call packs. Any thread may call at any time. Packing
  // holds no lock, as the child of a fork might then wait for ever: of threads that pack at the same time, one keeps
  // its result.
  const PackedWeights<F>& packed(const Isa& isa, bool with_backward) const;

 private:
  struct Pack {
    Buffer buffer;
    Packing<F> packing;
  };

  Buffer buffers_[5 + kMaxMatrices];
  WeightView<Compute> view_;                                   // its pointers are to buffers_
  mutable std::atomic<const Pack*> packs_[2 * kMaxIsas] = {};  // for each ISA, of forward and of backward
};

}  // namespace fusedrnn
