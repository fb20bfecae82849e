// The packed forms of weights: where they lie in memory, and how they are made, by any number of workers.
#pragma once

#include <cstdint>

#include "heads.hpp"
#include "problem.hpp"

namespace fusedrnn {

// The arrays of a cell, all contiguous, in shapes that its facts give. Null where there is none: biases, or all vectors
// or matrices of a cell that has none.
template <class C>
struct WeightArrays {
  const C* weight_ih;  // (G*H, I)
  // (blocks*H, depth*H) each, but for h's units and heads (facts.hpp); the first is weight_hh
  const C* matrix[kMaxMatrices];
  const C *bias_ih, *bias_hh;  // (G*H,), (recurrent_gates*H,)
  const C* vectors;            // (vectors, H)
  C epsilon;                   // added to a variance before its root is taken
  const Clock* clocks;         // of cells that have them, by falling speed; weights between a unit and a faster
  int clock_count;             // clock are not read
};

// Weights where they lie.
template <class C>
struct WeightView {
  CellId cell;
  std::int64_t input, hidden;
  std::int64_t proj;   // the units of h: `hidden` for cells that do not project, and less for others
  std::int64_t heads;  // 1 for cells that do not take them
  WeightArrays<C> arrays;
  Probabilities options = {};  // of regularisation
  Activations activations = {};
};

// The vectors in which the gates of a head's short last tile are joined; 0 where that saves no vector, or so few
// multiply-adds that it does not pay to bring the sums into order afterwards.
inline int joined_vectors(const CellFacts& f, int gates, std::int64_t units, std::int64_t depth, int lanes) {
  constexpr std::int64_t kLeastSaved = 64;  // of a row
  const auto vectors = static_cast<int>((gates * (units % lanes) + lanes - 1) / lanes);
  const bool pays = vectors > 0 && (gates - vectors) * depth >= kLeastSaved;
  return pays && !f.clocked ? vectors : 0;
}

// One packed form of weights, for forward or for backward. To pack is to run() all parts.
template <class F>
class Packing {
 public:
  using C = typename F::Compute;

  Packing() = default;
  Packing(const Packing&) = delete;
  Packing& operator=(const Packing&) = delete;
  // Lays the form out in `memory`, which begins at a multiple of 64 bytes; its bytes, which it only measures where
  // `memory` is null. With `in_place`, matrices are not packed: products read them where they lie.
  std::size_t lay_out(const WeightView<C>& w, const FormatKernels<F>& kernels, bool backward, bool in_place,
                      char* memory);
  // The same, in other memory.
  void move_to(char* memory);

  // Its pointers are to the memory, to the weights' arrays, and to this object.
  const PackedWeights<F>& packed() const { return packed_; }
  std::size_t bytes() const { return used_; }
  // Makes one of `parts` parts of what lies in the memory.
  void run(int part, int parts) const;

 private:
  template <class T>
  T* take(std::int64_t count);
  static constexpr int kMostJoins = 1 + kMaxProducts;
  static constexpr int kMost = kMostJoins + (1 + kMaxProducts * kMaxDepth);
  struct Task {
    char* memory;
    const RowMatrix<C>* from;  // of rows_
    std::int64_t tiles;
  };
  struct JoinedBias {
    C* to;
    int first_gate, gates, vectors;
    bool recurrent;
  };

  using Matrix = typename PackedWeights<F>::Matrix;
  using Joined = typename PackedWeights<F>::Joined;
  // The packed form of a matrix but for so many of its last tiles, or what reads it in place.
  Matrix add(const RowMatrix<C>& from, std::int64_t left_out = 0);
  // The joined form of its short tiles, if it pays; the gate of its first block, and whether biases are bias_rec's.
  Joined join(RowMatrix<C> from, int first_gate, bool recurrent);
  static Matrix unread(Matrix valid);
  void take_biases();
  void lay_out_forward();
  void lay_out_backward();
  void pack_biases(std::int64_t tile0, std::int64_t tile1) const;
  void join_biases(std::int64_t head, std::int64_t tile, std::int64_t units) const;

  WeightView<C> w_{};
  const FormatKernels<F>* kernels_ = nullptr;
  bool backward_ = false, in_place_ = false;
  char* memory_ = nullptr;
  std::size_t used_ = 0;
  PackedWeights<F> packed_{};
  RowMatrix<C> rows_[kMost];
  Task task_[kMost];
  JoinedBias joined_[kMostJoins];
  int count_ = 0, tasks_ = 0, joins_ = 0;
  C *pre_ = nullptr, *rec_ = nullptr;  // biases
};

}  // namespace fusedrnn
