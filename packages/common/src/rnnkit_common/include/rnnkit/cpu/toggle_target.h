// From one target to the next (see rnnkit/target.h); no guard.
// SPDX-License-Identifier: Apache-2.0
#ifdef RNNKIT_TARGET_TOGGLE
#undef RNNKIT_TARGET_TOGGLE
#else
#define RNNKIT_TARGET_TOGGLE
#endif
