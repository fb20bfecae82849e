// The math policy: the operations that a cell may use on a vector of units.
//
// A cell is written over a type V that holds one or more units (a SIMD register on the CPU, one float on a GPU). V has
//   value_type           float or double
//   + - *                IEEE operations, round to nearest even
//   /                    IEEE division
//   fma(a, b, c)         a * b + c with one rounding; fnma(a, b, c) is c - a * b
//   min(a, b)            a < b ? a : b, so min(bound, x) keeps a NaN x; max(a, b) likewise with a > b
//   abs(a), copysign(a, s)
//   if_positive(s, a)    s <= 0 ? 0 : a, so a where s is NaN
//   choose(s, a, b)      s > 0 ? a : b
//   V(t)                 t in every lane
//   V::exp2_int(m)       2^n for m = n + kRoundMagic (activations.hpp), exact; 0 for the n below the smallest exponent
// Subnormal operands and results count as zeros (platform/float_environment.hpp).
// Each of them gives the same bits on every machine, and so do all formulas that are made of them, as long as the
// compiler contracts and reorders nothing (-ffp-contract=off, no -ffast-math).
#pragma once

#include <cstdint>

// RNN_UNROLL unrolls a loop of constant length; RNN_ROLLED keeps a loop short that nvcc would unroll.
#if defined(__CUDACC__)
#define RNN_INLINE __host__ __device__ __forceinline__
#define RNN_UNROLL _Pragma("unroll")
#define RNN_ROLLED _Pragma("unroll 1")
#else
#include "../platform/compiler.hpp"
#endif
