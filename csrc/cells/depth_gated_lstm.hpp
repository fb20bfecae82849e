// Depth-gated LSTM (Yao et al. 2015, equations 3 to 8): c of the layer below enters through a gate of its own,
//     d = sigmoid(W_d x + p_d * c_prev + q_d * c_below + b_d)
//     c = d * c_below + f * c_prev + i * g        h = o * tanh(c)
// beside diagonal peepholes of i, f and o. Gates i, f, g, o, d; d has no product with h_prev.
#pragma once

#include "cell.hpp"

namespace {

struct DepthGatedLstm : OnePhaseCell<5, 6> {
  enum Slot { I, F, G, O, D, C };
  enum Vector { PI, PF, PO, PD, QD };
  static constexpr int kRecurrentGates = 4, kStates = 2, kVectors = 5;
  static constexpr bool kBelow = true;
  static constexpr Product product(int) { return {0, 0, I, 4, From::h_prev, 0, 1, I}; }
  static constexpr State state(int s) { return s == 0 ? state_h(false) : state_c(C); }
  static constexpr Matrix matrix(int) { return {4, 1}; }
  static constexpr VectorGradient vector_gradient(int k) {
    if (k == PO) return {O, From::slots, C};
    if (k == QD) return {D, From::below, 0};
    return {k == PI ? I : k == PF ? F : D, From::c_prev, 0};
  }

  template <int Phase, class V, class At>
  static RNN_INLINE void forward(const V* a, const At& at) {
    const V c_prev = at.c_prev(), below = at.below(), g = tanh(a[G]);
    const V i = sigmoid(fma(at.vector(PI), c_prev, a[I])), f = sigmoid(fma(at.vector(PF), c_prev, a[F]));
    const V d = sigmoid(fma(at.vector(QD), below, fma(at.vector(PD), c_prev, at.pre(D))));
    const V c = fma(d, below, fma(f, c_prev, i * at.candidate(g)));
    const V o = sigmoid(fma(at.vector(PO), c, a[O]));
    at.save(I, i);
    at.save(F, f);
    at.save(G, g);
    at.save(O, o);
    at.save(D, d);
    at.set_c(c);
    at.set_h(o * tanh(c));
  }

  template <int Stage, class V, class At>
  static RNN_INLINE void backward(V dh, const At& at) {
    const V one(1), i = at.slot(I), f = at.slot(F), g = at.slot(G), o = at.slot(O), d = at.slot(D);
    const V c_prev = at.c_prev(), below = at.below(), tanh_c = tanh(at.slot(C));
    const V da_o = dh * tanh_c * (o * (one - o));
    const V dc = fma(at.vector(PO), da_o, fma(dh * o, one - tanh_c * tanh_c, at.dc() + at.dc_given()));
    const V da_i = dc * at.candidate(g) * (i * (one - i)), da_f = dc * c_prev * (f * (one - f));
    const V da_d = dc * below * (d * (one - d));
    at.grad(I, da_i);
    at.grad(F, da_f);
    at.grad(G, at.candidate(dc * i) * (one - g * g));
    at.grad(O, da_o);
    at.grad(D, da_d);
    at.set_dbelow(fma(at.vector(QD), da_d, dc * d));
    at.set_dc(fma(at.vector(PD), da_d, fma(at.vector(PI), da_i, fma(at.vector(PF), da_f, dc * f))));
  }
};

}  // namespace
