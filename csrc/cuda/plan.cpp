#include "plan.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace fusedrnn {
namespace cuda {
namespace {

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

#define RNN_CUDA_FORMAT_BYTES(name, bytes) bytes,
constexpr int kOperandBytes[kFormats] = {RNN_CUDA_FORMATS(RNN_CUDA_FORMAT_BYTES)};
#undef RNN_CUDA_FORMAT_BYTES
int operand_bytes(Format format) { return kOperandBytes[static_cast<int>(format)]; }

// Gates and K of a product.
ProductPlan product_of(const CellFacts& f, Format format, int64_t hidden, bool backward, int index) {
  const Product& p = f.product[index];
  const int64_t k = p.depth == 0 ? 0 : (backward ? int64_t{p.gates} * padded(static_cast<int>(hidden)) : hidden);
  return {backward ? 1 : p.gates, static_cast<int>(divide_up(k * operand_bytes(format), kChunkBytes)), 0};
}

// Of a group's weights in shared memory, a chunk.
int64_t chunk_bytes(const Plan& plan, int product) { return int64_t{2 * kHalfBytes} * pairs_of(plan, product); }

int64_t group_bytes(const Plan& plan) {
  int64_t bytes = 0;
  for (int p = 0; p < plan.products; ++p) bytes += plan.product[p].chunks * chunk_bytes(plan, p);
  return bytes;
}

int power_of_two_below(int64_t n) {
  int power = 1;
  while (2 * power <= n) power *= 2;
  return power;
}

// Shares groups and rows out: groups_per_block to each thread block.
void share(Plan& plan, int64_t groups_per_block, int64_t batch, int multiprocessors) {
  plan.groups_per_block = static_cast<int>(groups_per_block);
  plan.unit_blocks = static_cast<int>(divide_up(plan.groups, groups_per_block));
  const int64_t eights = std::max<int64_t>(1, divide_up(batch, kOctet));
  const int64_t most = std::max<int64_t>(1, multiprocessors / plan.unit_blocks);
  const int64_t eights_each = divide_up(eights, std::min(most, eights));
  plan.rows_per_group = static_cast<int>(eights_each * kOctet);
  plan.batch_groups = static_cast<int>(divide_up(eights, eights_each));
  plan.tiles = 1;
  while (plan.tiles < kRowsAtOnce / kOctet && plan.tiles < eights_each) plan.tiles *= 2;
  // Warps share K where there are fewer groups than warps, as far as there are chunks.
  int chunks = 1, pairs = 1;
  for (int p = 0; p < plan.products; ++p) {
    chunks = std::max(chunks, plan.product[p].chunks);
    pairs = std::max(pairs, pairs_of(plan, p));
  }
  const int splits =
      std::min(std::max(1, plan.warps / power_of_two_below(groups_per_block)), power_of_two_below(chunks));
  plan.split_bits = 0;
  while (1 << plan.split_bits < splits) ++plan.split_bits;
  plan.halves = 2 * pairs;  // of float32, a warp's scratch lies there too
}

int64_t partial_bytes(const Plan& plan) {
  return int64_t{plan.warps} * plan.halves * plan.tiles * kTileSums * static_cast<int64_t>(sizeof(float));
}

// What stays in shared memory: sums, then states if they are no more than a quarter of the rest, then as many chunks of
// all products as fit, in proportion.
void keep_resident(Plan& plan, int states, int64_t shared_bytes) {
  const int64_t units = int64_t{plan.groups_per_block} * plan.octets_per_group * kOctet;
  const int64_t state_bytes = states * plan.rows_per_group * units * static_cast<int64_t>(sizeof(float));
  int64_t budget = shared_bytes - partial_bytes(plan);
  plan.state_shared = state_bytes <= budget / 4 ? 1 : 0;
  if (plan.state_shared) budget -= state_bytes;
  plan.shared_bytes = static_cast<int>(shared_bytes - budget);
  const int64_t all = group_bytes(plan) * plan.groups_per_block;
  for (int p = 0; p < plan.products; ++p) {
    ProductPlan& product = plan.product[p];
    product.resident = all <= budget ? product.chunks : static_cast<int>(product.chunks * budget / all);
    plan.shared_bytes += static_cast<int>(plan.groups_per_block * product.resident * chunk_bytes(plan, p));
  }
}

// Multiply-adds of a multiprocessor in a cycle. float32 waits for shared memory: the more rows there are for each
// weight, the better.
double multiply_adds(const Plan& plan, Format format, double pairs) {
  if (format == Format::tf32) return 500;
  if (format != Format::float32) return 1000;
  return (16 + 7 * plan.tiles) * (pairs > 2 ? 0.75 : 1);
}

// A step's time in cycles of a multiprocessor, so far as to choose between plans: fitted by eye to the plans of six
// cases on an H200 (tools/gpu/probe.py --plans).
double step_cost(const Plan& plan, Format format, int64_t batch) {
  constexpr double kExchange = 1100, kPart = 1200, kBatch = 600, kStreamedChunk = 300, kElement = 60;
  constexpr double kSharedBytes = 128, kReceivedBytes = 48, kAllReceivedBytes = 3000;  // in a cycle
  const int64_t tile_rows = int64_t{plan.tiles} * kOctet, batch_chunks = chunks_ahead(plan.tiles) << plan.split_bits;
  const double rows = plan.rows_per_group, groups = plan.groups_per_block;
  const double blocks = static_cast<double>(plan.unit_blocks) * plan.batch_groups;
  const double turns = static_cast<double>(divide_up(plan.groups_per_block, plan.warps >> plan.split_bits) *
                                           divide_up(plan.rows_per_group, tile_rows));
  const double receive = std::max(1 / kReceivedBytes, blocks / kAllReceivedBytes);  // cycles for a byte
  double cycles = 0;
  for (int i = 0; i < plan.products; ++i) {
    const ProductPlan& p = plan.product[i];
    const double bytes = groups * static_cast<double>(chunk_bytes(plan, i)), streamed = p.chunks - p.resident;
    const double pairs = pairs_of(plan, i);
    const double operands = groups * std::min(rows, static_cast<double>(batch)) * p.chunks * kChunkBytes;
    const double k = p.chunks * double{kChunkBytes} / operand_bytes(format);
    const double passes = static_cast<double>(divide_up(plan.rows_per_group, tile_rows));
    cycles += groups * pairs * 2 * kOctet * rows * k / multiply_adds(plan, format, pairs);
    cycles += bytes * passes * (p.resident / kSharedBytes + streamed * receive) + operands * receive;
    cycles += turns * (kPart + kBatch * static_cast<double>(divide_up(p.chunks, batch_chunks)));
    cycles += turns * kStreamedChunk * streamed / (1 << plan.split_bits);
    if (blocks_meet(plan)) cycles += kExchange;
  }
  const double units = groups * plan.octets_per_group * kOctet;
  return cycles + units * rows / 32 / plan.warps * kElement * plan.products;
}

}  // namespace

void require_runs(const CellFacts& facts) {
  if (!runs(facts)) throw std::invalid_argument(std::string("CUDA: no kernel runs cell '") + facts.name + "'");
}

Plan make_plan(const CellFacts& facts, Format format, int64_t batch, int64_t hidden, bool backward,
               const Limits& limits, const Forced& forced) {
  require_runs(facts);
  Plan plan{};
  plan.products = facts.products;
  int gates = 1;
  for (int p = 0; p < plan.products; ++p) {
    plan.product[p] = product_of(facts, format, hidden, backward, p);
    gates = std::max(gates, plan.product[p].gates);
  }
  plan.warps = power_of_two_below(std::min(kMaxWarps, limits.most_threads / 32));

  Plan best{};
  double best_cost = 0;
  int64_t least_shared = 0;
  // Groups of several octets read operands once for all of them.
  for (int octets = 1; octets == 1 || octets * gates <= kMaxHalves; octets *= 2) {
    if (forced.octets_per_group != 0 && forced.octets_per_group != octets) continue;
    plan.octets_per_group = octets;
    plan.groups = static_cast<int>(divide_up(divide_up(hidden, kOctet), octets));
    const int64_t least = divide_up(plan.groups, limits.multiprocessors);
    for (int64_t groups_per_block = least; groups_per_block <= plan.groups; ++groups_per_block) {
      if (forced.groups_per_block != 0 && forced.groups_per_block != groups_per_block) continue;
      Plan candidate = plan;
      share(candidate, groups_per_block, batch, limits.multiprocessors);
      const int64_t partial = partial_bytes(candidate);
      if (least_shared == 0 || partial < least_shared) least_shared = partial;
      // A thread has one unit of a part (thread_block.hpp).
      const bool too_many_units = candidate.octets_per_group * kOctet > 32 << candidate.split_bits;
      if (too_many_units || partial > limits.shared_bytes) continue;
      keep_resident(candidate, facts.states, limits.shared_bytes);
      const double cost = step_cost(candidate, format, batch);
      if (best_cost == 0 || cost < best_cost) best = candidate, best_cost = cost;
    }
  }
  if (best_cost == 0 && least_shared == 0) {
    throw std::runtime_error("CUDA: expected octets_per_group and groups_per_block of some plan, got " +
                             std::to_string(forced.octets_per_group) + " and " +
                             std::to_string(forced.groups_per_block));
  }
  if (best_cost == 0 || limits.most_threads < 32) {
    throw std::runtime_error("CUDA: expected a GPU with " + std::to_string(least_shared) +
                             " bytes of shared memory for a thread block, got " + std::to_string(limits.shared_bytes));
  }
  return best;
}

PackArguments make_pack(const CellFacts& f, Format format, int64_t hidden, bool backward, int product) {
  require_runs(f);
  const Product& p = f.product[product];
  PackArguments pack{};
  pack.hidden = hidden;
  pack.octets =
      static_cast<int>(divide_up(hidden, kOctet * kMaxHalves) * kMaxHalves);  // whole groups, whatever their size
  pack.chunks = product_of(f, format, hidden, backward, product).chunks;
  pack.gates = p.gates;
  pack.transposed = backward ? 1 : 0;
  for (int j = 0; j < p.gates && p.depth > 0; ++j) pack.block[j] = block_of(f, p, j);
  return pack;
}

std::size_t packed_bytes(const PackArguments& pack) {
  const std::size_t halves = pack.transposed ? 1 : static_cast<std::size_t>(pack.gates);
  return static_cast<std::size_t>(pack.octets) * static_cast<std::size_t>(pack.chunks) * halves * kHalfBytes;
}

std::size_t exchange_bytes(const Plan& plan, int product) {
  const std::size_t rows = static_cast<std::size_t>(plan.batch_groups) * static_cast<std::size_t>(plan.rows_per_group);
  return kRing * rows * static_cast<std::size_t>(plan.product[product].chunks) * kChunkBytes;
}

}  // namespace cuda
}  // namespace fusedrnn
