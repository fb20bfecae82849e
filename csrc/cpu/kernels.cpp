// The one file that is compiled once per ISA. Everything above the table has internal linkage, so that the linker can
// never take a function compiled for one ISA in place of another's; tools/check_symbols.py holds the objects to it.
#include "../cells/cells.hpp"
#include "../problem.hpp"
#include "backward.hpp"
#include "batched.hpp"
#include "clockwork.hpp"
#include "forward.hpp"
#include "gemm.hpp"
#include "in_place.hpp"
#include "pack.hpp"
#include "probe.hpp"

namespace {

static_assert(Vec<float>::width <= fusedrnn::kMostLanes);

using fusedrnn::ComputeKernels;
using fusedrnn::facts_of;
using fusedrnn::FormatKernels;
using fusedrnn::gradients_of;
using fusedrnn::Kernels;
using fusedrnn::kMaxPhases;

// A cell's pointwise steps.
template <class C>
struct Pointwise {
  ForwardPointwise<C> infer[kMaxPhases], train[kMaxPhases];
  BackwardPointwise<C> backward[kMaxPhases];
  ForwardReduce<C> forward_sums[kMaxPhases];
  BackwardReduce<C> backward_sums[kMaxPhases];
};

template <class Cell, class C, class Math, int Index>
constexpr void add_phase(Pointwise<C>& steps) {
  if constexpr (Index < Cell::kPhases) {
    steps.infer[Index] = forward_pointwise<Cell, C, Index, false, Math>;
    steps.train[Index] = forward_pointwise<Cell, C, Index, true, Math>;
    steps.backward[Index] = backward_pointwise<Cell, C, Index, Math>;
    if constexpr (Cell::sums(false, Index, 0) > 0) steps.forward_sums[Index] = forward_reduce<Cell, C, Index>;
    if constexpr (Cell::sums(true, Index, 0) > 0) steps.backward_sums[Index] = backward_reduce<Cell, C, Index>;
    add_phase<Cell, C, Math, Index + 1>(steps);
  }
}

// Those of cells without a choice of activations are not there for ChosenMath.
template <class Cell, class C, class Math>
constexpr Pointwise<C> pointwise() {
  Pointwise<C> steps{};
  if constexpr (!Math::kChosen || Cell::kActivates) add_phase<Cell, C, Math, 0>(steps);
  return steps;
}

#define RNN_POINTWISE(name, Cell) pointwise<Cell, C, Math>(),
template <class C, class Math>
constexpr Pointwise<C> kPointwise[] = {RNN_CELLS(RNN_POINTWISE)};
#undef RNN_POINTWISE

// The arguments of a kernel (SequenceKernels), and the facts and steps of its cell.
template <class F>
struct Given {
  using C = typename F::Compute;
  const Problem<C>& p;
  const PackedWeights<F>& weights;
  const Worker& worker;
  const CellFacts& facts;
  const Pointwise<C>& steps;

  Given(const Problem<C>& problem, const PackedWeights<F>& packed, const Worker& mine)
      : p(problem),
        weights(packed),
        worker(mine),
        facts(facts_of(problem.cell)),
        steps((problem.activations.any() ? kPointwise<C, ChosenMath>
                                         : kPointwise<C, OwnMath>)[static_cast<int>(problem.cell)]) {}

  Forward<F> forward() const {
    return {p, weights, worker, facts, {p.slots ? steps.train : steps.infer, steps.forward_sums}};
  }
  Backward<F> backward(const Gradients<C>& g) const {
    return {p, weights, g, worker, facts, {steps.backward, steps.backward_sums}};
  }
  Batched<F> batched(const Gradients<C>& g) const { return {p, weights, g, worker, facts, gradients_of(p.cell)}; }

  // run(driver), with the driver that the cell needs.
  template <class Run>
  void with_forward(Run&& run) const {
    if (facts.clocked)
      run(ClockworkForward<F>(forward()));
    else
      run(forward());
  }
  template <class Run>
  void with_backward(const Gradients<C>& g, Run&& run) const {
    if (facts.clocked)
      run(ClockworkBackward<F>(backward(g)), ClockworkBatched<F>(batched(g)));
    else
      run(backward(g), batched(g));
  }
};

template <class F>
std::size_t forward_local_bytes(const Problem<typename F::Compute>& p, const PackedWeights<F>& weights,
                                const Worker& worker) {
  Arena arena(nullptr);
  Given<F>(p, weights, worker).with_forward([&](auto&& driver) { driver.layout(arena); });
  return arena.used;
}

template <class F>
std::size_t forward_shared_bytes(const Problem<typename F::Compute>& p, const PackedWeights<F>& weights) {
  const Worker worker{};
  Arena arena(nullptr);
  Given<F>(p, weights, worker).forward().shared_layout(arena);
  return arena.used;
}

template <class F>
void forward_share(const Problem<typename F::Compute>& p, const PackedWeights<F>& weights, const Worker& worker,
                   const Range& range) {
  Given<F>(p, weights, worker).with_forward([&](auto&& driver) { driver.run(range); });
}

template <class F>
std::size_t backward_local_bytes(const Problem<typename F::Compute>& p, const PackedWeights<F>& weights,
                                 const Worker& worker) {
  const Gradients<typename F::Compute> g{};
  Arena recurrent(nullptr), batched(nullptr);
  Given<F>(p, weights, worker).with_backward(g, [&](auto&& steps, auto&& all) {
    steps.layout(recurrent);
    all.layout(batched);
  });
  return recurrent.used > batched.used ? recurrent.used : batched.used;
}

template <class C>
std::size_t backward_shared_bytes(const Problem<C>& p, int64_t ring) {
  Arena arena(nullptr);
  BackwardShared<C>(p, facts_of(p.cell), ring).layout(arena);
  return arena.used;
}

template <class F>
void backward_share(const Problem<typename F::Compute>& p, const PackedWeights<F>& weights,
                    const Gradients<typename F::Compute>& g, const Worker& worker, const Range& range) {
  Given<F>(p, weights, worker).with_backward(g, [&](auto&& steps, auto&&) { steps.run(range); });
}

template <class F>
void input_gradient_share(const Problem<typename F::Compute>& p, const PackedWeights<F>& weights,
                          const Gradients<typename F::Compute>& g, const Worker& worker, const Range& range, bool add) {
  Given<F>(p, weights, worker).with_backward(g, [&](auto&&, auto&& all) { all.run_input_gradient(range, add); });
}

template <class F>
void weight_gradients_share(const Problem<typename F::Compute>& p, const PackedWeights<F>& weights,
                            const Gradients<typename F::Compute>& g, const Worker& worker, const Range& range) {
  Given<F>(p, weights, worker).with_backward(g, [&](auto&&, auto&& all) { all.run_weight_gradients(range); });
}

// Tails go through the same vector arithmetic as whole vectors.
template <class C, class Function>
RNN_INLINE void map(const C* x, C* y, int64_t n, Function&& function) {
  using V = Vec<C>;
  for (int64_t tile = 0; tile < tiles_of<V>(n); ++tile) {
    const auto lanes = lanes_of<V>(tile, n);
    function(V::load(x + tile * V::width, lanes)).store(y + tile * V::width, lanes);
  }
}

template <class C>
void map_sigmoid(const C* x, C* y, int64_t n) {
  map(x, y, n, [](Vec<C> v) { return sigmoid(v); });
}

template <class C>
void map_tanh(const C* x, C* y, int64_t n) {
  map(x, y, n, [](Vec<C> v) { return tanh(v); });
}

template <class C>
void map_exp_nonpositive(const C* x, C* y, int64_t n) {
  map(x, y, n, [](Vec<C> v) { return exp_nonpositive(v); });
}

template <class C>
void map_log_sigmoid(const C* x, C* y, int64_t n) {
  map(x, y, n, [](Vec<C> v) { return log_sigmoid(v).value; });
}

template <class F>
constexpr FormatKernels<F> format_kernels() {
  return {Vec<typename F::Compute>::width,
          &kShapes,
          {forward_local_bytes<F>, forward_shared_bytes<F>, forward_share<F>, backward_local_bytes<F>,
           backward_shared_bytes<typename F::Compute>, backward_share<F>, input_gradient_share<F>,
           weight_gradients_share<F>},
          {packed_bytes<F>, packed_at<F>, pack_tiles<F>}};
}

template <class C>
constexpr ComputeKernels<C> compute_kernels() {
  return {{map_sigmoid<C>, map_tanh<C>, map_exp_nonpositive<C>, map_log_sigmoid<C>}, {probe_fma<C>, probe_read<C>}};
}

}  // namespace

namespace fusedrnn {

#define RNN_FORMAT_KERNELS(Format, ...) format_kernels<Format>(),
#define RNN_COMPUTE_KERNELS(Type) compute_kernels<Type>(),
extern const Kernels RNN_KERNELS_NAME;
// constexpr: no code of this ISA runs before dispatch.cpp has asked the processor.
constexpr Kernels RNN_KERNELS_NAME = {
    kIsaName, {RNN_FORMATS(RNN_FORMAT_KERNELS)}, {RNN_COMPUTE_TYPES(RNN_COMPUTE_KERNELS)}};

}  // namespace fusedrnn
