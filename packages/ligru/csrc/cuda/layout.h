// How the resident engine lays out a problem: units over blocks, and what is where in a block's memory.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "product.h"

namespace rnnkit::cuda {

constexpr int kMaxWidth = 64;  // units of a block
constexpr int kSides = 2;      // what is exchanged at even steps, and at odd ones

// The same on both sides of the launch. Operand: what is multiplied, and what blocks tell each other.
template <class Operand, bool backward>
struct Layout {
  using Product = typename ProductFor<Operand>::type;

  int units, blocks, width;  // blocks of a group
  bool in_cluster;

  RNNKIT_HOST_DEVICE int half() const { return round_up(blocks * width, Product::kAlign); }
  RNNKIT_HOST_DEVICE Product product() const { return backward ? Product(width, 2 * half()) : Product(2 * width, half()); }
  RNNKIT_HOST_DEVICE int message() const { return kRows * width * (backward ? 2 : 1); }  // what a block tells the others

  // Offsets into shared memory, in bytes
  RNNKIT_HOST_DEVICE size_t x() const { return padded(product().weight_values() * sizeof(Operand)); }
  RNNKIT_HOST_DEVICE size_t x_bytes() const { return padded(kRows * product().x_stride() * sizeof(Operand)); }
  RNNKIT_HOST_DEVICE size_t own() const { return x() + (in_cluster ? 2 : 1) * x_bytes(); }
  RNNKIT_HOST_DEVICE size_t sums() const { return own() + padded(message() * sizeof(Operand)); }
  RNNKIT_HOST_DEVICE size_t statistics() const {
    return sums() + padded(product().parts() * product().part_values() * sizeof(float));
  }
  RNNKIT_HOST_DEVICE size_t arrivals() const { return statistics() + 2 * statistics_bytes(); }
  RNNKIT_HOST_DEVICE size_t shared_bytes() const { return arrivals() + padded(2 * kSides * sizeof(uint64_t)); }
  RNNKIT_HOST_DEVICE size_t statistics_bytes() const { return padded(blocks * kRows * 2 * sizeof(float)); }

  static RNNKIT_HOST_DEVICE size_t padded(size_t bytes) { return (bytes + 15) / 16 * 16; }
};

}  // namespace rnnkit::cuda
