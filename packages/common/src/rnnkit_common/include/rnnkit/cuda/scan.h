// The scan engine for CUDA: one kernel each way, which reads every input once and writes every output once; and one more
// for those steps forward that are not linear, with a thread per channel that walks along time, its loads a tile ahead.
//
// A thread owns a tile: some neighbouring channels, and some consecutive steps (tuning.h). It loads all of it at once,
// computes its a_s and b_s, and composes them into one map h -> a h + b for each channel. A block is 32 lanes over channels
// times some threads along time, and further blocks may continue along time; they exchange their maps (scan_exchange.h), so
// that each thread knows the state that enters its steps, and then replays them. With many channels one thread along time is
// enough and nothing is exchanged; with few, more of the device works on each sequence.
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
#include <rnnkit/cuda/scan_shape.h>
#include <rnnkit/tensor.h>
#include <torch/csrc/stable/ops.h>

namespace rnnkit::cuda {

template <class Kind, class Tile, class acc, class Problem, class Device>
void launch_scan(void (*kernel)(Cut<Problem>), Cut<Problem> p, int max_chunks, bool may_share, Device device) {
  if (p.batch == 0 || p.channels == 0) return;
  STD_TORCH_CHECK(p.steps <= 1 << 30 && p.channels <= 1 << 30, "scan: more than 2^30 steps or channels");
  using Exchange = ExchangeOf<Kind, acc, Tile, true>;  // as large either way
  const int64_t sequences = sequences_of<Tile>(p);
  const auto launch_of = [&](const Shape& shape) {
    const bool shares = shape.blocks > 1;
    STD_TORCH_CHECK(sequences <= (shares ? 65535 : 2147483647), "scan: batch x channels is too large for one launch");
    return Launch{shares ? dim3(shape.blocks, unsigned(sequences)) : dim3(unsigned(sequences)), dim3(kLanes, shape.chunks),
                  Exchange::shared_bytes(shape.chunks, shape.blocks, !shape.in_grid),
                  shape.in_grid ? 1 : unsigned(shape.blocks), shape.in_grid};
  };
  const auto running = [&](const Shape& shape) {
    const Launch made = launch_of(shape);
    return shape.in_grid ? active_blocks(kernel, made, device) : active_clusters(kernel, made, device);
  };
  const Shape shape = choose_shape(sequences, p.steps, max_chunks, may_share, device_properties(device), running);
  p.sharing.blocks = shape.blocks;
  Tensor board, arrived;
  if (shape.in_grid) {
    const Sizes bytes{Exchange::board_bytes(sequences, shape.blocks)}, counters{sequences};
    board = torch::stable::empty(bytes, ScalarType::Byte, std::nullopt, device);
    arrived = torch::stable::full(counters, 0, ScalarType::Int, std::nullopt, device);
    p.sharing.board = board.data_ptr();
    p.sharing.arrived = static_cast<unsigned*>(arrived.data_ptr());
  }
  launch(kernel, launch_of(shape), device, p);
}

struct Engine {
  static constexpr int kCarry = kCarryCuda;

  template <class scalar_t, class Kind, class Device>
  static void run(const ScanForward<scalar_t, Kind>& p, Device device) {
    using Tile = TileOf<scalar_t>;
    using Narrow = rnnkit::cuda::Tile<1, Tile::kSteps>;
    if constexpr (Kind::kLinear) {
      launch_scan<Kind, Tile, acc_t<scalar_t>>(&scan_forward_kernel<Kind, scalar_t, Tile>, cut<Tile>(p),
                                               ForwardBlock<scalar_t, Kind>::kChunks, true, device);
    } else if (sequences_of<Tile>(p) >= int64_t(kSerialWarps) * device_properties(device).multiprocessors) {
      using Wide = std::conditional_t<Kind::kPlanes * sizeof(scalar_t) <= 16, Tile, Narrow>;  // both tiles in registers
      launch_scan<Kind, Wide, acc_t<scalar_t>>(&serial_forward_kernel<Kind, scalar_t, Wide>, cut<Wide>(p), 1, false, device);
    } else {
      launch_scan<Kind, Narrow, acc_t<scalar_t>>(&serial_forward_kernel<Kind, scalar_t, Narrow>, cut<Narrow>(p), 1, false,
                                                 device);
    }
  }

  template <class scalar_t, class Kind, class Device>
  static void run(const ScanBackward<scalar_t, Kind>& p, Device device) {
    using Tile = TileOf<scalar_t>;
    launch_scan<Kind, Tile, acc_t<scalar_t>>(&scan_backward_kernel<Kind, scalar_t, Tile>, cut<Tile>(p),
                                             BackwardBlock<scalar_t, Kind>::kChunks, true, device);
  }

  template <class Product>
  static void multiply(const Product&) {
    STD_TORCH_CHECK(false, "on a GPU, no tensors are lent");
  }

 private:
  template <class Tile, class scalar_t, class Kind>
  static Cut<ScanForward<scalar_t, Kind>> cut(const ScanForward<scalar_t, Kind>& p) {
    return {p, are_packed<Tile, Kind>(p.in, Kind::kPlanes, p) && are_packed<Tile, KindDefaults>(&p.out, 1, p)};
  }

  template <class Tile, class scalar_t, class Kind>
  static Cut<ScanBackward<scalar_t, Kind>> cut(const ScanBackward<scalar_t, Kind>& p) {
    return {p, are_packed<Tile, Kind>(p.in, Kind::kPlanes, p) && are_packed<Tile, Kind>(p.grad_in, Kind::kPlanes, p) &&
                   are_packed<Tile, KindDefaults>(&p.grad_out, 1, p)};
  }
};

}  // namespace rnnkit::cuda
