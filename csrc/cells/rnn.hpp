// The simple recurrent network (Elman 1990): h = f(W x + U h_prev + b) with f = tanh or f(a) = max(a, 0).
#pragma once

#include "cell.hpp"

namespace {

struct RnnTanh : OnePhaseCell<1, 0> {
  template <int Phase, class V, class At>
  static RNN_INLINE void forward(const V* a, const At& at) {
    at.set_h(tanh(a[0]));
  }

  template <class V>
  static RNN_INLINE V gradient(V h, V dh) {
    return dh * (V(1) - h * h);
  }

  template <int Stage, class V, class At>
  static RNN_INLINE void backward(V dh, const At& at) {
    at.grad(0, gradient(V(at.h()), dh));
  }
};

struct RnnRelu : OnePhaseCell<1, 0> {
  template <int Phase, class V, class At>
  static RNN_INLINE void forward(const V* a, const At& at) {
    at.set_h(max(V(0), a[0]));
  }

  // The gradient is that of h > 0: zero at 0, as in PyTorch; a NaN h passes it on.
  template <class V>
  static RNN_INLINE V gradient(V h, V dh) {
    return if_positive(h, dh);
  }

  template <int Stage, class V, class At>
  static RNN_INLINE void backward(V dh, const At& at) {
    at.grad(0, gradient(V(at.h()), dh));
  }
};

// Independently recurrent (Li et al. 2018): h = f(W x + u * h_prev + b), so that a unit sees no other. The vector is u.
template <class Rnn>
struct IndRnn : OnePhaseCell<1, 0> {
  static constexpr int kRecurrentGates = 0, kMatrices = 0, kVectors = 1;
  static constexpr State state(int) { return state_h(true); }
  static constexpr Product product(int) { return {0, -1, 0, 1, From::h_prev, 0, 0, 0}; }
  static constexpr VectorGradient vector_gradient(int) { return {0, From::h_prev, 0}; }

  template <int Phase, class V, class At>
  static RNN_INLINE void forward(const V* a, const At& at) {
    const V sum = fma(at.vector(0), at.h_prev(), a[0]);
    Rnn::template forward<Phase>(&sum, at);
  }

  template <int Stage, class V, class At>
  static RNN_INLINE void backward(V dh, const At& at) {
    const V da = Rnn::gradient(V(at.h()), dh);
    at.grad(0, da);
    at.set_direct(at.vector(0) * da);
  }
};

// Clockwork (Koutnik et al. 2014): groups of units have clocks, and see the groups whose clocks are not faster.
template <class Rnn>
struct Clockwork : Rnn {
  static constexpr bool kClocked = true;
};

}  // namespace
