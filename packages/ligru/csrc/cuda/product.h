// The product of one block of threads: out[n][m] = sum over k of weights[m][k] x[n][k], for kRows rows x and the block's M
// outputs, up to 128. The weights stay in the block's memory from the first step to the last. 16-bit ones, and TF32, meet x
// on tensor cores, and the first of them in each warp stay in registers; floats are multiplied one by one. The sum is over
// parts of k, each made by threads of its own.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cuda/mma.h>

#include <cstdint>

namespace rnnkit::cuda {

constexpr int kThreads = 256, kWarps = kThreads / 32, kRows = 8;

RNNKIT_HOST_DEVICE int round_up(int x, int to) { return (x + to - 1) / to * to; }

// For BFloat16, Half and Tf32.
template <class scalar_t>
class MmaProduct {
  using Shape = Mma<scalar_t>;

 public:
  using Operand = scalar_t;
  static constexpr int kAlign = Shape::kDepth;  // of the depth

  const int outputs, depth;

  RNNKIT_HOST_DEVICE MmaProduct(int outputs, int depth) : outputs(outputs), depth(depth) {}

  // Rows of x lie so far apart that the lanes of a warp read from different banks.
  RNNKIT_HOST_DEVICE int x_stride() const { return depth + 4 * Shape::kPair; }
  RNNKIT_HOST_DEVICE int weight_values() const { return padded() * depth; }
  RNNKIT_HOST_DEVICE int parts() const { return kWarps / tiles(); }
  RNNKIT_HOST_DEVICE int part_values() const { return kRows * padded(); }

  template <class Weight>
  __device__ __forceinline__ void load(Operand* weights, Weight weight) {
    for (int i = threadIdx.x; i < weight_values(); i += kThreads) {
      const int m = i % padded(), k = i / padded();
      const int of_tile = k % Shape::kDepth;
      const int fragment = (m / 16 * k_tiles() + k / Shape::kDepth) * 32 + Shape::a_lane(m % 16, of_tile);
      weights[fragment * 4 * Shape::kPair + Shape::a_value(m % 16, of_tile)] = Operand(m < outputs ? weight(m, k) : 0.0f);
    }
    __syncthreads();
    weights_ = reinterpret_cast<const MmaA*>(weights) + tile() * k_tiles() * 32 + threadIdx.x % 32;
    RNNKIT_UNROLL
    for (int i = 0; i < kCached; ++i)
      if (part() < parts() && begin() + i < end()) cached_[i] = weights_[(begin() + i) * 32];
  }

  __device__ __forceinline__ void operator()(const Operand* x, float* sums) const {
    if (part() >= parts()) return;
    const int lane = threadIdx.x % 32, first = begin(), last = end();
    const Operand* const mine = x + lane / 4 * x_stride() + lane % 4 * Shape::kPair;
    MmaSums chains[kChains] = {};  // a product waits for the one before it only within its chain
    RNNKIT_UNROLL
    for (int i = 0; i < kCached; ++i)
      if (first + i < last) mma<scalar_t>(chains[i % kChains], cached_[i], load_b(mine, first + i));
    for (int k = first + kCached; k < last; k += kChains) {
      RNNKIT_UNROLL
      for (int c = 0; c < kChains; ++c)
        if (k + c < last) mma<scalar_t>(chains[c], weights_[(k + c) * 32], load_b(mine, k + c));
    }
    RNNKIT_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int m = tile() * 16 + lane / 4 + i / 2 * 8, n = lane % 4 * 2 + i % 2;
      sums[part() * part_values() + n * padded() + m] =
          (chains[0].values[i] + chains[1].values[i]) + (chains[2].values[i] + chains[3].values[i]);
    }
  }

  __device__ __forceinline__ float sum(const float* sums, int n, int m) const {
    float total = 0;
    for (int part = 0; part < parts(); ++part) total += sums[part * part_values() + n * padded() + m];
    return total;
  }

 private:
  static constexpr int kCached = 16, kChains = 4;

  RNNKIT_HOST_DEVICE int padded() const { return round_up(outputs, 16); }
  RNNKIT_HOST_DEVICE int tiles() const { return padded() / 16; }
  RNNKIT_HOST_DEVICE int k_tiles() const { return depth / Shape::kDepth; }

  // What this warp makes: a tile of outputs, from a part of k.
  __device__ __forceinline__ int tile() const { return int(threadIdx.x) / 32 % tiles(); }
  __device__ __forceinline__ int part() const { return int(threadIdx.x) / 32 / tiles(); }
  __device__ __forceinline__ int begin() const { return k_tiles() * part() / parts(); }
  __device__ __forceinline__ int end() const { return k_tiles() * (part() + 1) / parts(); }

  static __device__ __forceinline__ MmaB load_b(const Operand* mine, int k) {
    const Operand* const from = mine + k * Shape::kDepth;
    return {*reinterpret_cast<const uint32_t*>(from), *reinterpret_cast<const uint32_t*>(from + 4 * Shape::kPair)};
  }

  const MmaA* weights_;
  MmaA cached_[kCached];
};

// For float, in full. A thread makes two outputs, m and m + M / 2, over its part of k.
class FmaProduct {
 public:
  using Operand = float;
  static constexpr int kAlign = 4;

  const int outputs, depth;

  RNNKIT_HOST_DEVICE FmaProduct(int outputs, int depth) : outputs(outputs), depth(depth) {}

  RNNKIT_HOST_DEVICE int x_stride() const { return depth; }
  RNNKIT_HOST_DEVICE int weight_values() const { return outputs * depth; }
  RNNKIT_HOST_DEVICE int parts() const { return kThreads / (outputs / 2); }
  RNNKIT_HOST_DEVICE int part_values() const { return kRows * outputs; }

  template <class Weight>
  __device__ __forceinline__ void load(Operand* weights, Weight weight) {
    for (int i = threadIdx.x; i < weight_values(); i += kThreads) {
      const int m = i % outputs, k = i / outputs;
      weights[(k / 4 * outputs + m) * 4 + k % 4] = weight(m, k);
    }
    __syncthreads();
    weights_ = reinterpret_cast<const Four*>(weights);
  }

  __device__ __forceinline__ void operator()(const Operand* x, float* sums) const {
    const int half = outputs / 2, m = int(threadIdx.x) % half, part = int(threadIdx.x) / half, fours = depth / 4;
    if (part >= parts()) return;
    float total[kRows][2] = {};
    for (int k = fours * part / parts(); k < fours * (part + 1) / parts(); ++k) {
      const Four first = weights_[k * outputs + m], second = weights_[k * outputs + half + m];
      RNNKIT_UNROLL
      for (int n = 0; n < kRows; ++n) {
        const Four values = *reinterpret_cast<const Four*>(x + n * x_stride() + 4 * k);
        RNNKIT_UNROLL
        for (int i = 0; i < 4; ++i) {
          total[n][0] += first.values[i] * values.values[i];
          total[n][1] += second.values[i] * values.values[i];
        }
      }
    }
    RNNKIT_UNROLL
    for (int n = 0; n < kRows; ++n) {
      sums[part * part_values() + n * outputs + m] = total[n][0];
      sums[part * part_values() + n * outputs + half + m] = total[n][1];
    }
  }

  __device__ __forceinline__ float sum(const float* sums, int n, int m) const {
    float total = 0;
    for (int part = 0; part < parts(); ++part) total += sums[part * part_values() + n * outputs + m];
    return total;
  }

 private:
  struct alignas(16) Four {
    float values[4];
  };

  const Four* weights_;
};

template <class scalar_t>
struct ProductFor {
  using type = MmaProduct<scalar_t>;
};
template <>
struct ProductFor<float> {
  using type = FmaProduct;
};

}  // namespace rnnkit::cuda
