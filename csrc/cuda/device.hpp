// What kernels ask of the machine: who a thread is, meeting, loads and stores past the first cache, tensor cores. On
// the CPU, for the tests, tests/cuda/emulator.hpp gives the same.
#pragma once

#if !defined(__CUDACC__)
#include "emulator.hpp"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "../cells/math.hpp"

#define RNN_DEVICE __device__ __forceinline__
#define RNN_CALLED __device__ __noinline__  // not put in place, as that would take minutes to compile
#define RNN_KERNEL extern "C" __global__ void __launch_bounds__(256, 1)
#define RNN_CONSTANT_ARGUMENT __grid_constant__

namespace {

using bfloat16 = __nv_bfloat16;
using float16 = __half;

struct alignas(16) Words {
  unsigned w[4];
};

RNN_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
RNN_DEVICE int thread_count() { return static_cast<int>(blockDim.x); }
RNN_DEVICE int thread_block_index() { return static_cast<int>(blockIdx.x); }
RNN_DEVICE int thread_block_count() { return static_cast<int>(gridDim.x); }
RNN_DEVICE char* shared_memory() {
  extern __shared__ __align__(16) char memory[];
  return memory;
}
RNN_DEVICE void meet_thread_block() { __syncthreads(); }
RNN_DEVICE void meet_warp() { __syncwarp(); }
// Ends the launch with an error.
RNN_DEVICE void trap() { __trap(); }
RNN_DEVICE bool any_lane(bool mine) { return __any_sync(0xffffffffu, mine) != 0; }

// Words by which thread blocks give each other numbers during this launch: past the first cache, which is not kept
// coherent, and each word whole. Nothing orders them but that a word which was read had been written.
RNN_DEVICE Words load_fresh(const void* p) {
  Words r;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(r.w[0]), "=r"(r.w[1]), "=r"(r.w[2]), "=r"(r.w[3])
               : "l"(p)
               : "memory");
  return r;
}
RNN_DEVICE void store_fresh(void* p, unsigned word) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(word) : "memory");
}
// All that this thread has read and written comes before all that it reads and writes from here on.
RNN_DEVICE void fence() { __threadfence(); }
// Between two looks at memory that another thread block will write.
RNN_DEVICE void pause() {}
// The value of the lane whose number differs in its last bit; both must call it.
RNN_DEVICE unsigned of_neighbour(unsigned mine) { return __shfl_xor_sync(3u << (threadIdx.x % 32 & ~1u), mine, 1); }
RNN_DEVICE unsigned larger(unsigned a, unsigned b) { return a > b ? a : b; }

// Memory that no thread writes during this launch.
RNN_DEVICE Words load_constant(const void* p) {
  const uint4 v = __ldg(static_cast<const uint4*>(p));
  return {{v.x, v.y, v.z, v.w}};
}
RNN_DEVICE void store_pair(float* to, float a, float b) { *reinterpret_cast<float2*>(to) = make_float2(a, b); }
// Marks a moment of a step, for a variant that measures (tools/gpu).
RNN_DEVICE void stamp(int) {}
RNN_DEVICE Words load_shared(const void* p) { return *static_cast<const Words*>(p); }

RNN_DEVICE float as_float(unsigned bits) { return __uint_as_float(bits); }
RNN_DEVICE unsigned bits_of(float v) { return __float_as_uint(v); }
RNN_DEVICE unsigned bits_of(bfloat16 v) { return __bfloat16_as_ushort(v); }
RNN_DEVICE unsigned bits_of(float16 v) { return __half_as_ushort(v); }
// a / b without branches, for 1 <= |b| < infinity: where 1 / b would be subnormal, it is 0.
RNN_INLINE float quotient(float a, float b) {
#if defined(__CUDA_ARCH__)
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(b));
  const float q = a * inverse;
  return __fmaf_rn(__fmaf_rn(-b, q, a), inverse, q);
#else
  return a / b;
#endif
}
RNN_DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
RNN_DEVICE float widen(float v) { return v; }
RNN_DEVICE float widen(bfloat16 v) { return __bfloat162float(v); }
RNN_DEVICE float widen(float16 v) { return __half2float(v); }
RNN_DEVICE void narrow(float v, float& to) { to = v; }
RNN_DEVICE void narrow(float v, bfloat16& to) { to = __float2bfloat16_rn(v); }
RNN_DEVICE void narrow(float v, float16& to) { to = __float2half_rn(v); }
// To nearest, ties away from zero, as tensor cores read it: 10 bits of mantissa.
RNN_DEVICE float round_tf32(float v) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
  return as_float(bits);
}

// c (16 x 8) += a (16 x K) b (K x 8), K = 32 bytes, as the instruction lays them out over a warp: of lane 4*g + q, a
// has the rows g and g+8 and the q-th four bytes of each 16 bytes of K (row g, row g+8, then the same of the second
// 16), b the column g likewise, and c the rows g, g, g+8, g+8 with the columns 2*q, 2*q+1.
#define RNN_MMA(shape, type)                                                 \
  asm("mma.sync.aligned." shape ".row.col.f32." type "." type                \
      ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                       \
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1))
template <class Operand>
struct TensorCore;
struct tf32;
template <>
struct TensorCore<tf32> {
  RNN_DEVICE static void multiply(float* c, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                                  unsigned b1) {
    RNN_MMA("m16n8k8", "tf32");
  }
};
template <>
struct TensorCore<bfloat16> {
  RNN_DEVICE static void multiply(float* c, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                                  unsigned b1) {
    RNN_MMA("m16n8k16", "bf16");
  }
};
template <>
struct TensorCore<float16> {
  RNN_DEVICE static void multiply(float* c, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                                  unsigned b1) {
    RNN_MMA("m16n8k16", "f16");
  }
};
#undef RNN_MMA

}  // namespace
#endif
