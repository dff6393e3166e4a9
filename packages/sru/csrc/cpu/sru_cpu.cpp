// CPU kernels and their registration.
// SPDX-License-Identifier: Apache-2.0
#define RNNKIT_CELL "cell.h"
#include <rnnkit/cpu/scan_engine.h>
#include <rnnkit/library.h>

#include "ops.h"

RNNKIT_LIBRARY_IMPL(CPU, m) { rnnkit::implement_sru<rnnkit::CpuEngine>(m); }

using Ops = rnnkit::ScanOps<rnnkit::CpuEngine, rnnkit::Family>;
RNNKIT_SCAN_METHODS(Ops)
RNNKIT_METHOD("layer", &rnnkit::shaped_layer<rnnkit::CpuEngine>)
RNNKIT_METHOD("layer_backward", &rnnkit::layer_backward<rnnkit::CpuEngine>)
RNNKIT_METHOD("stack_step", &rnnkit::stack_step<rnnkit::CpuEngine>)
