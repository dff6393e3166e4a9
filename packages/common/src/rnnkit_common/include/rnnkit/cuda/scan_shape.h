// How a scan is cut along time for a device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cuda/launch.h>
#include <rnnkit/cuda/tuning.h>

#include <algorithm>

namespace rnnkit::cuda {

// Threads along time in a block, and blocks that share a sequence: a cluster, or any that run at the same time.
struct Shape {
  int chunks = 1, blocks = 1;
  bool in_grid = false;
};

// As many as fill the device, but none without a step; at most max_chunks, and blocks only if they may share a sequence.
// `running(shape)`: how many clusters of a shape run at the same time; how many blocks, where they are none.
template <class Running>
Shape choose_shape(int64_t sequences, int64_t steps, int max_chunks, bool may_share, const DeviceProperties& device,
                   Running running) {
  static const ForcedShape forced;
  if (forced.chunks > 0) {
    const int chunks = std::min(forced.chunks, max_chunks);
    if (!may_share || !(forced.in_grid || device.clusters)) return {chunks};
    if (!forced.in_grid) return {chunks, forced.blocks};
    const int64_t blocks = std::min<int64_t>(forced.blocks, running(Shape{chunks, kMostGrid, true}) / sequences);
    return blocks > 1 ? Shape{chunks, int(blocks), true} : Shape{chunks};
  }
  const int64_t wanted = int64_t(device.multiprocessors) * kWarpsPerMultiprocessor;
  const auto too_few = [&](const Shape& shape) {
    const int64_t threads = int64_t(shape.chunks) * shape.blocks;
    return sequences * threads < wanted && threads * kCarryCuda < steps;
  };
  Shape shape;
  while (shape.chunks < max_chunks && too_few(shape)) shape.chunks = std::min(2 * shape.chunks, max_chunks);
  if (!may_share) return shape;
  const int most_blocks = std::min(kMaxCluster, device.multiprocessors);  // a slice of a device may have fewer
  while (device.clusters && 2 * shape.blocks <= most_blocks && too_few(shape)) shape.blocks *= 2;
  const Shape largest{shape.chunks, kLargestCluster};
  if (shape.blocks == kMaxCluster && too_few(shape) && running(largest) >= sequences) shape = largest;

  const int64_t tile = shape.chunks * kCarryCuda, tiles = (steps + tile - 1) / tile;
  const int64_t least = std::max(kGridGain * shape.blocks, kLeastGrid);
  if (!too_few(shape) || tiles < least) return shape;
  const int64_t most = std::min<int64_t>(running(Shape{shape.chunks, kMostGrid, true}) / sequences, kMostGrid);
  if (most < least) return shape;
  const int64_t turns = (tiles + most - 1) / most;
  return {shape.chunks, int((tiles + turns - 1) / turns), true};
}

}  // namespace rnnkit::cuda
