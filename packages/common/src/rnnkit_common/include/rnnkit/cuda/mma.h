// A warp's matrix product of 16-bit numbers, or of floats shortened to TF32, on tensor cores (compute capability 8.0 and
// later).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cuda/launch.h>
#include <rnnkit/types.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace rnnkit::cuda {

// A float of 10 bits behind the point, in the memory of one of 23: what tensor cores multiply.
struct Tf32 {
  float value;

  Tf32() = default;
  RNNKIT_HOST_DEVICE explicit Tf32(float x) : value(shortened(x)) {}
  RNNKIT_HOST_DEVICE operator float() const { return value; }

 private:
  static RNNKIT_HOST_DEVICE float shortened(float x) {  // to the nearest, as cvt.rna
    constexpr uint32_t kExponent = 0x7f800000, kHalf = 0x1000, kBits = 0x1fff;
    uint32_t bits;
    memcpy(&bits, &x, sizeof(x));
    if ((bits & kExponent) != kExponent) bits = (bits + kHalf) & ~kBits;
    memcpy(&x, &bits, sizeof(x));
    return x;
  }
};

// A lane's part of a [16, K], b [K, 8] and the float sums [16, 8] of a b, as mma.m16n8k16 has them, and m16n8k8 for TF32.
struct alignas(16) MmaA {
  uint32_t values[4];
};
struct MmaB {
  uint32_t values[2];
};
struct MmaSums {
  float values[4];
};

template <class scalar_t>
struct Mma {
  static constexpr int kPair = 4 / sizeof(scalar_t);  // values in a register, neighbours along K
  static constexpr int kDepth = 8 * kPair;            // K

  // Where an element of a lies: its lane, and which of the values of that lane it is.
  static RNNKIT_HOST_DEVICE int a_lane(int row, int k) { return row % 8 * 4 + k % (4 * kPair) / kPair; }
  static RNNKIT_HOST_DEVICE int a_value(int row, int k) { return (row / 8 + k / (4 * kPair) * 2) * kPair + k % kPair; }
  // Lane l's registers of b: from row kPair (l % 4) and from the same + 4 kPair, column l / 4.
  // Its sums: rows l / 4 and l / 4 + 8, columns 2 (l % 4) + {0, 1}.
};

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
    using Shape = Mma<scalar_t>;
    constexpr int kPair = Shape::kPair;
    for (int k = 0; k < Shape::kDepth; ++k)
      sums.values[i] += value(of_lane[Shape::a_lane(row, k)]->a.values, Shape::a_value(row, k)) *
                        value(of_lane[column * 4 + k % (4 * kPair) / kPair]->b.values, k / (4 * kPair) * kPair + k % kPair);
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
  } else if constexpr (std::is_same_v<scalar_t, Tf32>) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.values[0]), "r"(a.values[1]), "r"(a.values[2]), "r"(a.values[3]), "r"(b.values[0]), "r"(b.values[1]));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.values[0]), "r"(a.values[1]), "r"(a.values[2]), "r"(a.values[3]), "r"(b.values[0]), "r"(b.values[1]));
  }
#else
  device_fail("mma: this GPU has no tensor cores for such numbers");
#endif
}
#endif

}  // namespace rnnkit::cuda
