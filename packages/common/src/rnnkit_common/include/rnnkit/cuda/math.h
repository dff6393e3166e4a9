// Elementary functions of one value per thread, under the names of cpu/math.h, for the cells that both share.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cuda/launch.h>
#include <rnnkit/target.h>
#include <rnnkit/types.h>

namespace rnnkit::cuda {

// 2^x and 1/x in one instruction each: 2 ulp and 1 ulp, results below the smallest normal number are 0.
#ifdef RNNKIT_EMULATE_CUDA
inline float approximate_exp2(float x) { return std::exp2(x); }
inline float approximate_reciprocal(float x) { return 1 / x; }
#else
__device__ __forceinline__ float approximate_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float approximate_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
#endif

// For tensors of scalar_t; computes in acc_t<scalar_t>. Where the tensors have 16 bits, the last digits of an exponential
// would be rounded away, and a kernel that moves so few bytes is close to its limit of instructions: there it saves them.
template <class scalar_t>
struct Math {
  using Scalar = acc_t<scalar_t>;
  using V = Scalar;
  using I = int32_t;
  using U = uint32_t;

  static RNNKIT_INLINE V set(V x) { return x; }
  static RNNKIT_INLINE V load(const V* from, int) { return *from; }
  static RNNKIT_INLINE V select(bool condition, V a, V b) { return condition ? a : b; }
  static RNNKIT_INLINE V abs(V x) { return -negative_abs(x); }
  static RNNKIT_INLINE V sigmoid(V x) {
    const V e = exp_nonpositive(negative_abs(x));
    return select(x >= V(0), V(1), e) / (V(1) + e);
  }

  static RNNKIT_INLINE V negative_abs(V x) {
    if constexpr (sizeof(V) == 4) return -fabsf(x);
    return -fabs(x);
  }

  static RNNKIT_INLINE V exp_nonpositive(V x) {
    if constexpr (sizeof(scalar_t) == 2) return approximate_exp2(x * 1.44269504f);
    if constexpr (sizeof(scalar_t) == 4) return expf(x);
    return ::exp(x);
  }

  static RNNKIT_INLINE V tanh(V x) {
    if constexpr (sizeof(scalar_t) == 2) {
      const V e = exp_nonpositive(V(-2) * fabsf(x));
      return copysignf((V(1) - e) * reciprocal(V(1) + e), x);
    }
    if constexpr (sizeof(V) == 4) return tanhf(x);
    return ::tanh(x);
  }

  static RNNKIT_INLINE V exp(V x) {
    if constexpr (sizeof(V) == 4) return expf(x);
    return ::exp(x);
  }

  static RNNKIT_INLINE V expm1(V x) {
    if constexpr (sizeof(V) == 4) return expm1f(x);
    return ::expm1(x);
  }

  static RNNKIT_INLINE V log(V x) {
    if constexpr (sizeof(V) == 4) return logf(x);
    return ::log(x);
  }

  static RNNKIT_INLINE V log1p(V x) {
    if constexpr (sizeof(V) == 4) return log1pf(x);
    return ::log1p(x);
  }

  static RNNKIT_INLINE V sqrt(V x) {
    if constexpr (sizeof(V) == 4) return sqrtf(x);
    return ::sqrt(x);
  }

  static RNNKIT_INLINE V sin(V x) {
    if constexpr (sizeof(V) == 4) return sinf(x);
    return ::sin(x);
  }

  static RNNKIT_INLINE V cos(V x) {
    if constexpr (sizeof(V) == 4) return cosf(x);
    return ::cos(x);
  }

  static RNNKIT_INLINE V reciprocal(V x) {  // of 1 <= x <= 4
    if constexpr (sizeof(V) == 4) return approximate_reciprocal(x);
    return V(1) / x;
  }

  static RNNKIT_INLINE U count_from(uint32_t first) { return first; }

  static RNNKIT_INLINE void multiply_wide(U x, uint32_t m, U& low, U& high) {
    const uint64_t product = uint64_t(x) * m;
    low = U(product);
    high = U(product >> 32);
  }
};

}  // namespace rnnkit::cuda
