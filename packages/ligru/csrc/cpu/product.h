// Products of a few rows with a block of two vectors of units, all sums in registers.
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_LIGRU_CPU_PRODUCT_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_LIGRU_CPU_PRODUCT_H
#undef RNNKIT_LIGRU_CPU_PRODUCT_H
#else
#define RNNKIT_LIGRU_CPU_PRODUCT_H
#endif

#include <rnnkit/cpu/math.h>

namespace rnnkit::RNNKIT_TARGET {

// Rows in one product: two sums each, and the registers that are left hold the weights. AVX-512 has 32 registers, the
// others 16.
constexpr int kTileRows = RNNKIT_VECTOR_BYTES == 64 ? 12 : 6;

// What is multiplied: float (double), or bfloat16 in pairs, whose products one instruction adds to a float's sum.
template <class T>
inline constexpr int kPair = std::is_same_v<T, BFloat16> ? 2 : 1;

// Two vectors of weights a step of k, or of a pair of them: where weight k of unit `lane` is.
template <class M, class T>
constexpr int64_t packed_at(int64_t k, int64_t lane) {
  return k / kPair<T> * (kPair<T> * 2 * M::kLanes) + lane * kPair<T> + k % kPair<T>;
}

template <class T, class V>
RNNKIT_INLINE void multiply_add(V& sum, const V& weights, const T* x) {
  if constexpr (kPair<T> == 2)  // by its name: with the intrinsic, whoever calls would need this instruction set
    asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weights), "m"(*reinterpret_cast<const T(*)[2]>(x)));
  else
    sum += weights * *x;
}

// How many sums of as many parts of k each row has, so that few rows need not wait for the last product of each.
constexpr int chains_of(int rows) { return rows == 1 ? 6 : rows == 2 ? 3 : rows == 3 ? 2 : 1; }

// sums[r] = sum over k < depth of x[r][k] packed[k], two vectors each, for `rows` rows that lie `stride` apart.
template <class M, int rows, class T>
void product(const T* x, int64_t stride, int64_t depth, const T* packed, typename M::Scalar* sums) {
  using V = typename M::V;
  constexpr int kChains = chains_of(rows);
  V sum[kChains][rows][2] = {};
  const auto step = [&](int64_t k, auto& chain) __attribute__((always_inline)) {
    const V* const weights = reinterpret_cast<const V*>(packed + packed_at<M, T>(k, 0));
    const V first = weights[0], second = weights[1];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      multiply_add(chain[r][0], first, x + r * stride + k);
      multiply_add(chain[r][1], second, x + r * stride + k);
    }
  };
  int64_t k = 0;
  for (; k + kChains * kPair<T> <= depth; k += kChains * kPair<T>) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) step(k + c * kPair<T>, sum[c]);
  }
  for (; k < depth; k += kPair<T>) step(k, sum[0]);
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
    for (int c = 1; c < kChains; ++c) {
      sum[0][r][0] += sum[c][r][0];
      sum[0][r][1] += sum[c][r][1];
    }
    M::store(sums + (2 * r) * M::kLanes, sum[0][r][0]);
    M::store(sums + (2 * r + 1) * M::kLanes, sum[0][r][1]);
  }
}

template <class M, class T, int most = kTileRows>
void product_of(int rows, const T* x, int64_t stride, int64_t depth, const T* packed, typename M::Scalar* sums) {
  if constexpr (most > 0) {
    if (rows == most) return product<M, most>(x, stride, depth, packed, sums);
    product_of<M, T, most - 1>(rows, x, stride, depth, packed, sums);
  }
}

}  // namespace rnnkit::RNNKIT_TARGET

#endif
