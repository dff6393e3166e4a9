// The scan engine for CUDA: one kernel each way, which reads every input once and writes every output once; and one more
// for those steps forward that are not linear, with a thread per channel that walks along time, its loads a tile ahead.
//
// A thread owns a tile: some neighbouring channels, and some consecutive steps (tuning.h). It loads all of it at once,
// computes its a_s and b_s, and composes them into one map h -> a h + b for each channel. A block is 32 lanes over channels
// times some threads along time, and the blocks of a cluster continue along time; they exchange their maps through
// (distributed) shared memory, so that each thread knows the state that enters its steps, and then replays them. With many
// channels one thread along time is enough and nothing is exchanged; with few, more of the device works on each sequence.
// The backward kernel does the same from the last step to the first, with the adjoint's map P -> a P + b.
//
// Tiles without marks (resets, padding, the sequence's end), nearly all, have a way of their own through the arithmetic;
// whether a tile is read by whole words is told apart from that. The time goes into instructions: benchmarks/sass.py
// counts them.
//
// Cells: see rnnkit/scan.h, with M = cuda::Math<scalar_t>. The order of all sums is fixed: every run gives the same result.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cuda/scan_backward.h>
#include <rnnkit/cuda/scan_forward.h>

namespace rnnkit::cuda {

// As many threads along time as fill the device, but none without a step; at most max_chunks of a block, and blocks only if
// they may share a sequence.
template <class Tile, class acc, class Problem, class Device>
void launch_scan(void (*kernel)(Problem), const Problem& p, int max_chunks, bool may_share, Device device) {
  if (p.batch == 0 || p.channels == 0) return;
  static const ForcedShape forced;
  const DeviceProperties properties = device_properties(device);
  const int64_t sequences = sequences_of<Tile>(p);
  const int64_t wanted = int64_t(properties.multiprocessors) * kWarpsPerMultiprocessor;
  const auto too_few = [&](int64_t threads) { return sequences * threads < wanted && threads * Tile::kSteps < p.steps; };
  const auto shape = [&](int chunks, int cluster) {
    STD_TORCH_CHECK(sequences * cluster <= 2147483647, "scan: batch x channels is too large for one launch");
    return Launch{dim3(unsigned(sequences * cluster)), dim3(kLanes, chunks),
                  Exchange<acc, Tile::kChannels>::shared_bytes(chunks, cluster), unsigned(cluster)};
  };
  may_share = may_share && properties.clusters;
  int chunks = 1;
  int cluster = 1;
  while (chunks < max_chunks && too_few(chunks)) chunks = chunks * 2 < max_chunks ? chunks * 2 : max_chunks;
  while (may_share && cluster < kMaxCluster && too_few(chunks * cluster)) cluster *= 2;
  if (cluster == kMaxCluster && too_few(chunks * cluster) &&
      active_clusters(kernel, shape(chunks, kLargestCluster), device) >= sequences)
    cluster = kLargestCluster;
  if (forced.chunks > 0) {
    chunks = forced.chunks < max_chunks ? forced.chunks : max_chunks;
    cluster = may_share ? forced.cluster : 1;
  }
  STD_TORCH_CHECK(p.steps <= 1 << 30 && p.channels <= 1 << 30, "scan: more than 2^30 steps or channels");
  launch(kernel, shape(chunks, cluster), device, p);
}

struct Engine {
  static constexpr int kCarry = kCarryCuda;

  template <class scalar_t, class Kind, class Device>
  static void run(const ScanForward<scalar_t, Kind>& p, Device device) {
    using Tile = TileOf<scalar_t>;
    using Narrow = rnnkit::cuda::Tile<1, Tile::kSteps>;
    if constexpr (Kind::kLinear) {
      launch_scan<Tile, acc_t<scalar_t>>(&scan_forward_kernel<Kind, scalar_t, Tile>, packable<Tile>(p),
                                         ForwardBlock<scalar_t, Kind>::kChunks, true, device);
    } else if (sequences_of<Tile>(p) >= int64_t(kSerialWarps) * device_properties(device).multiprocessors) {
      using Wide = std::conditional_t<Kind::kPlanes * sizeof(scalar_t) <= 16, Tile, Narrow>;  // both tiles in registers
      launch_scan<Wide, acc_t<scalar_t>>(&serial_forward_kernel<Kind, scalar_t, Wide>, packable<Wide>(p), 1, false, device);
    } else {
      launch_scan<Narrow, acc_t<scalar_t>>(&serial_forward_kernel<Kind, scalar_t, Narrow>, packable<Narrow>(p), 1, false,
                                           device);
    }
  }

  template <class scalar_t, class Kind, class Device>
  static void run(const ScanBackward<scalar_t, Kind>& p, Device device) {
    using Tile = TileOf<scalar_t>;
    launch_scan<Tile, acc_t<scalar_t>>(&scan_backward_kernel<Kind, scalar_t, Tile>, packable<Tile>(p),
                                       BackwardBlock<scalar_t, Kind>::kChunks, true, device);
  }

  template <class Product>
  static void multiply(const Product&) {
    STD_TORCH_CHECK(false, "on a GPU, no tensors are lent");
  }

 private:
  template <class Tile, class scalar_t, class Kind>
  static Packable<ScanForward<scalar_t, Kind>> packable(const ScanForward<scalar_t, Kind>& p) {
    return {p, are_packed<Tile, Kind>(p.in, Kind::kPlanes, p) && are_packed<Tile, KindDefaults>(&p.out, 1, p)};
  }

  template <class Tile, class scalar_t, class Kind>
  static Packable<ScanBackward<scalar_t, Kind>> packable(const ScanBackward<scalar_t, Kind>& p) {
    return {p, are_packed<Tile, Kind>(p.in, Kind::kPlanes, p) && are_packed<Tile, Kind>(p.grad_in, Kind::kPlanes, p) &&
                   are_packed<Tile, KindDefaults>(&p.grad_out, 1, p)};
  }
};

}  // namespace rnnkit::cuda
