// Packed weights in memory: how elements of a storage type become vectors of the type of computation, and back. A new
// storage type is an overload of both. One that keeps more than elements (a scale for each row) also has its own
// PackedMatrix (problem.hpp), packing (pack.hpp), `moved` and WeightReader.
#pragma once

#include <cstdint>

#include "../problem.hpp"
#include "vec.hpp"

namespace {

using fusedrnn::PackedMatrix;
using fusedrnn::RowMatrix;
using fusedrnn::WeightMatrix;

template <class V>
RNN_INLINE V load_stored(const typename V::value_type* from) {
  return V::load(from);
}
template <class V>
RNN_INLINE void store_stored(V v, typename V::value_type* to) {
  v.store(to);
}

// The matrix from this tile on, without the first `elements` elements of each tile.
template <class S>
RNN_INLINE PackedMatrix<S> moved(const PackedMatrix<S>& from, std::int64_t tile, std::int64_t elements) {
  return {from.first + tile * from.tile_stride + elements, from.tile_stride};
}

// The matrix without the first `k` of its depth, each of which has `line` elements in a tile.
template <class S, class C>
RNN_INLINE WeightMatrix<S, C> without(const WeightMatrix<S, C>& from, std::int64_t k, std::int64_t line) {
  return {from.rows ? from.packed : moved(from.packed, 0, k * line), from.rows, from.k + k, from.tile};
}

// The matrix from this tile on, which may be less than 0: back to one before.
template <class S, class C>
RNN_INLINE WeightMatrix<S, C> from_tile(const WeightMatrix<S, C>& from, std::int64_t tile) {
  return {from.rows ? from.packed : moved(from.packed, tile, 0), from.rows, from.k, from.tile + tile};
}

// Reads a few tiles for a micro-kernel: gives the vector of this tile, gate and k, whose elements lie at `from`.
template <class V, class S>
struct WeightReader {
  RNN_INLINE explicit WeightReader(const PackedMatrix<S>&) {}
  RNN_INLINE V load(const S* from, int /* tile */, int /* gate */, std::int64_t /* k */) const {
    return load_stored<V>(from);
  }
};

}  // namespace
