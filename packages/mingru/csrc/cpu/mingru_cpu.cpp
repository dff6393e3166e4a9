// CPU kernels and their registration.
// SPDX-License-Identifier: Apache-2.0
#include <rnnkit/library.h>

#include "ops.h"

#define RNNKIT_KERNELS "cpu/kernels.h"
#include <rnnkit/cpu/foreach_target.h>

namespace rnnkit {
namespace {

template <class Problem>
void check_lengths(const Problem& p) {  // here, because an error raised inside parallel_for loses its message
  for (int64_t b = 0; p.lengths != nullptr && b < p.batch; ++b)
    STD_TORCH_CHECK(0 <= p.lengths[b] && p.lengths[b] <= p.steps, "lengths[", b, "] = ", p.lengths[b],
                    " is not within 0 and ", p.steps);
}

struct CpuEngine {
  template <int gates, Activation activation, class scalar_t, int planes>
  static void forward(const ScanForward<scalar_t, planes>& p, torch::stable::Device) {
    check_lengths(p);
    RNNKIT_CALL_TARGET((p), forward<gates, activation, scalar_t>);
  }

  template <int gates, Activation activation, class scalar_t, int planes>
  static void backward(const ScanBackward<scalar_t, planes>& p, torch::stable::Device) {
    check_lengths(p);
    RNNKIT_CALL_TARGET((p), backward<gates, activation, scalar_t>);
  }
};

}  // namespace
}  // namespace rnnkit

RNNKIT_LIBRARY_IMPL(CPU, m) {
  m.impl("scan", TORCH_BOX(&rnnkit::scan<rnnkit::CpuEngine>));
  m.impl("step", TORCH_BOX(&rnnkit::step<rnnkit::CpuEngine>));
  m.impl("scan_backward", TORCH_BOX(&rnnkit::scan_backward<rnnkit::CpuEngine>));
}
