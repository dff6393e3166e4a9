// Any lattice, a block for each sequence. Threads share a diagonal, the nodes with the same n = t + s, which do not depend
// on each other, and the kinds of arcs of each node; all wait once a diagonal. Only the last few diagonals are kept, in
// shared memory, where symbol count s has slot s mod `width`: a band moves up by at most 1 from one diagonal to the next, so
// that slots never clash. Sums of scores are doubles, in which thousands of steps add no rounding; exponentials are of the
// tensors' type.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cuda/math.h>

#include "../problem.h"
#include "rows.h"

namespace rnnkit::cuda {

template <class scalar_t>
struct LatticeLaunch {
  Lattice<scalar_t> problem;
  int width;  // slots: nodes of a diagonal, and of those it depends on
};

__device__ __forceinline__ float log_of(float x) { return logf(x); }
__device__ __forceinline__ double log_of(double x) { return ::log(x); }

constexpr double kNoPath = -1.7976931348623157e308;
constexpr int kLatticeThreads = 512, kFewestLatticeThreads = 128;
constexpr int kFarAway = 1 << 29;  // beyond all frames and symbols, which then can be added in 32 bits

// Of a sequence, within the tensors; a band's do not tell how many symbols there are.
template <class Problem>
__device__ __forceinline__ Bounds counted_bounds(const Problem& p, int64_t b) {
  const Bounds in = p.bounds(b);
  if (!in.fit(p.symbols, p.frames)) device_fail("boundary: a value is not within 0 and S, T");
  if (in.s1 + in.t1 >= kFarAway) device_fail("boundary: more nodes than can be counted");
  return in;
}

// kLanes: neighbouring threads that share a node; kMine: kinds of arcs that each of them has, from its lane on, kLanes
// apart.
template <class scalar_t, int kLanes, int kMine, bool banded>
class GeneralLattice {
 public:
  __device__ __forceinline__ explicit GeneralLattice(const LatticeLaunch<scalar_t>& launched)
      : p_(launched.problem),
        b_(blockIdx.x),
        width_(launched.width),
        depth_(p_.max_diagonals + 1),
        lane_(threadIdx.x % kLanes),
        slot_(threadIdx.x / kLanes),
        ring_(shared_memory<double>()) {
    const Bounds in = counted_bounds(p_, b_);
    for (int64_t t = in.t0 + threadIdx.x; t < in.t1 && banded; t += blockDim.x)
      if (p_.first_row(b_, t) < 0 || (t > in.t0 && p_.first_row(b_, t) < p_.first_row(b_, t - 1)))
        device_fail("ranges: they may not begin below 0, nor fall over time");
    t0_ = int(in.t0);
    t1_ = int(in.t1);
    s0_ = int(in.s0);
    s1_ = int(in.s1);
    latest_ = t0_;
    RNNKIT_UNROLL
    for (int j = 0; j < kMine; ++j) {
      const int a = lane_ + j * kLanes;
      Kind& kind = kinds_[j];
      kind.exists = a < p_.arcs;
      const int i = kind.exists ? a : 0;
      kind.label = p_.kinds[i].label;
      kind.duration = p_.kinds[i].duration;
      kind.scores = Plane<const scalar_t>(p_.scores[i], b_);
      kind.occupancies = Plane<scalar_t>(p_.occupancies[i], b_);
    }
  }

  __device__ __forceinline__ void run() {
    const int count = t1_ + s1_ - t0_ - s0_ + 1, last = slot_of(s1_);
    if (p_.keeps) clear();
    fill(kNoPath);
    __syncthreads();
    sweep<true>(0, count);
    up_to(count - 1);
    double* const end = ring_ + ring_row(count - 1) * width_ + last;
    const double score = node(count - 1, last).node ? *end : kNoPath;
    if (threadIdx.x == 0) p_.score[b_] = score <= kNoPath ? scalar_t(-INFINITY) : scalar_t(score);
    if (!p_.keeps) return;
    __syncthreads();
    fill(0);
    __syncthreads();
    if (threadIdx.x == 0 && !(score <= kNoPath)) *end = 1;
    __syncthreads();
    sweep<false>(1, count);
  }

 private:
  static constexpr int kAhead = kMine > 3 || banded ? 2 : 4;  // diagonals that are on their way; reasoned

  template <class T>
  struct Plane {  // of this sequence: [T, rows]
    T* data;
    int frame, row;

    Plane() = default;
    __device__ __forceinline__ Plane(const Nodes<T>& from, int64_t b)
        : data(from.data + b * from.batch), frame(int(from.frame)), row(int(from.row)) {}
    __device__ __forceinline__ T* at(int t, int k) const { return data + int64_t(t) * frame + int64_t(k) * row; }
  };

  struct Kind {
    bool exists, label;
    int duration;
    Plane<const scalar_t> scores;
    Plane<scalar_t> occupancies;
  };

  // What a thread needs of a diagonal: its node and, of each of its arcs that lead there, or, backward, that leave there,
  // its score or share.
  struct Step {
    int t, s;
    bool node, arcs[kMine];
    scalar_t values[kMine];
  };

  __device__ __forceinline__ int ring_row(int i) const { return int(unsigned(i) % unsigned(depth_)); }
  __device__ __forceinline__ int slot_of(int s) const { return int(unsigned(s) % unsigned(width_)); }
  __device__ __forceinline__ int slot_before(int slot, int symbols) const {  // of s - symbols
    return slot >= symbols ? slot - symbols : slot - symbols + width_;
  }
  __device__ __forceinline__ int slot_after(int slot, int symbols) const {
    return slot + symbols < width_ ? slot + symbols : slot + symbols - width_;
  }

  __device__ __forceinline__ int first_node(int t) const {
    if (!banded) return 0;
    const int64_t first = p_.first_node(b_, t, {s0_, t0_, s1_, t1_});
    return first < kFarAway ? int(first) : kFarAway;
  }
  __device__ __forceinline__ int first_row(int t) const {
    if (!banded || t < 0 || t >= p_.frames) return 0;
    const int64_t first = p_.first_row(b_, t);
    return first < kFarAway ? int(first) : kFarAway;
  }

  // To diagonal i, which is one after the last, or before it.
  __device__ __forceinline__ void up_to(int i) {
    if (!banded) return;  // where a slot is a symbol count
    const int n = t0_ + s0_ + i;
    while (latest_ < t1_ && first_node(latest_ + 1) + latest_ + 1 <= n) ++latest_;
    while (latest_ > t0_ && first_node(latest_) + latest_ > n) --latest_;
  }

  // That of a slot, without its arcs.
  __device__ __forceinline__ Step node(int i, int slot) const {
    const int n = t0_ + s0_ + i;
    Step step;
    step.s = slot;
    if (banded) {
      const int low = n - latest_ > s0_ ? n - latest_ : s0_;
      step.s = low + slot_before(slot, slot_of(low));
    }
    step.t = n - step.s;
    step.node = slot < width_ && step.s >= s0_ && step.s <= s1_ && step.t >= t0_ && step.t <= t1_;
    if (banded && step.node) {
      const int k = step.s - first_node(step.t);
      step.node = k >= 0 && k < p_.rows;
    }
    return step;
  }

  // f(j, kind) for each of this thread's kinds of arcs.
  template <class F>
  __device__ __forceinline__ void for_kinds(F f) const {
    RNNKIT_UNROLL
    for (int j = 0; j < kMine; ++j) f(j, kinds_[j]);
  }

  // Whether an arc leaves (t, s), and the row it is in.
  __device__ __forceinline__ bool leaves(const Kind& kind, int t, int s, int& k) const {
    const int end = t1_ + (kind.label && !p_.label_end ? 0 : 1);
    k = s - first_row(t);
    return kind.exists && t >= t0_ && s >= s0_ && t + kind.duration < end &&
           t < int(kind.label ? p_.label_frames : p_.frames) && s < s1_ + (kind.label ? 0 : 1) &&
           (!banded || (k >= 0 && k < int(kind.label ? p_.label_rows : p_.rows)));
  }

  // No arc is taken, unless a path comes over it.
  __device__ __forceinline__ void clear() const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    for (int a = 0; a < p_.arcs; ++a) {
      const int frames = int(p_.frames_of(p_.kinds[a])), rows = int(p_.rows_of(p_.kinds[a]));
      const Plane<scalar_t> plane(p_.occupancies[a], b_);
      for (int t = warp; t < frames; t += warps)
        for (int k = lane; k < rows; k += 32) *plane.at(t, k) = 0;
    }
  }

  __device__ __forceinline__ void fill(double value) const {
    for (int at = threadIdx.x; at < depth_ * width_; at += blockDim.x) ring_[at] = value;
  }

  // All diagonals from the first on forward, or from the last on backward, but for so many.
  template <bool forward>
  __device__ __forceinline__ void sweep(int skipped, int count) {
    const auto diagonal = [&](int i) { return forward ? i : count - 1 - i; };
    const int slots = blockDim.x / kLanes;
    if (width_ > slots) {
      for (int i = skipped; i < count; ++i) {
        up_to(diagonal(i));
        for (int first = 0; first < width_; first += slots) {
          if (!banded && i + 2 < count) prefetch<forward>(diagonal(i + 2), first + slot_);
          take<forward>(diagonal(i), first + slot_, fetch<forward>(diagonal(i), first + slot_));
        }
        __syncthreads();
      }
      return;
    }
    Step steps[kAhead];  // a slot for each thread: scores are fetched ahead
    RNNKIT_UNROLL
    for (int u = 0; u < kAhead; ++u) {
      if (skipped + u >= count) break;
      up_to(diagonal(skipped + u));
      steps[u] = fetch<forward>(diagonal(skipped + u), slot_);
    }
    for (int begin = skipped; begin < count; begin += kAhead) {
      RNNKIT_UNROLL
      for (int u = 0; u < kAhead; ++u) {
        const int i = begin + u, next = i + kAhead;
        if (i >= count) break;
        take<forward>(diagonal(i), slot_, steps[u]);
        if (next < count) {
          up_to(diagonal(next));
          steps[u] = fetch<forward>(diagonal(next), slot_);
        }
        __syncthreads();
      }
    }
  }

  // Of a thread's kind of arcs, where that of a node is, whose score leads there or, backward, whose share leaves there;
  // null if there is none.
  template <bool forward>
  __device__ __forceinline__ const scalar_t* arc_of(const Kind& kind, const Step& step) const {
    const int t = forward ? step.t - kind.duration : step.t, s = forward && kind.label ? step.s - 1 : step.s;
    int k;
    if (!step.node || !leaves(kind, t, s, k)) return nullptr;
    return forward ? kind.scores.at(t, k) : static_cast<const scalar_t*>(kind.occupancies.at(t, k));
  }

  // Has what `fetch` will read brought near.
  template <bool forward>
  __device__ __forceinline__ void prefetch(int i, int slot) const {
    const Step step = node(i, slot);
    for_kinds([&](int, const Kind& kind) {
      const scalar_t* const arc = arc_of<forward>(kind, step);
      if (arc != nullptr) prefetch_cached(arc);
    });
  }

  template <bool forward>
  __device__ __forceinline__ Step fetch(int i, int slot) const {
    Step step = node(i, slot);
    for_kinds([&](int j, const Kind& kind) {
      const scalar_t* const arc = arc_of<forward>(kind, step);
      step.arcs[j] = arc != nullptr;
      step.values[j] = arc != nullptr ? *arc : scalar_t(0);
    });
    return step;
  }

  template <bool forward>
  __device__ __forceinline__ void take(int i, int slot, const Step& step) const {
    if (forward)
      come(i, slot, step);
    else
      go(i, slot, step);
  }

  // Leaves, in place of each arc's occupancy, how probable it is that a path to the node it leads to comes over it.
  __device__ __forceinline__ void come(int i, int slot, const Step& step) const {
    const int here = ring_row(i), below = slot_before(slot, 1);
    double x[kMine], best = kNoPath;
    for_kinds([&](int j, const Kind& kind) {
      x[j] = kNoPath;
      const int back = here - kind.duration - (kind.label ? 1 : 0);
      if (step.arcs[j]) x[j] = ring_[(back < 0 ? back + depth_ : back) * width_ + (kind.label ? below : slot)];
      if (!(x[j] <= kNoPath)) x[j] += double(step.values[j]);
      best = x[j] <= best ? best : x[j];
    });
    best = group_most<kLanes>(best);
    int winner = kMaxArcs;  // the first of the best
    if (p_.viterbi) {
      for_kinds([&](int j, const Kind&) {
        const int a = lane_ + j * kLanes;
        if (x[j] == best && best > kNoPath && a < winner) winner = a;
      });
      winner = -group_most<kLanes>(-winner);
    }
    scalar_t e[kMine], sum = 0;
    for_kinds([&](int j, const Kind&) {
      e[j] = x[j] <= kNoPath ? scalar_t(0) : Math<scalar_t>::exp_nonpositive(scalar_t(x[j] - best));
      if (p_.viterbi) e[j] = lane_ + j * kLanes == winner ? scalar_t(1) : scalar_t(0);
      sum += e[j];
    });
    sum = group_total<kLanes>(sum);
    double alpha = sum == 0 ? kNoPath : best + double(log_of(sum));
    if (i == 0 && step.node && step.s == s0_) alpha = 0;
    if (lane_ == 0 && slot < width_) ring_[here * width_ + slot] = step.node ? alpha : kNoPath;
    if (!p_.keeps) return;
    const scalar_t scale = sum == 0 ? scalar_t(0) : 1 / sum;
    for_kinds([&](int j, const Kind& kind) {
      const int t = step.t - kind.duration, s = kind.label ? step.s - 1 : step.s;
      if (step.arcs[j]) *kind.occupancies.at(t, s - first_row(t)) = e[j] * scale;
    });
  }

  // Now each arc holds how probable it is that a path to its end comes over it; this becomes its occupancy.
  __device__ __forceinline__ void go(int i, int slot, const Step& step) const {
    const int here = ring_row(i), above = slot_after(slot, 1), k = step.s - first_row(step.t);
    double reached = 0;
    for_kinds([&](int j, const Kind& kind) {
      if (!step.arcs[j]) return;
      const int ahead = here + kind.duration + (kind.label ? 1 : 0);
      const double over = ring_[(ahead < depth_ ? ahead : ahead - depth_) * width_ + (kind.label ? above : slot)];
      const scalar_t mine = over == 0 ? scalar_t(0) : scalar_t(double(step.values[j]) * over);
      *kind.occupancies.at(step.t, k) = mine;
      reached += double(mine);
    });
    reached = group_total<kLanes>(reached);
    if (lane_ == 0 && slot < width_) ring_[here * width_ + slot] = reached;
  }

  const Lattice<scalar_t>& p_;
  const int b_, width_, depth_, lane_, slot_;
  double* const ring_;  // [depth, width]
  int t0_, t1_, s0_, s1_;
  int latest_;  // frame that reaches the diagonal
  Kind kinds_[kMine];
};

template <class scalar_t, int kLanes, int kMine, bool banded>
__global__ void __launch_bounds__(kLatticeThreads) lattice_kernel(LatticeLaunch<scalar_t> launched) {
  GeneralLattice<scalar_t, kLanes, kMine, banded>(launched).run();
}

}  // namespace rnnkit::cuda
