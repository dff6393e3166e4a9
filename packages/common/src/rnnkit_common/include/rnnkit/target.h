// What code in `namespace rnnkit::RNNKIT_TARGET` is compiled for: each instruction set of the CPU in turn
// (cpu/foreach_target.h), or CUDA; in an editor, where nobody has said, the CPU's baseline.
//
// A header of such code is read once for each target. Its guard is, as Google Highway's, one that is set on the first
// reading, unset on the second, and so on, as RNNKIT_TARGET_TOGGLE is from target to target:
//
//   #if defined(RNNKIT_NAME_H) == defined(RNNKIT_TARGET_TOGGLE)
//   #ifdef RNNKIT_NAME_H
//   #undef RNNKIT_NAME_H
//   #else
//   #define RNNKIT_NAME_H
//   #endif
//   ...
//   #endif
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/types.h>

// Standard headers that such code uses, here, so that their templates are compiled for the baseline alone.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__CUDACC__) || defined(RNNKIT_EMULATE_CUDA)
#define RNNKIT_TARGET cuda
#define RNNKIT_INLINE __device__ __forceinline__
#include <rnnkit/cuda/launch.h>
#else

#define RNNKIT_INLINE inline __attribute__((always_inline))
#if defined(__x86_64__) || defined(__amd64__)
#define RNNKIT_X86 1
#include <immintrin.h>
#else
#define RNNKIT_X86 0
#endif
#ifdef __aarch64__
#define RNNKIT_NEON 1
#include <arm_neon.h>
#else
#define RNNKIT_NEON 0
#endif

#ifndef RNNKIT_TARGET
#define RNNKIT_TARGET baseline
#define RNNKIT_VECTOR_BYTES 16
#define RNNKIT_F16C 0
#endif
#endif
