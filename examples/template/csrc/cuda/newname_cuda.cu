// CUDA kernels and their registration.
// SPDX-License-Identifier: Apache-2.0
#include <rnnkit/cuda/scan.h>
#include <rnnkit/library.h>

#include "cell.h"
#include "family.h"

RNNKIT_LIBRARY_IMPL(RNNKIT_CUDA_KEY, m) {
  rnnkit::implement_scan<rnnkit::cuda::Engine, rnnkit::Family>(m);
  rnnkit::implement_layer<rnnkit::cuda::Engine, rnnkit::Family>(m);
}
