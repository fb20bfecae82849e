// The data that drivers work on: sizes, plain pointers, and who may touch what. No Python, no SIMD.
//
// Letters: T seq_len, B batch_size, I input_size, H hidden_size, G gates, S slots, VL lanes of a vector.
// Arrays are C-contiguous; nothing needs to be aligned beyond its element, unless said.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cells/cell_list.hpp"

namespace fusedrnn {

constexpr int kMaxPhases = 2;
constexpr int kMaxStates = 2;

// A row of units, and the rows of a batch, are cut into tiles of VL units; the last tile may be short.
// Packed weights are 64-byte aligned; lanes past the last unit hold zeros.
template <class T>
struct PackedWeights {
  // Forward, gate-interleaved: [tile][k][gate][lane]; phase p of `hh` holds that phase's gates only.
  const T* ih;
  const T* hh[kMaxPhases];
  const T* bias_pre;  // [tile][gate][lane]: bias_ih + bias_hh, or bias_ih alone for gates that are split
  const T* bias_rec;  // [tile][gate][lane]: bias_hh of gates that are split
  // Backward, transposed: [tile of inputs or units][k][lane], k over the gates in the order of the cell's columns.
  const T* ih_t;
  const T* hh_t[kMaxPhases];
};

template <class T>
struct Problem {
  std::int64_t seq_len, batch, input, hidden;
  bool reverse;
  const std::int64_t* lengths;  // (B,), each in 0..T; null: all T
  const T* x;                   // (T, B, I); steps past a row's length are never read
  const T* state0[kMaxStates];  // (B, H) each, h then c; null: zeros
  T* y;                         // (T, B, H): written by forward (zeros past a row's length), not read by backward
  T* state_n[kMaxStates];       // (B, H) each, written by forward; h's may be null, c's is its running state
  T* slots;                     // (T, B, S, H): the reserve; null in inference. Backward overwrites it.
  const T* h;                   // (T, B, H): y as forward wrote it; read by backward
  PackedWeights<T> weights;
};

template <class T>
struct Gradients {
  const T* dy;                    // (T, B, H) or null for zeros; not read past a row's length
  const T* dstate_n[kMaxStates];  // (B, H) or null for zeros
  T* dx;                          // (T, B, I), zeros past a row's length
  T* dstate0[kMaxStates];         // (B, H); also holds what is carried from step to step
  T* dweight_ih;                  // (G*H, I)
  T* dweight_hh;                  // (G*H, H)
  T* dbias_ih;                    // (G*H,) or null
  T* dbias_hh;                    // (G*H,) or null
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
  char* shared;          // scratch of all workers; its first H elements are zeros
};

// What an ISA's object file gives for one cell and dtype.
template <class T>
struct CellKernels {
  std::size_t (*forward_local_bytes)(const Problem<T>&, std::int64_t rows, std::int64_t tiles);
  std::size_t (*forward_shared_bytes)(const Problem<T>&);
  void (*forward)(const Problem<T>&, const Worker&);        // slots == null
  void (*forward_train)(const Problem<T>&, const Worker&);  // slots != null
  std::size_t (*backward_local_bytes)(const Problem<T>&, std::int64_t rows, std::int64_t tiles);
  void (*backward)(const Problem<T>&, const Gradients<T>&, const Worker&);
};

// Packing, for tiles [tile0, tile1) of the output (cpu/pack.hpp).
template <class T>
struct PackKernels {
  void (*gates)(T* to, const T* from, int first_gate, int gates, std::int64_t hidden, std::int64_t depth,
                std::int64_t tile0, std::int64_t tile1);
  void (*transposed)(T* to, const T* from, const int* gates, int gate_count, std::int64_t hidden, std::int64_t width,
                     std::int64_t tile0, std::int64_t tile1);
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

// Facts about a cell that hosts need, copied from its type.
struct CellFacts {
  const char* name;
  int gates, states, slots, phases;
  bool split[8];
  int input_gates[8];  // the gate of each input column, in the order of backward's packed weights
  struct {
    int first_gate, gates;
    int column_gates[8];
  } phase[kMaxPhases];
};

#define RNN_CELL_ID(name, Cell) name,
enum class CellId { RNN_CELLS(RNN_CELL_ID) count };
#undef RNN_CELL_ID
constexpr int kCells = static_cast<int>(CellId::count);

struct Kernels {
  const char* isa;
  CellFacts facts[kCells];
  int lanes_f32, lanes_f64;
  CellKernels<float> f32[kCells];
  CellKernels<double> f64[kCells];
  PackKernels<float> pack_f32;
  PackKernels<double> pack_f64;
  ActivationKernels<float> activations_f32;
  ActivationKernels<double> activations_f64;
  ProbeKernels<float> probe_f32;
  ProbeKernels<double> probe_f64;
};

}  // namespace fusedrnn
