// Neighbouring values in one register.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cuda/launch.h>
#include <rnnkit/types.h>

#include <cstring>
#include <type_traits>

#ifndef RNNKIT_EMULATE_CUDA
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace rnnkit::cuda {

// Neighbouring values, which are read and written together. Two of 16 bits stay in one register until they are
// used: taken apart where they are loaded, they would have to be waited for there.
template <class scalar_t, int count, bool pair = sizeof(scalar_t) == 2 && count == 2>
struct alignas(sizeof(scalar_t) * count) Word {
  using acc = acc_t<scalar_t>;
  scalar_t values[count];

  __device__ __forceinline__ acc get(int c) const { return static_cast<acc>(values[c]); }
  __device__ __forceinline__ void set(int c, scalar_t value) { values[c] = value; }

  static __device__ __forceinline__ Word rounded(const acc (&from)[count]) {
    Word word;
    RNNKIT_UNROLL
    for (int c = 0; c < count; ++c) word.values[c] = static_cast<scalar_t>(from[c]);
    return word;
  }
};

template <class scalar_t>
struct Word<scalar_t, 2, true> {
  uint32_t bits;

  __device__ __forceinline__ float get(int c) const {
    if constexpr (std::is_same_v<scalar_t, BFloat16>) {
      const uint32_t wide = c == 0 ? bits << 16 : bits & 0xffff0000u;
      float value;
      memcpy(&value, &wide, sizeof(value));
      return value;
    }
    return static_cast<float>(scalar_t(uint16_t(bits >> 16 * c), scalar_t::from_bits()));
  }

  __device__ __forceinline__ void set(int c, scalar_t value) {
    bits = (bits & ~(0xffffu << 16 * c)) | uint32_t(value.x) << 16 * c;
  }

  static __device__ __forceinline__ Word rounded(const float (&from)[2]) {
    Word word;
#ifdef RNNKIT_EMULATE_CUDA
    word.set(0, static_cast<scalar_t>(from[0]));
    word.set(1, static_cast<scalar_t>(from[1]));
#else
    if constexpr (std::is_same_v<scalar_t, BFloat16>) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(from[0], from[1]);
      memcpy(&word, &pair, sizeof(word));
    } else {
      const __half2 pair = __floats2half2_rn(from[0], from[1]);
      memcpy(&word, &pair, sizeof(word));
    }
#endif
    return word;
  }
};

}  // namespace rnnkit::cuda
