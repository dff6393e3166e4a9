// A warp's matrix product of 16-bit numbers, on tensor cores (compute capability 8.0 and later).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cuda/launch.h>
#include <rnnkit/types.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace rnnkit::cuda {

// A lane's part of a [16, 16], b [16, 8] and the float sums [16, 8] of a b, as mma.m16n8k16 has them.
struct alignas(16) MmaA {
  uint32_t values[4];
};
struct MmaB {
  uint32_t values[2];
};
struct MmaSums {
  float values[4];
};

// Where an element of a lies: its lane, and which of the 8 values of that lane it is.
RNNKIT_HOST_DEVICE int mma_a_lane(int row, int k) { return row % 8 * 4 + k % 8 / 2; }
RNNKIT_HOST_DEVICE int mma_a_value(int row, int k) { return (row / 8 + k / 8 * 2) * 2 + k % 2; }
// Lane l's values of b: rows 2 (l % 4) + {0, 1} and the same + 8, column l / 4.
// Its sums: rows l / 4 and l / 4 + 8, columns 2 (l % 4) + {0, 1}.

#ifdef RNNKIT_EMULATE_CUDA
template <class scalar_t>
void mma(MmaSums& sums, const MmaA& a, const MmaB& b, RNNKIT_SITE) {
  struct Operands {
    MmaA a;
    MmaB b;
  };
  const Operands mine{a, b};
  const Operands* of_lane[32];
  emulation::Cluster::current()->show(&mine, of_lane, file, line);
  const auto value = [](const uint32_t* values, int i) {
    scalar_t x;
    std::memcpy(&x, reinterpret_cast<const char*>(values) + i * sizeof(x), sizeof(x));
    return static_cast<float>(x);
  };
  const int lane = emulation::self().lane;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k)
      sums.values[i] += value(of_lane[mma_a_lane(row, k)]->a.values, mma_a_value(row, k)) *
                        value(of_lane[column * 4 + k % 8 / 2]->b.values, k / 8 * 2 + k % 2);
  }
  __syncwarp(~0u, file, line + 1);  // until all have read
}
#else
template <class scalar_t>
__device__ __forceinline__ void mma(MmaSums& sums, const MmaA& a, const MmaB& b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  float* const d = sums.values;
  if constexpr (std::is_same_v<scalar_t, BFloat16>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.values[0]), "r"(a.values[1]), "r"(a.values[2]), "r"(a.values[3]), "r"(b.values[0]), "r"(b.values[1]));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.values[0]), "r"(a.values[1]), "r"(a.values[2]), "r"(a.values[3]), "r"(b.values[0]), "r"(b.values[1]));
  }
#else
  device_fail("mma: this GPU has no tensor cores for 16-bit numbers");
#endif
}
#endif

}  // namespace rnnkit::cuda
