// The band that holds most of the occupancy.
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_RNNT_LOSS_CPU_RANGES_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_RNNT_LOSS_CPU_RANGES_H
#undef RNNKIT_RNNT_LOSS_CPU_RANGES_H
#else
#define RNNKIT_RNNT_LOSS_CPU_RANGES_H
#endif

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <limits>

#include "../problem.h"

namespace rnnkit::RNNKIT_TARGET {

// Kuang et al., "Pruned RNN-T for fast, memory-efficient ASR training", section 3.2: the band of each frame that holds most
// of the occupancy, less what has left it; then made to begin at 0, never to fall, and to rise by at most `max_step`.
template <class scalar_t>
void run(const Ranges<scalar_t>& p) {
  torch::stable::parallel_for(0, p.batch, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      const Bounds in = p.bounds(b);
      int64_t* const begin = p.out + b * p.frames;
      for (int64_t t = 0; t < p.frames; ++t) {
        if (t >= in.t1 - 1) {
          begin[t] = std::max<int64_t>(in.s1 - p.s_range + 1, 0);
          continue;
        }
        scalar_t best = 0;
        for (int64_t s = 0; s + p.s_range <= p.rows; ++s) {
          scalar_t score = s > 0 ? -p.label.at(b, t, s - 1) : scalar_t(0);
          for (int64_t k = 0; k < p.s_range; ++k) score += p.blank.at(b, t, s + k);
          if (s == 0 || score > best) best = score, begin[t] = s;
        }
      }
      int64_t least = std::numeric_limits<int64_t>::max(), slack = least;
      for (int64_t t = p.frames - 1; t >= 0; --t) {
        least = std::min(least, begin[t]);
        slack = std::min(slack, p.max_step * t - least);
        begin[t] = p.max_step * t - std::max<int64_t>(slack, 0);
      }
    }
  });
}

}  // namespace rnnkit::RNNKIT_TARGET

#endif
