// The product of a step: a warp's part of the sums of a group's halves for 8, 16 or 32 rows.
//
// Weights of one half and chunk are 8 rows of 64 bytes, cut into 16-byte pieces, one for each lane. Operands are rows
// of 64 bytes a chunk. Which k stands where within a chunk is free, as long as weights and operands agree: so each lane
// loads 16 contiguous bytes of both.
#pragma once

#include "arguments.hpp"
#include "device.hpp"
#include "scalar.hpp"

namespace {

using fusedrnn::cuda::kChunkBytes;
using fusedrnn::cuda::kHalfBytes;
using fusedrnn::cuda::kOctet;
using fusedrnn::cuda::kTileSums;
using std::int64_t;

// A warp's sums: [pair of halves][eight of rows][place in the pair as tensor cores lay it out].
template <int kTiles, int kPairs>
using WarpSums = float[kPairs][kTiles][4];

// A word that no thread block has given yet. No operand has all bits set: NaN is 0x7fff... in every format.
constexpr unsigned kNotYet = 0xffffffffu;

// Operands of one chunk: lane 4*g + q has the q-th 16 bytes of row g of each eight rows. Several chunks are loaded at
// once, as each load waits long for L2.
template <int kTiles>
using Operands = Words[kTiles];

RNN_DEVICE unsigned largest(const Words& x) { return larger(larger(x.w[0], x.w[1]), larger(x.w[2], x.w[3])); }

// Operands of so many chunks, `step` bytes apart, once all of them have been given. Each lane waits for its own, from
// its place and for so many rows from its own on; all others are zeros.
template <int kTiles, int kChunksAhead>
RNN_DEVICE void receive(Operands<kTiles> (&x)[kChunksAhead], int chunks, const char* from, int step, int rows,
                        int row_bytes) {
  RNN_UNROLL for (int i = 0; i < kChunksAhead; ++i) {
    RNN_UNROLL for (int n = 0; n < kTiles; ++n) {
      x[i][n] = {{0, 0, 0, 0}};
      if (i < chunks && n * kOctet < rows)
        x[i][n] = load_fresh(from + static_cast<unsigned>(i * step + n * kOctet * row_bytes));
    }
  }
  while (true) {
    unsigned late[kChunksAhead][kTiles], latest = 0;
    RNN_UNROLL for (int i = 0; i < kChunksAhead; ++i) {
      RNN_UNROLL for (int n = 0; n < kTiles; ++n) latest = larger(latest, late[i][n] = largest(x[i][n]));
    }
    if (latest != kNotYet) break;
    pause();
    RNN_UNROLL for (int i = 0; i < kChunksAhead; ++i) {
      RNN_UNROLL for (int n = 0; n < kTiles; ++n) {
        if (late[i][n] == kNotYet) {
          x[i][n] = load_fresh(from + static_cast<unsigned>(i * step + n * kOctet * row_bytes));
        }
      }
    }
  }
  meet_warp();
}

// Products on tensor cores. Lane 4*g + q has of each half the q-th 16 bytes of row g.
template <class Operand>
struct Tensor {
  static RNN_INLINE int slot(int row, int piece) { return row * 4 + piece; }

  // Two halves as an instruction takes them: registers in a row.
  static RNN_DEVICE void join(Words& a, Words& b) {
    const Words first = {{a.w[0], b.w[0], a.w[1], b.w[1]}}, second = {{a.w[2], b.w[2], a.w[3], b.w[3]}};
    a = first, b = second;
  }
  // Adds a chunk. `weights(h, slot)` loads a piece of half h; halves may have been joined. `scratch` is 512 bytes for
  // each eight rows, of this warp's own.
  template <int kTiles, int kPairs, class Weights>
  static RNN_DEVICE void add_chunk(WarpSums<kTiles, kPairs>& sums, const Operands<kTiles>& x, char*, Weights&& weights,
                                   bool joined = true) {
    const int lane = thread_index() % 32;
    RNN_UNROLL for (int pair = 0; pair < kPairs; ++pair) {
      Words a = weights(2 * pair, lane), b = weights(2 * pair + 1, lane);
      if (!joined) join(a, b);
      RNN_UNROLL for (int n = 0; n < kTiles; ++n) {
        TensorCore<Operand>::multiply(sums[pair][n], a.w[0], a.w[1], a.w[2], a.w[3], x[n].w[0], x[n].w[1]);
        TensorCore<Operand>::multiply(sums[pair][n], b.w[0], b.w[1], b.w[2], b.w[3], x[n].w[2], x[n].w[3]);
      }
    }
  }
};

// Products in float32: the same sums for the same lanes, each a chain of fused multiply-adds. Lane 4*g + q needs whole
// rows g of the weights, of which pieces lie side by side, and rows 2*q and 2*q + 1 of the operands, which lanes give
// to each other through `scratch`.
struct MultiplyAdd {
  static RNN_INLINE int slot(int row, int piece) { return piece * kOctet + row; }
  // Where a piece of a row of operands lies in the scratch: so that lanes which read at once find it in different
  // banks.
  static RNN_DEVICE int place(int row, int piece) { return row * kChunkBytes + (piece ^ (row / 2)) * 16; }

  static RNN_DEVICE void join(Words&, Words&) {}
  static RNN_DEVICE float dot(const Words& a, const Words& b, float sum) {
    RNN_UNROLL for (int k = 0; k < 4; ++k) sum = fused(as_float(a.w[k]), as_float(b.w[k]), sum);
    return sum;
  }
  template <int kTiles, int kPairs, class Weights>
  static RNN_DEVICE void add_chunk(WarpSums<kTiles, kPairs>& sums, const Operands<kTiles>& x, char* scratch,
                                   Weights&& weights, bool = true) {
    constexpr int kPairsAtOnce = kPairs < 2 ? kPairs : 2;
    const int lane = thread_index() % 32, g = lane / 4, q = lane % 4;
    meet_warp();  // the chunk before has been read
    RNN_UNROLL for (int n = 0; n < kTiles; ++n) {
      *reinterpret_cast<Words*>(scratch + n * kHalfBytes + place(g, q)) = x[n];
    }
    meet_warp();
    RNN_UNROLL for (int first = 0; first < kPairs; first += kPairsAtOnce) {
      RNN_ROLLED for (int piece = 0; piece < 4; ++piece) {
        Words a[2 * kPairsAtOnce];
        RNN_UNROLL for (int i = 0; i < 2 * kPairsAtOnce; ++i) {
          if (first + i / 2 < kPairs) a[i] = weights(2 * first + i, slot(g, piece));
        }
        RNN_UNROLL for (int n = 0; n < kTiles; ++n) {
          const char* const tile = scratch + n * kHalfBytes;
          const Words y = load_shared(tile + place(2 * q, piece)), z = load_shared(tile + place(2 * q + 1, piece));
          RNN_UNROLL for (int i = 0; i < 2 * kPairsAtOnce; ++i) {
            if (first + i / 2 >= kPairs) continue;
            float* const sum = &sums[first + i / 2][n][i % 2 * 2];
            sum[0] = dot(a[i], y, sum[0]);
            sum[1] = dot(a[i], z, sum[1]);
          }
        }
      }
    }
  }
};

// A format of products: how arrays are stored, what operands look like in `exchange` and in packed weights.
struct FormatFloat32 : MultiplyAdd {
  using Storage = float;
  static RNN_DEVICE float operand(float v) { return v == v ? v : as_float(0x7fffffffu); }
};
struct FormatTF32 : Tensor<tf32> {
  using Storage = float;
  static RNN_DEVICE float operand(float v) { return v == v ? round_tf32(v) : as_float(0x7fffffffu); }
};
template <class T>
struct Format16 : Tensor<T> {
  using Storage = T;
  static RNN_DEVICE T operand(float v) {
    T to;
    narrow(v, to);
    return to;
  }
};

using fusedrnn::cuda::Format;

// The format of a name.
template <Format kFormat>
struct NamedFormat;
template <>
struct NamedFormat<Format::float32> {
  using type = FormatFloat32;
};
template <>
struct NamedFormat<Format::tf32> {
  using type = FormatTF32;
};
template <>
struct NamedFormat<Format::bfloat16> {
  using type = Format16<bfloat16>;
};
template <>
struct NamedFormat<Format::float16> {
  using type = Format16<float16>;
};
template <Format kFormat>
using FormatOf = typename NamedFormat<kFormat>::type;

template <class Storage>
RNN_DEVICE float load_element(const void* from, int64_t i) {
  return widen(static_cast<const Storage*>(from)[i]);
}
}  // namespace
