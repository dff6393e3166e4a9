// CUDA's built-in variables and functions, for kernels that run emulated: threadIdx & co., barriers, warp shuffles and
// votes, atomics.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cuda/emulation/scheduler.h>

#include <algorithm>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define threadIdx (::rnnkit::emulation::self().thread_index)
#define blockIdx (::rnnkit::emulation::self().block_index)
#define blockDim (::rnnkit::emulation::Cluster::current()->block)
#define gridDim (::rnnkit::emulation::Cluster::current()->grid)

#define RNNKIT_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(RNNKIT_SITE) {
  using namespace rnnkit::emulation;
  Cluster::current()->wait(State::at_block_barrier, 0, file, line);
}

inline void __syncwarp(unsigned mask = ~0u, RNNKIT_SITE) {
  using namespace rnnkit::emulation;
  Cluster::current()->wait(State::at_warp_barrier, mask, file, line);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, RNNKIT_SITE) {
  const int mine = rnnkit::emulation::self().lane;
  return rnnkit::emulation::Cluster::current()->exchange(mask, value, mine / width * width + lane % width, file, line);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, int delta, int width = 32, RNNKIT_SITE) {
  const int mine = rnnkit::emulation::self().lane;
  const int lane = mine % width < delta ? mine : mine - delta;
  return rnnkit::emulation::Cluster::current()->exchange(mask, value, lane, file, line);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, int delta, int width = 32, RNNKIT_SITE) {
  const int mine = rnnkit::emulation::self().lane;
  const int lane = mine % width + delta >= width ? mine : mine + delta;
  return rnnkit::emulation::Cluster::current()->exchange(mask, value, lane, file, line);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int = 32, RNNKIT_SITE) {
  const int mine = rnnkit::emulation::self().lane;
  return rnnkit::emulation::Cluster::current()->exchange(mask, value, mine ^ bits, file, line);
}

inline unsigned __ballot_sync(unsigned mask, bool predicate, RNNKIT_SITE) {
  return rnnkit::emulation::Cluster::current()->ballot(mask, predicate, file, line);
}

inline bool __any_sync(unsigned mask, bool predicate, RNNKIT_SITE) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}

inline bool __all_sync(unsigned mask, bool predicate, RNNKIT_SITE) {
  return __ballot_sync(mask, !predicate, file, line) == 0;
}

// One fiber runs at a time, so plain code is atomic.
template <class T>
T atomicAdd(T* address, T value) {
  return std::exchange(*address, *address + value);
}

template <class T>
T atomicMax(T* address, T value) {
  return std::exchange(*address, std::max(*address, value));
}

template <class T>
T atomicExch(T* address, T value) {
  return std::exchange(*address, value);
}

template <class T>
T atomicCAS(T* address, T expected, T value) {
  return std::exchange(*address, *address == expected ? value : *address);
}

inline void __threadfence() {}
inline void __threadfence_block() {}
