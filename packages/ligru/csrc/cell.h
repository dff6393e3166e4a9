// The mathematics of Li-GRU (arXiv:1803.10225) beside the product with U, over the vectors of M on the CPU and single values
// on the GPU.
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_LIGRU_CELL_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_LIGRU_CELL_H
#undef RNNKIT_LIGRU_CELL_H
#else
#define RNNKIT_LIGRU_CELL_H
#endif

#include <rnnkit/sigmoids.h>

#include "problem.h"

namespace rnnkit::RNNKIT_TARGET {

template <class M>
struct Cell {
  using V = typename M::V;
  using T = typename M::Scalar;
  static constexpr T kLeak = T(0.01);

  static RNNKIT_INLINE V activate(Activation f, V a) {
    switch (f) {
      case Activation::relu: return M::select(a <= T(0), M::set(0), a);  // NaN stays NaN
      case Activation::leaky_relu: return M::select(a <= T(0), a * kLeak, a);
      case Activation::tanh: return M::tanh(a);
      default: return M::sin(a);
    }
  }

  static RNNKIT_INLINE V slope(Activation f, V a, V activated) {
    switch (f) {
      case Activation::relu: return M::select(a > T(0), M::set(1), M::set(0));
      case Activation::leaky_relu: return M::select(a > T(0), M::set(1), M::set(kLeak));
      case Activation::tanh: return T(1) - activated * activated;
      default: return M::cos(a);
    }
  }

  static RNNKIT_INLINE V step(Activation f, V a, V z, V mask, V h) {
    V keep, take;
    sigmoids<M>(z, keep, take);
    return keep * h + take * (activate(f, a) * mask);
  }

  // From the gradient of the new h, those of a and z, and what reaches the old h beside the product.
  static RNNKIT_INLINE void gradients(Activation f, V a, V z, V mask, V h, V grad, V& grad_a, V& grad_z, V& grad_h) {
    V keep, take;
    sigmoids<M>(z, keep, take);
    const V activated = activate(f, a);
    grad_a = take * grad * mask * slope(f, a, activated);
    grad_z = (h - activated * mask) * grad * (keep * take);
    grad_h = keep * grad;
  }
};

}  // namespace rnnkit::RNNKIT_TARGET

#endif
