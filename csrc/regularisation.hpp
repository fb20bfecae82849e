// Zoneout and dropout inside of cells: probabilities, where masks come from, and what they make of numbers. Which masks
// a seed gives: python/fusedrnn/masks.py says it, and draws the same ones.
#pragma once

#include <cstdint>

namespace fusedrnn {

// The options. Masks of units of h and c, and of the candidate, are (T, B, units); of the input and of h_prev where a
// product takes it (B, units), one for all steps; of weight_hh as it is.
enum Mask : int { kZoneoutH, kZoneoutC, kInputDropout, kRecurrentDropout, kCandidateDropout, kWeightDropout, kMasks };
constexpr const char* kMaskNames[kMasks] = {"zoneout_h",         "zoneout_c",         "input_dropout",
                                            "recurrent_dropout", "candidate_dropout", "weight_dropout"};
constexpr std::uint64_t kFirstMaskKind = 3;  // of numbers drawn with one seed: that of the first option

struct Probabilities {
  double p[kMasks] = {};  // 0: without the option

  bool has(Mask mask) const { return p[mask] > 0; }
  bool zoneout() const { return has(kZoneoutH) || has(kZoneoutC); }
  // What dropout leaves is multiplied by this.
  double scale(Mask mask) const { return p[mask] < 1 ? 1 / (1 - p[mask]) : 0; }
};

// Where the masks of a call in training come from.
struct MaskSource {
  std::uint64_t seed = 0;
  std::int64_t layer = 0, direction = 0;
  const std::uint8_t* given[kMasks] = {};  // other than 0 where a mask is True; null: from the seed
};

// Part of a row of a mask: to[unit - first] = dropped where the mask is True, else kept, of units [first, last) of
// `units` in all. The row is one of `rows` at this step.
template <class C>
void read_mask(const Probabilities& options, const MaskSource& source, Mask mask, std::int64_t step, std::int64_t row,
               std::int64_t rows, std::int64_t units, std::int64_t first, std::int64_t last, C dropped, C kept, C* to);

// What a call drops, or keeps. Factors are 0 where a number is dropped, and else what multiplies it.
template <class C>
struct Regularisation {
  Probabilities options;
  MaskSource source;
  const C* input = nullptr;      // (B, I): factors of x; null: without. In training alone, as the next is
  const C* recurrent = nullptr;  // (B, P): factors of h_prev where a product with weight_hh takes it
  C* c = nullptr;                // (T, B, H): c after zoneout, of the reserve

  bool has(Mask mask) const { return options.has(mask); }
};

}  // namespace fusedrnn
