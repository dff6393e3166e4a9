// CUDA kernels and their registration.
// SPDX-License-Identifier: Apache-2.0
#include <rnnkit/cuda/scan.h>
#include <rnnkit/library.h>

#include "ops.h"
// after the two that it builds on
#include "cell.h"

namespace rnnkit {
namespace {

struct CudaEngine {
  template <int gates, Activation activation, class scalar_t, int planes>
  static void forward(const ScanForward<scalar_t, planes>& p, torch::stable::Device device) {
    cuda::run_scan<cuda::Cell<cuda::Math<scalar_t>, gates, activation>>(p, device);
  }

  template <int gates, Activation activation, class scalar_t, int planes>
  static void backward(const ScanBackward<scalar_t, planes>& p, torch::stable::Device device) {
    cuda::run_scan<cuda::Cell<cuda::Math<scalar_t>, gates, activation>>(p, device);
  }
};

}  // namespace
}  // namespace rnnkit

RNNKIT_LIBRARY_IMPL(RNNKIT_CUDA_KEY, m) {
  m.impl("scan", TORCH_BOX(&rnnkit::scan<rnnkit::CudaEngine>));
  m.impl("step", TORCH_BOX(&rnnkit::step<rnnkit::CudaEngine>));
  m.impl("scan_backward", TORCH_BOX(&rnnkit::scan_backward<rnnkit::CudaEngine>));
}
