// The arguments of the stepwise kernels, which run any cell with some launches for each step: those of the CPU's
// Problem and Gradients (problem.hpp), on the device. Plain data, the same for host and device.
//
// Results of float32 and float64 have the bits of the CPU: each sum has the order of docs/bits.md, and the pointwise
// step has the CPU's operations. Numbers that stay inside (W x, slots, gradients of pre-activations, carried gradients,
// weights) are of the *compute type*: float, or double where arrays are float64. Arrays of users are *stored* in their
// own type.
//
// Letters: T seq_len, B batch, I input, H hidden, P units of h, G gates, S slots, C columns.
#pragma once

#include "../activation.hpp"
#include "../cells/facts.hpp"
#include "../order.hpp"
#include "../regularisation.hpp"

namespace fusedrnn {
namespace cuda {

using std::int64_t;

// The types of users' arrays, and the compute type of each.
#define RNN_CUDA_STORED(X) X(float32, float) X(float64, double) X(bfloat16, float) X(float16, float)
#define RNN_CUDA_STORED_NAME(name, compute) name,
enum class Stored : int { RNN_CUDA_STORED(RNN_CUDA_STORED_NAME) count };
#undef RNN_CUDA_STORED_NAME

// Of a sum's tile: rows, columns, and the k of a block, which one warp sums up.
constexpr int kSumRows = 8, kSumColumns = 64, kSumBlock = kBlock;
constexpr int kTileElements = kSumRows * kSumColumns;  // as many as a block's k times rows
static_assert(kSumRows * kSumBlock == kTileElements, "a warp's operands and its sums share memory");
constexpr int kChainsOfRow = 16;  // of a sum over the units of a row, each in the hands of one thread

// The launches of a step. Each is a kernel of its own (kernels.cu), for each compute type.
#define RNN_STEP_KERNELS(X) X(sum) X(forward) X(backward) X(reduce) X(states) X(pairs) X(gather)
#define RNN_STEP_KERNEL(name) name,
enum class StepKernel : int { RNN_STEP_KERNELS(RNN_STEP_KERNEL) count };
#undef RNN_STEP_KERNEL
constexpr int kStepKernels = static_cast<int>(StepKernel::count);

// What a launch of `sum` sums: W x of all steps; a product of a step; a product of a stage of backward; dx of all
// steps; one block of the gradient of a matrix; and of a bias or vector.
enum class Sum : int { input, product, stage, input_gradient, matrix_gradient, vector_gradient };

// What a launch of `states` does: counts the steps of clocks; begins or ends a call, forward or backward; adds up
// gradients of states before episodes that all rows share; and, in backward, what comes before the first stage of a
// step and after its last.
enum class StateWork : int { count, begin, end, begin_backward, end_backward, add_resets, before_stages, after_stages };

struct StepArguments {
  CellFacts facts;  // whose name is the host's
  CellId cell;
  Stored stored;
  Activations activations;
  double epsilon;
  double empty[kMaxStates];  // each element of a state that nobody gave
  int64_t seq_len, batch, input, hidden, proj, heads;
  int reverse, train;
  const int64_t* lengths;      // (B,), each in 0..T, or null
  const std::uint8_t* resets;  // (T, B), other than 0 where an episode begins, or null
  // Of cells with clocks: (H,), the period of each unit's clock; (B,), steps that rows have counted before; and (T, B),
  // what a row counts at each step, which a launch finds.
  const int64_t *periods, *start;
  int64_t* counted;

  // Weights, of the compute type; matrices as users have them, and transposed.
  const void *weight_ih, *weight_ih_t;
  const void *matrix[kMaxMatrices], *matrix_t[kMaxMatrices];
  const void *bias_ih, *bias_hh;  // or null
  const void* vectors;

  // Stored arrays, as in Problem.
  const void* x;
  const void* state0[kMaxStates];
  const void* reset_state[kMaxStates];
  const void* below;
  void* c;  // (T, B, H) or null
  void* y;
  void* state_n[kMaxStates];
  // Of the compute type.
  void* slots;            // (T, B, S, H) in training, else (2, B, S, H): steps take turns. Null if none are kept
  void* zoned_c;          // the same of c after zoneout, (T or 2, B, H), or null
  void* run[kMaxStates];  // (B, units*H): states that have no slots; in backward, the gradients that are carried
  void* pre;              // (steps of this part, B, G*H): bias + W x
  void* sums;             // (B, gates of a product, H)
  void* row_sums;         // (B, kMaxSums)
  int64_t pre_first;      // the time of the first row of `pre`

  // Regularisation: masks are null where an option is 0, and all are in inference; probabilities are those of zoneout.
  const std::uint8_t* mask[kMasks];
  double zoneout_h, zoneout_c;
  double scale[kMasks];  // of what dropout leaves

  // Backward. Stored:
  const void *dy, *dc;  // or null
  const void* dstate_n[kMaxStates];
  void *dx, *dbelow;  // dbelow may be null
  void* dstate0[kMaxStates];
  void* dreset[kMaxStates];         // (B, units*H) or null; of a state that all rows share,
  void* dreset_of_all[kMaxStates];  // (units*H,)
  // Of the compute type:
  void* gradients;              // (T, B, C, H)
  void* stage_sums;             // [main, extra 0, ...](B, H)
  void* kept[2];                // with zoneout, (B, H) each: the old values' parts of the gradients of h and c
  void* reset_sum[kMaxStates];  // (B, units*H): of dreset
  void* operand;                // (T*B, width): an operand of the gradients of weights, gathered
  void *dweight_ih, *dmatrix[kMaxMatrices], *dbias_ih, *dbias_hh, *dvectors;  // null where one is not asked for
  void* to;                                                                   // of them, the one of a launch
  int64_t* pairs;         // (T*B,): valid (step, row) pairs, as t * B + row, in the order of sums
  int64_t* stretch_ends;  // where each stretch of pairs ends
  int64_t* counts;        // (T + 1,): the number of stretches, then scratch
};

// One launch: its arguments, and its place in the call.
struct StepLaunch {
  StepArguments a;
  int64_t first, last;  // steps
  int64_t step;         // counted in the order in which forward runs them; in backward, seq_len - 1 comes first
  Sum sum;
  StateWork work;
  int phase;           // or stage
  int product, part;   // and which vector of its operand
  int extra;           // the place of the sums among those of a stage: 0 for the main product
  int from_beginning;  // a stage's product is of each row's first step, for the gradient of its first state
  int backward;        // of `reduce`
  Clock clock;         // whose units, and steps, sums are of: all units, and a period of 0, for cells without clocks
  int is_first_clock, is_last_clock;
  // `gather` and sums over pairs: an operand of gradients, of (T, B, width).
  From from;
  int64_t width, matrix_heads;
  int drops;           // whether dropout of the input or of h comes between the operand and its product
  const void* source;  // (T*B, stride) from an offset on, of the compute type; null for ones
  int64_t source_stride, source_offset;
  int column, block;  // of the gradients, and of the rows of the target
};

}  // namespace cuda
}  // namespace fusedrnn
