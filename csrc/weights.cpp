#include "weights.hpp"

#include <cassert>
#include <cstring>
#include <utility>

#include "cpu/threads.hpp"

namespace fusedrnn {

namespace {

using std::int64_t;

// A copy of `count` elements that lives in `buffer`; null for null.
template <class T>
const T* copy_to(Buffer& buffer, const T* from, int64_t count) {
  if (!from) return nullptr;
  buffer = Buffer(static_cast<std::size_t>(count) * sizeof(T));
  std::memcpy(buffer.data(), from, buffer.bytes());
  return buffer.as<T>();
}

}  // namespace

std::vector<Clock> clocks_of(const std::vector<int64_t>& periods, int64_t hidden) {
  std::vector<Clock> clocks;
  for (std::size_t i = 0; i < periods.size(); ++i) {
    const auto size = hidden / static_cast<int64_t>(periods.size()), first = static_cast<int64_t>(i) * size;
    if (i == 0 || periods[i] != periods[i - 1]) clocks.push_back({first, first, periods[i]});
    clocks.back().last += size;
  }
  return clocks;
}

template <class F>
Weights<F>::Weights(const WeightView<Compute>& from) : view_(from) {
  const auto [cell, input, hidden, proj, heads, arrays, options, activations] = from;
  (void)options, (void)activations;
  const CellFacts& f = facts_of(cell);
  assert(sizes_fit(f, hidden, input, heads) && proj >= 1 && hidden % heads == 0 && (heads == 1 || takes_heads(f)));
  assert(f.projection < 0 ? proj == hidden : proj <= hidden);
  Buffer* buffer = buffers_;
  WeightArrays<Compute>& to = view_.arrays;
  to.weight_ih = copy_to(*buffer++, arrays.weight_ih, f.gates * hidden * input);
  to.bias_ih = copy_to(*buffer++, arrays.bias_ih, f.gates * hidden);
  to.bias_hh = copy_to(*buffer++, arrays.bias_hh, f.recurrent_gates * hidden);
  to.vectors = copy_to(*buffer++, arrays.vectors, f.vectors * hidden);
  to.clocks = copy_to(*buffer++, arrays.clocks, arrays.clock_count);
  for (int m = 0; m < f.matrices; ++m) {
    const int64_t size =
        f.matrix[m].blocks * block_rows(f, m, hidden, proj) * matrix_columns(f, m, hidden, proj, heads);
    to.matrix[m] = copy_to(*buffer++, arrays.matrix[m], size);
  }
}

template <class F>
Weights<F>::~Weights() {
  for (auto& slot : packs_) delete slot.load(std::memory_order_relaxed);
}

template <class F>
const PackedWeights<F>& Weights<F>::packed(const Isa& isa, bool with_backward) const {
  std::atomic<const Pack*>& slot = packs_[2 * isa.index + with_backward];
  const Pack* pack = slot.load(std::memory_order_acquire);
  if (!pack) {
    const FormatKernels<F>& kernels = isa.kernels->of_format<F>();
    auto made = std::make_unique<Pack>();
    made->buffer = Buffer(made->packing.lay_out(view_, kernels, with_backward, false, nullptr));
    made->packing.move_to(made->buffer.data());
    constexpr std::size_t kWorthSharing = 1 << 20;  // bytes
    Team team(made->buffer.bytes() < kWorthSharing ? 1 : useful_threads());
    struct Job {
      const Packing<F>& packing;
      int size;
    } job{made->packing, team.size()};
    const auto task = [](void* context, int index) {
      const Job& j = *static_cast<const Job*>(context);
      j.packing.run(index, j.size);
    };
    while (!team.run(task, &job)) job.size = team.size();
    if (slot.compare_exchange_strong(pack, made.get(), std::memory_order_acq_rel)) pack = made.release();
  }
  return pack->packing.packed();
}

#define RNN_INSTANTIATE(Format, ...) template class Weights<Format>;
RNN_FORMATS(RNN_INSTANTIATE)

}  // namespace fusedrnn
