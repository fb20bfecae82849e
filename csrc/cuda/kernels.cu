// The kernels, one of each kind for each format of products. They know cells by number; which kernel runs does not
// depend on the batch or on the length of a sequence.
#include "../cells/cells.hpp"
#include "backward.hpp"
#include "forward.hpp"
#include "pack.hpp"

namespace {

// Only meets, seq_len times: the cost of synchronisation alone.
template <class Format>
RNN_DEVICE void meet(const Arguments& a) {
  ThreadBlock<Format> block(a);
  for (int64_t i = 0; i < a.seq_len; ++i) block.meet_group();
}

}  // namespace

#define RNN_CUDA_KERNELS(name, bytes)                                                                           \
  RNN_KERNEL fusedrnn_forward_##name(const RNN_CONSTANT_ARGUMENT Arguments a) {                                 \
    Forward<FormatOf<Format::name>>(a).run();                                                                   \
  }                                                                                                             \
  RNN_KERNEL fusedrnn_backward_##name(const RNN_CONSTANT_ARGUMENT Arguments a) {                                \
    Backward<FormatOf<Format::name>>(a).run();                                                                  \
  }                                                                                                             \
  RNN_KERNEL fusedrnn_meet_##name(const RNN_CONSTANT_ARGUMENT Arguments a) { meet<FormatOf<Format::name>>(a); } \
  RNN_KERNEL fusedrnn_pack_##name(const RNN_CONSTANT_ARGUMENT PackArguments p) { pack<FormatOf<Format::name>>(p); }
RNN_CUDA_FORMATS(RNN_CUDA_KERNELS)
