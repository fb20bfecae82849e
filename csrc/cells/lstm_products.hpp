// LSTMs whose gates see more than x and h_prev through matrices.
#pragma once

#include "cell.hpp"

namespace {

// Full-matrix peepholes: i and f see P [c_prev], o sees P_o [c], the new one, which takes a second phase.
//     matrices after weight_hh: (i, f) if kInputForget, then o if kOutput
template <bool kInputForget, bool kOutput>
struct LstmMatrixPeepholes : OnePhaseCell<4, 5> {
  enum Slot { I, F, G, O, C };
  static constexpr int kStates = 2, kPhases = kOutput ? 2 : 1;
  static constexpr int kProducts = 1 + kInputForget + kOutput, kMatrices = kProducts;
  static constexpr Product product(int i) {
    if (kInputForget && i == 0) return {0, 1, I, 2, From::c_prev, 0, 1, I};
    if (kOutput && i == kProducts - 1) return {1, kMatrices - 1, O, 1, From::slots, C, 1, O};
    return {0, 0, I, 4, From::h_prev, 0, 1, I};
  }
  static constexpr State state(int s) { return s == 0 ? state_h(false) : state_c(C); }
  static constexpr Matrix matrix(int m) { return {m == 0 ? 4 : kInputForget && m == 1 ? 2 : 1, 1}; }

  template <class V, class At>
  static RNN_INLINE void finish(V a_o, V c, const At& at) {
    const V o = sigmoid(a_o);
    at.save(O, o);
    at.set_h(o * tanh(c));
  }

  template <int Phase, class V, class At>
  static RNN_INLINE void forward(const V* a, const At& at) {
    if constexpr (Phase == 0) {
      const V i = sigmoid(a[I]), f = sigmoid(a[F]), g = tanh(a[G]);
      const V c = fma(f, at.c_prev(), i * at.candidate(g));
      at.save(I, i);
      at.save(F, f);
      at.save(G, g);
      at.set_c(c);
      if constexpr (kOutput)
        at.set_pre(O, a[O]);
      else
        finish(a[O], c, at);
    } else {
      finish(a[0], at.slot(C), at);
    }
  }

  template <class V, class At>
  static RNN_INLINE void input_gradients(V dc, const At& at) {
    const V one(1), i = at.slot(I), f = at.slot(F), g = at.slot(G);
    at.grad(I, dc * at.candidate(g) * (i * (one - i)));
    at.grad(F, dc * at.c_prev() * (f * (one - f)));
    at.grad(G, at.candidate(dc * i) * (one - g * g));
    at.set_dc(dc * f);
  }

  template <int Stage, class V, class At>
  static RNN_INLINE void backward(V d, const At& at) {
    if constexpr (Stage == 0) {  // d = dh
      const V one(1), o = at.slot(O), tanh_c = tanh(at.slot(C));
      V dc = fma(d * o, one - tanh_c * tanh_c, at.dc());
      if constexpr (kInputForget) dc = dc + at.extra(0);
      at.grad(O, d * tanh_c * (o * (one - o)));
      if constexpr (kOutput)
        at.set_dc(dc);
      else
        input_gradients(dc, at);
    } else {  // d: the part of dc that comes through o's product
      input_gradients(at.dc() + d, at);
    }
  }
};

using LstmMatrixPeepholesIFO = LstmMatrixPeepholes<true, true>;
using LstmMatrixPeepholesIF = LstmMatrixPeepholes<true, false>;
using LstmMatrixPeepholesO = LstmMatrixPeepholes<false, true>;

// Full gate recurrence (Greff et al. 2015): i, f and o also see R [i_prev, f_prev, o_prev], the nine matrices as one of
// (3*H, 3*H), and diagonal peepholes. The gates of the step before are a third state.
struct LstmGateRecurrence : OnePhaseCell<4, 5> {
  enum Gate { GI, GF, GO, GG };  // and columns; o before g, so that i, f and o lie together
  enum Slot { I, F, O, C, G };
  static constexpr int kStates = 3, kProducts = 2, kMatrices = 2, kVectors = 3;
  static constexpr Product product(int i) {
    return i == 0 ? Product{0, 1, GI, 3, From::slots_prev, I, 3, GI} : Product{0, 0, GI, 4, From::h_prev, 0, 1, GI};
  }
  static constexpr State state(int s) {
    return s == 0 ? state_h(false) : s == 1 ? state_c(C) : State{"gates", 3, I, false};
  }
  static constexpr Matrix matrix(int m) { return m == 0 ? Matrix{4, 1} : Matrix{3, 3}; }
  static constexpr int user_gate(int gate) { return gate == GO ? 3 : gate == GG ? 2 : gate; }
  static constexpr bool carried(int slot) { return slot <= O; }
  static constexpr VectorGradient vector_gradient(int k) {
    return k == 2 ? VectorGradient{GO, From::slots, C} : VectorGradient{GI + k, From::c_prev, 0};
  }

  template <int Phase, class V, class At>
  static RNN_INLINE void forward(const V* a, const At& at) {
    const V c_prev = at.c_prev(), g = tanh(a[GG]);
    const V i = sigmoid(fma(at.vector(0), c_prev, a[GI])), f = sigmoid(fma(at.vector(1), c_prev, a[GF]));
    const V c = fma(f, c_prev, i * at.candidate(g)), o = sigmoid(fma(at.vector(2), c, a[GO]));
    at.save(I, i);
    at.save(F, f);
    at.save(O, o);
    at.save(G, g);
    at.set_c(c);
    at.set_h(o * tanh(c));
  }

  template <int Stage, class V, class At>
  static RNN_INLINE void backward(V dh, const At& at) {
    const V one(1), i = at.slot(I), f = at.slot(F), o = at.slot(O), g = at.slot(G), tanh_c = tanh(at.slot(C));
    const V da_o = fma(dh, tanh_c, at.extra(2)) * (o * (one - o));
    const V dc = fma(at.vector(2), da_o, fma(dh * o, one - tanh_c * tanh_c, at.dc()));
    const V da_i = fma(dc, at.candidate(g), at.extra(0)) * (i * (one - i));
    const V da_f = fma(dc, at.c_prev(), at.extra(1)) * (f * (one - f));
    at.grad(GI, da_i);
    at.grad(GF, da_f);
    at.grad(GO, da_o);
    at.grad(GG, at.candidate(dc * i) * (one - g * g));
    at.set_dc(fma(at.vector(0), da_i, fma(at.vector(1), da_f, dc * f)));
  }
};

}  // namespace
