// The mathematics of minGRU and minLSTM (arXiv:2410.01201), over the vectors of M on the CPU and single values on the GPU.
//
//   minGRU   h = (1 - z) h_prev + z c(v),                  z = sigmoid(k)
//   minLSTM  h = f' h_prev + i' c(v),  f' = f / (f + i),  i' = i / (f + i),  f = sigmoid(k_f),  i = sigmoid(k_i)
//   c(v)     g(v) = v + 1/2 (v >= 0) or sigmoid(v) (v < 0); or v; or tanh(v)
//
// Planes: (k, v) and (k_f, k_i, v). Everything is a ratio of sums of e^(-|x|): nothing overflows or cancels, so both
// factors keep their relative accuracy down to the smallest numbers.
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_MINGRU_CELL_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_MINGRU_CELL_H
#undef RNNKIT_MINGRU_CELL_H
#else
#define RNNKIT_MINGRU_CELL_H
#endif

#include <rnnkit/cell.h>
#include <rnnkit/sigmoids.h>

#include "options.h"

namespace rnnkit::RNNKIT_TARGET {

template <class M, Gates gates_, Activation activation>
struct Cell<M, Kind<gates_, activation>> : CellDefaults {
  using V = typename M::V;
  using T = typename M::Scalar;
  static constexpr int kPlanes = Kind<gates_, activation>::kPlanes, kHidden = kPlanes - 1;

  RNNKIT_INLINE explicit Cell(NoOptions) {}

  static RNNKIT_INLINE void gates(const Coordinates&, NoOwn, const V (&x)[kPlanes], V& a, V& b) {
    V h_prev{}, d[kPlanes];
    derive(x, h_prev, a, b, d);
  }

  static RNNKIT_INLINE void gradients(const Coordinates&, NoOwn, const V (&x)[kPlanes], V h_prev, V& h, V& a,
                                      V (&d)[kPlanes]) {
    V b;
    derive(x, h_prev, a, b, d);
    h = a * h_prev + b;
  }

 private:
  static RNNKIT_INLINE void derive(const V (&x)[kPlanes], V h_prev, V& a, V& b, V (&d)[kPlanes]) {
    V z, c, dc;  // h = a h_prev + z c, with a + z = 1
    candidate(x[kHidden], c, dc);
    if constexpr (gates_ == Gates::one) {
      sigmoids<M>(x[0], z, a);
      d[0] = (c - h_prev) * (a * z);
    } else {
      // sigmoid(k) = n / (1 + e), n = 1 or e; where both n would be small only their ratio matters, and is kept
      const V ef = M::exp_nonpositive(M::negative_abs(x[0])), ei = M::exp_nonpositive(M::negative_abs(x[1]));
      const V ratio = M::exp_nonpositive(M::negative_abs(x[0] - x[1]));
      const V nf = M::select(x[0] >= T(0), one(), M::select(x[1] >= T(0), ef, M::select(x[0] >= x[1], one(), ratio)));
      const V ni = M::select(x[1] >= T(0), one(), M::select(x[0] >= T(0), ei, M::select(x[0] >= x[1], ratio, one())));
      const V forget = nf * (T(1) + ei), input = ni * (T(1) + ef);
      const V total = M::reciprocal(forget + input);
      a = forget * total;
      z = input * total;
      const V slope = (c - h_prev) * (a * z);
      d[0] = -slope * M::select(x[0] >= T(0), ef, one()) * M::reciprocal(T(1) + ef);
      d[1] = slope * M::select(x[1] >= T(0), ei, one()) * M::reciprocal(T(1) + ei);
    }
    b = z * c;
    d[kHidden] = z * dc;
  }

  static RNNKIT_INLINE V one() { return M::set(1); }

  static RNNKIT_INLINE void candidate(V v, V& c, V& dc) {
    if constexpr (activation == Activation::identity) {
      c = v;
      dc = one();
    } else if constexpr (activation == Activation::tanh) {
      c = M::tanh(v);
      dc = T(1) - c * c;
    } else {
      const V e = M::exp_nonpositive(M::negative_abs(v));
      const V complement = M::reciprocal(T(1) + e), sigmoid = e * complement;  // of v < 0
      c = M::select(v >= T(0), v + T(0.5), sigmoid);
      dc = M::select(v >= T(0), one(), sigmoid * complement);
    }
  }
};

}  // namespace rnnkit::RNNKIT_TARGET

#endif
