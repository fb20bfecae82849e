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
  const int64_t k = p.depth == 0 ? 0 : (backward ? p.gates * hidden : hidden);
  return {backward ? 1 : p.gates, static_cast<int>(divide_up(k * operand_bytes(format), kChunkBytes)), 0};
}

int64_t group_bytes(const Plan& plan) {
  int64_t bytes = 0;
  for (int p = 0; p < plan.products; ++p) {
    bytes += static_cast<int64_t>(plan.product[p].chunks) * plan.product[p].gates * plan.octets_per_group * kHalfBytes;
  }
  return bytes;
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
}

// A step's time, as bytes that shared memory moves meanwhile (128 in a cycle). From the data sheets, not measured:
// weights pass once for 32 rows, or, in float32, at the rate of the multiply-adds; operands, and weights that do not
// fit, come from L2 at half that rate; an element takes a thread some 200 cycles, in which others work on theirs; and a
// meeting of thread blocks takes as long as 256 KB, about a microsecond.
int64_t step_cost(const Plan& plan, Format format, int64_t budget) {
  constexpr int64_t kMeeting = 256 * 1024, kElement = 24 * 1024;
  const int64_t eights = plan.rows_per_group / kOctet, weights = plan.groups_per_block * group_bytes(plan);
  const int64_t passes = format == Format::float32 ? 2 * eights : divide_up(eights, kRowsAtOnce / kOctet) + eights / 2;
  const int64_t streamed = std::max<int64_t>(0, weights - budget) * divide_up(eights, kRowsAtOnce / kOctet);
  int64_t row_bytes = 0;
  for (int p = 0; p < plan.products; ++p) row_bytes += plan.product[p].chunks * kChunkBytes;
  const int64_t operands = plan.groups_per_block * plan.rows_per_group * row_bytes;
  const int64_t units = static_cast<int64_t>(plan.groups_per_block) * plan.octets_per_group * kOctet;
  const int64_t elements = divide_up(units * plan.rows_per_group, 32 * plan.warps) * plan.products;
  const int64_t meetings = blocks_meet(plan) ? plan.products : 0;
  return weights * passes + 2 * (streamed + operands) + elements * kElement + meetings * kMeeting;
}

// As many chunks of all products as fit, in proportion.
void keep_resident(Plan& plan, int64_t budget) {
  const int64_t all = group_bytes(plan) * plan.groups_per_block;
  for (int p = 0; p < plan.products; ++p) {
    ProductPlan& product = plan.product[p];
    product.resident = all <= budget ? product.chunks : static_cast<int>(product.chunks * budget / all);
    plan.shared_bytes += plan.groups_per_block * product.resident * product.gates * plan.octets_per_group * kHalfBytes;
  }
}

int power_of_two_below(int64_t n) {
  int power = 1;
  while (2 * power <= n) power *= 2;
  return power;
}

}  // namespace

void require_runs(const CellFacts& facts) {
  if (!runs(facts)) throw std::invalid_argument(std::string("CUDA: no kernel runs cell '") + facts.name + "'");
}

Plan make_plan(const CellFacts& facts, Format format, int64_t batch, int64_t hidden, bool backward,
               const Limits& limits) {
  require_runs(facts);
  Plan plan{};
  plan.products = facts.products;
  int gates = 1, chunks = 1;
  for (int p = 0; p < plan.products; ++p) {
    plan.product[p] = product_of(facts, format, hidden, backward, p);
    gates = std::max(gates, plan.product[p].gates);
    chunks = std::max(chunks, plan.product[p].chunks);
  }
  plan.warps = power_of_two_below(std::min(8, limits.most_threads / 32));
  plan.shared_bytes = plan.warps * kMaxHalves * kHalfSums * static_cast<int>(sizeof(float));
  const int64_t budget = limits.shared_bytes - plan.shared_bytes;
  if (budget < 0 || limits.most_threads < 32) {
    throw std::runtime_error("CUDA: expected a GPU with " + std::to_string(plan.shared_bytes) +
                             " bytes of shared memory for a thread block, got " + std::to_string(limits.shared_bytes));
  }

  Plan best{};
  int64_t best_cost = 0;
  // Two halves fill an instruction of the tensor cores; half of one goes unused where there is more room for blocks.
  for (plan.octets_per_group = 1; plan.octets_per_group * gates <= 2 || plan.octets_per_group == 1;
       plan.octets_per_group *= 2) {
    plan.groups = static_cast<int>(divide_up(divide_up(hidden, kOctet), plan.octets_per_group));
    const int64_t each = group_bytes(plan), least = divide_up(plan.groups, limits.multiprocessors);
    for (int64_t groups_per_block = least; groups_per_block <= plan.groups; ++groups_per_block) {
      if (groups_per_block > least && groups_per_block * each > budget) break;
      Plan candidate = plan;
      share(candidate, groups_per_block, batch, limits.multiprocessors);
      const int64_t cost = step_cost(candidate, format, budget);
      if (best_cost == 0 || cost < best_cost) best = candidate, best_cost = cost;
    }
  }
  // Warps share K where there are fewer groups than warps, as far as there are chunks.
  const int splits = std::max(1, best.warps / power_of_two_below(best.groups_per_block));
  best.splits = std::min(splits, power_of_two_below(chunks));
  keep_resident(best, budget);
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
  return 2 * rows * static_cast<std::size_t>(plan.product[product].chunks) * kChunkBytes;
}

}  // namespace cuda
}  // namespace fusedrnn
