// The lattice, a block for each sequence. Threads share a diagonal, the nodes with the same n = t + s, which do not depend
// on each other; all wait once a diagonal. Only the last few diagonals are kept, in shared memory, where symbol count s has
// slot s mod `width`: a band moves up by at most 1 from one diagonal to the next, so that slots never clash. Sums of scores
// are doubles, in which thousands of steps add no rounding; exponentials are of the tensors' type.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cuda/math.h>

#include "../problem.h"

namespace rnnkit::cuda {

template <class scalar_t>
struct LatticeLaunch {
  Lattice<scalar_t> problem;
  int width;  // slots: nodes of a diagonal, and of those it depends on
};

__device__ __forceinline__ float log_of(float x) { return logf(x); }
__device__ __forceinline__ double log_of(double x) { return ::log(x); }

constexpr double kNoPath = -1.7976931348623157e308;
constexpr int kLatticeThreads = 512;
constexpr int kAhead = 4;  // diagonals whose scores are on their way

// What thread `slot` needs of a diagonal: its node, and the scores of the arcs that lead there.
template <class scalar_t, int kMost>
struct Step {
  int64_t s, t;
  bool node;
  scalar_t scores[kMost];
  bool arcs[kMost];
};

// The node of each slot, diagonal after diagonal.
template <class scalar_t, int kArcs>
struct Walk {
  static constexpr int kMost = kArcs > 0 ? kArcs : kMaxArcs;
  const Lattice<scalar_t>& p;
  const int64_t b;
  const int width;
  const Bounds in;
  int64_t latest;  // frame that reaches the diagonal

  __device__ __forceinline__ Walk(const Lattice<scalar_t>& p, int64_t b, int width)
      : p(p), b(b), width(width), in(p.bounds(b)), latest(in.t0) {}

  __device__ __forceinline__ int64_t diagonals() const { return in.t1 + in.s1 - in.t0 - in.s0 + 1; }
  __device__ __forceinline__ int arcs() const { return kArcs > 0 ? kArcs : p.arcs; }
  __device__ __forceinline__ int slot_of(int64_t s) const { return int(unsigned(s) % unsigned(width)); }
  __device__ __forceinline__ int slot_before(int slot, int symbols) const {  // of s - symbols
    return slot >= symbols ? slot - symbols : slot - symbols + width;
  }
  __device__ __forceinline__ int slot_after(int slot, int symbols) const {
    return slot + symbols < width ? slot + symbols : slot + symbols - width;
  }

  __device__ __forceinline__ bool in_band(int64_t t, int64_t s) const {
    const int64_t first = p.first_node(b, t, in);
    return first <= s && s < first + p.rows;
  }

  // To diagonal i, which is one after the last, or before it.
  __device__ __forceinline__ void up_to(int64_t i) {
    const int64_t n = in.t0 + in.s0 + i;
    while (latest < in.t1 && p.first_node(b, latest + 1, in) + latest + 1 <= n) ++latest;
    while (latest > in.t0 && p.first_node(b, latest, in) + latest > n) --latest;
  }

  __device__ __forceinline__ bool node(int64_t i, int slot, int64_t& t, int64_t& s) const {
    const int64_t n = in.t0 + in.s0 + i;
    const int64_t low = n - latest > in.s0 ? n - latest : in.s0;
    s = low + slot_before(slot, slot_of(low));
    t = n - s;
    return s <= in.s1 && t >= in.t0 && t <= in.t1 && in_band(t, s);
  }

  // Whether arc `a` leaves (t, s), and the row it is in.
  __device__ __forceinline__ bool leaves(int a, int64_t t, int64_t s, int64_t& k) const {
    if (t < in.t0 || s < in.s0 || !p.leaves(p.kinds[a], t, s, in)) return false;
    k = s - (t < p.frames ? p.first_row(b, t) : 0);
    return k >= 0 && k < p.rows_of(p.kinds[a]);
  }
};

template <class scalar_t, int kArcs>
__global__ void __launch_bounds__(kLatticeThreads) lattice_kernel(LatticeLaunch<scalar_t> launched) {
  const Lattice<scalar_t>& p = launched.problem;
  constexpr int kMost = Walk<scalar_t, kArcs>::kMost;
  const int64_t b = blockIdx.x;
  const int width = launched.width, depth = p.max_diagonals + 1, threads = int(blockDim.x);
  Walk<scalar_t, kArcs> walk(p, b, width);
  const Bounds in = walk.in;
  if (!in.fit(p.symbols, p.frames)) device_fail("boundary: a value is not within 0 and S, T");
  double* const ring = shared_memory<double>();  // [depth, width]
  const auto row = [&](int64_t i) { return ring + int(unsigned(i) % unsigned(depth)) * width; };
  for (int64_t t = in.t0 + threadIdx.x; t < in.t1 && p.begin != nullptr; t += threads)
    if (p.first_row(b, t) < 0 || (t > in.t0 && p.first_row(b, t) < p.first_row(b, t - 1)))
      device_fail("ranges: they may not begin below 0, nor fall over time");
  for (int a = 0; p.keeps && a < walk.arcs(); ++a)
    for (int64_t at = threadIdx.x; at < p.frames_of(p.kinds[a]) * p.rows_of(p.kinds[a]); at += threads)
      p.occupancies[a].at(b, at / p.rows_of(p.kinds[a]), at % p.rows_of(p.kinds[a])) = 0;
  // No barrier: nothing leads to the first diagonal, which all wait for.
  for (int at = threadIdx.x; at < depth * width; at += threads) ring[at] = kNoPath;

  const auto fetch = [&](int64_t i, int slot) {
    Step<scalar_t, kMost> step;
    step.node = walk.node(i, slot, step.t, step.s);
    for (int a = 0; a < walk.arcs(); ++a) {
      const int64_t t = step.t - p.kinds[a].duration, s = step.s - p.kinds[a].symbols();
      int64_t k;
      step.arcs[a] = step.node && walk.leaves(a, t, s, k);
      step.scores[a] = step.arcs[a] ? p.scores[a].at(b, t, k) : scalar_t(0);
    }
    return step;
  };
  const auto forward = [&](int64_t i, int slot, const Step<scalar_t, kMost>& step) {
    double x[kMost], best = kNoPath;
    for (int a = 0; a < walk.arcs(); ++a) {
      const int64_t from = i - p.kinds[a].diagonals();
      x[a] = kNoPath;
      if (step.arcs[a]) x[a] = row(from)[walk.slot_before(slot, p.kinds[a].symbols())] + double(step.scores[a]);
      best = x[a] <= best ? best : x[a];  // NaN stays
    }
    scalar_t e[kMost], sum = 0;
    for (int a = 0; a < walk.arcs(); ++a) {
      e[a] = x[a] <= kNoPath ? scalar_t(0) : Math<scalar_t>::exp_nonpositive(scalar_t(x[a] - best));
      if (p.viterbi) e[a] = sum == 0 && x[a] == best && best > kNoPath ? scalar_t(1) : scalar_t(0);  // the first of the best
      sum += e[a];
    }
    double alpha = sum == 0 ? kNoPath : best + double(log_of(sum));
    if (i == 0 && step.node && step.s == in.s0) alpha = 0;
    row(i)[slot] = step.node ? alpha : kNoPath;
    if (p.keeps) {
      const scalar_t scale = sum == 0 ? scalar_t(0) : 1 / sum;
      for (int a = 0; a < walk.arcs(); ++a) {
        if (!step.arcs[a]) continue;
        const int64_t t = step.t - p.kinds[a].duration, s = step.s - p.kinds[a].symbols();
        p.occupancies[a].at(b, t, s - (t < p.frames ? p.first_row(b, t) : 0)) = e[a] * scale;
      }
    }
  };

  const int64_t count = walk.diagonals();
  if (width <= threads) {  // a slot for each thread: scores are fetched ahead
    const int slot = threadIdx.x;
    Step<scalar_t, kMost> steps[kAhead];
    RNNKIT_UNROLL
    for (int u = 0; u < kAhead; ++u) {
      walk.up_to(u);
      if (u < count && slot < width) steps[u] = fetch(u, slot);
    }
    for (int64_t begin = 0; begin < count; begin += kAhead) {
      RNNKIT_UNROLL
      for (int u = 0; u < kAhead; ++u) {
        const int64_t i = begin + u;
        if (i >= count) break;
        if (slot < width) forward(i, slot, steps[u]);
        walk.up_to(i + kAhead);
        if (i + kAhead < count && slot < width) steps[u] = fetch(i + kAhead, slot);
        __syncthreads();
      }
    }
  } else {
    for (int64_t i = 0; i < count; ++i) {
      walk.up_to(i);
      for (int slot = threadIdx.x; slot < width; slot += threads) forward(i, slot, fetch(i, slot));
      __syncthreads();
    }
  }
  walk.up_to(count - 1);
  const int last = walk.slot_of(in.s1);
  int64_t s, t;
  const bool exists = walk.node(count - 1, last, t, s);
  const double score = exists ? row(count - 1)[last] : kNoPath;
  if (threadIdx.x == 0) p.score[b] = score <= kNoPath ? scalar_t(-INFINITY) : scalar_t(score);
  if (!p.keeps) return;

  // Now each arc holds how probable it is that a path to its end comes over it; this becomes its occupancy.
  __syncthreads();
  for (int at = threadIdx.x; at < depth * width; at += threads) ring[at] = 0;
  __syncthreads();
  if (threadIdx.x == 0 && !(score <= kNoPath)) row(count - 1)[last] = 1;
  __syncthreads();
  for (int64_t i = count - 2; i >= 0; --i) {
    walk.up_to(i);
    for (int slot = threadIdx.x; slot < width; slot += threads) {
      double reached = 0;
      if (walk.node(i, slot, t, s)) {
        for (int a = 0; a < walk.arcs(); ++a) {
          int64_t k;
          if (!walk.leaves(a, t, s, k)) continue;
          const int64_t to = i + p.kinds[a].diagonals();
          scalar_t& mine = p.occupancies[a].at(b, t, k);
          const double over = row(to)[walk.slot_after(slot, p.kinds[a].symbols())];
          mine = over == 0 ? scalar_t(0) : scalar_t(double(mine) * over);
          reached += double(mine);
        }
      }
      row(i)[slot] = reached;
    }
    __syncthreads();
  }
}

}  // namespace rnnkit::cuda
