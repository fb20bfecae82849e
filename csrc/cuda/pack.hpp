// Packs recurrent weights in the order in which products read them.
#pragma once

#include "product.hpp"

namespace {

using fusedrnn::cuda::PackArguments;

template <class Format>
RNN_DEVICE float weight_at(const PackArguments& p, int64_t unit, int gate, int64_t k) {
  using Storage = typename Format::Storage;
  const int64_t H = p.hidden;
  if (p.transposed) {
    const int64_t each = fusedrnn::cuda::padded(static_cast<int>(H)), block = k / each, row = k % each;
    if (unit >= H || block >= p.gates || row >= H) return 0.0f;
    return load_element<Storage>(p.from, (p.block[block] * H + row) * H + unit);
  }
  if (unit >= H || k >= H) return 0.0f;
  return load_element<Storage>(p.from, (p.block[gate] * H + unit) * H + k);
}

// Each thread makes pieces of 16 bytes.
template <class Format>
RNN_DEVICE void pack(const PackArguments& p) {
  using Operand = decltype(Format::operand(0.0f));
  constexpr int kEach = 16 / static_cast<int>(sizeof(Operand));
  const int gates = p.transposed ? 1 : p.gates;
  const int64_t pieces = static_cast<int64_t>(p.octets) * p.chunks * gates * 32;
  const int64_t stride = static_cast<int64_t>(thread_block_count()) * thread_count();
  for (int64_t i = static_cast<int64_t>(thread_block_index()) * thread_count() + thread_index(); i < pieces;
       i += stride) {
    const int piece = static_cast<int>(i % 4), row = static_cast<int>(i / 4 % kOctet);
    const int64_t half = i / 32, chunk = half / gates % p.chunks, octet = half / gates / p.chunks;
    const int gate = static_cast<int>(half % gates);
    Operand* const to =
        reinterpret_cast<Operand*>(static_cast<char*>(p.to) + half * kHalfBytes + Format::slot(row, piece) * 16);
    for (int j = 0; j < kEach; ++j) {
      to[j] = Format::operand(weight_at<Format>(p, octet * kOctet + row, gate, (chunk * 4 + piece) * kEach + j));
    }
  }
}

}  // namespace
