// CUDA kernels and their registration.
// SPDX-License-Identifier: Apache-2.0
#include <rnnkit/cuda/scan.h>
#include <rnnkit/library.h>
// after scan.h, which it builds on
#include <rnnkit/sigmoids.h>

#include "ops.h"
// after all of these
#include "cell.h"

RNNKIT_LIBRARY_IMPL(RNNKIT_CUDA_KEY, m) {
  m.impl("product", TORCH_BOX(&rnnkit::product));
  m.impl("scan", TORCH_BOX(&rnnkit::scan<rnnkit::cuda::Engine>));
  m.impl("layer", TORCH_BOX(&rnnkit::layer<rnnkit::cuda::Engine>));
  m.impl("layer_backward", TORCH_BOX(&rnnkit::layer_backward<rnnkit::cuda::Engine>));
  m.impl("stack_step", TORCH_BOX(&rnnkit::stack_step<rnnkit::cuda::Engine>));
  m.impl("scan_backward", TORCH_BOX(&rnnkit::scan_backward<rnnkit::cuda::Engine>));
}
