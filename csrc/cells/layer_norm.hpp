// LSTM and GRU whose products are normalised over the units (Ba, Kiros & Hinton 2016, equations 20 to 22): each gate's
// W x and U h_prev on their own, with statistics over the H units of a row,
//     norm(v) = (v - mean(v)) / sqrt(variance(v) + epsilon)
//     a = gain_ih * norm(W x) + bias_ih + gain_hh * norm(U h_prev) + bias_hh
// and, in the LSTM, c before its tanh: h = o * tanh(gain_c * norm(c) + bias_c). The GRU is reset-after.
//
// With x^ = norm(v) and e the gradient of gain * x^ + bias, that of v is
//     (e * gain - mean(e * gain) - x^ * mean(e * gain * x^)) / sqrt(variance(v) + epsilon)
#pragma once

#include <cmath>

#include "cell.hpp"
#include "gru.hpp"

namespace {

// Sums over units for N normalised vectors: their means (sum j), 1 / deviations (N + j), and in backward the means of
// e * gain (2N + j) and of e * gain * x^ (3N + j).
template <int N>
struct Normalisation {
  static constexpr int sums(bool backward, int round) { return round < 2 ? N : backward && round == 2 ? 2 * N : 0; }

  // The terms of a unit in the sums of a round: from `raw`, and in round 2 from `e_gain`.
  template <int Round, class V, class At>
  static RNN_INLINE void terms(int j, V raw, V e_gain, V* to, const At& at) {
    if constexpr (Round == 0) to[j] = raw;
    if constexpr (Round == 1) to[j] = (raw - at.sum(j)) * (raw - at.sum(j));
    if constexpr (Round == 2) {
      to[j] = e_gain;
      to[N + j] = e_gain * normal(j, raw, at);
    }
  }
  template <int Round, class T>
  static RNN_INLINE void finish(T* sums, T count, T epsilon) {
    for (int j = 0; j < N; ++j) {
      if (Round == 0) sums[j] = sums[j] / count;
      if (Round == 1) sums[N + j] = T(1) / std::sqrt(sums[N + j] / count + epsilon);
    }
    for (int j = 2 * N; Round == 2 && j < 4 * N; ++j) sums[j] = sums[j] / count;
  }
  template <class V, class At>
  static RNN_INLINE V normal(int j, V raw, const At& at) {
    return (raw - at.sum(j)) * at.sum(N + j);
  }
  // The gradient of raw.
  template <class V, class At>
  static RNN_INLINE V gradient(int j, V x, V e_gain, const At& at) {
    return fnma(x, at.sum(3 * N + j), e_gain - at.sum(2 * N + j)) * at.sum(N + j);
  }
};

// The part that both cells share: G gates, each with W x and U h_prev in slots of their own.
//     vectors: gain_ih, gain_hh, bias_ih, bias_hh, G each
template <int G>
struct NormalisedGates {
  using Norm = Normalisation<2 * G>;
  // Slots: raw U h_prev and W x; then, from the gates' own slots on, each cell's. Columns: gradients in the same order;
  // then the terms of the gains' gradients.
  static constexpr int HH = 0, IH = G, GATES = 2 * G, P_HH = 3 * G, P_IH = 4 * G, REST = 5 * G;
  static constexpr int GAIN_IH = 0, GAIN_HH = G, BIAS_IH = 2 * G, BIAS_HH = 3 * G;

  template <class V, class At>
  static RNN_INLINE void save_raw(const V* a, const At& at) {
    RNN_UNROLL for (int g = 0; g < G; ++g) {
      at.save(HH + g, a[g]);
      at.save(IH + g, at.pre(g));
    }
  }
  template <class V, class At>
  static RNN_INLINE V input_part(int g, const At& at) {
    return fma(at.vector(GAIN_IH + g), Norm::normal(G + g, V(at.slot(IH + g)), at), at.vector(BIAS_IH + g));
  }
  template <class V, class At>
  static RNN_INLINE V recurrent_part(int g, const At& at) {
    return fma(at.vector(GAIN_HH + g), Norm::normal(g, V(at.slot(HH + g)), at), at.vector(BIAS_HH + g));
  }

  // e_hh(g), e_ih(g): the gradients of gate g's recurrent and input part.
  template <int Round, class V, class At, class Ehh, class Eih>
  static RNN_INLINE void terms(V* to, const At& at, Ehh&& e_hh, Eih&& e_ih) {
    RNN_UNROLL for (int g = 0; g < G; ++g) {
      Norm::template terms<Round>(g, V(at.slot(HH + g)), Round == 2 ? e_hh(g) * at.vector(GAIN_HH + g) : V(0), to, at);
      Norm::template terms<Round>(G + g, V(at.slot(IH + g)), Round == 2 ? e_ih(g) * at.vector(GAIN_IH + g) : V(0), to,
                                  at);
    }
  }
  // Leaves the gradients of raw products, and the terms of the gains' gradients.
  template <class V, class At, class Ehh, class Eih>
  static RNN_INLINE void gradients(const At& at, Ehh&& e_hh, Eih&& e_ih) {
    RNN_UNROLL for (int g = 0; g < G; ++g) {
      const V d_hh = e_hh(g), d_ih = e_ih(g);
      const V x_hh = Norm::normal(g, V(at.slot(HH + g)), at), x_ih = Norm::normal(G + g, V(at.slot(IH + g)), at);
      at.grad(HH + g, Norm::gradient(g, x_hh, d_hh * at.vector(GAIN_HH + g), at));
      at.grad(IH + g, Norm::gradient(G + g, x_ih, d_ih * at.vector(GAIN_IH + g), at));
      at.grad(P_HH + g, d_hh * x_hh);
      at.grad(P_IH + g, d_ih * x_ih);
    }
  }
};

// Phase 0 keeps the raw products, phase 1 makes gates and c, phase 2 h.
struct LayerNormLstm : OnePhaseCell<4, 14> {
  using Gates = NormalisedGates<4>;
  using CellNorm = Normalisation<1>;
  enum Slot { I = Gates::GATES, F, G, O, C, L };  // L: tanh of normalised c. Gates also are columns,
  enum Column { DL = Gates::REST, PC };           // as are the gradient of L's argument and the term of gain_c's
  enum Vector { GAIN_C = 16, BIAS_C };
  static constexpr int kStates = 2, kPhases = 3, kProducts = 3, kVectors = 18, kColumns = PC + 1;
  static constexpr int kInputColumn = Gates::IH;
  static constexpr State state(int s) { return s == 0 ? state_h(false) : state_c(C); }
  static constexpr Product product(int i) {
    return i == 0 ? Product{0, 0, 0, 4, From::h_prev, 0, 1, Gates::HH} : Product{i, -1, 0, 1, From::h_prev, 0, 0, 0};
  }
  static constexpr bool split(int) { return true; }
  static constexpr bool carried(int slot) { return slot < Gates::GATES || slot == O; }
  static constexpr VectorGradient vector_gradient(int k) {
    const int columns[] = {Gates::P_IH, Gates::P_HH, I, I};
    return {k == GAIN_C ? PC : k == BIAS_C ? DL : columns[k / 4] + k % 4, From::one, 0};
  }
  static constexpr int sums(bool backward, int index, int round) {
    if (index == (backward ? 2 : 1)) return Gates::Norm::sums(backward, round);
    return index == (backward ? 1 : 2) ? CellNorm::sums(backward, round) : 0;
  }

  template <bool kBackward, int Index, int Round, class V, class At>
  static RNN_INLINE void terms(V* to, const At& at) {
    const auto e = [&](int column) {
      if constexpr (kBackward)
        return V(at.gradient(column));
      else
        return V(0);
    };
    const auto of_gate = [&](int g) { return e(I + g); };
    if constexpr (Index == (kBackward ? 2 : 1))
      Gates::template terms<Round, V>(to, at, of_gate, of_gate);
    else
      CellNorm::template terms<Round>(0, V(at.slot(C)), Round == 2 ? e(DL) * at.vector(GAIN_C) : V(0), to, at);
  }
  template <bool kBackward, int Index, int Round, class T>
  static RNN_INLINE void finish(T* sums, T count, T epsilon) {
    if constexpr (Index == (kBackward ? 2 : 1))
      Gates::Norm::template finish<Round>(sums, count, epsilon);
    else
      CellNorm::template finish<Round>(sums, count, epsilon);
  }

  template <int Phase, class V, class At>
  static RNN_INLINE void forward(const V* a, const At& at) {
    if constexpr (Phase == 0) {
      Gates::save_raw(a, at);
    } else if constexpr (Phase == 1) {
      V gate[4];
      RNN_UNROLL for (int g = 0; g < 4; ++g) {
        gate[g] = Gates::template input_part<V>(g, at) + Gates::template recurrent_part<V>(g, at);
        gate[g] = I + g == G ? tanh(gate[g]) : sigmoid(gate[g]);
        at.save(I + g, gate[g]);
      }
      at.set_c(fma(gate[1], at.c_prev(), gate[0] * at.candidate(gate[2])));
    } else {
      const V x = CellNorm::normal(0, V(at.slot(C)), at), l = tanh(fma(at.vector(GAIN_C), x, at.vector(BIAS_C)));
      at.save(L, l);
      at.set_h(at.slot(O) * l);
    }
  }

  template <int Stage, class V, class At>
  static RNN_INLINE void backward(V dh, const At& at) {
    const V one(1);
    if constexpr (Stage == 0) {
      const V o = at.slot(O), l = at.slot(L);
      at.grad(O, dh * l * (o * (one - o)));
      at.grad(DL, dh * o * (one - l * l));
    } else if constexpr (Stage == 1) {
      const V i = at.slot(I), f = at.slot(F), g = at.slot(G), e = at.gradient(DL);
      const V x = CellNorm::normal(0, V(at.slot(C)), at);
      const V dc = at.dc() + CellNorm::gradient(0, x, e * at.vector(GAIN_C), at);
      at.grad(PC, e * x);
      at.grad(I, dc * at.candidate(g) * (i * (one - i)));
      at.grad(F, dc * at.c_prev() * (f * (one - f)));
      at.grad(G, at.candidate(dc * i) * (one - g * g));
      at.set_dc(dc * f);
    } else {
      const auto e = [&](int g) { return V(at.gradient(I + g)); };
      Gates::template gradients<V>(at, e, e);
    }
  }
};

// Phase 0 keeps the raw products, phase 1 does the rest.
struct LayerNormGru : OnePhaseCell<3, 10> {
  using Gates = NormalisedGates<3>;
  enum Slot { R = Gates::GATES, Z, N, Q };  // Q: n's recurrent part, before r. Gates also are columns,
  enum Column { DQ = Gates::REST };         // as is the gradient of Q
  static constexpr int kPhases = 2, kProducts = 2, kVectors = 12, kInputColumn = Gates::IH, kColumns = DQ + 1;
  static constexpr State state(int) { return state_h(true); }
  static constexpr Product product(int i) {
    return i == 0 ? Product{0, 0, 0, 3, From::h_prev, 0, 1, Gates::HH} : Product{1, -1, 0, 1, From::h_prev, 0, 0, 0};
  }
  static constexpr bool split(int) { return true; }
  static constexpr bool carried(int slot) { return slot < Gates::GATES; }
  static constexpr VectorGradient vector_gradient(int k) {
    const int columns[] = {Gates::P_IH + k % 3, Gates::P_HH + k % 3, R + k % 3, k % 3 == 2 ? DQ : R + k % 3};
    return {columns[k / 3], From::one, 0};
  }
  static constexpr int sums(bool backward, int index, int round) {
    return index == 1 ? Gates::Norm::sums(backward, round) : 0;
  }

  template <class V, class At>
  static RNN_INLINE V e_hh(int g, const At& at) {
    return at.gradient(g == 2 ? DQ : R + g);
  }
  template <class V, class At>
  static RNN_INLINE V e_ih(int g, const At& at) {
    return at.gradient(R + g);
  }
  template <bool kBackward, int Index, int Round, class V, class At>
  static RNN_INLINE void terms(V* to, const At& at) {
    const auto none = [](int) { return V(0); };
    if constexpr (kBackward)
      Gates::template terms<Round, V>(
          to, at, [&](int g) { return e_hh<V>(g, at); }, [&](int g) { return e_ih<V>(g, at); });
    else
      Gates::template terms<Round, V>(to, at, none, none);
  }
  template <bool kBackward, int Index, int Round, class T>
  static RNN_INLINE void finish(T* sums, T count, T epsilon) {
    Gates::Norm::template finish<Round>(sums, count, epsilon);
  }

  template <int Phase, class V, class At>
  static RNN_INLINE void forward(const V* a, const At& at) {
    if constexpr (Phase == 0) {
      Gates::save_raw(a, at);
    } else {
      const V r = sigmoid(Gates::template input_part<V>(0, at) + Gates::template recurrent_part<V>(0, at));
      const V z = sigmoid(Gates::template input_part<V>(1, at) + Gates::template recurrent_part<V>(1, at));
      const V q = Gates::template recurrent_part<V>(2, at), n = tanh(fma(r, q, Gates::template input_part<V>(2, at)));
      at.save(R, r);
      at.save(Z, z);
      at.save(N, n);
      at.save(Q, q);
      at.set_h(blend<false>(z, at.candidate(n), at.h_prev()));
    }
  }

  template <int Stage, class V, class At>
  static RNN_INLINE void backward(V dh, const At& at) {
    if constexpr (Stage == 0) {
      const V one(1), r = at.slot(R), q = at.slot(Q);
      const BlendGradients<false, V> d(dh, at.slot(Z), at.slot(N), at.h_prev(), at);
      at.grad(R, d.n * q * (r * (one - r)));
      at.grad(Z, d.z);
      at.grad(N, d.n);
      at.grad(DQ, d.n * r);
      at.set_direct(d.h_prev);
    } else {
      Gates::template gradients<V>(at, [&](int g) { return e_hh<V>(g, at); }, [&](int g) { return e_ih<V>(g, at); });
    }
  }
};

}  // namespace
