// CPU kernels and their registration.
// SPDX-License-Identifier: Apache-2.0
#include <rnnkit/library.h>

#include "../layer.h"
#include "team.h"

#define RNNKIT_AVX512_BF16 1  // that its products are another way of running these kernels
#define RNNKIT_KERNELS "cpu/engine.h"
#include <rnnkit/cpu/foreach_target.h>

namespace rnnkit {

struct CpuEngine {
  template <class Problem>
  static void run(const Problem& p, const Inputs&) {
    for (int64_t b = 0; p.lengths != nullptr && b < p.batch; ++b)  // here: an error inside parallel_for loses its message
      STD_TORCH_CHECK(0 <= p.lengths[b] && p.lengths[b] <= p.steps, "lengths[", b, "] = ", p.lengths[b],
                      " is not within 0 and ", p.steps);
    const bool rounds = cpu_target() == CpuTarget::avx512_bf16;
    RNNKIT_CALL_TARGET((p, rounds), run_recurrence);
  }

  template <class T>
  static void multiply(const Product<T>& p) {
    RNNKIT_CALL_TARGET((p), multiply);
  }
};

}  // namespace rnnkit

RNNKIT_LIBRARY_IMPL(CPU, m) {
  m.impl("recurrence", TORCH_BOX(&rnnkit::recurrence<rnnkit::CpuEngine>));
  m.impl("recurrence_backward", TORCH_BOX(&rnnkit::recurrence_backward<rnnkit::CpuEngine>));
}

RNNKIT_METHOD("recurrence", &rnnkit::recurrence<rnnkit::CpuEngine>)
RNNKIT_METHOD("recurrence_backward", &rnnkit::recurrence_backward<rnnkit::CpuEngine>)
RNNKIT_METHOD("layer", &rnnkit::layer<rnnkit::CpuEngine>)
RNNKIT_METHOD("layer_backward", &rnnkit::layer_backward<rnnkit::CpuEngine>)
