// CPU kernels and their registration.
// SPDX-License-Identifier: Apache-2.0
#include <rnnkit/library.h>

#include "ops.h"

#define RNNKIT_KERNELS "cpu/kernels.h"
#include <rnnkit/cpu/foreach_target.h>
#include <rnnkit/cpu/scan_engine.h>

RNNKIT_LIBRARY_IMPL(CPU, m) {
  m.impl("scan", TORCH_BOX(&rnnkit::scan<rnnkit::CpuEngine>));
  m.impl("step", TORCH_BOX(&rnnkit::step<rnnkit::CpuEngine>));
  m.impl("stack_step", TORCH_BOX(&rnnkit::stack_step<rnnkit::CpuEngine>));
  m.impl("layer", TORCH_BOX(&rnnkit::layer<rnnkit::CpuEngine>));
  m.impl("layer_backward", TORCH_BOX(&rnnkit::layer_backward<rnnkit::CpuEngine>));
  m.impl("scan_backward", TORCH_BOX(&rnnkit::scan_backward<rnnkit::CpuEngine>));
}
