// The engine for recurrences whose U fits into the multiprocessors: one launch for the whole sequence. A group of blocks
// holds all of U, each block that of its `width` units, and takes kRows rows through time. In a step each block makes the
// products of its units, does what its gates do, and hands the result to the others of its group, once; their next product
// needs it.
//
// A group is a cluster, whose blocks write into each other's shared memory; or, where U is too large for a cluster, blocks
// all over the device, which write to global memory and count arrivals there. Groups take the rows kRows at a time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cell_cuda.h"
#include "layout.h"

namespace rnnkit::cuda {

constexpr int kPairs = kRows * kMaxWidth / kThreads;  // (row, unit) that a thread owns

template <class Problem, class scalar_t, bool backward>
struct Resident {
  Problem problem;
  Layout<scalar_t, backward> layout;
  int groups;
  const scalar_t* along;  // normal U, [R, T, H]; for backward through the normalisation
  // Where groups are not clusters: [groups, 2, blocks, message], [groups, 2, blocks, kRows, 2] and [groups], zeros
  typename Layout<scalar_t, backward>::Operand* messages;
  float* statistics;
  unsigned* arrived;
};

// A block's place and memory, and the ways in which it talks with the others of its group.
template <class Parameters, class Layout, bool in_cluster>
class Member {
 public:
  using Product = typename Layout::Product;
  using Operand = typename Layout::Operand;

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
        parameters_(parameters) {}

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

  // Tells the others two numbers for a row; they can be read after `exchange` or `exchange_statistics`.
  __device__ __forceinline__ void tell(int side, int n, float first, float second) const {
    const int at = (rank * kRows + n) * 2;
    if constexpr (in_cluster) {
      for (int to = 0; to < layout.blocks; ++to) {
        float* const there = cluster_shared(statistics(side), to) + at;
        there[0] = first;
        there[1] = second;
      }
    } else {
      float* const there = parameters_.statistics + (group * 2 + side) * layout.blocks * kRows * 2 + at;
      there[0] = first;
      there[1] = second;
    }
  }

  __device__ __forceinline__ void exchange_statistics(int side) {
    if constexpr (in_cluster) {
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
    if constexpr (in_cluster) {
      for (int i = threadIdx.x; i < vectors * layout.blocks; i += kThreads) {
        const int from = i % vectors * kVector, to = i / vectors;
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
  struct alignas(16) Vector {
    uint32_t values[4];
  };
#else
  using Vector = uint4;
#endif

  static __device__ __forceinline__ void copy(Operand* to, const Operand* from) {
    *reinterpret_cast<Vector*>(to) = *reinterpret_cast<const Vector*>(from);
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

template <class scalar_t, bool in_cluster>
__global__ void __launch_bounds__(kThreads, 1) resident_forward(Resident<Forward<scalar_t>, scalar_t, false> parameters) {
  using M = Math<scalar_t>;
  const Forward<scalar_t>& p = parameters.problem;
  Member<decltype(parameters), Layout<scalar_t, false>, in_cluster> member(parameters);
  using Operand = typename decltype(member)::Operand;
  const int width = member.layout.width, half = member.layout.half();
  const int64_t first_unit = int64_t(member.rank) * width, units = p.units;
  member.product.load(reinterpret_cast<Operand*>(member.memory), [&](int m, int k) {
    const int64_t unit = first_unit + m % width;
    return unit < units && k < units ? p.u[(m / width * units + unit) * units + k] : scalar_t(0.0f);
  });
  for (int64_t first_row = int64_t(member.group) * kRows; first_row < p.rows();
       first_row += int64_t(parameters.groups) * kRows) {
    for (int i = threadIdx.x; i < kRows * half; i += kThreads) {
      const int n = i / half, k = i % half;
      const bool given = first_row + n < p.rows() && k < units && !p.row(first_row + n).begins(0);
      member.x(1)[n * member.product.x_stride() + k] = Operand(0.0f);  // what no unit writes must not be NaN
      member.x(0)[n * member.product.x_stride() + k] =
          static_cast<Operand>(given ? at_or(p.h0, (first_row + n) * units + k, 0.0f) : 0.0f);
    }
    member.start();
    Pair<Forward<scalar_t>> pairs[kPairs];
    float h[kPairs], next[kPairs][2];
    bool begins[kPairs];  // the step that is prefetched
    const auto prefetch = [&](const Pair<Forward<scalar_t>>& pair, int i, int64_t s) {
      begins[i] = pair.active && pair.row.begins(s);
      if (!pair.active || s >= pair.row.length) return;
      const scalar_t* const g = p.g.at(pair.row.b, pair.row.time(s)) + pair.column;
      next[i][0] = g[0];
      next[i][1] = g[units];
    };
    RNNKIT_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      Pair<Forward<scalar_t>>& pair = pairs[i];
      pair.set(p, i, width, first_row, first_unit);
      prefetch(pair, i, 0);
      h[i] = pair.active && !begins[i] ? at_or(p.h0, pair.r * units + pair.column, 0.0f) : 0.0f;
    }
    for (int64_t s = 0; s < p.steps; ++s) {
      const int side = int(s % 2);
      float g[kPairs][2];
      RNNKIT_UNROLL
      for (int i = 0; i < kPairs; ++i) {  // the next step's arrive while this one's product is made
        g[i][0] = next[i][0];
        g[i][1] = next[i][1];
        prefetch(pairs[i], i, s + 1);
      }
      member.product(member.x(side), member.sums());
      __syncthreads();
      if (p.normalize) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;  // a warp for each row
        static_assert(kWarps == kRows);
        const int count = 2 * member.units_of(member.rank);
        const auto value = [&](int m) { return member.product.sum(member.sums(), warp, m); };
        float sum = 0, squares = 0;
        for (int m = lane; m < 2 * width; m += 32) sum += value(m);  // 0 where there is no unit
        const float mean = warp_sum(sum) / (count > 0 ? count : 1);
        for (int m = lane; m < 2 * width; m += 32)
          if (first_unit + m % width < units) squares += (value(m) - mean) * (value(m) - mean);
        squares = warp_sum(squares);
        if (lane == 0) member.tell(side, warp, mean, squares);
        member.exchange_statistics(side);
      }
      RNNKIT_UNROLL
      for (int i = 0; i < kPairs; ++i) {
        const Pair<Forward<scalar_t>>& pair = pairs[i];
        if (pair.n >= kRows) continue;
        if (pair.active && s >= pair.row.length) {
          p.out.at(pair.row.b, s)[pair.row.reverse * units + pair.column] = scalar_t(0.0f);
          const int64_t kept = p.offset(pair.r, s, 2 * units) + pair.column;
          if (p.gates != nullptr) p.gates[kept] = p.gates[kept + units] = scalar_t(0.0f);
          if (p.gates != nullptr && p.normalize) p.normal[kept] = p.normal[kept + units] = scalar_t(0.0f);
          if (p.gates != nullptr && p.normalize && pair.column == 0) p.rstd[p.offset(pair.r, s, 1)] = 0;
        } else if (pair.active) {
          const int64_t t = pair.row.time(s), kept = p.offset(pair.r, t, 2 * units) + pair.column;
          float u[2] = {member.product.sum(member.sums(), pair.n, pair.unit),
                        member.product.sum(member.sums(), pair.n, width + pair.unit)};
          if (p.normalize) {
            float mean = 0, squares = 0;  // those of the blocks, around their means, and of their means around that of all
            for (int rank = 0; rank < member.layout.blocks; ++rank)
              mean += 2 * member.units_of(rank) * member.statistics(side, rank, pair.n)[0];
            mean /= 2 * units;
            for (int rank = 0; rank < member.layout.blocks; ++rank) {
              const float* const told = member.statistics(side, rank, pair.n);
              squares += told[1] + 2 * member.units_of(rank) * (told[0] - mean) * (told[0] - mean);
            }
            const float rstd = 1 / sqrtf(squares / (2 * units) + p.eps);
            if (p.gates != nullptr && pair.column == 0) p.rstd[p.offset(pair.r, t, 1)] = rstd;
            RNNKIT_UNROLL
            for (int j = 0; j < 2; ++j) {
              u[j] = (u[j] - mean) * rstd;
              if (p.gates != nullptr) p.normal[kept + j * units] = static_cast<scalar_t>(u[j]);
              u[j] = u[j] * at_or(p.weight, j * units + pair.column, 1.0f) + at_or(p.bias, j * units + pair.column, 0.0f);
            }
          }
          const float a = g[i][0] + u[0], z = g[i][1] + u[1];
          if (p.gates != nullptr) {
            p.gates[kept] = static_cast<scalar_t>(a);
            p.gates[kept + units] = static_cast<scalar_t>(z);
          }
          h[i] = Cell<M>::step(p.activation, a, z, at_or(p.mask, pair.r * units + pair.column, 1.0f), h[i]);
          p.out.at(pair.row.b, t)[pair.row.reverse * units + pair.column] = static_cast<scalar_t>(h[i]);
        }
        if (begins[i]) h[i] = 0;  // before the step that follows
        member.own()[pair.n * width + pair.unit] = static_cast<Operand>(h[i]);
      }
      if (s + 1 < p.steps) member.exchange(side ^ 1, false);
    }
    RNNKIT_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      const Pair<Forward<scalar_t>>& pair = pairs[i];
      if (pair.active) p.h_last[pair.r * units + pair.column] = h[i];
    }
    member.finish();
  }
}

// What the normalisation takes out of a gradient goes through U as well: its mean meets the sums of U's columns, and the
// part along what was normalised meets `along`, all made beforehand. So one exchange carries gradients and sums.
template <class scalar_t, bool in_cluster>
__global__ void __launch_bounds__(kThreads, 1) resident_backward(Resident<Backward<scalar_t>, scalar_t, true> parameters) {
  using M = Math<scalar_t>;
  using PairOf = Pair<Backward<scalar_t>>;
  const Backward<scalar_t>& p = parameters.problem;
  Member<decltype(parameters), Layout<scalar_t, true>, in_cluster> member(parameters);
  using Operand = typename decltype(member)::Operand;
  const int width = member.layout.width, half = member.layout.half();
  const int64_t first_unit = int64_t(member.rank) * width, units = p.units;
  member.product.load(reinterpret_cast<Operand*>(member.memory), [&](int m, int k) {
    const int64_t unit = first_unit + m, from = k % half;
    return unit < units && from < units ? p.u[(k / half * units + from) * units + unit] : scalar_t(0.0f);
  });
  struct Given {
    float a, z, h, grad_out, normal[2], along;
    bool begins;  // h is 0, and no gradient reaches the step before
  };
  for (int64_t first_row = int64_t(member.group) * kRows; first_row < p.rows();
       first_row += int64_t(parameters.groups) * kRows) {
    for (int i = threadIdx.x; i < (in_cluster ? 2 : 1) * kRows * member.product.x_stride(); i += kThreads) {
      const int size = kRows * member.product.x_stride();  // what no unit writes must not be NaN
      member.x(i / size)[i % size] = Operand(0.0f);
    }
    member.start();
    PairOf pairs[kPairs];
    float grad_h[kPairs], of_columns[kPairs], of_weight[kPairs][2] = {}, of_bias[kPairs][2] = {};
    Given next[kPairs];
    const auto prefetch = [&](const PairOf& pair, int i, int64_t s) {
      if (!pair.active || s >= pair.row.length) return;
      const int64_t t = pair.row.time(s), kept = p.offset(pair.r, t, 2 * units) + pair.column;
      const int64_t column = pair.row.reverse * units + pair.column;
      next[i].a = p.gates[kept];
      next[i].z = p.gates[kept + units];
      next[i].grad_out = p.grad_out.at(pair.row.b, t)[column];
      next[i].begins = pair.row.begins(s);
      next[i].h = next[i].begins ? 0.0f
                  : s > 0        ? float(p.out.at(pair.row.b, pair.row.time(s - 1))[column])
                                 : at_or(p.h0, pair.r * units + pair.column, 0.0f);
      if (!p.normalize) return;
      next[i].normal[0] = p.normal[kept];
      next[i].normal[1] = p.normal[kept + units];
      next[i].along = parameters.along[p.offset(pair.r, t, units) + pair.column];
    };
    RNNKIT_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      PairOf& pair = pairs[i];
      pair.set(p, i, width, first_row, first_unit);
      grad_h[i] = pair.active ? at_or(p.grad_h_last, pair.r * units + pair.column, 0.0f) : 0.0f;
      of_columns[i] = 0;
      for (int64_t j = 0; p.normalize && pair.active && j < 2 * units; ++j)
        of_columns[i] += float(p.u[j * units + pair.column]);
      if (p.steps > 0) prefetch(pair, i, p.steps - 1);
    }
    for (int64_t s = p.steps - 1; s >= 0; --s) {
      const int side = int(s % 2);
      Given now[kPairs];
      float d[kPairs][2];
      RNNKIT_UNROLL
      for (int i = 0; i < kPairs; ++i) {
        const PairOf& pair = pairs[i];
        now[i] = next[i];
        if (s > 0) prefetch(pair, i, s - 1);
        d[i][0] = d[i][1] = 0;
        if (pair.n >= kRows) continue;
        if (pair.active) {
          const int64_t t = pair.row.time(s), kept = p.offset(pair.r, t, 2 * units) + pair.column;
          if (s < pair.row.length) {
            Cell<M>::gradients(p.activation, now[i].a, now[i].z, at_or(p.mask, pair.r * units + pair.column, 1.0f), now[i].h,
                               grad_h[i] + now[i].grad_out, d[i][0], d[i][1], grad_h[i]);
          } else {
            now[i] = {};
            if (p.normalize) p.grad_product[kept] = p.grad_product[kept + units] = scalar_t(0.0f);
          }
          p.h_before[p.offset(pair.r, t, units) + pair.column] = static_cast<scalar_t>(now[i].h);
          RNNKIT_UNROLL
          for (int j = 0; j < 2; ++j) {
            p.grad_gates[kept + j * units] = static_cast<scalar_t>(d[i][j]);
            of_weight[i][j] += d[i][j] * now[i].normal[j];
            of_bias[i][j] += d[i][j];
            if (p.normalize) d[i][j] *= at_or(p.weight, j * units + pair.column, 1.0f);
          }
        } else {
          now[i] = {};
        }
        RNNKIT_UNROLL
        for (int j = 0; j < 2; ++j) member.own()[(j * kRows + pair.n) * width + pair.unit] = static_cast<Operand>(d[i][j]);
      }
      if (p.normalize) {
        float* const scratch = member.sums();  // of pairs first, which lie anywhere among the threads
        __syncthreads();
        RNNKIT_UNROLL
        for (int i = 0; i < kPairs; ++i) {
          const PairOf& pair = pairs[i];
          if (pair.n >= kRows) continue;
          scratch[pair.n * width + pair.unit] = d[i][0] + d[i][1];
          scratch[(kRows + pair.n) * width + pair.unit] = d[i][0] * now[i].normal[0] + d[i][1] * now[i].normal[1];
        }
        __syncthreads();
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        float sum = 0, along = 0;
        for (int unit = lane; unit < width; unit += 32) {
          sum += scratch[warp * width + unit];
          along += scratch[(kRows + warp) * width + unit];
        }
        sum = warp_sum(sum);
        along = warp_sum(along);
        if (lane == 0) member.tell(side, warp, sum, along);
      }
      member.exchange(side, p.normalize);
      member.product(member.x(side), member.sums());
      __syncthreads();
      RNNKIT_UNROLL
      for (int i = 0; i < kPairs; ++i) {
        const PairOf& pair = pairs[i];
        if (!pair.active || s >= pair.row.length) continue;
        const float product = member.product.sum(member.sums(), pair.n, pair.unit);
        if (!p.normalize) {
          grad_h[i] = now[i].begins ? 0.0f : grad_h[i] + product;
          continue;
        }
        float mean = 0, along = 0;
        for (int rank = 0; rank < member.layout.blocks; ++rank) {
          mean += member.statistics(side, rank, pair.n)[0];
          along += member.statistics(side, rank, pair.n)[1];
        }
        mean /= 2 * units;
        along /= 2 * units;
        const int64_t t = pair.row.time(s);
        const float rstd = p.rstd[p.offset(pair.r, t, 1)];
        grad_h[i] = now[i].begins ? 0.0f : grad_h[i] + rstd * (product - mean * of_columns[i] - along * now[i].along);
        RNNKIT_UNROLL
        for (int j = 0; j < 2; ++j)
          p.grad_product[p.offset(pair.r, t, 2 * units) + j * units + pair.column] =
              static_cast<scalar_t>(rstd * (d[i][j] - mean - now[i].normal[j] * along));
      }
    }
    RNNKIT_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      const PairOf& pair = pairs[i];
      if (!pair.active) continue;
      p.grad_h0[pair.r * units + pair.column] = grad_h[i];
      for (int j = 0; j < 2 && p.weight != nullptr; ++j) {
        p.sums[2 * pair.r * (2 * units) + j * units + pair.column] = of_weight[i][j];
        p.sums[(2 * pair.r + 1) * (2 * units) + j * units + pair.column] = of_bias[i][j];
      }
    }
    member.finish();
  }
}

}  // namespace rnnkit::cuda
