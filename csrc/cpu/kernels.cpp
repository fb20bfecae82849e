// The one file that is compiled once per ISA. Everything above the table has internal linkage, so that the linker can
// never take a function compiled for one ISA in place of another's; tools/check_symbols.py holds the objects to it.
#include "../cells/cells.hpp"
#include "../problem.hpp"
#include "backward.hpp"
#include "batched.hpp"
#include "clockwork.hpp"
#include "forward.hpp"
#include "gemm.hpp"
#include "pack.hpp"
#include "probe.hpp"

namespace {

using fusedrnn::facts_of;
using fusedrnn::gradients_of;
using fusedrnn::Kernels;
using fusedrnn::kMaxPhases;
using fusedrnn::SequenceKernels;

// A cell's pointwise steps.
template <class T>
struct Pointwise {
  ForwardPointwise<T> infer[kMaxPhases], train[kMaxPhases];
  BackwardPointwise<T> backward[kMaxPhases];
  ForwardReduce<T> forward_sums[kMaxPhases];
  BackwardReduce<T> backward_sums[kMaxPhases];
};

template <class Cell, class T, int Index>
constexpr void add_phase(Pointwise<T>& steps) {
  if constexpr (Index < Cell::kPhases) {
    steps.infer[Index] = forward_pointwise<Cell, T, Index, false>;
    steps.train[Index] = forward_pointwise<Cell, T, Index, true>;
    steps.backward[Index] = backward_pointwise<Cell, T, Index>;
    if constexpr (Cell::sums(false, Index, 0) > 0) steps.forward_sums[Index] = forward_reduce<Cell, T, Index>;
    if constexpr (Cell::sums(true, Index, 0) > 0) steps.backward_sums[Index] = backward_reduce<Cell, T, Index>;
    add_phase<Cell, T, Index + 1>(steps);
  }
}

template <class Cell, class T>
constexpr Pointwise<T> pointwise() {
  Pointwise<T> steps{};
  add_phase<Cell, T, 0>(steps);
  return steps;
}

#define RNN_POINTWISE(name, Cell) pointwise<Cell, T>(),

template <class T>
constexpr Pointwise<T> kPointwise[] = {RNN_CELLS(RNN_POINTWISE)};

template <class T>
Forward<T> forward_of(const Problem<T>& p, const Worker& w) {
  const Pointwise<T>& steps = kPointwise<T>[static_cast<int>(p.cell)];
  return {p, w, facts_of(p.cell), p.slots ? steps.train : steps.infer, steps.forward_sums};
}

template <class T>
Backward<T> backward_of(const Problem<T>& p, const Gradients<T>& g, const Worker& w) {
  const Pointwise<T>& steps = kPointwise<T>[static_cast<int>(p.cell)];
  return {p, g, w, facts_of(p.cell), steps.backward, steps.backward_sums};
}

template <class T>
Batched<T> batched_of(const Problem<T>& p, const Gradients<T>& g, const Worker& w) {
  return {p, g, w, facts_of(p.cell), gradients_of(p.cell)};
}

// run(driver), with the driver that the cell needs.
template <class T, class Run>
void with_forward(const Problem<T>& p, const Worker& w, Run&& run) {
  if (facts_of(p.cell).clocked)
    run(ClockworkForward<T>{forward_of(p, w)});
  else
    run(forward_of(p, w));
}

template <class T, class Run>
void with_backward(const Problem<T>& p, const Gradients<T>& g, const Worker& w, Run&& run) {
  if (facts_of(p.cell).clocked)
    run(ClockworkBackward<T>{backward_of(p, g, w)}, ClockworkBatched<T>{batched_of(p, g, w)});
  else
    run(backward_of(p, g, w), batched_of(p, g, w));
}

// Someone with so much work, for the size of scratch.
inline Worker anyone(int64_t rows, int64_t tiles) {
  return {0, 1, 0, rows, 0, tiles, nullptr, nullptr, nullptr, nullptr, 0};
}

template <class T>
std::size_t forward_local_bytes(const Problem<T>& p, int64_t rows, int64_t tiles) {
  const Worker w = anyone(rows, tiles);
  Arena arena{nullptr};
  with_forward(p, w, [&](auto&& driver) { driver.layout(arena); });
  return arena.used;
}

template <class T>
std::size_t forward_shared_bytes(const Problem<T>& p) {
  const Worker w = anyone(0, 0);
  Arena arena{nullptr};
  forward_of(p, w).shared_layout(arena);
  return arena.used;
}

template <class T>
void run_forward(const Problem<T>& p, const Worker& w) {
  with_forward(p, w, [](auto&& driver) { driver.run(); });
}

template <class T>
std::size_t backward_local_bytes(const Problem<T>& p, int64_t rows, int64_t tiles) {
  const Gradients<T> g{};
  const Worker w = anyone(rows, tiles);
  Arena recurrent{nullptr}, batched{nullptr};
  with_backward(p, g, w, [&](auto&& steps, auto&& all) {
    steps.layout(recurrent);
    all.layout(batched);
  });
  return recurrent.used > batched.used ? recurrent.used : batched.used;
}

template <class T>
void run_backward(const Problem<T>& p, const Gradients<T>& g, const Worker& w) {
  with_backward(p, g, w, [&](auto&& steps, auto&& all) {
    steps.run();
    meet(w.all_barrier);
    all.run();
  });
}

template <class T>
constexpr SequenceKernels<T> sequence_kernels() {
  return {forward_local_bytes<T>, forward_shared_bytes<T>, run_forward<T>, backward_local_bytes<T>, run_backward<T>};
}

// Tails go through the same vector arithmetic as whole vectors.
template <class T, class F>
RNN_INLINE void map(const T* x, T* y, int64_t n, F&& f) {
  using V = Vec<T>;
  for (int64_t tile = 0; tile < tiles_of<V>(n); ++tile) {
    const auto lanes = lanes_of<V>(tile, n);
    f(V::load(x + tile * V::width, lanes)).store(y + tile * V::width, lanes);
  }
}

template <class T>
void map_sigmoid(const T* x, T* y, int64_t n) {
  map(x, y, n, [](Vec<T> v) { return sigmoid(v); });
}

template <class T>
void map_tanh(const T* x, T* y, int64_t n) {
  map(x, y, n, [](Vec<T> v) { return tanh(v); });
}

}  // namespace

namespace fusedrnn {

extern const Kernels RNN_KERNELS_NAME;
const Kernels RNN_KERNELS_NAME = {
    kIsaName,
    Vec<float>::width,
    Vec<double>::width,
    sequence_kernels<float>(),
    sequence_kernels<double>(),
    {pack_gates<float>, pack_transposed<float>},
    {pack_gates<double>, pack_transposed<double>},
    {map_sigmoid<float>, map_tanh<float>},
    {map_sigmoid<double>, map_tanh<double>},
    {probe_fma<float>, probe_read<float>},
    {probe_fma<double>, probe_read<double>},
};

}  // namespace fusedrnn
