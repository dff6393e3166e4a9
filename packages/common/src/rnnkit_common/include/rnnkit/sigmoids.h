// For cells; M as in cell.h.
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_SIGMOIDS_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_SIGMOIDS_H
#undef RNNKIT_SIGMOIDS_H
#else
#define RNNKIT_SIGMOIDS_H
#endif

#include <rnnkit/target.h>

namespace rnnkit::RNNKIT_TARGET {

// sigmoid(x) and sigmoid(-x) = 1 - sigmoid(x), both to their relative accuracy.
template <class M>
RNNKIT_INLINE void sigmoids(typename M::V x, typename M::V& of_x, typename M::V& of_minus_x) {
  using V = typename M::V;
  using T = typename M::Scalar;
  const V e = M::exp_nonpositive(M::negative_abs(x));
  const V larger = M::reciprocal(T(1) + e), smaller = e * larger;
  of_x = M::select(x >= T(0), larger, smaller);
  of_minus_x = M::select(x >= T(0), smaller, larger);
}

}  // namespace rnnkit::RNNKIT_TARGET

#endif
