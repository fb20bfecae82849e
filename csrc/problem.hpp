// The data that drivers work on: sizes, plain pointers, and the rules for touching memory. No Python, no SIMD.
//
// Letters: T seq_len, B batch_size, I input_size, H hidden_size, P units of h (proj_size, or H), G gates, S slots, VL
// lanes of a vector.
// Arrays are C-contiguous; nothing needs to be aligned beyond its element, unless said.
#pragma once

#include <cstddef>
#include <cstdint>

#include "activation.hpp"
#include "cells/facts.hpp"
#include "format.hpp"
#include "regularisation.hpp"

namespace fusedrnn {

// The largest period, and the most steps that a clock may have counted before a call.
constexpr std::int64_t kMostSteps = std::int64_t{1} << 62;

// A packed matrix: [tile][k][gate][lane]. A row of units, and the rows of a batch, are cut into tiles of VL units, each
// head (heads.hpp) by itself; the last tile may be short, and its lanes past the last unit hold zeros. A tile begins
// every `tile_stride` elements.
template <class Storage>
struct PackedMatrix {
  const Storage* first;
  std::int64_t tile_stride;
};

// A matrix as users have it: blocks of `units` rows, a row every `stride` elements, of which `width` are taken. Its
// packed form has, at [tile][k][gate][lane], from[block[gate] * units + tile * VL + lane][k]; or, transposed, one gate:
// from[block[j] * units + unit][tile * VL + lane], with k over j, then units. Where the units of a block are cut into
// heads, a tile has units of one head; transposed, each head has tiles of its own, for the whole width, with k over j,
// then its own units. Or it is the short last tiles alone, one of each head, whose blocks lie *joined*: their units,
// block after block, in so many vectors, which are the gates of the packed form.
template <class C>
struct RowMatrix {
  const C* from;
  bool transposed;
  int block[kMaxGates], blocks;
  std::int64_t units, width, stride, heads;
  int joined = 0;  // vectors; 0 for all other matrices

  std::int64_t tiles_of_head(std::int64_t lanes) const {
    return joined ? 1 : ((transposed ? width : units / heads) + lanes - 1) / lanes;
  }
  std::int64_t depth() const { return transposed ? blocks * (units / heads) : width; }
  int gates() const { return transposed ? 1 : joined ? joined : blocks; }
};

// A matrix of weights: packed, or read where it lies.
template <class S, class C>
struct WeightMatrix {
  PackedMatrix<S> packed;
  const RowMatrix<C>* rows;  // in place; null where it is packed
  std::int64_t k, tile;      // of its first element; counted already where it is packed
};

// The short last tile of each head once more, with its gates joined (RowMatrix).
template <class S, class C>
struct JoinedTiles {
  int vectors;  // 0: there are none
  PackedMatrix<S> packed;
  const C* bias;  // [head][vector][lane]
};

// Each array begins at a multiple of 64 bytes. No matrix and no bias of a pass that was packed for is null: a product
// without a matrix points to the input's weights, of which it reads nothing.
template <class F>
struct PackedWeights {
  using Compute = typename F::Compute;
  using Matrix = WeightMatrix<typename F::Storage, Compute>;
  using Joined = JoinedTiles<typename F::Storage, Compute>;
  // Forward, gate-interleaved: one for the input and one for each product.
  Matrix ih, hh[kMaxProducts];
  Joined ih_joined, hh_joined[kMaxProducts];
  const Compute* bias_pre;  // [tile][gate][lane]: bias_ih + bias_hh, or bias_ih alone for gates that are split
  const Compute* bias_rec;  // [tile][gate][lane]: bias_hh of gates that are split
  // Backward, transposed, of one gate: tiles of inputs or units, k over the gates in the order of the cell's columns,
  // then over units. A product has one for each vector of H elements of its operand.
  Matrix ih_t, hh_t[kMaxProducts][kMaxDepth];
  const Compute* vectors;  // (vectors, H), not packed
  Compute epsilon;         // added to a variance before its root is taken
  const Clock* clocks;     // of cells that have them, from the first unit to the last
  int clock_count;
};

template <class C>
struct Problem {
  CellId cell;
  std::int64_t seq_len, batch, input, hidden;
  std::int64_t proj;   // P; H in cells that do not project
  std::int64_t heads;  // of equal size (heads.hpp); 1 in cells that do not take them
  bool reverse;
  const std::int64_t* lengths;  // (B,), each in 0..T; null: all T
  // (T,): the row of each sequence at which the rows of time t begin, where sequences are *packed*: x, y and all other
  // (T, B, .) have only rows whose length is more than t, and lengths do not rise; null: they begin at t * B.
  const std::int64_t* offsets;
  const std::int64_t* start;  // (B,): steps that a row's clocks have counted before; null: none
  // (T, B): other than 0 where a row's new *episode* begins: neither state nor gradient passes between that time and
  // the time before it. Null: nowhere.
  const std::uint8_t* resets;
  const std::int64_t* counts;   // (T, B): what clocks count at each step; null unless the cell has them, beside resets
  const C* x;                   // (T, B, I); steps past a row's length are never read
  const C* state0[kMaxStates];  // (B, units*H) each, h's (B, P), in the order of the cell's states; null: empty
  const C* reset_state[kMaxStates];  // as state0: the states before the first step of an episode
  const C* below;                    // (T, B, H) for cells that read c of the layer below; null: zeros
  C* c;                              // (T, B, H) for the same cells: c of every step, as y; null if it is not asked for
  C* y;                              // (T, B, P): written by forward (zeros past a row's length), not read by backward
  std::int64_t y_stride;             // elements from row to row of y: at least P
  C* state_n[kMaxStates];            // as state0, written by forward; h's may be null, others may be the running state
  Activations activations;           // those of the weights
  Regularisation<C> drop;            // its source is the caller's, its options those of the weights
  // The reserve, of which drop.c is part: written by forward in training, read by backward; both null in inference.
  C* slots;               // (T, B, S, H)
  C* h;                   // (T, B, P): as y; it may be y
  std::int64_t h_stride;  // elements from row to row of h
};

template <class C>
struct Gradients {
  const C* dy;                    // (T, B, P) or null for zeros; not read past a row's length
  std::int64_t dy_stride;         // elements from row to row of dy
  const C* dc;                    // (T, B, H) or null for zeros: the gradient of p.c
  C* dbelow;                      // (T, B, H), zeros past a row's length if dx is not null; null where p.below is
  const C* dstate_n[kMaxStates];  // as state_n, or null for zeros
  C* dx;                          // (T, B, I), zeros past a row's length; null if it is not asked for
  C* dstate0[kMaxStates];         // as state0; meanwhile the gradients that are carried from step to step
  C* dreset[kMaxStates];          // as state0: of reset_state, the sum of a row's; null if it is not asked for
  // Of weights; null where one is not asked for.
  C* dweight_ih;             // (G*H, I)
  C* dmatrix[kMaxMatrices];  // (blocks*H, depth*H) each, or as h's units or heads make it; the first is weight_hh's
  C* dbias_ih;               // (G*H,)
  C* dbias_hh;               // (recurrent_gates*H,)
  C* dvectors;               // (vectors, H)
};

// A place in a group of workers that meet (cpu/barrier.hpp); without a barrier, a worker has nobody to meet.
class Barrier;
struct Meeting {
  Barrier* barrier = nullptr;
  int member = 0;
};
void barrier_wait(const Meeting& meeting);

// Steps first..last-1, counted in the order in which forward runs them. A problem may be run a range at a time, in
// order: what the ranges share is in its arrays and in `shared`.
struct Range {
  std::int64_t first, last;
};

// One thread's share: rows x tiles of the recurrence. Workers that share rows of a head meet at `steps` in every phase.
struct Worker {
  int index, count;
  std::int64_t row0, row1, tile0, tile1;
  std::int64_t h_tile0, h_tile1;  // of h's units; as above in cells that do not project
  Meeting steps;
  char* local;   // scratch of this worker, 64-byte aligned
  char* shared;  // scratch of all workers; it begins with empty states (empty.hpp)
  std::size_t local_bytes;
  std::int64_t ring;  // backward: the steps whose gradients `shared` holds
};

// The part of an ISA's kernels that depends on the format: the work of one worker, and the scratch that it needs for
// its rows and tiles. p.cell says which cell. Training if p.slots is set. Cells with clocks run all steps at once.
template <class F>
struct SequenceKernels {
  using P = Problem<typename F::Compute>;
  using G = Gradients<typename F::Compute>;
  using W = PackedWeights<F>;
  // Of a worker that has been given its rows and tiles.
  std::size_t (*forward_local_bytes)(const P&, const W&, const Worker&);
  std::size_t (*forward_shared_bytes)(const P&, const W&);
  void (*forward)(const P&, const W&, const Worker&, const Range&);
  std::size_t (*backward_local_bytes)(const P&, const W&, const Worker&);
  std::size_t (*backward_shared_bytes)(const P&, std::int64_t ring);
  // The recurrence, from the last step of the range to the first; later ranges come before. It leaves the gradients of
  // pre-activations in a ring of steps in `shared`, from which come
  void (*backward)(const P&, const W&, const G&, const Worker&, const Range&);
  // the worker's share of dx (added to, or written) and dc_below of these steps,
  void (*input_gradient)(const P&, const W&, const G&, const Worker&, const Range&, bool add);
  // and the worker's share of the gradients of weights, of a whole chunk (steps.hpp); the chunk of the last steps is
  // written, the others are added. All workers have run what comes before.
  void (*weight_gradients)(const P&, const W&, const G&, const Worker&, const Range&);
};

// Packing (cpu/pack.hpp). A packed matrix has `tiles` tiles of `gates` gates; k runs from 0 to depth - 1.
template <class F>
struct PackKernels {
  std::size_t (*bytes)(std::int64_t tiles, std::int64_t depth, int gates);
  // The matrix that is packed at `memory`.
  PackedMatrix<typename F::Storage> (*at)(const char* memory, std::int64_t tiles, std::int64_t depth, int gates);
  // Packs tiles [tile0, tile1) of a matrix.
  void (*pack)(char* memory, const RowMatrix<typename F::Compute>& from, std::int64_t tile0, std::int64_t tile1);
};

// The machine's ceilings (cpu/probe.hpp). `sink` takes a vector.
template <class C>
struct ProbeKernels {
  double (*fma)(std::int64_t rounds, C* sink);
  double (*read)(const C* from, std::int64_t n, std::int64_t rounds, C* sink);
};

template <class C>
struct ActivationKernels {
  void (*sigmoid)(const C* x, C* y, std::int64_t n);
  void (*tanh)(const C* x, C* y, std::int64_t n);
  void (*exp_nonpositive)(const C* x, C* y, std::int64_t n);
  void (*log_sigmoid)(const C* x, C* y, std::int64_t n);
};

// The shapes of the micro-kernels that an ISA has (cpu/gemm.hpp), by the number of gates.
constexpr int kMostKernelRows = 8;
constexpr int kLogKernelTiles = 3;
struct KernelShapes {
  int log_main[kMaxGates + 1];                        // log2 of the tiles of the kernel that sweeps mostly use
  int rows[kMaxGates + 1][kLogKernelTiles + 1];       // the most rows, by log2 of the tiles
  int log_tiles[kMaxGates + 1][kMostKernelRows + 1];  // log2 of the most tiles, by the rows

  // The rows of the kernel that sweeps mostly use.
  int main_rows(std::int64_t gates) const { return rows[gates][log_main[gates]]; }
  // The most rows of a sweep of so many tiles.
  int most_rows(std::int64_t gates, std::int64_t tiles) const {
    int log = 0;
    while (log < log_main[gates] && std::int64_t{2} << log <= tiles) ++log;
    return rows[gates][log];
  }
};

template <class F>
struct FormatKernels {
  int lanes;
  const KernelShapes* shapes;
  SequenceKernels<F> sequence;
  PackKernels<F> pack;
};

template <class C>
struct ComputeKernels {
  ActivationKernels<C> activations;
  ProbeKernels<C> probe;
};

struct Kernels {
  const char* isa;
  EachFormat<FormatKernels> formats;
  EachComputeType<ComputeKernels> types;

  template <class F>
  const FormatKernels<F>& of_format() const {
    return formats.template get<F>();
  }
  template <class C>
  const ComputeKernels<C>& of_type() const {
    return types.template get<C>();
  }
};

}  // namespace fusedrnn
