// The mathematics, over the vectors of M on the CPU and single values on the GPU.
//
//   h = (1 - f) h_prev + f x,   f = sigmoid(gate)
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_NEWNAME_CELL_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_NEWNAME_CELL_H
#undef RNNKIT_NEWNAME_CELL_H
#else
#define RNNKIT_NEWNAME_CELL_H
#endif

#include <rnnkit/cell.h>
#include <rnnkit/sigmoids.h>

#include "options.h"

namespace rnnkit::RNNKIT_TARGET {

template <class M>
struct Cell<M, Kind> : CellDefaults {
  using V = typename M::V;

  RNNKIT_INLINE explicit Cell(NoOptions) {}

  static RNNKIT_INLINE void gates(const Coordinates&, NoOwn, const V (&x)[2], V& a, V& b) {
    V f;
    sigmoids<M>(x[0], f, a);
    b = f * x[1];
  }

  static RNNKIT_INLINE void gradients(const Coordinates&, NoOwn, const V (&x)[2], V h_prev, V& h, V& a, V (&d)[2]) {
    V f;
    sigmoids<M>(x[0], f, a);
    h = a * h_prev + f * x[1];
    d[0] = (x[1] - h_prev) * (f * a);
    d[1] = f;
  }
};

}  // namespace rnnkit::RNNKIT_TARGET

#endif
