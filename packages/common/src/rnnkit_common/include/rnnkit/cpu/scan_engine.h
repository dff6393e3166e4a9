// Runs scan problems on the CPU, with the cells of the header that the macro RNNKIT_CELL names.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/product.h>
#include <rnnkit/scan.h>
#include <torch/csrc/stable/device.h>

#define RNNKIT_KERNELS <rnnkit/cpu/scan.h>
#include <rnnkit/cpu/foreach_target.h>

namespace rnnkit {

struct CpuEngine {
  static constexpr int kCarry = kCarryCpu;

  template <class Problem>
  static void run(const Problem& p, torch::stable::Device) {
    for (int64_t b = 0; p.lengths != nullptr && b < p.batch; ++b)  // here: an error inside parallel_for loses its message
      STD_TORCH_CHECK(0 <= p.lengths[b] && p.lengths[b] <= p.steps, "lengths[", b, "] = ", p.lengths[b],
                      " is not within 0 and ", p.steps);
    RNNKIT_CALL_TARGET((p), run_scan);
  }

  template <class T>
  static void multiply(const Product<T>& p) {
    RNNKIT_CALL_TARGET((p), multiply);
  }
};

}  // namespace rnnkit
