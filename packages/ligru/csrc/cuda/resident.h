// The engine for recurrences whose U fits into the multiprocessors: one launch for the whole sequence. A group of blocks
// holds all of U, each block that of its `width` units, and takes kRows rows through time. In a step each block makes the
// products of its units, does what its gates do, and hands the result to the others of its group, once; their next product
// needs it.
//
// A group is a cluster, whose blocks write into each other's shared memory, and then meet at a barrier or wait for as many
// bytes as are written to them; or, where U is too large for a cluster, blocks all over the device, which write to global
// memory and count arrivals there. Groups take the rows kRows at a time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cuda/arrivals.h>

#include "cell_cuda.h"
#include "layout.h"

namespace rnnkit::cuda {

enum class Link { cluster, async, grid };  // how blocks hand on their results

constexpr int kPairs = kRows * kMaxWidth / kThreads;  // (row, unit) that a thread owns

template <class Problem, class Operand, bool backward>
struct Resident {
  Problem problem;
  Layout<Operand, backward> layout;
  int groups;
  decltype(Problem::u) along;  // normal U, [R, T, H]; for backward through the normalisation
  // Where groups are not clusters: [groups, 2, blocks, message], [groups, 2, blocks, kRows, 2] and [groups], zeros
  Operand* messages;
  float* statistics;
  unsigned* arrived;
};

// A block's place and memory, and the ways in which it talks with the others of its group.
template <class Parameters, class Layout, Link link>
class Member {
  static constexpr bool in_cluster = link != Link::grid;

 public:
  using Product = typename Layout::Product;
  using Operand = typename Product::Operand;

  const Layout layout;
  const int group, rank;
  Product product;
  char* const memory;

  __device__ __forceinline__ explicit Member(const Parameters& parameters)
      : layout(parameters.layout),
        group(int(blockIdx.x) / layout.blocks),
        rank(int(blockIdx.x) % layout.blocks),
        product(layout.product()),
        memory(shared_memory<char>()),
        parameters_(parameters) {
    if (link == Link::async && threadIdx.x == 0)
      for (int i = 0; i < 2 * kSides; ++i) arrivals(i)->prepare();
  }

  __device__ __forceinline__ Operand* x(int side) const {
    return reinterpret_cast<Operand*>(memory + layout.x() + (in_cluster ? side : 0) * layout.x_bytes());
  }
  __device__ __forceinline__ Operand* own() const { return reinterpret_cast<Operand*>(memory + layout.own()); }
  __device__ __forceinline__ float* sums() const { return reinterpret_cast<float*>(memory + layout.sums()); }

  // Of all blocks, in turn: for each row, two numbers of each block.
  __device__ __forceinline__ const float* statistics(int side, int of_rank, int n) const {
    return statistics(side) + (of_rank * kRows + n) * 2;
  }

  __device__ __forceinline__ int units_of(int of_rank) const {
    const int left = layout.units - of_rank * layout.width;
    return left < 0 ? 0 : left < layout.width ? left : layout.width;
  }

  // All blocks of the group have started: their memory may be written to.
  __device__ __forceinline__ void start() const {
    if constexpr (in_cluster) cluster_barrier();
    __syncthreads();
  }

  // All blocks have done with what was exchanged: it may be written again.
  __device__ __forceinline__ void finish() {
    if constexpr (in_cluster)
      cluster_barrier();
    else
      meet();
  }

  // Tells the others two numbers for a row, of a warp that has them in all lanes; they can be read after `exchange` or
  // `exchange_statistics`.
  __device__ __forceinline__ void tell(int side, int n, float first, float second) const {
    const int at = (rank * kRows + n) * 2, lane = threadIdx.x % 32;
    if constexpr (link == Link::async) {
      Eight both;
      memcpy(&both.values[0], &first, sizeof(first));
      memcpy(&both.values[1], &second, sizeof(second));
      if (lane < layout.blocks) send(reinterpret_cast<Eight*>(statistics(side) + at), both, arrivals(kSides + side), lane);
    } else if constexpr (in_cluster) {
      if (lane < layout.blocks) {
        float* const there = cluster_shared(statistics(side), lane) + at;
        there[0] = first;
        there[1] = second;
      }
    } else if (lane == 0) {
      float* const there = parameters_.statistics + (group * 2 + side) * layout.blocks * kRows * 2 + at;
      there[0] = first;
      there[1] = second;
    }
  }

  __device__ __forceinline__ void exchange_statistics(int side) {
    if constexpr (link == Link::async) {
      await(kSides + side, layout.blocks * kRows * int(sizeof(Eight)));
    } else if constexpr (in_cluster) {
      cluster_barrier();
    } else {
      meet();
      fetch_statistics(side);
      __syncthreads();
    }
  }

  // Hands own() [kRows][width], one or two of them, to all, as part of x(side).
  __device__ __forceinline__ void exchange(int side, bool with_statistics) {
    constexpr int kVector = 16 / sizeof(Operand);
    const int width = layout.width, vectors = layout.message() / kVector;
    __syncthreads();  // own() is complete
    if constexpr (link == Link::async) {
      for (int i = threadIdx.x; i < vectors * layout.blocks; i += kThreads) {
        const int from = i % vectors * kVector, to = other(i / vectors);
        const Sixteen value = *reinterpret_cast<const Sixteen*>(own() + from);
        send(reinterpret_cast<Sixteen*>(x(side) + place(from, rank)), value, arrivals(side), to);
      }
      if (with_statistics) exchange_statistics(side);
      await(side, vectors * layout.blocks * int(sizeof(Sixteen)));
    } else if constexpr (in_cluster) {
      for (int i = threadIdx.x; i < vectors * layout.blocks; i += kThreads) {
        const int from = i % vectors * kVector, to = other(i / vectors);
        copy(cluster_shared(x(side), to) + place(from, rank), own() + from);
      }
      cluster_barrier();
    } else {
      Operand* const messages = parameters_.messages + (group * 2 + side) * layout.blocks * layout.message();
      for (int i = threadIdx.x; i < vectors; i += kThreads)
        copy(messages + rank * layout.message() + i * kVector, own() + i * kVector);
      meet();
      for (int i = threadIdx.x; i < vectors * layout.blocks; i += kThreads) {
        const int from = i % vectors * kVector, of = i / vectors;
        const Vector got = load_shared_global(reinterpret_cast<const Vector*>(messages + of * layout.message() + from));
        *reinterpret_cast<Vector*>(x(side) + place(from, of)) = got;
      }
      if (with_statistics) fetch_statistics(side);
      __syncthreads();
    }
  }

 private:
#ifdef RNNKIT_EMULATE_CUDA
  using Vector = Sixteen;
#else
  using Vector = uint4;
#endif

  // Of x(side), and, from kSides on, of statistics(side - kSides).
  __device__ __forceinline__ Arrivals* arrivals(int of) const {
    return reinterpret_cast<Arrivals*>(memory + layout.arrivals()) + of;
  }

  // So many bytes, from all blocks together.
  __device__ __forceinline__ void await(int of, int bytes) {
    if (threadIdx.x == 0) arrivals(of)->expect(bytes);
    __syncwarp();
    arrivals(of)->wait(int(turns_ >> of & 1));
    __syncwarp();
    turns_ ^= 1u << of;
  }

  static __device__ __forceinline__ void copy(Operand* to, const Operand* from) {
    *reinterpret_cast<Vector*>(to) = *reinterpret_cast<const Vector*>(from);
  }

  // Blocks in turn, each block beginning with itself, so that they do not all write to the same one.
  __device__ __forceinline__ int other(int i) const {
    const int to = rank + i;
    return to < layout.blocks ? to : to - layout.blocks;
  }

  // Where the `from`-th value of a block's message belongs in x.
  __device__ __forceinline__ int place(int from, int of_rank) const {
    const int width = layout.width, unit = from % width, n = from / width % kRows, half = from / (width * kRows);
    return n * product.x_stride() + half * layout.half() + of_rank * width + unit;
  }

  __device__ __forceinline__ float* statistics(int side) const {
    return reinterpret_cast<float*>(memory + layout.statistics() + side * layout.statistics_bytes());
  }

  __device__ __forceinline__ void fetch_statistics(int side) const {
    const int count = layout.blocks * kRows * 2;
    const float* const from = parameters_.statistics + (group * 2 + side) * count;
    for (int i = threadIdx.x; i < count; i += kThreads) statistics(side)[i] = load_shared_global(from + i);
  }

  __device__ __forceinline__ void meet() {
    group_barrier(parameters_.arrived + group, ++meetings_ * unsigned(layout.blocks));
  }

  const Parameters& parameters_;
  unsigned meetings_ = 0;
  unsigned turns_ = 0;  // a bit for each of `arrivals`
};

// A row and unit that a thread owns.
template <class Problem>
struct Pair {
  int n, unit;        // within the block
  int64_t r, column;  // of all rows, of all units
  bool active;        // within the problem
  typename Problem::Row row;

  __device__ __forceinline__ void set(const Problem& p, int i, int width, int64_t first_row, int64_t first_unit) {
    const int index = int(threadIdx.x) + i * kThreads;
    n = index / width;
    unit = index % width;
    r = first_row + n;
    column = first_unit + unit;
    active = n < kRows && r < p.rows() && column < p.units;
    row = checked_row(p, active ? r : 0);
  }
};

}  // namespace rnnkit::cuda
