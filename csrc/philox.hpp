// Philox4x64-10 (Salmon et al. 2011), the generator of NumPy's `Philox`: numbers that are a function of a key and a
// counter, so that a mask can be made again at any place of it.
#pragma once

#include <cstdint>

#include "platform/compiler.hpp"

namespace fusedrnn {

struct PhiloxBlock {
  std::uint64_t word[4];
};

// The block of a counter. NumPy's `Philox(key=, counter=)` gives first the block after its counter.
inline PhiloxBlock philox(std::uint64_t key0, std::uint64_t key1, PhiloxBlock counter) {
  constexpr std::uint64_t kMultiply0 = 0xD2E7470EE14C6C93, kMultiply1 = 0xCA5A826395121157;
  constexpr std::uint64_t kWeyl0 = 0x9E3779B97F4A7C15, kWeyl1 = 0xBB67AE8584CAA73B;
  std::uint64_t* const c = counter.word;
  for (int round = 0; round < 10; ++round) {
    const Product128 a = wide_product(kMultiply0, c[0]), b = wide_product(kMultiply1, c[2]);
    counter = {{b.high ^ c[1] ^ key0, b.low, a.high ^ c[3] ^ key1, a.low}};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return counter;
}

}  // namespace fusedrnn
