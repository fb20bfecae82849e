// The activations of a step by their places, at.math() of cell.hpp: those of the equations, or those that a user has
// chosen. Each has its slope, as a function of its value y.
#pragma once

#include "../activation.hpp"
#include "activations.hpp"

namespace {

using fusedrnn::Activation;
using fusedrnn::ChosenActivation;

struct OwnMath {
  static constexpr bool kChosen = false;

  OwnMath() = default;
  RNN_INLINE explicit OwnMath(const fusedrnn::Activations&) {}
  template <class V>
  static RNN_INLINE V gate(V x) {
    return sigmoid(x);
  }
  template <class V>
  static RNN_INLINE V candidate(V x) {
    return tanh(x);
  }
  template <class V>
  static RNN_INLINE V output(V x) {
    return tanh(x);
  }
  template <class V>
  static RNN_INLINE V gate_slope(V y) {
    return y * (V(1) - y);
  }
  template <class V>
  static RNN_INLINE V candidate_slope(V y) {
    return V(1) - y * y;
  }
  template <class V>
  static RNN_INLINE V output_slope(V y) {
    return V(1) - y * y;
  }
};

// The kink of relu, and those of hard_sigmoid, have slope 0.
struct ChosenMath {
  static constexpr bool kChosen = true;
  const fusedrnn::Activations& chosen;

  RNN_INLINE explicit ChosenMath(const fusedrnn::Activations& activations) : chosen(activations) {}
  template <class V>
  RNN_INLINE V gate(V x) const {
    return value(chosen.gate, Activation::sigmoid, x);
  }
  template <class V>
  RNN_INLINE V candidate(V x) const {
    return value(chosen.candidate, Activation::tanh, x);
  }
  template <class V>
  RNN_INLINE V output(V x) const {
    return value(chosen.output, Activation::tanh, x);
  }
  template <class V>
  RNN_INLINE V gate_slope(V y) const {
    return slope(chosen.gate, Activation::sigmoid, y);
  }
  template <class V>
  RNN_INLINE V candidate_slope(V y) const {
    return slope(chosen.candidate, Activation::tanh, y);
  }
  template <class V>
  RNN_INLINE V output_slope(V y) const {
    return slope(chosen.output, Activation::tanh, y);
  }

 private:
  static RNN_INLINE Activation kind(const ChosenActivation& a, Activation own) {
    return a.kind == Activation::own ? own : a.kind;
  }
  template <class V>
  static RNN_INLINE V value(const ChosenActivation& a, Activation own, V x) {
    using T = typename V::value_type;
    switch (kind(a, own)) {
      case Activation::tanh:
        return tanh(x);
      case Activation::hard_sigmoid:
        return max(V(0), min(V(1), fma(V(static_cast<T>(a.alpha)), x, V(static_cast<T>(a.beta)))));
      case Activation::relu:
        return max(V(0), x);
      case Activation::softsign: {  // +-1 at +-inf
        const V size = min(V(ExpConstants<T>::kLargest), abs(x));
        return copysign(size / (V(1) + size), x);
      }
      case Activation::linear:
        return x;
      default:
        return sigmoid(x);
    }
  }
  template <class V>
  static RNN_INLINE V slope(const ChosenActivation& a, Activation own, V y) {
    using T = typename V::value_type;
    switch (kind(a, own)) {
      case Activation::tanh:
        return OwnMath::candidate_slope(y);
      case Activation::hard_sigmoid:
        return if_positive(y, if_positive(V(1) - y, V(static_cast<T>(a.alpha))));
      case Activation::relu:
        return if_positive(y, V(1));
      case Activation::softsign: {  // 1 / (1 + |x|)^2, where |y| = 1 - 1 / (1 + |x|)
        const V rest = V(1) - abs(y);
        return rest * rest;
      }
      case Activation::linear:
        return V(1);
      default:
        return OwnMath::gate_slope(y);
    }
  }
};

}  // namespace
