// Tiles: units by the vector.
#pragma once

#include <cassert>
#include <cstdint>

#include "storage.hpp"

namespace {

using std::int64_t;

template <class V>
RNN_INLINE int64_t tiles_of(int64_t units) {
  return (units + V::width - 1) / V::width;
}

// The lanes of a tile that are units.
template <class V>
RNN_INLINE typename V::Lanes lanes_of(int64_t tile, int64_t units) {
  const int64_t left = units - tile * V::width;
  assert(tile >= 0 && left > 0);
  return typename V::Lanes(left < V::width ? static_cast<int>(left) : V::width);
}

}  // namespace
