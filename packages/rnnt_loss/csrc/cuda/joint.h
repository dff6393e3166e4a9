// Between logits and the scores of the lattice. A block has rows of one frame, a group of lanes one of them at a time, which
// it reads once: what came before is kept as a maximum and a sum.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../problem.h"
#include "rows.h"

namespace rnnkit::cuda {

constexpr int kPacksAtOnce = 4;  // that a lane has under way; reasoned: 32 warps then have 64 KB
constexpr int kRowsAGroup = 4;   // one after the other; reasoned: what all rows of a frame share is then a quarter

template <class Problem>
__device__ __forceinline__ int64_t target_of(const Problem& p, int64_t b, int64_t s) {
  const int64_t target = p.targets[b * p.symbols + s];
  if (target < 0 || target >= p.classes) device_fail("symbols: a value is not within 0 and C - 1");
  return target;
}

// The frame of this block, and the nodes of its groups, one after the other.
template <class Problem, int kLanes>
struct Frame {
  const Problem& p;
  int64_t b, t, first_row;
  Bounds in;
  int lane, step;  // rows that the whole grid takes at once

  __device__ __forceinline__ explicit Frame(const Problem& p) : p(p) {
    const int64_t frame = p.first + blockIdx.x;
    b = frame / p.frames;
    t = frame % p.frames;
    first_row = p.first_row(b, t);
    in = p.bounds(b);
    lane = threadIdx.x % kLanes;
    step = gridDim.y * (blockDim.x / kLanes);
    if (!in.fit(p.symbols, p.frames)) device_fail("boundary: a value is not within 0 and S, T");
    if (p.offsets != nullptr && !p.packed_fits(b, in)) device_fail("logits: packed nodes do not fit the boundary");
  }

  // The group's first row; the others are `step` apart, and all groups of a block take as many steps.
  __device__ __forceinline__ int row() const { return int(blockIdx.y * (blockDim.x / kLanes) + threadIdx.x / kLanes); }
  __device__ __forceinline__ bool block_has(int k) const { return k - int(threadIdx.x / kLanes) < p.rows; }
  __device__ __forceinline__ bool has_row(int k) const { return k < p.rows && p.has_row(b, t, k); }

  // Where the columns of the frame's first node lie, or, where nodes have places, those of the first place.
  __device__ __forceinline__ int64_t start(const Layout& of) const {
    return p.places == nullptr ? p.place(of, b, t, 0, in) : 0;
  }
  __device__ __forceinline__ int64_t row_of(int k) const {
    return p.places == nullptr ? k : p.index(b, t, k);
  }  // from there
  __device__ __forceinline__ bool has(int k) const { return has_row(k) && in.has(t, k + first_row); }

  // The symbol that follows the node, as a class; -1 if none does.
  __device__ __forceinline__ int target(int k) const {
    return k + first_row < in.s1 ? int(target_of(p, b, k + first_row)) : -1;
  }
};

template <class acc>
__device__ __forceinline__ acc softplus(acc x) {
  if constexpr (sizeof(acc) == 4) return (x > 0 ? x : 0) + log1pf(expf(-fabsf(x)));
  return (x > 0 ? x : 0) + ::log1p(::exp(-fabs(x)));
}

// log sum e^z over the columns but for `without`; all of the warp come here, with no columns if need be.
template <int kLanes, class scalar_t>
__device__ __forceinline__ acc_t<scalar_t> log_sum(const Columns<const scalar_t>& columns, int lane, int without = -1) {
  using P = Pack<scalar_t>;
  using acc = acc_t<scalar_t>;
  LogSum<acc> sum;
  for (int at = lane; at < columns.packs; at += kLanes * kPacksAtOnce) {
    P packs[kPacksAtOnce];
    RNNKIT_UNROLL
    for (int u = 0; u < kPacksAtOnce; ++u) packs[u] = columns.load_if(at + u * kLanes);
    if (without >= 0) {
      RNNKIT_UNROLL
      for (int i = 0; i < kPacksAtOnce * P::kCount; ++i)
        if (columns.column(at + i / P::kCount * kLanes) + i % P::kCount == without)
          packs[i / P::kCount].set(i % P::kCount, scalar_t(-INFINITY));
    }
    sum.template add<kPacksAtOnce * P::kCount>([&](int i) { return packs[i / P::kCount].get(i % P::kCount); });
  }
  for (int i = lane; i < columns.edges(); i += kLanes) {
    const int v = columns.edge(i);
    const acc x = v == without ? acc(-INFINITY) : acc(columns.start[v]);
    sum.template add<1>([x](int) { return x; });
  }
  return sum.template value<kLanes>();
}

template <class scalar_t, int kLanes>
__global__ void __launch_bounds__(kRowThreads) joint_forward_kernel(JointForward<scalar_t> p) {
  using acc = acc_t<scalar_t>;
  const Frame<JointForward<scalar_t>, kLanes> frame(p);
  const int64_t b = frame.b, t = frame.t;
  const int lane = frame.lane, classes = int(p.classes), durations = int(p.durations);
  const bool hat = p.mode == Mode::hat;
  const scalar_t* const logits = p.logits + frame.start(p.layout);
  acc* const norms = p.norm + (b * p.frames + t) * p.rows;
  for (int k = frame.row(); frame.block_has(k); k += frame.step) {
    const bool valid = frame.has(k);
    const int target = valid && lane == 0 ? frame.target(k) : -1;
    const scalar_t* const z = valid ? logits + frame.row_of(k) * p.layout.row : p.logits;
    const Columns<const scalar_t> columns(z, valid ? classes : 0);
    acc norm = 0, offset = 0, of_durations = 0;
    if (p.mode != Mode::log_probs) norm = offset = log_sum<kLanes>(columns, lane, hat ? int(p.blank[0]) : -1);
    if (p.smoothing != 0) {
      acc sum = 0;
      for (int v = lane; v < columns.count; v += kLanes) sum += acc(z[v]);
      offset -= p.smoothing * group_total<kLanes>(sum) / acc(classes);
    }
    if (durations > 0) of_durations = log_sum<kLanes>(Columns<const scalar_t>(z + classes, valid ? durations : 0), lane);
    if (k >= p.rows) continue;
    if (hat && valid) offset += softplus(acc(z[p.blank[0]]));
    if (lane == 0) {
      norms[k] = valid ? norm : acc(0);
      const bool is_label = target >= 0 && !(hat && target == p.blank[0]);
      if (k < p.label_rows) p.label.at(b, t, k) = is_label ? (1 - p.smoothing) * acc(z[target]) - offset : acc(-INFINITY);
    }
    for (int j = lane; j < p.blanks + durations; j += kLanes) {
      acc score = -INFINITY;
      if (valid && j >= p.blanks)
        score = acc(z[classes + j - p.blanks]) - of_durations;
      else if (valid)
        score = hat ? -softplus(-acc(z[p.blank[j]])) : (1 - p.smoothing) * acc(z[p.blank[j]]) - offset;
      p.blank_scores.at(b, j, t, k) = score;
    }
  }
}

// grad[v] = f(z[v]); grad may be z.
template <int kLanes, class scalar_t, class F>
__device__ __forceinline__ void map_columns(const scalar_t* z, scalar_t* grad, int count, int lane, F f) {
  const Columns<const scalar_t> from(z, count);
  const Columns<scalar_t> to(grad, count);
  const bool alike = from.head == to.head;
  const int packs = alike ? from.packs : 0, edges = alike ? from.edges() : count;
  for (int at = lane; at < packs; at += kLanes * kPacksAtOnce) {
    Pack<scalar_t> values[kPacksAtOnce];
    RNNKIT_UNROLL
    for (int u = 0; u < kPacksAtOnce; ++u) values[u] = from.load_if(at + u * kLanes);
    RNNKIT_UNROLL
    for (int u = 0; u < kPacksAtOnce; ++u) {
      values[u].map(f);
      if (at + u * kLanes < packs) to.store(at + u * kLanes, values[u]);
    }
  }
  for (int i = lane; i < edges; i += kLanes) {
    const int v = alike ? from.edge(i) : i;
    grad[v] = static_cast<scalar_t>(f(acc_t<scalar_t>(z[v])));
  }
}

// The gradient of a node's row: of all classes alike, and then of those few that are a label or blank.
template <class scalar_t, int kLanes>
__global__ void __launch_bounds__(kRowThreads) joint_backward_kernel(JointBackward<scalar_t> p) {
  using acc = acc_t<scalar_t>;
  const Frame<JointBackward<scalar_t>, kLanes> frame(p);
  const int64_t b = frame.b, t = frame.t;
  const int lane = frame.lane, classes = int(p.classes), durations = int(p.durations);
  const bool hat = p.mode == Mode::hat;
  const acc bound = p.clamp > 0 ? p.clamp * p.reaching(b, frame.in) : acc(INFINITY);
  const auto clamped = [bound](acc x) { return x < -bound ? -bound : x > bound ? bound : x; };
  const scalar_t* const logits = p.logits + frame.start(p.layout);
  scalar_t* const grads = p.grad + frame.start(p.grad_layout);
  const acc* const norms = p.norm + (b * p.frames + t) * p.rows;
  for (int k = frame.row(); frame.block_has(k); k += frame.step) {
    const bool valid = frame.has(k), writes = valid || (frame.has_row(k) && p.offsets == nullptr);
    acc label = 0, total = 0, of_durations = 0;
    bool any = false;
    if (valid && k < p.label_rows && k + frame.first_row < frame.in.s1) label = p.grad_label.at(b, t, k);
    for (int j = 0; valid && j < p.blanks + durations; ++j) {
      const acc grad = p.grad_blank.at(b, j, t, k);
      (j < p.blanks ? total : of_durations) += grad;
      any = any || grad != 0;
    }
    any = any || label != 0;
    total += label;
    scalar_t* const grad = writes ? grads + frame.row_of(k) * p.grad_layout.row : p.grad;
    const scalar_t* const z = any ? logits + frame.row_of(k) * p.layout.row : p.logits;
    const acc through = p.mode == Mode::softmax ? total : hat ? label : acc(0);
    const acc uniform = p.smoothing * total / acc(classes);
    acc norm = any ? norms[k] : acc(0);
    if (p.anew && p.mode != Mode::log_probs)
      norm = log_sum<kLanes>(Columns<const scalar_t>(z, any ? classes : 0), lane, hat ? int(p.blank[0]) : -1);
    const ShiftedPower<acc> power(any ? norm : acc(0));
    const acc scale = -through * power.factor;
    const auto softmax_at = [=](acc x) { return uniform + scale * power(x); };
    // Lane j has blank j, the lane after the last of them the label; each keeps its logit, which may be written over.
    const int target = any ? frame.target(k) : -1;
    int mine = -1;
    if (any && lane < p.blanks) mine = int(p.blank[lane]);
    if (lane == p.blanks) mine = target;
    const acc at_mine = mine >= 0 ? acc(z[mine]) : acc(0);
    acc norm_of_durations = 0;
    if (durations > 0) norm_of_durations = log_sum<kLanes>(Columns<const scalar_t>(z + classes, any ? durations : 0), lane);
    __syncwarp();
    if (writes && (!any || through == 0))
      map_columns<kLanes>(grad, grad, any ? classes : classes + durations, lane, [](acc) { return acc(0); });
    else if (writes && p.clamp > 0)
      map_columns<kLanes>(z, grad, classes, lane, [=](acc x) { return clamped(softmax_at(x)); });
    else if (writes)
      map_columns<kLanes>(z, grad, classes, lane, softmax_at);
    const ShiftedPower<acc> share(norm_of_durations);
    for (int j = lane; any && j < durations; j += kLanes)
      grad[classes + j] = static_cast<scalar_t>(p.grad_blank.at(b, p.blanks + j, t, k) -
                                                of_durations * share.factor * share(acc(z[classes + j])));
    __syncwarp();
    if (mine < 0) continue;
    acc own = mine == target ? label : acc(0);
    for (int j = 0; j < p.blanks && !hat; ++j)
      if (p.blank[j] == mine) own += p.grad_blank.at(b, j, t, k);
    acc d = (1 - p.smoothing) * own + (through == 0 ? acc(0) : softmax_at(at_mine));
    if (hat && mine == p.blank[0]) {
      const acc sigmoid = Math<acc>::exp_nonpositive(-softplus(-at_mine));
      d = own - label * sigmoid + p.grad_blank.at(b, 0, t, k) * (1 - sigmoid);
    }
    grad[mine] = static_cast<scalar_t>(clamped(d));
  }
}

}  // namespace rnnkit::cuda
