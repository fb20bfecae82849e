// The order of sums (docs/bits.md), on all devices.
#pragma once

#include <cstdint>

namespace fusedrnn {

constexpr std::int64_t kBlock = 64;             // of k, of one chain of a product (cpu/gemm.hpp)
constexpr std::int64_t kChunkPairs = 256;       // of a chunk of backward (steps.hpp)
constexpr std::int64_t kMostChunkPairs = 1024;  // of one in which rows have ended
constexpr std::int64_t kStretch = 512;          // of one product of a sum over steps and rows (cpu/batched.hpp)

}  // namespace fusedrnn
