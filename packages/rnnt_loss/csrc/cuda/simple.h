// The joiner that adds.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "joint.h"

namespace rnnkit::cuda {

template <class scalar_t>
struct Exponentials {  // of lm, or of am
  Simple<scalar_t> problem;
  bool of_lm;
};

template <class acc>
__device__ __forceinline__ acc logarithm(acc x) {
  if constexpr (sizeof(acc) == 4) return logf(x);
  return ::log(x);
}

template <class scalar_t>
__global__ void __launch_bounds__(kRowThreads) exponentials_kernel(Exponentials<scalar_t> launched) {
  using acc = acc_t<scalar_t>;
  const Simple<scalar_t>& p = launched.problem;
  const bool of_lm = launched.of_lm;
  const int64_t count = of_lm ? p.rows : p.frames, row = int64_t(blockIdx.x) * kRowWarps + threadIdx.x / 32;
  if (row >= p.batch * count) return;
  const Bounds in = p.bounds(row / count);
  if (!in.fit(p.symbols, p.frames)) device_fail("boundary: a value is not within 0 and S, T");
  const int64_t at = row % count, place = row * p.classes;
  const bool valid = of_lm ? at >= in.s0 && at <= in.s1 && in.t1 > in.t0 : at >= in.t0 && at < in.t1;
  const scalar_t* const x = (of_lm ? p.lm : p.am) + place;
  acc* const exps = (of_lm ? p.exp_lm : p.exp_am) + place;
  acc most = -INFINITY;
  if (valid) for_row(x, int(p.classes), [&](int, acc v) { most = v > most ? v : most; });
  most = group_most<32>(most);
  if (most == -INFINITY) most = 0;
  acc sum = 0;
  for (int64_t v = threadIdx.x % 32; v < p.classes; v += 32) {
    exps[v] = valid ? Math<acc>::exp_nonpositive(acc(x[v]) - most) : acc(0);
    sum += exps[v];
  }
  if (of_lm) sum = group_total<32>(sum);
  if (threadIdx.x % 32 != 0) return;
  (of_lm ? p.max_lm : p.max_am)[row] = most;
  if (of_lm) p.norm_lm[row] = valid ? most + logarithm(sum) : acc(0);
}

// A node of [B, T, S + 1] for each thread.
template <class Problem>
struct Cell {
  int64_t at, b, t, s;
  Bounds in;
  bool exists, valid;

  __device__ __forceinline__ explicit Cell(const Problem& p) : at(int64_t(blockIdx.x) * blockDim.x + threadIdx.x) {
    exists = at < p.batch * p.frames * p.rows;
    const int64_t place = exists ? at : 0;
    b = place / (p.frames * p.rows);
    t = place / p.rows % p.frames;
    s = place % p.rows;
    in = p.bounds(b);
    if (!in.fit(p.symbols, p.frames)) device_fail("boundary: a value is not within 0 and S, T");
    valid = exists && in.has(t, s);
  }
};

template <class scalar_t>
__global__ void __launch_bounds__(kRowThreads) simple_scores_kernel(Simple<scalar_t> p) {
  using acc = acc_t<scalar_t>;
  const Cell<Simple<scalar_t>> cell(p);
  const int64_t lm_row = cell.b * p.rows + cell.s, am_row = cell.b * p.frames + cell.t;
  acc norm = 0;
  bool inexact = false;
  if (cell.valid) {
    const acc product = p.product[cell.at];
    inexact = !(product >= Simple<scalar_t>::kLeast);
    norm = logarithm(product) + (p.max_lm[lm_row] + p.max_am[am_row]);
  }
  for (WarpBits left = warp_bits(inexact); left != 0; left &= left - 1) {  // the warp sums one anew after the other
    int lane = 0;
    while (!(left >> lane & 1)) ++lane;
    const scalar_t* const lm = p.lm + __shfl_sync(~0u, lm_row, lane) * p.classes;
    const scalar_t* const am = p.am + __shfl_sync(~0u, am_row, lane) * p.classes;
    LogSum<acc> sum;
    for (int64_t v = threadIdx.x % 32; v < p.classes; v += 32)
      sum.template add<1>([&](int) { return acc(lm[v]) + acc(am[v]); });
    const acc exact = sum.template value<32>();
    if (int(threadIdx.x % 32) == lane) norm = exact;
  }
  if (!cell.exists) return;
  acc label = -INFINITY, blank = -INFINITY;
  if (cell.valid) {
    const scalar_t *const lm = p.lm + lm_row * p.classes, *const am = p.am + am_row * p.classes;
    blank = p.score(lm[p.blank], am[p.blank], norm, p.norm_lm[lm_row]);
    if (cell.s < cell.in.s1) {
      const int64_t target = target_of(p, cell.b, cell.s);
      label = p.score(lm[target], am[target], norm, p.norm_lm[lm_row]);
    }
  }
  p.norm[cell.at] = norm;
  p.blank_scores[cell.at] = blank;
  if (cell.s < p.symbols) p.label[am_row * p.symbols + cell.s] = label;
}

template <class scalar_t>
__global__ void __launch_bounds__(kRowThreads) simple_weights_kernel(Simple<scalar_t> p) {
  using acc = acc_t<scalar_t>;
  const Cell<Simple<scalar_t>> cell(p);
  if (!cell.exists) return;
  acc weight = 0;
  if (cell.valid) {
    const acc shift = p.max_lm[cell.b * p.rows + cell.s] + p.max_am[cell.b * p.frames + cell.t] - p.norm[cell.at];
    acc grad = p.grad_blank.at(cell.b, cell.t, cell.s);
    if (cell.s < cell.in.s1) grad += p.grad_label.at(cell.b, cell.t, cell.s);
    if (shift <= -Simple<scalar_t>::kLogLeast)
      weight = -p.of_both * grad * (sizeof(acc) == 4 ? acc(expf(float(shift))) : acc(::exp(double(shift))));
  }
  p.product[cell.at] = weight;
}

// A warp for each row of lm, or of am. Class v is always lane v % 32's: sums have one order, and need no atomics.
template <class scalar_t>
__global__ void __launch_bounds__(kRowThreads) simple_gradients_kernel(Exponentials<scalar_t> launched) {
  using acc = acc_t<scalar_t>;
  const Simple<scalar_t>& p = launched.problem;
  const bool of_lm = launched.of_lm;
  const int64_t count = of_lm ? p.rows : p.frames, row = int64_t(blockIdx.x) * kRowWarps + threadIdx.x / 32;
  if (row >= p.batch * count) return;
  const int64_t b = row / count, at = row % count, place = row * p.classes, lane = threadIdx.x % 32;
  const Bounds in = p.bounds(b);
  if (!in.fit(p.symbols, p.frames)) device_fail("boundary: a value is not within 0 and S, T");
  const bool valid = of_lm ? at >= in.s0 && at <= in.s1 : at >= in.t0 && at < in.t1;
  const acc* const exps = (of_lm ? p.exp_lm : p.exp_am) + place;
  acc* const grad = (of_lm ? p.grad_lm_acc : p.grad_am_acc) + place;
  for (int64_t v = lane; v < p.classes; v += 32) grad[v] = valid ? exps[v] * grad[v] : acc(0);
  if (valid) {
    const int64_t begin = of_lm ? in.t0 : in.s0, end = of_lm ? in.t1 : in.s1 + 1;
    acc labels = 0, blanks = 0;
    for (int64_t other = begin; other < end; ++other) {
      const int64_t t = of_lm ? other : at, s = of_lm ? at : other;
      const acc label = s < in.s1 ? p.grad_label.at(b, t, s) : acc(0), blank = p.grad_blank.at(b, t, s);
      blanks += blank;
      labels += label;
      if (!of_lm && s < in.s1) {
        const int64_t target = target_of(p, b, s);
        if (target % 32 == lane) grad[target] += p.of_both * label;
      }
      const acc norm = p.norm[(b * p.frames + t) * p.rows + s];
      const bool exact = p.max_lm[b * p.rows + s] + p.max_am[b * p.frames + t] - norm > -Simple<scalar_t>::kLogLeast;
      if (!exact || label + blank == 0) continue;
      const scalar_t *const lm = p.lm + (b * p.rows + s) * p.classes, *const am = p.am + (b * p.frames + t) * p.classes;
      for (int64_t v = lane; v < p.classes; v += 32)
        grad[v] -= p.of_both * (label + blank) * Math<acc>::exp_nonpositive(acc(lm[v]) + acc(am[v]) - norm);
    }
    const acc direct = of_lm ? p.of_both + p.of_lm : p.of_both;
    if (p.blank % 32 == lane) grad[p.blank] += direct * blanks;
    if (of_lm && at < in.s1) {
      const int64_t target = target_of(p, b, at);
      if (target % 32 == lane) grad[target] += direct * labels;
    }
    if (of_lm && p.of_lm != 0) {
      const acc alone = p.of_lm * (labels + blanks) * Math<acc>::exp_nonpositive(p.max_lm[row] - p.norm_lm[row]);
      for (int64_t v = lane; v < p.classes; v += 32) grad[v] -= alone * exps[v];
    }
  }
  if constexpr (!std::is_same_v<scalar_t, acc>) {
    scalar_t* const out = (of_lm ? p.grad_lm : p.grad_am) + place;
    for (int64_t v = lane; v < p.classes; v += 32) out[v] = static_cast<scalar_t>(grad[v]);
  }
}

}  // namespace rnnkit::cuda
