// CPU kernels and their registration.
// SPDX-License-Identifier: Apache-2.0
#define RNNKIT_CELL "cell.h"
#include <rnnkit/cpu/scan_engine.h>
#include <rnnkit/library.h>

#include "family.h"

RNNKIT_LIBRARY_IMPL(CPU, m) {
  rnnkit::implement_scan<rnnkit::CpuEngine, rnnkit::Family>(m);
  rnnkit::implement_layer<rnnkit::CpuEngine, rnnkit::Family>(m);
}

using Ops = rnnkit::ScanOps<rnnkit::CpuEngine, rnnkit::Family>;
RNNKIT_SCAN_METHODS(Ops)
RNNKIT_LAYER_METHODS(Ops)
