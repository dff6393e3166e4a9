// What the threads of the scan kernels share out among them: places, marks, and maps along time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cuda/launch.h>
#include <rnnkit/cuda/tuning.h>
#include <rnnkit/scan.h>

namespace rnnkit::cuda {

// Where a thread stands: its channels, and its place in the processing order among the threads that share them. A block's
// channels have one direction. In a packed problem a thread has all of its channels, or none: it then reads what some
// other thread reads, and writes nothing.
template <int channels>
struct Place {
  int b, d, valid;   // the sequence, the first channel, and how many of its channels exist
  int index, count;  // along time, over the whole cluster
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
  __device__ __forceinline__ explicit Place(const Problem& p) {
    const unsigned forward = unsigned(forward_tiles(p)), of_sequence = unsigned(tiles(p));
    const unsigned tile = blockIdx.x / cluster_size(), within = tile % of_sequence;
    b = int(tile / of_sequence);
    reverse = within >= forward;
    const int first = reverse ? int(p.reverse_from) + int(within - forward) * kWidth : int(within) * kWidth;
    const int left = int(reverse ? p.channels : p.reverse_from) - first - int(threadIdx.x) * channels;
    valid = left < 0 ? 0 : left < channels ? left : channels;
    d = valid > 0 ? first + int(threadIdx.x) * channels : first;
    index = cluster_rank() * int(blockDim.y) + int(threadIdx.y);
    count = cluster_size() * int(blockDim.y);
  }
};

// Warps, if each took some channels of one sequence.
template <class Tile, class Problem>
int64_t sequences_of(const Problem& p) {
  return p.batch * Place<Tile::kChannels>::tiles(p);
}

template <class acc>
struct Affine {  // h -> a h + b
  acc a, b;
  __device__ __forceinline__ acc operator()(acc h) const { return a * h + b; }
};

template <class acc, int channels>
class Exchange {
 public:
  static size_t shared_bytes(int chunks, int cluster) {
    return chunks * cluster == 1 ? 0 : 2 * (chunks + (cluster > 1 ? cluster : 0)) * kRow * sizeof(Affine<acc>);
  }

  __device__ __forceinline__ Exchange() {
    if (cluster_size() > 1) cluster_barrier();  // every block must have started before its memory is written to
  }

  // Applies the maps of all threads along time, in order, to `state`, and tells what entered this thread's own maps.
  __device__ __forceinline__ void operator()(const Affine<acc> (&map)[channels], acc (&state)[channels],
                                             acc (&entering)[channels]) {
    const int chunks = blockDim.y, cluster = cluster_size();
    // two sets of buffers in turn: one barrier then keeps writes from overtaking the reads of the last exchange
    Affine<acc>* const of_chunks = shared_memory<Affine<acc>>() + parity_ * chunks * kRow + threadIdx.x;
    Affine<acc>* const of_blocks = shared_memory<Affine<acc>>() + (2 * chunks + parity_ * cluster) * kRow + threadIdx.x;
    parity_ ^= 1;
    RNNKIT_UNROLL
    for (int c = 0; c < channels; ++c) of_chunks[threadIdx.y * kRow + c * kLanes] = map[c];
    __syncthreads();
    if (cluster > 1) {
      if (threadIdx.y == 0) {
        RNNKIT_UNROLL
        for (int c = 0; c < channels; ++c) {
          Affine<acc> total{1, 0};
          for (int chunk = 0; chunk < chunks; ++chunk) {
            const Affine<acc> next = of_chunks[chunk * kRow + c * kLanes];
            total = {next.a * total.a, next(total.b)};
          }
          for (int rank = 0; rank < cluster; ++rank)
            cluster_shared(of_blocks, rank)[cluster_rank() * kRow + c * kLanes] = total;
        }
      }
      cluster_barrier();
    }
    RNNKIT_UNROLL
    for (int c = 0; c < channels; ++c) {
      entering[c] = state[c];
      for (int rank = 0; rank < cluster && cluster > 1; ++rank) {
        if (rank == cluster_rank()) entering[c] = state[c];
        state[c] = of_blocks[rank * kRow + c * kLanes](state[c]);
      }
      acc through = entering[c];
      for (int chunk = 0; chunk < chunks; ++chunk) {
        if (chunk == int(threadIdx.y)) entering[c] = through;
        through = of_chunks[chunk * kRow + c * kLanes](through);
      }
      if (cluster == 1) state[c] = through;
    }
  }

  // The sum of a value over all threads along time, always in the same order; for the first of them.
  __device__ __forceinline__ acc sum(acc mine) {
    const int chunks = blockDim.y, cluster = cluster_size();
    if (chunks * cluster == 1) return mine;
    acc* const of_chunks = shared_memory<acc>() + threadIdx.x;
    acc* const of_blocks = of_chunks + chunks * kLanes;
    if (cluster > 1)  // what this memory held before has been read
      cluster_barrier();
    else
      __syncthreads();
    of_chunks[threadIdx.y * kLanes] = mine;
    __syncthreads();
    acc total = 0;
    for (int c = 0; c < chunks && threadIdx.y == 0; ++c) total += of_chunks[c * kLanes];
    if (cluster == 1) return total;
    if (threadIdx.y == 0) cluster_shared(of_blocks, 0)[cluster_rank() * kLanes] = total;
    cluster_barrier();
    total = 0;
    for (int rank = 0; rank < cluster && cluster_rank() == 0 && threadIdx.y == 0; ++rank) total += of_blocks[rank * kLanes];
    return total;
  }

 private:
  static constexpr int kRow = channels * kLanes;
  int parity_ = 0;
};

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
