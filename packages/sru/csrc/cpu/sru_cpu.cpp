// CPU kernels and their registration.
// SPDX-License-Identifier: Apache-2.0
#define RNNKIT_CELL "cell.h"
#include <rnnkit/cpu/scan_engine.h>
#include <rnnkit/library.h>

#include "ops.h"

RNNKIT_LIBRARY_IMPL(CPU, m) { rnnkit::implement_sru<rnnkit::CpuEngine>(m); }
