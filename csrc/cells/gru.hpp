// GRU (Cho et al. 2014), gates r, z, n, in its two forms:
//     h = (1 - z) * n + z * h_prev
//     reset-after   n = tanh(W_n x + b_Wn + r * (U_n h_prev + b_Un))      PyTorch, cuDNN
//     reset-before  n = tanh(W_n x + U_n (r * h_prev) + b_n)              the paper
// (1 - z) * n + z * h_prev is computed as n + z * (h_prev - n). With kZWeighsNew, z and 1 - z change places, as in the
// papers that write h = (1 - z) * h_prev + z * n.
#pragma once

#include "cell.hpp"

namespace {

template <bool kZWeighsNew, class V>
RNN_INLINE V blend(V z, V n, V h_prev) {
  return kZWeighsNew ? fma(z, n - h_prev, h_prev) : fma(z, h_prev - n, n);
}

// The gradients of `blend` with the candidate n: of the pre-activations of z and n, and of h_prev.
template <bool kZWeighsNew, class V>
struct BlendGradients {
  V z, n, h_prev;
  template <class At>
  RNN_INLINE BlendGradients(V dh, V zv, V nv, V h, const At& at) {
    const V one(1), rest = one - zv, weight = kZWeighsNew ? zv : rest, m = at.candidate(nv);
    z = dh * (kZWeighsNew ? m - h : h - m) * at.math().gate_slope(zv);
    n = at.candidate(dh * weight) * at.math().candidate_slope(nv);
    h_prev = dh * (kZWeighsNew ? rest : zv);
  }
};

// n's recurrent part stays apart, as r multiplies it. The columns are ordered so that the gradients that the input sees
// (n, r, z) are contiguous, and so are the gradients that the recurrent product sees (r, z, r * dn).
template <bool kZWeighsNew>
struct GruResetAfter : OnePhaseCell<3, 4> {
  enum Gate { R, Z, N };
  enum Slot { SN, SR, SZ, SQ };  // and columns; q = U_n h_prev + b_Un
  static constexpr int kColumns = 4;
  static constexpr bool kActivates = true;
  static constexpr State state(int) { return state_h(true); }
  static constexpr bool split(int gate) { return gate == N; }
  static constexpr int kInputColumn = SN;
  static constexpr int input_gate(int column) { return column == 0 ? N : column == 1 ? R : Z; }
  static constexpr Product product(int) { return {0, 0, R, 3, From::h_prev, 0, 1, SR}; }

  template <int Phase, class V, class At>
  static RNN_INLINE void forward(const V* a, const At& at) {
    const V r = at.math().gate(a[R]), z = at.math().gate(a[Z]), q = a[N];
    const V n = at.math().candidate(fma(r, q, at.pre(N)));
    at.save(SR, r);
    at.save(SZ, z);
    at.save(SN, n);
    at.save(SQ, q);
    at.set_h(blend<kZWeighsNew>(z, at.candidate(n), at.h_prev()));
  }

  template <int Stage, class V, class At>
  static RNN_INLINE void backward(V dh, const At& at) {
    const V r = at.slot(SR), z = at.slot(SZ), n = at.slot(SN), q = at.slot(SQ);
    const BlendGradients<kZWeighsNew, V> d(dh, z, n, at.h_prev(), at);
    at.grad(SN, d.n);
    at.grad(SR, d.n * q * at.math().gate_slope(r));
    at.grad(SZ, d.z);
    at.grad(SQ, d.n * r);
    at.set_direct(d.h_prev);
  }
};

// Phase 0 makes r and z, and r * h_prev; phase 1 takes that row's product with U_n.
template <bool kZWeighsNew>
struct GruResetBefore : OnePhaseCell<3, 4> {
  enum { R, Z, N, Q };  // gates and slots; q = r * h_prev
  static constexpr int kPhases = 2, kProducts = 2;
  static constexpr bool kActivates = true;
  static constexpr State state(int) { return state_h(true); }
  static constexpr Product product(int i) {
    return i == 0 ? Product{0, 0, R, 2, From::h_prev, 0, 1, R} : Product{1, 0, N, 1, From::slots, Q, 1, N};
  }
  static constexpr bool carried(int slot) { return slot == Z || slot == Q; }

  template <int Phase, class V, class At>
  static RNN_INLINE void forward(const V* a, const At& at) {
    if constexpr (Phase == 0) {
      const V r = at.math().gate(a[R]);
      at.save(R, r);
      at.save(Z, at.math().gate(a[Z]));
      at.save(Q, r * at.recurrent(at.h_prev()));
    } else {
      const V n = at.math().candidate(a[0]);
      at.save(N, n);
      at.set_h(blend<kZWeighsNew>(at.slot(Z), at.candidate(n), at.h_prev()));
    }
  }

  template <int Stage, class V, class At>
  static RNN_INLINE void backward(V d, const At& at) {
    if constexpr (Stage == 0) {  // d = dh
      const BlendGradients<kZWeighsNew, V> b(d, at.slot(Z), at.slot(N), at.h_prev(), at);
      at.grad(N, b.n);
      at.grad(Z, b.z);
      at.set_direct(b.h_prev);
    } else {  // d = dq
      const V r = at.slot(R);
      at.grad(R, d * at.recurrent(at.h_prev()) * at.math().gate_slope(r));
      at.set_direct(fma(at.recurrent(d), r, at.direct()));
    }
  }
};

}  // namespace
