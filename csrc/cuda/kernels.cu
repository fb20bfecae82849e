// The kernels, of each kind for each format of products and number of rows that are worked on at once. They know cells
// by number.
#include "../cells/cells.hpp"
#include "backward.hpp"
#include "forward.hpp"
#include "pack.hpp"
#include "step_states.hpp"
#include "step_sums.hpp"

namespace {

// Only gives and receives operands of the first product, seq_len times: the cost of the exchange alone.
template <class Format, int kTiles>
RNN_DEVICE void exchange(const Arguments& a) {
  const ThreadBlock<Format, kTiles> block(a);
  block.fill_up(0, a.exchange_gates * a.padded_hidden);
  for (int round = 0; round < a.seq_len; ++round) {
    block.for_each_part([&](int group, int row) {
      if (round > 0) block.template multiply<0, true>(round, group, row);
      block.for_elements_of(group, row, [&](const Element& e) {
        for (int gate = 0; gate < a.exchange_gates; ++gate) block.give(0, round + 1, e, gate, 0.0f);
        if (round > 0) block.reset(0, round, e, a.exchange_gates);
      });
      meet_thread_block();
    });
  }
}

}  // namespace

#define RNN_CUDA_KERNELS_OF(name, tiles)                                                   \
  RNN_KERNEL fusedrnn_forward_##name##_##tiles(const RNN_CONSTANT_ARGUMENT Arguments a) {  \
    Forward<FormatOf<Format::name>, tiles>(a).run();                                       \
  }                                                                                        \
  RNN_KERNEL fusedrnn_backward_##name##_##tiles(const RNN_CONSTANT_ARGUMENT Arguments a) { \
    Backward<FormatOf<Format::name>, tiles>(a).run();                                      \
  }                                                                                        \
  RNN_KERNEL fusedrnn_exchange_##name##_##tiles(const RNN_CONSTANT_ARGUMENT Arguments a) { \
    exchange<FormatOf<Format::name>, tiles>(a);                                            \
  }
#define RNN_CUDA_KERNELS(name, bytes) \
  RNN_CUDA_KERNELS_OF(name, 1)        \
  RNN_CUDA_KERNELS_OF(name, 2)        \
  RNN_CUDA_KERNELS_OF(name, 4)        \
  RNN_KERNEL fusedrnn_pack_##name(const RNN_CONSTANT_ARGUMENT PackArguments p) { pack<FormatOf<Format::name>>(p); }
RNN_CUDA_FORMATS(RNN_CUDA_KERNELS)

// The stepwise kernels, for both compute types.
#define RNN_STEP_KERNELS_OF(name)                                                                              \
  RNN_KERNEL fusedrnn_step_##name##_float(const RNN_CONSTANT_ARGUMENT StepLaunch l) { step_##name<float>(l); } \
  RNN_KERNEL fusedrnn_step_##name##_double(const RNN_CONSTANT_ARGUMENT StepLaunch l) { step_##name<double>(l); }
RNN_STEP_KERNELS(RNN_STEP_KERNELS_OF)
