// Rows, shared out among threads.
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_RNNT_LOSS_CPU_ROWS_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_RNNT_LOSS_CPU_ROWS_H
#undef RNNKIT_RNNT_LOSS_CPU_ROWS_H
#else
#define RNNKIT_RNNT_LOSS_CPU_ROWS_H
#endif

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

#include "../problem.h"

namespace rnnkit::RNNKIT_TARGET {

// f(row) for the rows of [B, count, C], in parallel.
template <class F>
void for_rows(int64_t rows, int64_t width, F f) {
  torch::stable::parallel_for(0, rows, std::max<int64_t>(1, 8192 / std::max<int64_t>(1, width)),
                              [&](int64_t begin, int64_t end) {
                                for (int64_t row = begin; row < end; ++row) f(row);
                              });
}

}  // namespace rnnkit::RNNKIT_TARGET

#endif
