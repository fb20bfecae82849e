// sLSTM (Beck et al. 2024, "xLSTM", section 2.2): an LSTM whose input gate is exp(a_i), whose forget gate is
// sigmoid(a_f) or exp(a_f), and whose c is divided by the sum n of the weights that it holds. Gates i, f, g, o; the
// paper's z is g.
//     m = max(log f + m_prev, a_i)      i' = exp(a_i - m)      f' = exp(log f + m_prev - m)
//     c = f' * c_prev + i' * g          n = f' * n_prev + i'   h = o * (c / n)
// m keeps i' and f' within 0..1, and one of them is 1; the other is exp(-|d|) with d = log f + m_prev - a_i. The slot
// E has that one, negative where i' is 1, which is where d <= 0.
//
// No infinity is subtracted from another: a_i counts as the nearest finite number where it is infinite, and so does
// what is +inf on the other side of max. So with m_prev = -inf, which is the empty state's, f' is 0 and i' is 1,
// whatever a_i and a_f are. From there on n is at least 1, and |c| <= n, roundings included, as both sums are alike.
#pragma once

#include "cell.hpp"

namespace {

template <bool kExpForget>
struct SLstm : OnePhaseCell<4, kExpForget ? 5 : 6> {
  enum Gate { I, F, GG, O };
  enum Slot { E, G, OO, C, N, SLOPE };  // SLOPE: of log f, where f is a sigmoid
  enum StateName { H, STATE_C, STATE_N, STATE_M };
  static constexpr int kStates = 4;
  static constexpr State state(int s) {
    if (s == STATE_M) return {"m", 1, -1, true, Empty::minus_infinity};
    return s == H ? state_h(false) : s == STATE_C ? state_c(C) : State{"n", 1, N, true};
  }

  // 1 where d > 0, which is to say that the forget gate's side of max is the larger one; else 0.
  template <class V>
  static RNN_INLINE V keeps(V d) {
    return if_positive(d, V(1));
  }

  template <class V, class At>
  static RNN_INLINE V log_forget(V a, const At& at) {
    if constexpr (kExpForget) {
      return min(V(ExpConstants<typename V::value_type>::kLargest), a);
    } else {
      const auto log_f = log_sigmoid(a);
      at.save(SLOPE, log_f.slope);
      return log_f.value;
    }
  }

  template <int Phase, class V, class At>
  static RNN_INLINE void forward(const V* a, const At& at) {
    using Constants = ExpConstants<typename V::value_type>;
    const V one(1), largest(Constants::kLargest);
    const V log_i = min(largest, max(V(-Constants::kLargest), a[I]));
    V kept = log_forget(a[F], at) + min(largest, at.before(STATE_M));
    if constexpr (kExpForget) kept = min(largest, kept);
    const V d = kept - log_i, e = exp_nonpositive(V(0) - abs(d));
    const V p = keeps(d), i = max(one - p, e), f = max(p, e);
    const V g = tanh(a[GG]), o = sigmoid(a[O]);
    const V c = fma(f, at.before(STATE_C), i * at.candidate(g)), n = fma(f, at.before(STATE_N), i);
    at.save(E, copysign(e, p - V(Constants::kHalf)));
    at.save(G, g);
    at.save(OO, o);
    at.set_state(STATE_C, c);
    at.set_state(STATE_N, n);
    at.set_state(STATE_M, fma(e, V(0), max(kept, log_i)));  // of a NaN on either side, e is one
    at.set_h(o * (c / n));
  }

  // The exponent of the larger side of max is always 0; only that of the other side has a gradient, `dsmaller`. The
  // larger side is m, so it gets the gradient of m, less that of the other side's exponent, from which m is subtracted.
  // `dsmaller` has the sign of e, which is negative where a_i is the larger side.
  template <int Stage, class V, class At>
  static RNN_INLINE void backward(V dh, const At& at) {
    const V one(1), e = at.slot(E), side = copysign(one, e), p = keeps(side), q = one - p;
    const V i = max(q, abs(e)), f = max(p, abs(e)), g = at.slot(G), o = at.slot(OO), h = at.h();
    const V dh_over_n = dh / at.slot(N);
    const V dc = fma(dh_over_n, o, at.dstate(STATE_C)), dn = fnma(dh_over_n, h, at.dstate(STATE_N));
    const V di = fma(dc, at.candidate(g), dn), df = fma(dc, at.before(STATE_C), dn * at.before(STATE_N));
    const V dsmaller = e * (if_positive(side, di) + if_positive(V(0) - side, df)), dm = at.dstate(STATE_M);
    const V dkept = fma(p, dm, V(0) - dsmaller);
    at.grad(I, fma(q, dm, dsmaller));
    if constexpr (kExpForget)
      at.grad(F, dkept);
    else
      at.grad(F, dkept * at.slot(SLOPE));
    at.grad(GG, at.candidate(dc * i) * (one - g * g));
    at.grad(O, dh * h * (one - o));
    at.set_dstate(STATE_C, dc * f);
    at.set_dstate(STATE_N, dn * f);
    at.set_dstate(STATE_M, dkept);
  }
};

}  // namespace
