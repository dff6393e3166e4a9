// The kernels of all ops, for one instruction set (see rnnkit/target.h).
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_RNNT_LOSS_CPU_KERNELS_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_RNNT_LOSS_CPU_KERNELS_H
#undef RNNKIT_RNNT_LOSS_CPU_KERNELS_H
#else
#define RNNKIT_RNNT_LOSS_CPU_KERNELS_H
#endif

#include "join.h"
#include "joint.h"
#include "lattice.h"
#include "ranges.h"
#include "simple.h"

#endif
