// The hidden layer of the joiner: tanh of a sum.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../problem.h"
#include "rows.h"

namespace rnnkit::cuda {

// A block for each row of hidden.
template <class scalar_t>
__global__ void __launch_bounds__(kRowThreads) join_kernel(Join<scalar_t> p) {
  using acc = acc_t<scalar_t>;
  const int64_t i = blockIdx.x / p.rows, frame = p.first + i, b = frame / p.frames, t = frame % p.frames;
  const int64_t s = blockIdx.x % p.rows + p.first_row(b, t);
  const Bounds in = p.bounds(b);
  if (!in.fit(p.symbols, p.frames)) device_fail("boundary: a value is not within 0 and S, T");
  const bool valid = in.has(t, s);
  scalar_t* const hidden = p.hidden + int64_t(blockIdx.x) * p.width;
  for (int64_t v = threadIdx.x; v < p.width; v += blockDim.x) {
    acc x = 0;
    if (valid) x = acc(p.enc[frame * p.width + v]) + acc(p.dec[(b * (p.symbols + 1) + s) * p.width + v]);
    hidden[v] = static_cast<scalar_t>(Math<scalar_t>::tanh(x));
  }
}

template <class scalar_t>
__device__ __forceinline__ acc_t<scalar_t> join_gradient(const JoinBackward<scalar_t>& p, int64_t i, int64_t k, int64_t v) {
  using acc = acc_t<scalar_t>;
  const int64_t at = (i * p.rows + k) * p.width + v;
  const acc h = p.hidden[at];
  return acc(p.grad_hidden[at]) * (1 - h * h);
}

// A block for each frame, and then one for each row of each decoder whose frames are here: each sum is one thread's.
template <class scalar_t>
__global__ void __launch_bounds__(kRowThreads) join_backward_kernel(JoinBackward<scalar_t> p) {
  using acc = acc_t<scalar_t>;
  const int64_t block = blockIdx.x;
  if (block < p.count) {
    const int64_t frame = p.first + block, b = frame / p.frames, t = frame % p.frames;
    const Bounds in = p.bounds(b);
    if (!in.fit(p.symbols, p.frames)) device_fail("boundary: a value is not within 0 and S, T");
    if (t < in.t0 || t >= in.t1) return;
    for (int64_t v = threadIdx.x; v < p.width; v += blockDim.x) {
      acc sum = 0;
      for (int64_t k = 0; k < p.rows; ++k) {
        const int64_t s = k + p.first_row(b, t);
        if (s >= in.s0 && s <= in.s1) sum += join_gradient(p, block, k, v);
      }
      p.grad_enc[frame * p.width + v] += sum;
    }
    return;
  }
  const int64_t rows = p.symbols + 1, b = p.first / p.frames + (block - p.count) / rows, s = (block - p.count) % rows;
  const Bounds in = p.bounds(b);
  if (!in.fit(p.symbols, p.frames)) device_fail("boundary: a value is not within 0 and S, T");
  if (s < in.s0 || s > in.s1) return;
  const int64_t start = b * p.frames;
  const int64_t begin = in.t0 > p.first - start ? in.t0 : p.first - start;
  const int64_t end = in.t1 < p.first + p.count - start ? in.t1 : p.first + p.count - start;
  for (int64_t v = threadIdx.x; v < p.width; v += blockDim.x) {
    acc sum = 0;
    for (int64_t t = begin; t < end; ++t) {
      const int64_t k = s - p.first_row(b, t);
      if (k >= 0 && k < p.rows) sum += join_gradient(p, start + t - p.first, k, v);
    }
    p.grad_dec[(b * rows + s) * p.width + v] += sum;
  }
}

}  // namespace rnnkit::cuda
