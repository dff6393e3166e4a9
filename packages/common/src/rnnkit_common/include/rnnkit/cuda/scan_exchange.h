// How the threads of a scan that share a sequence tell each other the maps of their steps: within a block through shared
// memory; between blocks through that of their cluster, or, on a device without clusters and where more blocks than a
// cluster has are to share one, through global memory.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cuda/scan_tile.h>

namespace rnnkit::cuda {

template <class acc>
struct Affine {  // h -> a h + b
  acc a, b;
};

template <class acc, int count>
struct Values {
  acc of[count];
};

// A thread shows at most `most` values at a time, in a row: kLanes of the first, then of the second. Those of a map are its
// channels' a and b in turn. Maps of states, which may be infinite before a reset, are `guarded`, at a few instructions
// more.
template <class acc, int most, bool guarded>
class Exchange {
 public:
  static constexpr int kRow = most * kLanes;

  // Of a block: rows of its chunks, and of what the blocks show, in a cluster on two sides.
  static size_t shared_bytes(int chunks, int blocks, bool in_cluster) {
    if (chunks * blocks == 1) return 0;
    return (chunks + (blocks == 1 ? 0 : in_cluster ? 2 * blocks : blocks)) * kRow * sizeof(acc);
  }

  // Of global memory, for the blocks of all sequences.
  static int64_t board_bytes(int64_t sequences, int blocks) { return 2 * sequences * blocks * kRow * int64_t(sizeof(acc)); }

  __device__ __forceinline__ explicit Exchange(const Sharing& sharing) : sharing_(sharing) {
    if (sharing.blocks > 1 && sharing.arrived == nullptr)
      cluster_barrier();  // all must have started before they are written to
  }

  // Applies the maps of all threads along time, in order, to `state`, and tells what entered this thread's own maps. One
  // warp of a block puts its maps together; it alone has the state afterwards.
  template <int channels>
  __device__ __forceinline__ void operator()(const Affine<acc> (&map)[channels], acc (&state)[channels],
                                             acc (&entering)[channels]) {
    static_assert(2 * channels <= most);
    ++meetings_;
    Values<acc, 2 * channels> mine;
    RNNKIT_UNROLL
    for (int c = 0; c < channels; ++c) {
      mine.of[2 * c] = map[c].a;
      mine.of[2 * c + 1] = map[c].b;
    }
    store(threadIdx.y, mine);
    __syncthreads();
    acc through[channels];
    RNNKIT_UNROLL
    for (int c = 0; c < channels; ++c) through[c] = state[c];
    if (sharing_.blocks > 1) {
      if (threadIdx.y == 0) show(map_of_block<channels>(), sharing_.blocks);
      meet<2 * channels>();
      if (threadIdx.y == 0) through_blocks(state, through);
    }
    if (threadIdx.y == 0) {
      RNNKIT_UNROLL_BY(2)  // loads that do not wait for each other; more than here and below would spill
      for (int chunk = 0; chunk < chunks(); ++chunk) {
        RNNKIT_UNROLL
        for (int c = 0; c < channels; ++c) {
          const Affine<acc> next = in_row(chunk, c);
          *row(chunk, 2 * c) = through[c];
          through[c] = applied(next, through[c]);
        }
      }
      if (sharing_.blocks == 1) {
        RNNKIT_UNROLL
        for (int c = 0; c < channels; ++c) state[c] = through[c];
      }
    }
    __syncthreads();
    RNNKIT_UNROLL
    for (int c = 0; c < channels; ++c) entering[c] = *row(threadIdx.y, 2 * c);
  }

  // Sums of values over all threads along time, always in the same order; for the first of them.
  template <int count>
  __device__ __forceinline__ void sum(Values<acc, count>& values) {
    static_assert(count <= most);
    if (chunks() * sharing_.blocks == 1) return;
    ++meetings_;
    store(threadIdx.y, values);
    __syncthreads();
    if (threadIdx.y == 0) {
      for (int chunk = 1; chunk < chunks(); ++chunk) {
        RNNKIT_UNROLL
        for (int i = 0; i < count; ++i) values.of[i] += *row(chunk, i);
      }
      if (sharing_.blocks > 1) show(values, 1);
    }
    if (sharing_.blocks == 1) return;
    meet<count>();
    if (threadIdx.y > 0 || sharing_.block() > 0) return;
    for (int block = 1; block < sharing_.blocks; ++block) {
      RNNKIT_UNROLL
      for (int i = 0; i < count; ++i) values.of[i] += *seen(block, i);
    }
  }

 private:
  template <int channels>
  __device__ __forceinline__ Values<acc, 2 * channels> map_of_block() const {
    Values<acc, 2 * channels> map;
    RNNKIT_UNROLL
    for (int i = 0; i < 2 * channels; ++i) map.of[i] = acc(i % 2 == 0);
    RNNKIT_UNROLL_BY(2)
    for (int chunk = 0; chunk < chunks(); ++chunk) {
      RNNKIT_UNROLL
      for (int c = 0; c < channels; ++c) {
        const Affine<acc> next = in_row(chunk, c);
        map.of[2 * c] = applied({next.a, 0}, map.of[2 * c]);
        map.of[2 * c + 1] = applied(next, map.of[2 * c + 1]);
      }
    }
    return map;
  }

  // Takes `state` through the maps of all blocks, and tells what enters this one.
  template <int channels>
  __device__ __forceinline__ void through_blocks(acc (&state)[channels], acc (&entering)[channels]) const {
    RNNKIT_UNROLL_BY(4)
    for (int block = 0; block < sharing_.blocks; ++block) {
      RNNKIT_UNROLL
      for (int c = 0; c < channels; ++c) {
        if (block == sharing_.block()) entering[c] = state[c];
        state[c] = applied({*seen(block, 2 * c), *seen(block, 2 * c + 1)}, state[c]);
      }
    }
  }

  static __device__ __forceinline__ acc applied(const Affine<acc>& map, acc h) {
    return guarded ? through_map(map.a, map.b, h) : map.a * h + map.b;
  }

  static __device__ __forceinline__ int chunks() { return int(blockDim.y); }

  // A chunk's own row is its own but between the first and the last barrier of an exchange.
  static __device__ __forceinline__ acc* row(int index, int i) {
    return shared_memory<acc>() + index * kRow + i * kLanes + threadIdx.x;
  }

  static __device__ __forceinline__ Affine<acc> in_row(int index, int c) {
    return {*row(index, 2 * c), *row(index, 2 * c + 1)};
  }

  template <int count>
  static __device__ __forceinline__ void store(int index, const Values<acc, count>& values) {
    RNNKIT_UNROLL
    for (int i = 0; i < count; ++i) *row(index, i) = values.of[i];
  }

  __device__ __forceinline__ bool in_cluster() const { return sharing_.arrived == nullptr; }

  // Two sides in turn: one barrier then keeps what is shown from overtaking the reads of the exchange before.
  __device__ __forceinline__ int side() const { return int(meetings_ & 1) * sharing_.blocks; }

  // What a block has shown, as it lies in this block's memory.
  __device__ __forceinline__ acc* seen(int block, int i) const {
    return row(chunks() + (in_cluster() ? side() : 0) + block, i);
  }

  __device__ __forceinline__ acc* on_board(int block, int i) const {
    acc* const of_sequence = static_cast<acc*>(sharing_.board) + int64_t(2) * sharing_.sequence() * sharing_.blocks * kRow;
    return of_sequence + (side() + block) * kRow + i * kLanes + threadIdx.x;
  }

  // Shows the values to the first so many blocks.
  template <int count>
  __device__ __forceinline__ void show(const Values<acc, count>& values, int to_blocks) {
    RNNKIT_UNROLL
    for (int i = 0; i < count; ++i) {
      if (!in_cluster()) {
        store_shared_global(on_board(sharing_.block(), i), values.of[i]);
      } else {
        for (int block = 0; block < to_blocks; ++block) *cluster_shared(seen(sharing_.block(), i), block) = values.of[i];
      }
    }
  }

  // Until all blocks have shown so many values.
  template <int count>
  __device__ __forceinline__ void meet() {
    if (in_cluster()) return cluster_barrier();
    group_barrier(sharing_.arrived + sharing_.sequence(), meetings_ * unsigned(sharing_.blocks));
    RNNKIT_UNROLL_BY(4)
    for (int block = threadIdx.y; block < sharing_.blocks; block += chunks()) {
      RNNKIT_UNROLL
      for (int i = 0; i < count; ++i) *seen(block, i) = load_shared_global(on_board(block, i));
    }
    __syncthreads();
  }

  const Sharing& sharing_;  // among the kernel's parameters: held in registers, it would take a tile's
  unsigned meetings_ = 0;   // also the one that goes on
};

// Of maps, and of what belongs to parameters.
template <class Kind, class acc, class Tile, bool guarded>
using ExchangeOf = Exchange<acc, Tile::kChannels*(Kind::kParameters > 2 ? Kind::kParameters : 2), guarded>;

}  // namespace rnnkit::cuda
