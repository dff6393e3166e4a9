// CUDA kernels and their registration.
// SPDX-License-Identifier: Apache-2.0
#include <rnnkit/cuda/scan.h>
#include <rnnkit/library.h>

#include "ops.h"
// after the two that it builds on
#include "cell.h"

RNNKIT_LIBRARY_IMPL(RNNKIT_CUDA_KEY, m) {
  m.impl("scan", TORCH_BOX(&rnnkit::scan<rnnkit::cuda::Engine>));
  m.impl("step", TORCH_BOX(&rnnkit::step<rnnkit::cuda::Engine>));
  m.impl("scan_backward", TORCH_BOX(&rnnkit::scan_backward<rnnkit::cuda::Engine>));
}
