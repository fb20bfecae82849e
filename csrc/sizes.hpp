// Bounds of the memory that weights and calls need, in every format, on every ISA and for any number of threads.
#pragma once

#include <cstdint>
#include <optional>

#include "cells/facts.hpp"
#include "order.hpp"

namespace fusedrnn {

constexpr int kMostThreads = 1024;                     // of a call
constexpr int kMostLanes = 16;                         // of any ISA's vectors
constexpr std::int64_t kChains = 8;                    // that hide the latency of a multiply-add
constexpr std::int64_t kProjectionBytes = 512 * 1024;  // of steps that wait for the recurrence (cpu/forward.hpp)

constexpr std::int64_t kGroupsTogether = 8;  // of rows that pass over weights together (cpu/sweep.hpp)
// Of the gradient of the input (cpu/batched.hpp): rows that pass over the weights together, so that they stay in L2,
// and rows that are worth a worker's pass.
constexpr std::int64_t kRowsTogether = 96, kLeastRows = 48;

// At least the bytes of all arrays of weights of this size, or of one of their packed forms; none if 64 bits cannot
// count them. Sizes are at least 1.
std::optional<std::int64_t> most_weight_bytes(const CellFacts& f, std::int64_t hidden, std::int64_t input,
                                              std::int64_t heads = 1);

// At least the bytes of all sequences of a call, its states, its reserve, and the scratch of all workers.
std::optional<std::int64_t> most_call_bytes(const CellFacts& f, std::int64_t hidden, std::int64_t input,
                                            std::int64_t seq_len, std::int64_t batch, std::int64_t heads = 1);

inline bool sizes_fit(const CellFacts& f, std::int64_t hidden, std::int64_t input, std::int64_t heads = 1) {
  return most_weight_bytes(f, hidden, input, heads).has_value();
}
inline bool call_fits(const CellFacts& f, std::int64_t hidden, std::int64_t input, std::int64_t seq_len,
                      std::int64_t batch, std::int64_t heads = 1) {
  return most_call_bytes(f, hidden, input, seq_len, batch, heads).has_value();
}

}  // namespace fusedrnn
