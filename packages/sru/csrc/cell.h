// The mathematics of SRU (arXiv:1709.02755, equations 3 to 7), over the vectors of M on the CPU and single values on the
// GPU.
//
//   f = sigmoid(U1 + v_f c_prev + b_f)         c = f c_prev + (1 - f) U0
//   r = sigmoid(U2 + v_r c_prev + b_r)         h = x' + (g(c) - x') mask r
//
// without v in the first version, where c is linear in c_prev.
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_SRU_CELL_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_SRU_CELL_H
#undef RNNKIT_SRU_CELL_H
#else
#define RNNKIT_SRU_CELL_H
#endif

#include <rnnkit/cell.h>
#include <rnnkit/sigmoids.h>

#include "options.h"

namespace rnnkit::RNNKIT_TARGET {

template <class M, Peephole peephole, Skip skip>
struct Cell<M, Kind<peephole, skip>> {
  using V = typename M::V;
  using T = typename M::Scalar;
  using K = Kind<peephole, skip>;
  static constexpr int kPlanes = K::kPlanes, kStatePlanes = kPlanes - K::kOutputPlanes;
  static constexpr int kFirst = K::kFirstInterleaved;  // of U
  static constexpr bool kPlane = peephole == Peephole::plane;

  struct Own {
    V b_f, v_f, b_r, v_r, mask, scale;
  };

  RNNKIT_INLINE explicit Cell(const SruOptions<T>& options) : options(options) {}

  template <class Parameter>
  RNNKIT_INLINE Own own(const Coordinates& at, const Parameter& parameter) const {
    Own own;
    own.b_f = parameter(0);
    own.b_r = parameter(1);
    if constexpr (peephole == Peephole::parameter) {
      own.v_f = parameter(2);
      own.v_r = parameter(3);
    }
    own.mask = options.mask == nullptr ? M::set(1) : M::load(options.mask + at.b * options.channels + at.d, at.lanes);
    if constexpr (skip == Skip::input) own.scale = M::set(options.scale == nullptr ? T(1) : *options.scale);
    return own;
  }

  RNNKIT_INLINE void gates(const Coordinates&, const Own& own, const V (&x)[kPlanes], V& a, V& b) const {
    V rest;
    sigmoids<M>(x[kFirst + 1] + own.b_f, a, rest);
    b = rest * x[kFirst];
  }

  RNNKIT_INLINE V step(const Coordinates&, const Own& own, const V (&x)[kPlanes], V c_prev) const {
    V f, rest;
    forget(own, x, c_prev, f, rest);
    return f * c_prev + rest * x[kFirst];
  }

  RNNKIT_INLINE void gradients(const Coordinates&, const Own& own, const V (&x)[kPlanes], V c_prev, V& c, V& a,
                               V (&d)[kStatePlanes]) const {
    V f, rest;
    forget(own, x, c_prev, f, rest);
    c = f * c_prev + rest * x[kFirst];
    d[kFirst] = rest;
    d[kFirst + 1] = (c_prev - x[kFirst]) * (f * rest);
    a = f;
    if constexpr (peephole != Peephole::none) a += v_f(own, x) * d[kFirst + 1];
    if constexpr (kPlane) d[0] = d[kFirst + 1] * c_prev;
  }

  RNNKIT_INLINE V output(const Own& own, const V (&x)[kPlanes], V c_prev, V c) const {
    V r, rest;
    reset(own, x, c_prev, r, rest);
    const V kept = own.mask * r;
    if constexpr (skip == Skip::none) {
      return g(c) * kept;
    } else {
      const V highway = x_prime(own, x);
      return highway + (g(c) - highway) * kept;
    }
  }

  RNNKIT_INLINE V output_gradients(const Own& own, const V (&x)[kPlanes], V c_prev, V c, V grad_out,
                                   V (&d)[K::kOutputPlanes], V& to_c_prev) const {
    V r, rest;
    reset(own, x, c_prev, r, rest);
    const V y = g(c), masked = grad_out * own.mask;
    if constexpr (skip == Skip::none) {
      d[0] = masked * y * (r * rest);
    } else {
      d[0] = masked * (y - x_prime(own, x)) * (r * rest);
      const V highway = grad_out - masked * r;
      d[1] = skip == Skip::input ? highway * own.scale : highway;
    }
    if constexpr (kPlane) d[K::kOutputPlanes - 1] = d[0] * c_prev;
    if constexpr (peephole != Peephole::none) to_c_prev = d[0] * v_r(own, x);
    return masked * r * slope(c, y);
  }

  static RNNKIT_INLINE void add_state(const V* grad, V c_prev, V* sums) {
    sums[0] += grad[kFirst + 1];
    if constexpr (peephole == Peephole::parameter) sums[1] += grad[kFirst + 1] * c_prev;
  }

  static RNNKIT_INLINE void add_output(const V* grad, V c_prev, V* sums) {
    sums[0] += grad[0];
    if constexpr (peephole == Peephole::parameter) sums[1] += grad[0] * c_prev;
  }

 private:
  static RNNKIT_INLINE V v_f(const Own& own, const V (&x)[kPlanes]) { return kPlane ? x[0] : own.v_f; }
  static RNNKIT_INLINE V v_r(const Own& own, const V (&x)[kPlanes]) { return kPlane ? x[kPlanes - 1] : own.v_r; }

  RNNKIT_INLINE void forget(const Own& own, const V (&x)[kPlanes], V c_prev, V& f, V& rest) const {
    V preactivation = x[kFirst + 1] + own.b_f;
    if constexpr (peephole != Peephole::none) preactivation += v_f(own, x) * c_prev;
    sigmoids<M>(preactivation, f, rest);
  }

  RNNKIT_INLINE void reset(const Own& own, const V (&x)[kPlanes], V c_prev, V& r, V& rest) const {
    V preactivation = x[kFirst + 2] + own.b_r;
    if constexpr (peephole != Peephole::none) preactivation += v_r(own, x) * c_prev;
    sigmoids<M>(preactivation, r, rest);
  }

  static RNNKIT_INLINE V x_prime(const Own& own, const V (&x)[kPlanes]) {
    return skip == Skip::input ? x[kFirst + 3] * own.scale : x[kFirst + 3];
  }

  RNNKIT_INLINE V g(V c) const {
    if (options.activation == Activation::tanh) return M::tanh(c);
    if (options.activation == Activation::relu) return M::select(c > T(0), c, M::set(0));
    return c;
  }

  RNNKIT_INLINE V slope(V c, V y) const {  // of g, where g(c) = y
    if (options.activation == Activation::tanh) return T(1) - y * y;
    if (options.activation == Activation::relu) return M::select(c > T(0), M::set(1), M::set(0));
    return M::set(1);
  }

  const SruOptions<T> options;
};

}  // namespace rnnkit::RNNKIT_TARGET

#endif
