// The mathematics of QRNN's pooling (arXiv:1611.01576, section 2.1), with torchqrnn's sense of f: the gate that lets in.
// Over the vectors of M on the CPU and single values on the GPU.
//
//   linear     h = a h_prev + b                                                  planes a, b, taken as they are
//   mult       h = (1 - f) h_prev + f x                                          planes f, x, likewise
//   f, fo      c = (1 - f) c_prev + f z,   f = sigmoid(F), z = tanh(Z)           planes Z, F
//   ifo        c = (1 - f) c_prev + i z,   i = sigmoid(I)                        planes Z, F, I
//   fo, ifo    out = o c,                  o = sigmoid(O)                        and plane O
//
// Zoneout multiplies f and i by 0, where the state is kept, or by `scale`.
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_QRNN_CELL_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_QRNN_CELL_H
#undef RNNKIT_QRNN_CELL_H
#else
#define RNNKIT_QRNN_CELL_H
#endif

#include <rnnkit/cell.h>
#include <rnnkit/philox.h>
#include <rnnkit/sigmoids.h>

#include "options.h"

namespace rnnkit::RNNKIT_TARGET {

template <class M, Pooling pooling, bool zoneout>
struct Cell<M, Kind<pooling, zoneout>> : CellDefaults {
  using V = typename M::V;
  using T = typename M::Scalar;
  static constexpr int kPlanes = Kind<pooling, zoneout>::kPlanes;
  static constexpr int kStatePlanes = kPlanes - Kind<pooling, zoneout>::kOutputPlanes;

  RNNKIT_INLINE explicit Cell(const Zoneout& options)
      : scale(T(options.scale)), threshold(options.threshold), seed(zoneout ? uint64_t(*options.seed) : 0) {}

  RNNKIT_INLINE void gates(const Coordinates& at, NoOwn, const V (&x)[kPlanes], V& a, V& b) const {
    V h_prev{}, d[kStatePlanes];
    derive(at, x, h_prev, a, b, d);
  }

  RNNKIT_INLINE void gradients(const Coordinates& at, NoOwn, const V (&x)[kPlanes], V h_prev, V& h, V& a,
                               V (&d)[kStatePlanes]) const {
    V b;
    derive(at, x, h_prev, a, b, d);
    h = a * h_prev + b;
  }

  RNNKIT_INLINE V output(NoOwn, const V (&x)[kPlanes], V, V c) const {
    V o, rest;
    sigmoids<M>(x[kStatePlanes], o, rest);
    return o * c;
  }

  RNNKIT_INLINE V output_gradients(NoOwn, const V (&x)[kPlanes], V, V c, V grad_out, V (&d)[1], V&) const {
    V o, rest;
    sigmoids<M>(x[kStatePlanes], o, rest);
    d[0] = grad_out * c * (o * rest);
    return grad_out * o;
  }

 private:
  template <int n>
  RNNKIT_INLINE void derive(const Coordinates& at, const V (&x)[kPlanes], V h_prev, V& a, V& b, V (&d)[n]) const {
    if constexpr (pooling == Pooling::linear) {
      a = x[0];
      b = x[1];
      d[0] = h_prev;
      d[1] = M::set(1);
      return;
    }
    if constexpr (pooling == Pooling::mult) {
      a = T(1) - x[0];
      b = x[0] * x[1];
      d[0] = x[1] - h_prev;
      d[1] = x[0];
      return;
    }
    const V z = M::tanh(x[0]), s = let_in(at);
    V f, keep;
    sigmoids<M>(x[1], f, keep);
    a = keep * s + (T(1) - s);
    if constexpr (pooling == Pooling::ifo) {
      V i, rest;
      sigmoids<M>(x[2], i, rest);
      b = s * i * z;
      d[0] = s * i * (T(1) - z * z);
      d[1] = -s * f * keep * h_prev;
      d[2] = b * rest;
    } else {
      b = s * f * z;
      d[0] = s * f * (T(1) - z * z);
      d[1] = s * f * keep * (z - h_prev);
    }
  }

  RNNKIT_INLINE V let_in(const Coordinates& at) const {
    if constexpr (!zoneout) return M::set(scale);
    const auto draw = typename M::I(random_bits<M>(seed, at) >> 8);
    return M::select(draw < threshold, M::set(0), M::set(scale));
  }

  const T scale;
  const int32_t threshold;
  const uint64_t seed;
};

}  // namespace rnnkit::RNNKIT_TARGET

#endif
