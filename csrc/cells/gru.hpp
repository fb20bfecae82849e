// GRU (Cho et al. 2014), gates r, z, n, in its two forms:
//     h = (1 - z) * n + z * h_prev
//     reset-after   n = tanh(W_n x + b_Wn + r * (U_n h_prev + b_Un))      PyTorch, cuDNN
//     reset-before  n = tanh(W_n x + U_n (r * h_prev) + b_n)              the paper
// (1 - z) * n + z * h_prev is computed as n + z * (h_prev - n).
#pragma once

#include "cell.hpp"

namespace {

// n's recurrent part stays apart, as r multiplies it. The slots are ordered so that the gradients that the input sees
// (n, r, z) and those that the recurrent product sees (r, z, r * dn) are both contiguous.
struct GruResetAfter : OnePhaseCell<3, 4> {
  enum Gate { R, Z, N };
  enum Slot { SN, SR, SZ, SQ };  // q = U_n h_prev + b_Un
  static constexpr bool kDirect = true;
  static constexpr bool split(int gate) { return gate == N; }
  static constexpr Range input_columns() { return {SN, 3}; }
  static constexpr Range phase_columns(int) { return {SR, 3}; }
  static constexpr int column_gate(int column) { return column == SN || column == SQ ? N : column == SR ? R : Z; }

  template <int Phase, class V, class At>
  static RNN_INLINE void forward(const V* a, const At& at) {
    const V r = sigmoid(a[R]), z = sigmoid(a[Z]), q = a[N];
    const V n = tanh(fma(r, q, at.pre(N)));
    at.save(SR, r);
    at.save(SZ, z);
    at.save(SN, n);
    at.save(SQ, q);
    at.set_h(fma(z, at.h_prev() - n, n));
  }

  template <int Stage, class V, class At>
  static RNN_INLINE void backward(V dh, const At& at) {
    const V one(1);
    const V r = at.slot(SR), z = at.slot(SZ), n = at.slot(SN), q = at.slot(SQ);
    const V dn = dh * (one - z) * (one - n * n);
    at.grad(SN, dn);
    at.grad(SR, dn * q * (r * (one - r)));
    at.grad(SZ, dh * (at.h_prev() - n) * (z * (one - z)));
    at.grad(SQ, dn * r);
    at.set_direct(dh * z);
  }
};

// Phase 0 makes r and z, and r * h_prev; phase 1 takes that row's product with U_n.
struct GruResetBefore : OnePhaseCell<3, 4> {
  enum { R, Z, N, Q };  // gates and slots; q = r * h_prev
  static constexpr int kPhases = 2;
  static constexpr bool kDirect = true;
  static constexpr Range phase_gates(int phase) { return phase == 0 ? Range{R, 2} : Range{N, 1}; }
  static constexpr int phase_source(int phase) { return phase == 0 ? kFromState : Q; }
  static constexpr bool carried(int slot) { return slot == Z || slot == Q; }
  static constexpr Range phase_columns(int phase) { return phase_gates(phase); }

  template <int Phase, class V, class At>
  static RNN_INLINE void forward(const V* a, const At& at) {
    if constexpr (Phase == 0) {
      const V r = sigmoid(a[R]);
      at.save(R, r);
      at.save(Z, sigmoid(a[Z]));
      at.save(Q, r * at.h_prev());
    } else {
      const V n = tanh(a[0]);
      at.save(N, n);
      at.set_h(fma(at.slot(Z), at.h_prev() - n, n));
    }
  }

  template <int Stage, class V, class At>
  static RNN_INLINE void backward(V d, const At& at) {
    const V one(1);
    if constexpr (Stage == 0) {  // d = dh
      const V z = at.slot(Z), n = at.slot(N);
      at.grad(N, d * (one - z) * (one - n * n));
      at.grad(Z, d * (at.h_prev() - n) * (z * (one - z)));
      at.set_direct(d * z);
    } else {  // d = dq
      const V r = at.slot(R);
      at.grad(R, d * at.h_prev() * (r * (one - r)));
      at.set_direct(fma(d, r, at.direct()));
    }
  }
};

}  // namespace
