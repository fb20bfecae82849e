// Dropout whose mask is a function of a seed and of each number's place, so that backward makes it again.
#pragma once

#include <cmath>
#include <cstdint>

#include "philox.hpp"

namespace fusedrnn {

// Kinds of numbers that are drawn with one seed; python/fusedrnn/layers/numbers.py draws the others.
constexpr std::uint64_t kBetweenLayers = 2;

struct Dropout {
  double p;            // the probability that a number becomes zero, in 0..1
  std::uint64_t seed;  // the generator's key

  // 32 random bits below this drop a number.
  std::uint64_t threshold() const { return static_cast<std::uint64_t>(std::nearbyint(p * 4294967296.0)); }
};

// The outputs of one direction of a layer at one step of one row: to[u] = from[u] / (1 - p), or 0. Unit u has the
// u-th half word, the lower half first, of the blocks with the counters (1, row, step, place), (2, row, step, place),
// ... where place is kind << 32 | layer << 1 | direction. `to` may be `from`.
template <class C>
void drop(const Dropout& dropout, std::int64_t layer, std::int64_t direction, std::int64_t step, std::int64_t row,
          const C* from, C* to, std::int64_t units) {
  const std::uint64_t threshold = dropout.threshold();
  const auto place =
      kBetweenLayers << 32 | static_cast<std::uint64_t>(layer) << 1 | static_cast<std::uint64_t>(direction);
  const C scale = static_cast<C>(1 / (1 - dropout.p));
  std::uint64_t block = 0;
  for (std::int64_t unit = 0; unit < units; unit += 8) {
    const PhiloxBlock bits =
        philox(dropout.seed, 0, {{++block, static_cast<std::uint64_t>(row), static_cast<std::uint64_t>(step), place}});
    const std::int64_t count = units - unit < 8 ? units - unit : 8;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::uint64_t number = bits.word[i / 2] >> (i % 2 * 32) & 0xffffffffu;
      to[unit + i] = number < threshold ? C(0) : from[unit + i] * scale;
    }
  }
}

// The same under a mask, other than 0 where a number is dropped.
template <class C>
void drop(const Dropout& dropout, const std::uint8_t* mask, const C* from, C* to, std::int64_t units) {
  const C scale = static_cast<C>(1 / (1 - dropout.p));
  for (std::int64_t unit = 0; unit < units; ++unit) to[unit] = mask[unit] ? C(0) : from[unit] * scale;
}

}  // namespace fusedrnn
