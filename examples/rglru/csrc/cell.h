// RG-LRU (Griffin, arXiv:2402.19427, section 2.4), over the vectors of M on the CPU and single values on the GPU.
//
//   h = a h_prev + m sigmoid(i) x,   log a = -8 softplus(Lambda) sigmoid(r),   m = sqrt(1 - a^2), or 1 after a reset
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_RGLRU_CELL_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_RGLRU_CELL_H
#undef RNNKIT_RGLRU_CELL_H
#else
#define RNNKIT_RGLRU_CELL_H
#endif

#include <rnnkit/cell.h>
#include <rnnkit/sigmoids.h>

#include "options.h"

namespace rnnkit::RNNKIT_TARGET {

template <class M>
struct Cell<M, Kind> {
  using V = typename M::V;
  using T = typename M::Scalar;

  struct Own {
    V decay, slope;  // -8 softplus(Lambda), and its derivative
  };

  RNNKIT_INLINE explicit Cell(NoOptions) {}

  template <class Parameter>
  static RNNKIT_INLINE Own own(const Coordinates&, const Parameter& parameter) {
    const V lambda = parameter(0);
    const V positive = M::select(lambda > T(0), lambda, M::set(0));
    return {T(-8) * (positive + M::log1p(M::exp_nonpositive(M::negative_abs(lambda)))), T(-8) * M::sigmoid(lambda)};
  }

  static RNNKIT_INLINE void gates(const Coordinates& at, const Own& own, const V (&x)[3], V& a, V& b) {
    V h, d[4];
    gradients(at, own, x, M::set(0), h, a, d);
    b = h;
  }

  static RNNKIT_INLINE void gradients(const Coordinates& at, const Own& own, const V (&x)[3], V h_prev, V& h, V& a,
                                      V (&d)[4]) {
    V r, minus_r, i, minus_i;
    sigmoids<M>(x[0], r, minus_r);
    sigmoids<M>(x[1], i, minus_i);
    const V log_a = own.decay * r;
    a = M::exp(log_a);
    const V root = M::sqrt(-M::expm1(T(2) * log_a));
    const V m = at.reset ? M::set(1) : root;
    const V of_m = M::select(root > T(0), -a * a / M::select(root > T(0), root, M::set(1)), M::set(0));  // by log a
    h = a * h_prev + m * i * x[2];
    const V of_log_a = a * h_prev + (at.reset ? M::set(0) : of_m) * i * x[2];
    d[0] = of_log_a * log_a * minus_r;
    d[1] = m * x[2] * i * minus_i;
    d[2] = m * i;
    d[3] = of_log_a * own.slope * r;
  }
};

}  // namespace rnnkit::RNNKIT_TARGET

#endif
