// The arguments of the kernels: how a launch is cut up, and where everything lies. Plain data, the same for host
// and device.
//
// A step's product gives, for each unit, the sums of its gates: weights (gates*H, K) times operands (rows, K). Units
// come in *octets* (8 units); an octet and a gate make a *half* of 8 rows of weights, as two halves fill the 16 rows of
// a tensor core's instruction. K comes in *chunks* of 64 bytes. Rows of the batch come in eights, up to 32 at a time.
//
// Thread blocks stand in a rectangle: `unit_blocks` of them share the units of the same rows, and give each other their
// operands in every phase (thread_block.hpp says how); there are `batch_groups` such sets, which share the batch and
// give each other nothing. In a plan, a block is a thread block.
#pragma once

#include "../cells/facts.hpp"

namespace fusedrnn {
namespace cuda {

using std::int64_t;

constexpr int kMaxCudaProducts = 2;  // one for each phase
constexpr int kMaxCudaGates = 4, kMaxCudaSlots = 5, kMaxCudaColumns = 4;
constexpr int kMaxHalves = 8;  // of a group of octets
constexpr int kMaxWarps = 8;
constexpr int kRowsAtOnce = 32;  // at most
constexpr int kOctet = 8;
constexpr int kChunkBytes = 64;
constexpr int kHalfBytes = kOctet * kChunkBytes;  // of weights, for one chunk
constexpr int kTileSums = kOctet * kOctet;        // of a half and eight rows
// Copies of operands, versions written and read in turn; every kResetEvery-th time as many are made ready again.
constexpr int kRing = 8, kResetEvery = 4;

// Formats of products, and the bytes of an operand; sums and states are float32.
#define RNN_CUDA_FORMATS(X) X(float32, 4) X(tf32, 4) X(bfloat16, 2) X(float16, 2)

#define RNN_CUDA_FORMAT(name, bytes) name,
enum class Format : int { RNN_CUDA_FORMATS(RNN_CUDA_FORMAT) count };
#undef RNN_CUDA_FORMAT
constexpr int kFormats = static_cast<int>(Format::count);

struct ProductPlan {
  int gates;     // halves of an octet
  int chunks;    // of K, the last one filled up with zeros
  int resident;  // chunks that stay in shared memory; the others come from L2 in every step
};

struct Plan {
  int octets_per_group, groups, groups_per_block, unit_blocks, batch_groups, rows_per_group;
  int warps;
  int split_bits;    // 2^split_bits warps share a group's K; warps >> split_bits groups are worked on at once
  int halves;        // room for the sums of a warp: halves, an even number,
  int tiles;         // and eights of rows: 1, 2 or 4, as the kernel has been compiled for them
  int state_shared;  // whether h and c, or the gradients that are carried, lie in shared memory between steps
  int products;
  ProductPlan product[kMaxCudaProducts];
  int shared_bytes;
};

// Chunks of operands that a warp asks for at once, as many as its registers hold.
constexpr int chunks_ahead(int tiles) { return tiles == 4 ? 2 : 4; }

// Pairs of halves of a group; where the halves are odd in number, the last one's partner is zeros.
constexpr int pairs_of(const Plan& plan, int product) {
  return (plan.product[product].gates * plan.octets_per_group + 1) / 2;
}

// The elements of K that a gate has in backward: whole octets.
constexpr int padded(int hidden) { return (hidden + kOctet - 1) / kOctet * kOctet; }

// Whether thread blocks wait for each other. Without products, they give each other nothing.
constexpr bool blocks_meet(const Plan& plan) { return plan.unit_blocks > 1 && plan.product[0].chunks > 0; }

// Whether the kernels can run a cell: its phases have one product each, of h_prev and then of a slot; bias_hh has all
// gates or none; and the gradient of c is kept by pointwise steps.
constexpr bool runs(const CellFacts& f) {
  if (f.recurrent_gates != 0 && f.recurrent_gates != f.gates) return false;
  if (f.states == 2 && !f.state[1].carries) return false;
  if (f.products != f.phases || f.phases > kMaxCudaProducts || f.states > 2) return false;
  if (f.gates > kMaxCudaGates || f.slots > kMaxCudaSlots || f.columns > kMaxCudaColumns) return false;
  if (f.below || f.clocked || f.reduces) return false;
  for (int g = 0; g < f.gates; ++g) {
    if (f.user_gate[g] != g) return false;
  }
  for (int i = 0; i < f.products; ++i) {
    const Product& p = f.product[i];
    if (p.phase != i || p.matrix > 0 || p.depth > 1) return false;
    if (p.from != (i == 0 ? From::h_prev : From::slots)) return false;
  }
  return true;
}

// Arrays are C-contiguous, in the storage type of the format (float for tf32) unless said. Gates are stacked as users
// stack them.
struct Arguments {
  Plan plan;
  // The cell, and facts that the code of each cell would only repeat.
  CellId cell;
  int gates, slot_count, column_count, state_slot;
  int exchange_gates;  // of an element's operands of the first product: 1 in forward
  unsigned split;      // bit g: gate g's input part and recurrent part stay apart
  int first_gate[kMaxCudaProducts], product_gates[kMaxCudaProducts], product_column[kMaxCudaProducts];
  int seq_len, batch, hidden, padded_hidden;         // a step has less than 2^31 bytes in each array:
  int h_step, gates_step, slots_step, columns_step;  // so many elements
  int first, last;                                   // the steps of this launch, counted in the order in which they run
  int reverse;
  const int64_t* lengths;                // (B,), each in 0..T, or null
  const void* packed[kMaxCudaProducts];  // [octet][chunk][gate][8 rows x 64 bytes], see pack.hpp
  void* exchange[kMaxCudaProducts];  // [kRing][rows of all groups][chunks * 64 bytes]: operands; all bits set at first
  int copy_bytes[kMaxCudaProducts];  // of a copy in `exchange`
  float* run[2];                     // (B, H): h and c between launches (backward: the gradients that are carried);
                                     // between steps too, where shared memory has no room
  const void* state0[2];             // (B, H) or null for zeros; null in all launches but the first
  void* state_n[2];                  // (B, H) or null; null in all launches but the last
  const void* vectors;               // (vectors, H)
  void* slots;                       // (T or 1, B, S, H) or null
  int keeps_slots;                   // whether slots have all steps, or room for one

  // Forward.
  const void* pre;      // (steps of this launch, B, G*H): W x
  int pre_first;        // the time of its first row
  const void* bias_ih;  // (G*H,) or null
  const void* bias_hh;  // (G*H,) or null
  void* y;              // (T, B, H)

  // Backward. state0 are the initial states, whichever steps run; state_n has no part.
  void* gradients;          // (T, B, columns, H): of pre-activations
  const void* h;            // (T, B, H): y as forward wrote it
  const void* dy;           // (T, B, H) or null for zeros
  const void* dstate_n[2];  // (B, H) or null for zeros
  void* dstate0[2];         // (B, H)
};

// Weights in the order of the product. Forward: half (octet, gate) has the rows block[gate] * H + unit of `from`, K
// runs over its columns. Backward (transposed): a half is an octet of columns of `from`, K runs over the gates' rows.
struct PackArguments {
  const void* from;  // (rows, H)
  void* to;
  int64_t hidden;
  int octets, chunks, gates, transposed;
  int block[kMaxGates];  // of H rows
};

}  // namespace cuda
}  // namespace fusedrnn
