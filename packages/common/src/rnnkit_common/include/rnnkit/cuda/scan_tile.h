// What the threads of the scan kernels share out among them: places and marks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cuda/launch.h>
#include <rnnkit/cuda/tuning.h>
#include <rnnkit/scan.h>

namespace rnnkit::cuda {

// The blocks that share a sequence: a cluster, or where `arrived` is not null, blocks that run at the same time. They are
// the x of a launch, and sequences the y; without sharing, sequences are the x, of which there may be more.
struct Sharing {
  int blocks = 1;
  unsigned* arrived = nullptr;  // [sequences], 0 at first
  void* board = nullptr;        // what they show each other

  __device__ __forceinline__ int sequence() const { return int(blocks > 1 ? blockIdx.y : blockIdx.x); }
  __device__ __forceinline__ int block() const { return blocks > 1 ? int(blockIdx.x) : 0; }
};

// A problem as it is cut for a launch. `packed`: a thread's channels can be read and written by one access; they lie at
// multiples of their size, within 4 GB of their sequence's first, and none of them has another direction than its neighbour.
template <class Problem>
struct Cut : Problem {
  bool packed;
  Sharing sharing;
};

// Where a thread stands: its channels, and its place in the processing order among the threads that share them. A block's
// channels have one direction. In a packed problem a thread has all of its channels, or none: it then reads what some
// other thread reads, and writes nothing.
template <int channels>
struct Place {
  int b, d, valid;   // the sequence, the first channel, and how many of its channels exist
  int index, count;  // along time, over all blocks
  bool reverse;

  static constexpr int kWidth = kLanes * channels;

  template <class Problem>
  static __host__ __device__ int64_t forward_tiles(const Problem& p) {
    return (p.reverse_from + kWidth - 1) / kWidth;
  }

  template <class Problem>
  static __host__ __device__ int64_t tiles(const Problem& p) {
    return forward_tiles(p) + (p.channels - p.reverse_from + kWidth - 1) / kWidth;
  }

  template <class Problem>
  __device__ __forceinline__ Place(const Problem& p, const Sharing& sharing) {
    const unsigned forward = unsigned(forward_tiles(p)), of_sequence = unsigned(tiles(p));
    const unsigned sequence = unsigned(sharing.sequence()), within = sequence % of_sequence;
    b = int(sequence / of_sequence);
    reverse = within >= forward;
    const int first = reverse ? int(p.reverse_from) + int(within - forward) * kWidth : int(within) * kWidth;
    const int left = int(reverse ? p.channels : p.reverse_from) - first - int(threadIdx.x) * channels;
    valid = left < 0 ? 0 : left < channels ? left : channels;
    d = valid > 0 ? first + int(threadIdx.x) * channels : first;
    index = sharing.block() * int(blockDim.y) + int(threadIdx.y);
    count = sharing.blocks * int(blockDim.y);
  }
};

// Warps, if each took some channels of one sequence.
template <class Tile, class Problem>
int64_t sequences_of(const Problem& p) {
  return p.batch * Place<Tile::kChannels>::tiles(p);
}

// What there is to know of a thread's steps from s on; the same for all threads of a warp.
template <int steps>
struct Marks {
  int count;              // of steps that exist
  WarpBits resets, pads;  // bit i: of step s + i

  template <class Problem, class At>
  __device__ __forceinline__ Marks(const Problem& p, const At& at, int s, int length) : count(count_from(s, length)) {
    const int mine = threadIdx.x;  // a lane reads the marks of one step
    const int64_t t = position(s + mine, length, at.reverse);
    resets = p.reset == nullptr ? 0 : warp_bits(mine < count && p.resets(at.b, t, length, at.reverse));
    pads = p.pad == nullptr ? 0 : warp_bits(mine < count && p.pads(at.b, t));
  }

  static __device__ __forceinline__ int count_from(int s, int length) {
    const int left = length - s;
    return left < 0 ? 0 : left < steps ? left : steps;
  }

  __device__ __forceinline__ bool none() const { return count == steps && (resets | pads) == 0; }
  __device__ __forceinline__ bool reset(int i) const { return resets >> i & 1; }
  __device__ __forceinline__ bool pad(int i) const { return pads >> i & 1; }
  __device__ __forceinline__ bool skip(int i) const { return i >= count || pad(i); }
};

template <class scalar_t, class Problem, class At>
__device__ __forceinline__ void zero_padding(const Rows<scalar_t>& rows, const Problem& p, const At& at, int length,
                                             int channel_stride = 1) {
  for (int t = length + at.index; t < p.steps; t += at.count) {
    for (int c = 0; c < at.valid; ++c) rows.at(at.b, t)[(at.d + c) * channel_stride] = scalar_t(0);
  }
}

// Calls f(true_type) for a tile without marks, else f(false_type): two ways through the same arithmetic.
template <class F>
__device__ __forceinline__ void with_or_without_marks(bool none, F f) {
  if (none)
    f(std::true_type());
  else
    f(std::false_type());
}

template <class T, int n>
__device__ __forceinline__ void load_states(T (&to)[n], const T* from, int valid, T otherwise) {
  RNNKIT_UNROLL
  for (int c = 0; c < n; ++c) to[c] = from != nullptr && c < valid ? from[c] : otherwise;
}

template <class T, int n>
__device__ __forceinline__ void store_states(T* to, const T (&from)[n], int valid) {
  RNNKIT_UNROLL
  for (int c = 0; c < n; ++c)
    if (c < valid) to[c] = from[c];
}

template <class T>
__device__ __forceinline__ T* from_offset(T* data, int64_t offset) {
  return data == nullptr ? nullptr : data + offset;
}

template <class Problem>
__device__ __forceinline__ int checked_length(const Problem& p, int64_t b) {
  const int64_t length = p.length(b);
  if (length < 0 || length > p.steps) device_fail("lengths: a value is not within 0 and T");
  return int(length);
}

}  // namespace rnnkit::cuda
