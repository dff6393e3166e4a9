// The band that holds most of the occupancy: a block for each sequence.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cuda/launch.h>

#include "../problem.h"

namespace rnnkit::cuda {

constexpr int64_t kFar = int64_t(1) << 60;

// The least of this lane's and all later lanes' values, and of `carry`, which becomes that of lane 0.
__device__ __forceinline__ int64_t least_to_come(int64_t x, int64_t& carry) {
  for (int delta = 1; delta < 32; delta *= 2) {
    const int64_t other = __shfl_down_sync(~0u, x, delta);
    if (int(threadIdx.x % 32) + delta < 32 && other < x) x = other;
  }
  if (carry < x) x = carry;
  carry = __shfl_sync(~0u, x, 0);
  return x;
}

template <class scalar_t>
__global__ void __launch_bounds__(256) ranges_kernel(Ranges<scalar_t> p) {
  const int64_t b = blockIdx.x;
  const Bounds in = p.bounds(b);
  if (!in.fit(p.symbols, p.frames)) device_fail("boundary: a value is not within 0 and S, T");
  int64_t* const out = p.out + b * p.frames;
  for (int64_t t = threadIdx.x; t < p.frames; t += blockDim.x) {
    int64_t begin = in.s1 - p.s_range + 1 > 0 ? in.s1 - p.s_range + 1 : 0;
    if (t < in.t1 - 1) {
      scalar_t best = 0;
      for (int64_t s = 0; s + p.s_range <= p.rows; ++s) {
        scalar_t score = s > 0 ? -p.label.at(b, t, s - 1) : scalar_t(0);
        for (int64_t k = 0; k < p.s_range; ++k) score += p.blank.at(b, t, s + k);
        if (s == 0 || score > best) best = score, begin = s;
      }
    }
    out[t] = begin;
  }
  __syncthreads();
  if (threadIdx.x >= 32) return;
  int64_t least = kFar, slack = kFar;
  for (int64_t end = (p.frames + 31) / 32 * 32; end > 0; end -= 32) {
    const int64_t t = end - 32 + threadIdx.x;
    const int64_t begin = least_to_come(t < p.frames ? out[t] : kFar, least);
    const int64_t rest = least_to_come(t < p.frames ? p.max_step * t - begin : kFar, slack);
    if (t < p.frames) out[t] = p.max_step * t - (rest > 0 ? rest : 0);
  }
}

}  // namespace rnnkit::cuda
