// LSTM (Hochreiter & Schmidhuber 1997; forget gate: Gers, Schmidhuber & Cummins 2000), gates i, f, g, o:
//     c = f * c_prev + i * g        h = o * tanh(c)
// and the variants of "LSTM: A Search Space Odyssey" (Greff et al. 2015), which leave out a gate or an activation or
// couple two gates, each with or without the diagonal peepholes of Gers & Schmidhuber (2000). A gate that is left out
// counts as 1.
#pragma once

#include "cell.hpp"

namespace {

enum LstmOption : unsigned {
  kNoInputGate = 1,
  kNoForgetGate = 2,  // the LSTM of 1997
  kNoOutputGate = 4,
  kNoInputActivation = 8,    // g = a_g
  kNoOutputActivation = 16,  // h = o * c
  kCoupled = 32,             // i = 1 - f
  kPeepholes = 64,           // i and f see p * c_prev, o sees p_o * c
  kProjected = 128,          // m = o * tanh(c), h = W_hr m (Sak et al. 2014)
};

template <unsigned kOptions>
struct LstmLayout {
  static constexpr bool has(unsigned option) { return (kOptions & option) != 0; }
  static constexpr bool kInput = !has(kNoInputGate | kCoupled), kForget = !has(kNoForgetGate);
  static constexpr bool kOutput = !has(kNoOutputGate);
  // Gates and slots; c comes last. One that is left out has no place.
  static constexpr int I = kInput ? 0 : -1, F = kForget ? kInput : -1, G = kInput + kForget;
  static constexpr int O = kOutput ? G + 1 : -1, C = G + 1 + kOutput;
  // Of a projection: the slot of its operand; and the column of the gradients of h, which has no more units.
  static constexpr int M = C + 1, Dh = C;
  // Peepholes among the cell's vectors.
  static constexpr int PI = kInput ? 0 : -1, PF = kForget ? kInput : -1, PO = kOutput ? kInput + kForget : -1;
  static constexpr int kPeepholeCount = has(kPeepholes) ? kInput + kForget + kOutput : 0;
};

template <unsigned kOptions>
struct Lstm : OnePhaseCell<LstmLayout<kOptions>::C, LstmLayout<kOptions>::C + 1> {
  using L = LstmLayout<kOptions>;
  static constexpr bool kProjects = L::has(kProjected);
  static constexpr int kSlots = L::C + 1 + kProjects, kColumns = L::C + kProjects, kProjection = kProjects ? 1 : -1;
  static constexpr int kPhases = 1 + kProjects, kProducts = 1 + kProjects, kMatrices = 1 + kProjects;
  static constexpr Product product(int i) {
    if (i == 1) return {1, 1, 0, 1, From::slots, L::M, 1, L::Dh};
    return {0, 0, 0, L::C, From::h_prev, 0, 1, 0};
  }
  static constexpr Matrix matrix(int m) { return {m == 1 ? 1 : L::C, 1}; }
  static constexpr bool carried(int k) { return kProjects && k == L::M; }
  static constexpr int kStates = 2, kVectors = L::kPeepholeCount;
  static constexpr bool kActivates = true;
  static constexpr bool kPeeps = L::has(kPeepholes);
  static constexpr State state(int s) { return s == 0 ? state_h(false) : state_c(L::C); }
  static constexpr VectorGradient vector_gradient(int k) {
    if (k == L::PO) return {L::O, From::slots, L::C};
    return {k == L::PI ? L::I : L::F, From::c_prev, 0};
  }

  // A gate's pre-activation, with its peephole if it has one.
  template <class V, class At>
  static RNN_INLINE V peep(V a, int k, V c, const At& at) {
    return kPeeps ? fma(at.vector(k), c, a) : a;
  }

  template <int Phase, class V, class At>
  static RNN_INLINE void forward(const V* a, const At& at) {
    if constexpr (Phase == 1)
      at.set_h(a[0]);
    else
      forward_gates(a, at);
  }

  template <class V, class At>
  static RNN_INLINE void forward_gates(const V* a, const At& at) {
    const V new_g = L::has(kNoInputActivation) ? a[L::G] : at.math().candidate(a[L::G]), g = at.candidate(new_g);
    V c = at.c_prev();
    if constexpr (L::kInput) {
      const V i = at.math().gate(peep(a[L::I], L::PI, c, at));
      at.save(L::I, i);
      if constexpr (L::kForget) {
        const V f = at.math().gate(peep(a[L::F], L::PF, c, at));
        at.save(L::F, f);
        c = fma(f, c, i * g);
      } else {
        c = fma(i, g, c);
      }
    } else if constexpr (L::kForget) {
      const V f = at.math().gate(peep(a[L::F], L::PF, c, at));
      at.save(L::F, f);
      c = L::has(kCoupled) ? fma(f, c - g, g) : fma(f, c, g);
    } else {
      c = c + g;
    }
    at.save(L::G, new_g);
    at.set_c(c);
    const V squashed = L::has(kNoOutputActivation) ? c : at.math().output(c);
    if constexpr (L::kOutput) {
      const V o = at.math().gate(peep(a[L::O], L::PO, c, at));
      at.save(L::O, o);
      give(o * squashed, at);
    } else {
      give(squashed, at);
    }
  }

  // The output of the pointwise step: h, or the operand of the projection.
  template <class V, class At>
  static RNN_INLINE void give(V m, const At& at) {
    if constexpr (kProjects)
      at.save(L::M, m);
    else
      at.set_h(m);
  }

  template <int Stage, class V, class At>
  static RNN_INLINE void backward(V dh, const At& at) {
    if constexpr (kProjects && Stage == 0)
      at.grad(L::Dh, dh);
    else
      backward_gates(dh, at);
  }

  // dm: the gradient of the pointwise step's output.
  template <class V, class At>
  static RNN_INLINE void backward_gates(V dm, const At& at) {
    const V one(1), c = at.slot(L::C), new_g = at.slot(L::G), g = at.candidate(new_g), c_prev = at.c_prev();
    const V squashed = L::has(kNoOutputActivation) ? c : at.math().output(c);
    const V dsquashed = L::has(kNoOutputActivation) ? one : at.math().output_slope(squashed);
    V dc = at.dc();
    if constexpr (L::kOutput) {
      const V o = at.slot(L::O), da = dm * squashed * at.math().gate_slope(o);
      dc = fma(dm * o, dsquashed, dc);
      if constexpr (kPeeps) dc = fma(at.vector(L::PO), da, dc);
      at.grad(L::O, da);
    } else {
      dc = fma(dm, dsquashed, dc);
    }

    V dg = dc, dc_prev = dc;
    if constexpr (L::kForget) {
      const V f = at.slot(L::F), df = L::has(kCoupled) ? dc * (c_prev - g) : dc * c_prev;
      const V da = df * at.math().gate_slope(f);
      if constexpr (L::has(kCoupled)) dg = dc * (one - f);
      dc_prev = kPeeps ? fma(at.vector(L::PF), da, dc * f) : dc * f;
      at.grad(L::F, da);
    }
    if constexpr (L::kInput) {
      const V i = at.slot(L::I), da = dc * g * at.math().gate_slope(i);
      dg = dc * i;
      if constexpr (kPeeps) dc_prev = fma(at.vector(L::PI), da, dc_prev);
      at.grad(L::I, da);
    }
    dg = at.candidate(dg);
    at.grad(L::G, L::has(kNoInputActivation) ? dg : dg * at.math().candidate_slope(new_g));
    at.set_dc(dc_prev);
  }
};

}  // namespace
