// The hidden layer of the joiner: tanh of a sum.
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_RNNT_LOSS_CPU_JOIN_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_RNNT_LOSS_CPU_JOIN_H
#undef RNNKIT_RNNT_LOSS_CPU_JOIN_H
#else
#define RNNKIT_RNNT_LOSS_CPU_JOIN_H
#endif

#include <rnnkit/cpu/math.h>
#include <torch/csrc/stable/ops.h>

#include "../problem.h"
#include "rows.h"

namespace rnnkit::RNNKIT_TARGET {

template <class scalar_t>
void run(const Join<scalar_t>& p) {
  using acc = acc_t<scalar_t>;
  using M = Math<acc>;
  for_rows(p.count, p.rows * p.width, [&](int64_t i) {
    const int64_t b = (p.first + i) / p.frames, t = (p.first + i) % p.frames;
    const Bounds in = p.bounds(b);
    const scalar_t* const enc = p.enc + (p.first + i) * p.width;
    for (int64_t k = 0; k < p.rows; ++k) {
      const int64_t s = k + p.first_row(b, t);
      if (!p.has_row(b, t, k)) continue;
      scalar_t* const hidden = p.hidden + p.index(b, t, k) * p.width;
      if (!in.has(t, s)) {
        std::fill_n(hidden, p.width, scalar_t(0));
        continue;
      }
      const scalar_t* const dec = p.dec + (b * (p.symbols + 1) + s) * p.width;
      for (int64_t v = 0; v < p.width; v += M::kLanes) {
        const int n = int(std::min<int64_t>(M::kLanes, p.width - v));
        M::store(hidden + v, M::tanh(M::load(enc + v, n) + M::load(dec + v, n)), n);
      }
    }
  });
}

// Threads share the width, so that each sum is one thread's, in one order.
template <class scalar_t>
void run(const JoinBackward<scalar_t>& p) {
  using acc = acc_t<scalar_t>;
  using M = Math<acc>;
  const int64_t blocks = (p.width + M::kLanes - 1) / M::kLanes;
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
    const int64_t begin = first * M::kLanes, end = std::min(last * M::kLanes, p.width);
    for (int64_t i = 0; i < p.count; ++i) {
      const int64_t b = (p.first + i) / p.frames, t = (p.first + i) % p.frames;
      const Bounds in = p.bounds(b);
      if (t < in.t0 || t >= in.t1) continue;
      acc* const enc = p.grad_enc + (p.first + i) * p.width;
      for (int64_t k = 0; k < p.rows; ++k) {
        const int64_t s = k + p.first_row(b, t), at = p.index(b, t, k) * p.width;
        if (s < in.s0 || s > in.s1 || !p.has_row(b, t, k)) continue;
        acc* const dec = p.grad_dec + (b * (p.symbols + 1) + s) * p.width;
        for (int64_t v = begin; v < end; v += M::kLanes) {
          const int n = int(std::min<int64_t>(M::kLanes, end - v));
          const auto h = M::load(p.hidden + at + v, n);
          const auto d = M::load(p.grad_hidden + at + v, n) * (M::set(1) - h * h);
          M::store(enc + v, M::load(enc + v, n) + d, n);
          M::store(dec + v, M::load(dec + v, n) + d, n);
        }
      }
    }
  });
}

}  // namespace rnnkit::RNNKIT_TARGET

#endif
