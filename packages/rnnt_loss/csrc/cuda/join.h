// The hidden layer of the joiner: tanh of a sum.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../problem.h"
#include "rows.h"

namespace rnnkit::cuda {

template <class scalar_t>
__device__ __forceinline__ bool whole_packs(int64_t width, const scalar_t* x, const scalar_t* y, const scalar_t* z) {
  const uintptr_t ends = reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(y) | reinterpret_cast<uintptr_t>(z);
  return width % Pack<scalar_t>::kCount == 0 && ends % sizeof(Pack<scalar_t>) == 0;
}

// A block has rows of a frame, a warp one of them at a time.
template <class scalar_t>
__global__ void __launch_bounds__(kRowThreads) join_kernel(Join<scalar_t> p) {
  using P = Pack<scalar_t>;
  using acc = acc_t<scalar_t>;
  const int64_t frame = p.first + blockIdx.x, b = frame / p.frames, t = frame % p.frames;
  const Bounds in = p.bounds(b);
  if (!in.fit(p.symbols, p.frames)) device_fail("boundary: a value is not within 0 and S, T");
  const int lane = threadIdx.x % 32, width = int(p.width);
  const scalar_t* const enc = p.enc + frame * width;
  const bool in_packs = whole_packs(width, p.enc, p.dec, p.hidden);
  const auto join = [](acc x, acc y) { return acc(Math<scalar_t>::tanh(x + y)); };
  for (int64_t k = blockIdx.y * kRowWarps + threadIdx.x / 32; k < p.rows; k += gridDim.y * kRowWarps) {
    if (!p.has_row(b, t, k)) continue;
    const int64_t s = k + p.first_row(b, t);
    const bool valid = in.has(t, s);
    scalar_t* const hidden = p.hidden + p.index(b, t, k) * width;
    const scalar_t* const dec = p.dec + (b * (p.symbols + 1) + (valid ? s : 0)) * width;
    if (!valid) {
      for (int v = lane; v < width; v += 32) hidden[v] = static_cast<scalar_t>(acc(0));
    } else if (in_packs) {
      for (int pack = lane; pack < width / P::kCount; pack += 32) {
        P x = reinterpret_cast<const P*>(enc)[pack];
        const P y = reinterpret_cast<const P*>(dec)[pack];
        RNNKIT_UNROLL
        for (int u = 0; u < P::kCount; ++u) x.set(u, static_cast<scalar_t>(join(x.get(u), y.get(u))));
        reinterpret_cast<P*>(hidden)[pack] = x;
      }
    } else {
      for (int v = lane; v < width; v += 32) hidden[v] = static_cast<scalar_t>(join(acc(enc[v]), acc(dec[v])));
    }
  }
}

// The gradients of one frame's encoder row or one symbol's decoder row, of hidden rows at(0), at(1), ..., at(count - 1), of
// which those below 0 are none. Each sum is one thread's, in one order.
template <class scalar_t, class At>
__device__ __forceinline__ void add_gradients(const JoinBackward<scalar_t>& p, acc_t<scalar_t>* to, int64_t count, At at) {
  using acc = acc_t<scalar_t>;
  constexpr int kAtOnce = 4;  // rows on their way; reasoned
  const auto add = [&](auto tag, int64_t v) {
    using Values = typename decltype(tag)::type;
    constexpr int kWidth = sizeof(Values) / sizeof(scalar_t);
    acc sums[kWidth] = {};
    for (int64_t i = 0; i < count; i += kAtOnce) {
      Values h[kAtOnce], g[kAtOnce];
      int64_t rows[kAtOnce];
      RNNKIT_UNROLL
      for (int u = 0; u < kAtOnce; ++u) rows[u] = i + u < count ? at(i + u) : -1;
      RNNKIT_UNROLL
      for (int u = 0; u < kAtOnce; ++u) {
        if (rows[u] < 0) continue;
        h[u] = *reinterpret_cast<const Values*>(p.hidden + rows[u] * p.width + v);
        g[u] = *reinterpret_cast<const Values*>(p.grad_hidden + rows[u] * p.width + v);
      }
      RNNKIT_UNROLL
      for (int u = 0; u < kAtOnce; ++u) {
        RNNKIT_UNROLL
        for (int c = 0; c < kWidth; ++c)
          if (rows[u] >= 0) sums[c] += g[u].get(c) * (1 - h[u].get(c) * h[u].get(c));
      }
    }
    RNNKIT_UNROLL
    for (int c = 0; c < kWidth; ++c) to[v + c] += sums[c];
  };
  if (whole_packs(p.width, p.hidden, p.grad_hidden, p.hidden)) {
    for (int64_t pack = threadIdx.x; pack < p.width / Pack<scalar_t>::kCount; pack += blockDim.x)
      add(TypeTag<Pack<scalar_t>>{}, pack * Pack<scalar_t>::kCount);
  } else {
    for (int64_t v = threadIdx.x; v < p.width; v += blockDim.x) add(TypeTag<Word<scalar_t, 1>>{}, v);
  }
}

// A block for each frame, and then one for each row of each decoder whose frames are here.
template <class scalar_t>
__global__ void __launch_bounds__(kRowThreads) join_backward_kernel(JoinBackward<scalar_t> p) {
  const int64_t block = blockIdx.x;
  const auto row_of = [&](int64_t b, int64_t t, int64_t k, int64_t s, const Bounds& in) {
    return s >= in.s0 && s <= in.s1 && p.has_row(b, t, k) ? p.index(b, t, k) : int64_t(-1);
  };
  if (block < p.count) {
    const int64_t frame = p.first + block, b = frame / p.frames, t = frame % p.frames;
    const Bounds in = p.bounds(b);
    if (!in.fit(p.symbols, p.frames)) device_fail("boundary: a value is not within 0 and S, T");
    if (t < in.t0 || t >= in.t1) return;
    const int64_t first_row = p.first_row(b, t);
    add_gradients(p, p.grad_enc + frame * p.width, p.rows, [&](int64_t k) { return row_of(b, t, k, k + first_row, in); });
    return;
  }
  const int64_t rows = p.symbols + 1, b = p.first / p.frames + (block - p.count) / rows, s = (block - p.count) % rows;
  const Bounds in = p.bounds(b);
  if (!in.fit(p.symbols, p.frames)) device_fail("boundary: a value is not within 0 and S, T");
  if (s < in.s0 || s > in.s1) return;
  const int64_t start = b * p.frames;
  const int64_t begin = in.t0 > p.first - start ? in.t0 : p.first - start;
  const int64_t end = in.t1 < p.first + p.count - start ? in.t1 : p.first + p.count - start;
  add_gradients(p, p.grad_dec + (b * rows + s) * p.width, end - begin, [&](int64_t i) {
    const int64_t k = s - p.first_row(b, begin + i);
    return k >= 0 && k < p.rows ? row_of(b, begin + i, k, s, in) : int64_t(-1);
  });
}

}  // namespace rnnkit::cuda
