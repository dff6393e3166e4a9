// The lattice, in a block's shared memory, where one warp walks through it without a barrier; the others bring it in and
// out. Lattices of a band and of short sequences are there as a whole; of others those frames whose nodes a few steps need.
//
// Labels last 0 frames or 1, blanks 1. Nodes of one step, t + s where labels last 0 and t where they last 1, do not depend
// on each other, and both arcs into a node come from the step before: from the same symbol count, and from the one below.
// Symbol count s is lane s mod 32's.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cuda/math.h>

#include "../problem.h"
#include "lattice.h"

namespace rnnkit::cuda {

constexpr int kSharedLatticeThreads = 128;
constexpr int kMostBandRows = 30;  // those of neighbouring steps have to be different lanes'
constexpr int kStepsAtOnce = 8;    // of the walker, between two barriers, where not all frames are there; reasoned

template <class scalar_t>
struct SharedLattice {
  Lattice<scalar_t> problem;
  int frames;                      // that are there at once; 0: this kernel cannot
  int label_stride, blank_stride;  // of cells; even, so that those of a step lie in different banks

  // Of so many bytes.
  SharedLattice(const Lattice<scalar_t>& p, size_t bytes)
      : problem(p), frames(0), label_stride(int(p.label_rows + 1) / 2 * 2), blank_stride(int(p.rows + 1) / 2 * 2) {
    const bool plain = p.arcs == 2 && p.kinds[0].label && p.kinds[0].duration <= 1 && !p.kinds[1].label &&
                       p.kinds[1].duration == 1 && !p.viterbi;
    if (!plain || p.rows > (p.begin == nullptr ? 8 * 32 : kMostBandRows)) return;
    const int64_t all = p.frames + 1, needed = (p.kinds[0].duration == 0 ? p.rows : 1) + 3 * kStepsAtOnce + 4;
    const int64_t room = int64_t(bytes / (size_t(label_stride + blank_stride) * sizeof(scalar_t) + sizeof(int)));
    if (all <= room)
      frames = int(all);
    else if (p.begin == nullptr && needed <= room)
      frames = int(needed);
  }

  RNNKIT_HOST_DEVICE bool whole() const { return frames == problem.frames + 1; }
  RNNKIT_HOST_DEVICE size_t label_cells() const { return size_t(frames) * label_stride; }
  RNNKIT_HOST_DEVICE size_t blank_cells() const { return size_t(frames) * blank_stride; }
  RNNKIT_HOST_DEVICE size_t shared_bytes() const {
    const size_t begins = problem.begin == nullptr ? 0 : size_t(frames) * sizeof(int);
    return (label_cells() + blank_cells()) * sizeof(scalar_t) + begins;
  }
};

// kNodes: of a lane; banded: of a band, whose nodes of a step are not more than a warp's lanes; whole: all frames are there.
template <class scalar_t, int kNodes, bool banded, bool whole>
class LatticeWalk {
 public:
  __device__ __forceinline__ explicit LatticeWalk(const SharedLattice<scalar_t>& launched)
      : p_(launched.problem),
        b_(blockIdx.x),
        frames_(launched.frames),
        label_stride_(launched.label_stride),
        blank_stride_(launched.blank_stride),
        label_cells_(shared_memory<scalar_t>()),
        blank_cells_(label_cells_ + launched.label_cells()),
        begins_(reinterpret_cast<int*>(blank_cells_ + launched.blank_cells())),
        lane_(threadIdx.x % 32),
        duration_(p_.kinds[0].duration) {
    const Bounds in = counted_bounds(p_, b_);
    t0_ = int(in.t0);
    t1_ = int(in.t1);
    s0_ = int(in.s0);
    s1_ = int(in.s1);
    first_ = step_of(t0_, s0_);
    last_ = step_of(t1_, s1_);
    latest_ = t0_;
  }

  __device__ __forceinline__ void run() {
    if (p_.keeps) {
      write(0, t0_ - 1, 0);
      write(t1_ + 1, int(p_.frames), 0);  // labels may have a frame more than blanks
    }
    double score = kNoPath;
    if constexpr (whole) {
      read(p_.scores, t0_, t1_, 0);
      __syncthreads();
      if (threadIdx.x < 32) {
        start();
        forward(first_ + 1, last_);
        score = end();
        if (p_.keeps) {
          arrive(score);
          backward(last_ - 1, first_);
        }
      }
      __syncthreads();
      if (p_.keeps) write(t0_, t1_, 0);
    } else {
      score = forward_in_parts();
      if (p_.keeps) backward_in_parts(score);
    }
    if (threadIdx.x == 0) p_.score[b_] = score <= kNoPath ? scalar_t(-INFINITY) : scalar_t(score);
  }

 private:
  // Scores of the arcs into a node.
  struct Given {
    bool has_blank, has_label;
    int blank_at, label_at;  // cells
    scalar_t blank, label;
  };

  __device__ __forceinline__ int step_of(int t, int s) const { return duration_ == 0 ? t + s : t; }
  __device__ __forceinline__ int frame_at(int step, int s) const { return duration_ == 0 ? step - s : step; }

  // The first row of frame t's cells, and, at the end, of its nodes.
  __device__ __forceinline__ int begin(int t) const { return banded ? begins_[t] : 0; }

  __device__ __forceinline__ bool has_label(int t, int s) const {  // whether a label leaves there
    return t >= t0_ && t < p_.label_frames && s >= s0_ && s < s1_ && t + duration_ < t1_ + (p_.label_end ? 1 : 0);
  }
  __device__ __forceinline__ bool has_blank(int t, int s) const { return t >= t0_ && t < t1_ && s >= s0_ && s <= s1_; }
  __device__ __forceinline__ bool within(int k, int64_t rows) const { return !banded || (k >= 0 && k < rows); }
  __device__ __forceinline__ bool node(int t, int s) const {
    return t >= t0_ && t <= t1_ && s >= s0_ && s <= s1_ && within(s - begin(t), p_.rows);
  }

  // The frames whose cells the nodes of a step, and the arcs that lead to them, may have.
  __device__ __forceinline__ int lowest(int step) const {
    const int t = duration_ == 0 ? step - 1 - s1_ : step - 1;
    return t > t0_ ? t : t0_;
  }
  __device__ __forceinline__ int highest(int step) const {
    const int t = duration_ == 0 ? step - s0_ : step;
    return t < t1_ ? t : t1_;
  }

  __device__ __forceinline__ int slot(int t) const {
    if (whole) return t;
    return t - wrapped_ < frames_ ? t - wrapped_ : t - wrapped_ - frames_;
  }
  __device__ __forceinline__ scalar_t& label_cell(int t, int k) const { return label_cells_[slot(t) * label_stride_ + k]; }
  __device__ __forceinline__ scalar_t& blank_cell(int t, int k) const { return blank_cells_[slot(t) * blank_stride_ + k]; }

  // Frames from `low` on are those that slots are needed for, up to frames_ of them.
  __device__ __forceinline__ void wrap(int low) { wrapped_ = low / frames_ * frames_; }

  // f(t, k, whether an arc leaves there) for the cells of labels, or of blanks, of frames t..last, by warps from `warp` on.
  template <class F>
  __device__ __forceinline__ void for_cells(bool labels, int t, int last, int warp, F f) const {
    const int rows = int(labels ? p_.label_rows : p_.rows), frames = int(labels ? p_.label_frames : p_.frames);
    const int end = last + 1 < frames ? last + 1 : frames;
    for (t += int(threadIdx.x / 32) - warp; t < end; t += kSharedLatticeThreads / 32 - warp) {
      const int first = t < p_.frames ? int(p_.first_row(b_, t)) : 0;
      for (int k = lane_; k < rows; k += 32) f(t, k, labels ? has_label(t, k + first) : has_blank(t, k + first));
    }
  }

  template <class Cells>
  __device__ __forceinline__ void read(const Cells* from, int t, int last, int warp) const {
    for_cells(true, t, last, warp,
              [&](int t, int k, bool arc) { label_cell(t, k) = arc ? from[0].at(b_, t, k) : scalar_t(0); });
    for_cells(false, t, last, warp,
              [&](int t, int k, bool arc) { blank_cell(t, k) = arc ? from[1].at(b_, t, k) : scalar_t(0); });
    for (t += int(threadIdx.x); banded && t <= last; t += kSharedLatticeThreads) {
      begins_[t] = int(p_.first_node(b_, t, {s0_, t0_, s1_, t1_}));
      if (t < t1_ && (begins_[t] < 0 || (t > t0_ && begins_[t] < p_.first_row(b_, t - 1))))
        device_fail("ranges: they may not begin below 0, nor fall over time");
    }
  }

  __device__ __forceinline__ void write(int t, int last, int warp) const {
    for_cells(true, t, last, warp,
              [&](int t, int k, bool arc) { p_.occupancies[0].at(b_, t, k) = arc ? label_cell(t, k) : scalar_t(0); });
    for_cells(false, t, last, warp,
              [&](int t, int k, bool arc) { p_.occupancies[1].at(b_, t, k) = arc ? blank_cell(t, k) : scalar_t(0); });
  }

  // The walker takes some steps, while the others bring in the frames of the steps after them, and those out that are done.
  __device__ __forceinline__ double forward_in_parts() {
    const bool walks = threadIdx.x < 32;
    int there = highest(first_ + kStepsAtOnce + 1), done = t0_;  // frames up to, and from
    wrap(t0_);
    read(p_.scores, t0_, there, 0);
    __syncthreads();
    if (walks) start();
    for (int step = first_ + 1; step <= last_; step += kStepsAtOnce) {
      wrap(done);
      const int finished = lowest(step), wanted = highest(step + 2 * kStepsAtOnce);
      if (walks) {
        const int end = step + kStepsAtOnce - 1;
        forward(step, end < last_ ? end : last_);
      } else {
        read(p_.scores, there + 1, wanted, 1);
        if (p_.keeps) write(done, finished - 1, 1);
      }
      there = wanted;
      done = finished;
      __syncthreads();
    }
    const double score = walks ? end() : kNoPath;
    if (p_.keeps) write(done, t1_, 0);
    __syncthreads();
    return score;
  }

  __device__ __forceinline__ void backward_in_parts(double score) {
    const bool walks = threadIdx.x < 32;
    int there = lowest(last_ - kStepsAtOnce), done = t1_;  // frames down to, and from
    wrap(there);
    read(p_.occupancies, there, t1_, 0);
    __syncthreads();
    if (walks) arrive(score);
    for (int step = last_ - 1; step >= first_; step -= kStepsAtOnce) {
      const int finished = highest(step), wanted = lowest(step - 2 * kStepsAtOnce + 1);
      wrap(wanted);
      if (walks) {
        const int end = step - kStepsAtOnce + 1;
        backward(step, end > first_ ? end : first_);
      } else {
        read(p_.occupancies, wanted, there - 1, 1);
        write(finished + 1, done, 1);
      }
      there = wanted;
      done = finished;
      __syncthreads();
    }
    write(t0_, done, 0);
  }

  // The symbol count of this lane's i-th node at a step.
  __device__ __forceinline__ int symbols_at(int step, int i) {
    if (!banded) return lane_ + 32 * i;
    if (duration_ == 0) {  // the step's nodes begin where the latest frame that it reaches has its first row
      while (latest_ < t1_ && begins_[latest_ + 1] + latest_ + 1 <= step) ++latest_;
      while (latest_ > t0_ && begins_[latest_] + latest_ > step) --latest_;
    }
    const int low = duration_ == 0 ? step - latest_ : begins_[step];
    return low + ((lane_ - low) & 31);
  }

  // What leads to this lane's i-th node of a step.
  __device__ __forceinline__ Given arcs_to(int step, int i) {
    const int s = symbols_at(step, i), t = frame_at(step, s), from = t - duration_;
    const bool reached = node(t, s);
    Given given;
    given.has_blank = reached && has_blank(t - 1, s) && within(s - begin(t - 1), p_.rows);
    given.has_label = reached && has_label(from, s - 1) && within(s - 1 - begin(from), p_.label_rows);
    given.blank_at = given.has_blank ? slot(t - 1) * blank_stride_ + s - begin(t - 1) : 0;
    given.label_at = given.has_label ? slot(from) * label_stride_ + s - 1 - begin(from) : 0;
    given.blank = given.has_blank ? blank_cells_[given.blank_at] : scalar_t(0);
    given.label = given.has_label ? label_cells_[given.label_at] : scalar_t(0);
    return given;
  }

  // Of each node's neighbour, whose symbol count is one lower (by = -1) or higher.
  __device__ __forceinline__ void neighbours(int by, double none, double (&result)[kNodes]) const {
    RNNKIT_UNROLL
    for (int i = 0; i < kNodes; ++i) result[i] = __shfl_sync(~0u, reach_[i], (lane_ + by) & 31);
    const bool other_side = !banded && lane_ == (by < 0 ? 0 : 31);
    double before = none;
    RNNKIT_UNROLL
    for (int j = 0; j < kNodes; ++j) {
      const int i = by < 0 ? j : kNodes - 1 - j;
      const double mine = result[i];
      if (other_side) result[i] = before;
      before = mine;
    }
  }

  __device__ __forceinline__ void start() {
    RNNKIT_UNROLL
    for (int i = 0; i < kNodes; ++i) {
      const int s = symbols_at(first_, i);
      reach_[i] = s == s0_ && node(frame_at(first_, s), s) ? 0.0 : kNoPath;
      if (first_ < last_) next_[i] = arcs_to(first_ + 1, i);
    }
  }

  // Leaves, in place of each arc's score, how probable it is that a path to the node it leads to comes over it.
  __device__ __forceinline__ void forward(int step, int last) {
    double below[kNodes];
    for (; step <= last; ++step) {
      neighbours(-1, kNoPath, below);
      RNNKIT_UNROLL
      for (int i = 0; i < kNodes; ++i) {
        const Given now = next_[i];
        if (step < last_) next_[i] = arcs_to(step + 1, i);  // whose cells no arc of this step is
        const double by_blank = now.has_blank && !(reach_[i] <= kNoPath) ? reach_[i] + double(now.blank) : kNoPath;
        const double by_label = now.has_label && !(below[i] <= kNoPath) ? below[i] + double(now.label) : kNoPath;
        const bool first = !(by_blank < by_label);  // and if one is NaN, which stays
        const double high = first ? by_blank : by_label, low = first ? by_label : by_blank;
        const bool any = !(high <= kNoPath);
        const scalar_t e = !(low <= kNoPath) ? Math<scalar_t>::exp_nonpositive(scalar_t(low - high)) : scalar_t(0);
        const scalar_t sum = 1 + e, share = any ? 1 / sum : scalar_t(0);
        reach_[i] = any ? high + double(log_of(sum)) : kNoPath;
        if (now.has_blank) blank_cells_[now.blank_at] = first ? share : share * e;
        if (now.has_label) label_cells_[now.label_at] = first ? share * e : share;
      }
    }
  }

  __device__ __forceinline__ bool is_end(int i) {
    const int s = symbols_at(last_, i);
    return s == s1_ && node(frame_at(last_, s), s);
  }

  // The score, in all lanes.
  __device__ __forceinline__ double end() {
    double score = kNoPath;
    RNNKIT_UNROLL
    for (int i = 0; i < kNodes; ++i) {
      const WarpBits has = warp_bits(is_end(i));
      int owner = 0;
      while (owner < 31 && !(has >> owner & 1)) ++owner;
      const double at_end = __shfl_sync(~0u, reach_[i], owner);
      if (has != 0) score = at_end;
    }
    return score;
  }

  __device__ __forceinline__ void arrive(double score) {
    __syncwarp();  // all shares are written
    RNNKIT_UNROLL
    for (int i = 0; i < kNodes; ++i) reach_[i] = is_end(i) && !(score <= kNoPath) ? 1.0 : 0.0;
  }

  // Now each arc holds how probable it is that a path to its end comes over it; this becomes its occupancy.
  __device__ __forceinline__ void backward(int step, int last) {
    double above[kNodes];
    for (; step >= last; --step) {
      neighbours(1, 0.0, above);
      RNNKIT_UNROLL
      for (int i = 0; i < kNodes; ++i) {
        const int s = symbols_at(step, i), t = frame_at(step, s);
        double sum = 0;
        if (node(t, s)) {
          const int k = s - begin(t);
          if (has_blank(t, s)) sum += occupy(blank_cell(t, k), reach_[i]);
          if (has_label(t, s) && within(k, p_.label_rows)) sum += occupy(label_cell(t, k), above[i]);
        }
        reach_[i] = sum;
      }
    }
  }

  static __device__ __forceinline__ double occupy(scalar_t& share, double reached) {
    share = reached == 0 ? scalar_t(0) : scalar_t(double(share) * reached);
    return double(share);
  }

  const Lattice<scalar_t>& p_;
  const int64_t b_;
  const int frames_, label_stride_, blank_stride_;
  scalar_t *const label_cells_, *const blank_cells_;  // [frames, stride]
  int* const begins_;                                 // [frames]
  const int lane_, duration_;
  int t0_, t1_, s0_, s1_, first_, last_, latest_, wrapped_ = 0;
  double reach_[kNodes];  // of each node: the log of the sum over paths to it; then how probable it is that one comes there
  Given next_[kNodes];    // of the step that follows
};

template <class scalar_t, int kNodes, bool banded, bool whole>
__global__ void __launch_bounds__(kSharedLatticeThreads) shared_lattice_kernel(SharedLattice<scalar_t> launched) {
  LatticeWalk<scalar_t, kNodes, banded, whole>(launched).run();
}

}  // namespace rnnkit::cuda
