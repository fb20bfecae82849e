#include "regularisation.hpp"

#include <cmath>
#include <cstring>

#include "philox.hpp"

namespace fusedrnn {

namespace {

using std::int64_t;

constexpr int64_t kNumbers = 16;  // of 16 bits in a block of the generator

// The numbers of units [block * kNumbers, (block + 1) * kNumbers).
void draw(const MaskSource& source, Mask mask, int64_t step, int64_t row, int64_t block, std::uint16_t* numbers) {
  const auto place = (kFirstMaskKind + mask) << 32 | static_cast<std::uint64_t>(source.layer) << 1 |
                     static_cast<std::uint64_t>(source.direction);
  const PhiloxBlock bits = philox(source.seed, 0,
                                  {{static_cast<std::uint64_t>(block) + 1, static_cast<std::uint64_t>(row),
                                    static_cast<std::uint64_t>(step), place}});
  for (int i = 0; i < kNumbers; ++i) numbers[i] = static_cast<std::uint16_t>(bits.word[i / 4] >> (i % 4 * 16));
}

}  // namespace

template <class C>
void read_mask(const Probabilities& options, const MaskSource& source, Mask mask, int64_t step, int64_t row,
               int64_t rows, int64_t units, int64_t first, int64_t last, C dropped, C kept, C* to) {
  if (const std::uint8_t* const given = source.given[mask]) {
    const std::uint8_t* const of_row = given + (step * rows + row) * units;
    for (int64_t unit = first; unit < last; ++unit) to[unit - first] = of_row[unit] ? dropped : kept;
    return;
  }
  const auto threshold = static_cast<std::uint32_t>(std::nearbyint(options.p[mask] * 65536));
  for (int64_t unit = first; unit < last;) {
    const int64_t block = unit / kNumbers, end = last < (block + 1) * kNumbers ? last : (block + 1) * kNumbers;
    std::uint16_t numbers[kNumbers];
    draw(source, mask, step, row, block, numbers);
    if (end - unit == kNumbers) {  // a loop of constant length becomes vector instructions
      C some[kNumbers];
      for (int i = 0; i < kNumbers; ++i) some[i] = numbers[i] < threshold ? dropped : kept;
      std::memcpy(to + unit - first, some, sizeof(some));
    } else {
      for (int64_t u = unit; u < end; ++u) to[u - first] = numbers[u % kNumbers] < threshold ? dropped : kept;
    }
    unit = end;
  }
}

template void read_mask<float>(const Probabilities&, const MaskSource&, Mask, int64_t, int64_t, int64_t, int64_t,
                               int64_t, int64_t, float, float, float*);
template void read_mask<double>(const Probabilities&, const MaskSource&, Mask, int64_t, int64_t, int64_t, int64_t,
                                int64_t, int64_t, double, double, double*);

}  // namespace fusedrnn
