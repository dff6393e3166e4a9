// The cell as the CUDA engines see it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cuda/launch.h>
#include <rnnkit/cuda/math.h>

#include "../cell.h"
#include "../problem.h"

namespace rnnkit::cuda {

template <class acc>
__device__ __forceinline__ acc at_or(const acc* from, int64_t i, acc otherwise) {
  return from == nullptr ? otherwise : from[i];
}

// A row whose length, which nobody on the host has read, is one that a row can have.
template <class Problem>
__device__ __forceinline__ typename Problem::Row checked_row(const Problem& p, int64_t r) {
  const auto row = p.row(r);
  if (row.length < 0 || row.length > p.steps) device_fail("lengths: a value is not within 0 and T");
  return row;
}

// Over the warp, for all its lanes.
template <class acc>
__device__ __forceinline__ acc warp_sum(acc x) {
  for (int bit = 16; bit > 0; bit /= 2) x += __shfl_xor_sync(~0u, x, bit);
  return x;
}

}  // namespace rnnkit::cuda
