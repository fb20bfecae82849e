// LSTM with a forget gate (Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000), gates i, f, g, o:
//     c = f * c_prev + i * g        h = o * tanh(c)
#pragma once

#include "cell.hpp"

namespace {

struct Lstm : OnePhaseCell<4, 5> {
  enum Slot { I, F, G, O, C };
  static constexpr int kStates = 2, kStateSlot = C;

  template <int Phase, class V, class At>
  static RNN_INLINE void forward(const V* a, const At& at) {
    const V i = sigmoid(a[I]), f = sigmoid(a[F]), g = tanh(a[G]), o = sigmoid(a[O]);
    const V c = fma(f, at.c_prev(), i * g);
    at.save(I, i);
    at.save(F, f);
    at.save(G, g);
    at.save(O, o);
    at.set_c(c);
    at.set_h(o * tanh(c));
  }

  template <int Stage, class V, class At>
  static RNN_INLINE void backward(V dh, const At& at) {
    const V one(1);
    const V i = at.slot(I), f = at.slot(F), g = at.slot(G), o = at.slot(O), tanh_c = tanh(at.slot(C));
    const V dc = fma(dh * o, one - tanh_c * tanh_c, at.dc());
    at.grad(I, dc * g * (i * (one - i)));
    at.grad(F, dc * at.c_prev() * (f * (one - f)));
    at.grad(G, dc * i * (one - g * g));
    at.grad(O, dh * tanh_c * (o * (one - o)));
    at.set_dc(dc * f);
  }
};

}  // namespace
