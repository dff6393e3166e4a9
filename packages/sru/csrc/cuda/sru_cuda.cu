// CUDA kernels and their registration.
// SPDX-License-Identifier: Apache-2.0
#include <rnnkit/cuda/scan.h>
#include <rnnkit/library.h>

#include "cell.h"
#include "ops.h"

RNNKIT_LIBRARY_IMPL(RNNKIT_CUDA_KEY, m) { rnnkit::implement_sru<rnnkit::cuda::Engine>(m); }
