// The data that drivers work on: sizes, plain pointers, and who may touch what. No Python, no SIMD.
//
// Letters: T seq_len, B batch_size, I input_size, H hidden_size, G gates, S slots, VL lanes of a vector.
// Arrays are C-contiguous; nothing needs to be aligned beyond its element, unless said.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cells/facts.hpp"

namespace fusedrnn {

// A period, and what a clock may have counted before a call, are at most so large.
constexpr std::int64_t kMostSteps = std::int64_t{1} << 62;

// A row of units, and the rows of a batch, are cut into tiles of VL units; the last tile may be short.
// Packed weights are 64-byte aligned; lanes past the last unit hold zeros.
template <class T>
struct PackedWeights {
  // Forward, gate-interleaved: [tile][k][gate][lane], one for the input and one for each product.
  const T* ih;
  const T* hh[kMaxProducts];
  const T* bias_pre;  // [tile][gate][lane]: bias_ih + bias_hh, or bias_ih alone for gates that are split
  const T* bias_rec;  // [tile][gate][lane]: bias_hh of gates that are split
  // Backward, transposed: [tile of inputs or units][k][lane], k over the gates in the order of the cell's columns; for
  // a product whose row is several vectors long, one after the other.
  const T* ih_t;
  const T* hh_t[kMaxProducts];
  const T* vectors;     // (vectors, H), not packed
  T epsilon;            // what normalisation adds to a variance
  const Clock* clocks;  // of cells that have them, from the first unit to the last
  int clock_count;
};

template <class T>
struct Problem {
  CellId cell;
  std::int64_t seq_len, batch, input, hidden;
  bool reverse;
  const std::int64_t* lengths;  // (B,), each in 0..T; null: all T
  const std::int64_t* start;    // (B,): steps that a row's clocks have counted before; null: none
  const T* x;                   // (T, B, I); steps past a row's length are never read
  const T* state0[kMaxStates];  // (B, H) each (or a multiple of H), in the order of the cell's states; null: zeros
  const T* below;               // (T, B, H) for cells that read c of the layer below; null: zeros
  T* c;                         // (T, B, H) for the same cells: c of every step, as y; null where nobody asks
  T* y;                         // (T, B, H): written by forward (zeros past a row's length), not read by backward
  T* state_n[kMaxStates];       // as state0, written by forward; h's may be null, c's may be its running state
  T* slots;                     // (T, B, S, H): the reserve; null in inference. Backward overwrites it.
  const T* h;                   // (T, B, H): y as forward wrote it; read by backward
  PackedWeights<T> weights;
};

template <class T>
struct Gradients {
  const T* dy;                    // (T, B, H) or null for zeros; not read past a row's length
  const T* dc;                    // (T, B, H) or null for zeros: the gradient of p.c
  T* dbelow;                      // (T, B, H), zeros past a row's length; null where p.below is
  const T* dstate_n[kMaxStates];  // as state_n, or null for zeros
  T* dx;                          // (T, B, I), zeros past a row's length
  T* dstate0[kMaxStates];         // as state0; also holds what is carried from step to step
  T* dweight_ih;                  // (G*H, I)
  T* dmatrix[kMaxMatrices];       // (gates*H, depth*H) each; the first is weight_hh's
  T* dbias_ih;                    // (G*H,) or null
  T* dbias_hh;                    // (recurrent_gates*H,) or null
  T* dvectors;                    // (vectors, H)
};

struct Barrier;
void barrier_wait(Barrier* barrier);

// One thread's share: rows x tiles of the recurrence. Workers that share rows meet at `step_barrier` in every phase;
// it is null where a worker has its rows to itself.
struct Worker {
  int index, count;
  std::int64_t row0, row1, tile0, tile1;
  Barrier* step_barrier;
  Barrier* all_barrier;  // null where there is one worker
  char* local;           // scratch of this worker, 64-byte aligned
  char* shared;          // scratch of all workers; it begins with zeros, as many as the longest state has
  std::size_t local_bytes;
};

// What an ISA's object file gives for one dtype; p.cell says which cell. Training if p.slots is set.
template <class T>
struct SequenceKernels {
  std::size_t (*forward_local_bytes)(const Problem<T>&, std::int64_t rows, std::int64_t tiles);
  std::size_t (*forward_shared_bytes)(const Problem<T>&);
  void (*forward)(const Problem<T>&, const Worker&);
  std::size_t (*backward_local_bytes)(const Problem<T>&, std::int64_t rows, std::int64_t tiles);
  void (*backward)(const Problem<T>&, const Gradients<T>&, const Worker&);
};

// Packing, for tiles [tile0, tile1) of the output (cpu/pack.hpp).
template <class T>
struct PackKernels {
  // to [tile][k][gate][lane] = from[block[gate] * hidden + unit][k]; `from` has rows of `depth` elements.
  void (*gates)(T* to, const T* from, const int* block, int gates, std::int64_t hidden, std::int64_t depth,
                std::int64_t tile0, std::int64_t tile1);
  // to [tile][k][lane] = from[block[j] * hidden + unit][tile * VL + lane], with k over j, then units; `from` has rows
  // of `stride` elements, of which the first `width` are packed.
  void (*transposed)(T* to, const T* from, const int* block, int gates, std::int64_t hidden, std::int64_t width,
                     std::int64_t stride, std::int64_t tile0, std::int64_t tile1);
};

// The machine's ceilings (cpu/probe.hpp). `sink` takes a vector.
template <class T>
struct ProbeKernels {
  double (*fma)(std::int64_t rounds, T* sink);
  double (*read)(const T* from, std::int64_t n, std::int64_t rounds, T* sink);
};

template <class T>
struct ActivationKernels {
  void (*sigmoid)(const T* x, T* y, std::int64_t n);
  void (*tanh)(const T* x, T* y, std::int64_t n);
};

struct Kernels {
  const char* isa;
  int lanes_f32, lanes_f64;
  SequenceKernels<float> f32;
  SequenceKernels<double> f64;
  PackKernels<float> pack_f32;
  PackKernels<double> pack_f64;
  ActivationKernels<float> activations_f32;
  ActivationKernels<double> activations_f64;
  ProbeKernels<float> probe_f32;
  ProbeKernels<double> probe_f64;
};

}  // namespace fusedrnn
