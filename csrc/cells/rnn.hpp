// The simple recurrent network (Elman 1990): h = f(W x + U h_prev + b) with f = tanh or f(a) = max(a, 0).
#pragma once

#include "cell.hpp"

namespace {

struct RnnTanh : OnePhaseCell<1, 1> {
  enum Slot { H };

  template <int Phase, class V, class At>
  static RNN_INLINE void forward(const V* a, const At& at) {
    const V h = tanh(a[0]);
    at.save(H, h);
    at.set_h(h);
  }

  template <int Stage, class V, class At>
  static RNN_INLINE void backward(V dh, const At& at) {
    const V h = at.slot(H);
    at.grad(H, dh * (V(1) - h * h));
  }
};

struct RnnRelu : OnePhaseCell<1, 1> {
  enum Slot { H };

  template <int Phase, class V, class At>
  static RNN_INLINE void forward(const V* a, const At& at) {
    const V h = max(V(0), a[0]);
    at.save(H, h);
    at.set_h(h);
  }

  // The gradient is that of h > 0: zero at 0, as in PyTorch; a NaN h passes it on.
  template <int Stage, class V, class At>
  static RNN_INLINE void backward(V dh, const At& at) {
    at.grad(H, if_positive(at.slot(H), dh));
  }
};

}  // namespace
