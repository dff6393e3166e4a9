// Between logits and the scores of the lattice: a warp for each node, whose classes it reads 16 bytes at a time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cuda/math.h>

#include "../problem.h"

namespace rnnkit::cuda {

constexpr int kRowThreads = 256, kRowWarps = kRowThreads / 32;

template <class scalar_t>
struct alignas(16) Pack {
  static constexpr int kCount = 16 / sizeof(scalar_t);
  scalar_t at[kCount];
};

template <class T>
__device__ __forceinline__ int64_t to_aligned(const T* pointer) {  // elements up to the next multiple of 16 bytes
  return (16 - reinterpret_cast<uintptr_t>(pointer) % 16) % 16 / sizeof(T);
}

// f(v, z[v]) for the classes of this lane.
template <class scalar_t, class F>
__device__ __forceinline__ void for_row(const scalar_t* z, int64_t count, F f) {
  using P = Pack<scalar_t>;
  const int64_t lane = threadIdx.x % 32, aligned = to_aligned(z), head = aligned < count ? aligned : count;
  if (lane < head) f(lane, z[lane]);
  const int64_t packs = (count - head) / P::kCount;
  for (int64_t j = lane; j < packs; j += 32) {
    const P pack = *reinterpret_cast<const P*>(z + head + j * P::kCount);
    RNNKIT_UNROLL
    for (int u = 0; u < P::kCount; ++u) f(head + j * P::kCount + u, pack.at[u]);
  }
  for (int64_t v = head + packs * P::kCount + lane; v < count; v += 32) f(v, z[v]);
}

// out[v] = f(v, z[v]); out may be z.
template <class scalar_t, class F>
__device__ __forceinline__ void map_row(const scalar_t* z, scalar_t* out, int64_t count, F f) {
  using P = Pack<scalar_t>;
  if (to_aligned(z) != to_aligned(out)) {
    for (int64_t v = threadIdx.x % 32; v < count; v += 32) out[v] = f(v, z[v]);
    return;
  }
  const int64_t lane = threadIdx.x % 32, aligned = to_aligned(z), head = aligned < count ? aligned : count;
  if (lane < head) out[lane] = f(lane, z[lane]);
  const int64_t packs = (count - head) / P::kCount;
  for (int64_t j = lane; j < packs; j += 32) {
    P pack = *reinterpret_cast<const P*>(z + head + j * P::kCount);
    RNNKIT_UNROLL
    for (int u = 0; u < P::kCount; ++u) pack.at[u] = f(head + j * P::kCount + u, pack.at[u]);
    *reinterpret_cast<P*>(out + head + j * P::kCount) = pack;
  }
  for (int64_t v = head + packs * P::kCount + lane; v < count; v += 32) out[v] = f(v, z[v]);
}

template <class acc>
__device__ __forceinline__ acc warp_total(acc x) {
  for (int delta = 16; delta > 0; delta /= 2) x += __shfl_xor_sync(~0u, x, delta);
  return x;
}

template <class acc>
__device__ __forceinline__ acc warp_most(acc x) {
  for (int delta = 16; delta > 0; delta /= 2) {
    const acc other = __shfl_xor_sync(~0u, x, delta);
    x = other > x ? other : x;
  }
  return x;
}

// log sum e^value over what each(f) calls f(value) with, in all lanes of the warp.
template <class scalar_t, class Each>
__device__ __forceinline__ acc_t<scalar_t> warp_log_sum(Each each) {
  using acc = acc_t<scalar_t>;
  acc most = -INFINITY, sum = 0;
  each([&](acc x) { most = x > most ? x : most; });
  most = warp_most(most);
  if (most == -INFINITY) return most;  // the whole warp
  each([&](acc x) { sum += Math<acc>::exp_nonpositive(x - most); });
  sum = warp_total(sum);
  if constexpr (sizeof(acc) == 4) return most + logf(sum);
  return most + ::log(sum);
}

template <class acc>
__device__ __forceinline__ acc softplus(acc x) {
  if constexpr (sizeof(acc) == 4) return (x > 0 ? x : 0) + log1pf(expf(-fabsf(x)));
  return (x > 0 ? x : 0) + ::log1p(::exp(-fabs(x)));
}

// The node of this warp.
struct Row {
  int64_t b, t, k, s;
  Bounds in;
  bool exists, valid;
};

template <class Problem>
__device__ __forceinline__ Row row_of(const Problem& p) {
  Row row;
  const int64_t at = int64_t(blockIdx.x) * kRowWarps + threadIdx.x / 32;
  row.exists = at < p.count * p.rows;
  if (!row.exists) return row;
  const int64_t frame = p.first + at / p.rows;
  row.k = at % p.rows;
  row.b = frame / p.frames;
  row.t = frame % p.frames;
  row.s = row.k + p.first_row(row.b, row.t);
  row.in = p.bounds(row.b);
  if (!row.in.fit(p.symbols, p.frames)) device_fail("boundary: a value is not within 0 and S, T");
  if (p.offsets != nullptr && !p.packed_fits(row.b, row.in)) device_fail("logits: packed nodes do not fit the boundary");
  row.valid = row.in.has(row.t, row.s);
  return row;
}

template <class Problem>
__device__ __forceinline__ int64_t target_of(const Problem& p, int64_t b, int64_t s) {
  const int64_t target = p.targets[b * p.symbols + s];
  if (target < 0 || target >= p.classes) device_fail("symbols: a value is not within 0 and C - 1");
  return target;
}

template <class scalar_t>
__global__ void __launch_bounds__(kRowThreads) joint_forward_kernel(JointForward<scalar_t> p) {
  using acc = acc_t<scalar_t>;
  const Row row = row_of(p);
  if (!row.exists) return;  // the whole warp
  const int64_t b = row.b, t = row.t, k = row.k, s = row.s;
  const Bounds in = row.in;
  const bool valid = row.valid;
  acc label = -INFINITY, offset = 0, norm = 0;
  const scalar_t* const z = valid ? p.logits + p.place(b, t, k, in) : nullptr;
  if (valid && p.mode == Mode::softmax) {
    norm = offset = warp_log_sum<scalar_t>([&](auto f) { for_row(z, p.classes, [&](int64_t, scalar_t x) { f(acc(x)); }); });
  } else if (valid && p.mode == Mode::hat) {
    const int64_t blank = p.blank[0];
    norm = warp_log_sum<scalar_t>([&](auto f) {
      for_row(z, p.classes, [&](int64_t v, scalar_t x) {
        if (v != blank) f(acc(x));
      });
    });
    offset = norm + softplus(acc(z[blank]));
  }
  if (threadIdx.x % 32 != 0) return;
  if (valid && s < in.s1) {
    const int64_t target = target_of(p, b, s);
    if (!(p.mode == Mode::hat && target == p.blank[0])) label = acc(z[target]) - offset;
  }
  p.norm[(b * p.frames + t) * p.rows + k] = norm;
  if (k < p.label_rows) p.label.at(b, t, k) = label;
  for (int j = 0; j < p.blanks; ++j) {
    acc blank = -INFINITY;
    if (valid) blank = p.mode == Mode::hat ? -softplus(-acc(z[p.blank[j]])) : acc(z[p.blank[j]]) - offset;
    p.blank_scores[j].at(b, t, k) = blank;
  }
}

template <class scalar_t>
__global__ void __launch_bounds__(kRowThreads) joint_backward_kernel(JointBackward<scalar_t> p) {
  using acc = acc_t<scalar_t>;
  const Row row = row_of(p);
  if (!row.exists) return;
  const int64_t b = row.b, t = row.t, k = row.k, s = row.s;
  const Bounds in = row.in;
  const bool valid = row.valid;
  if (!valid && p.offsets != nullptr) return;
  const int64_t place = p.place(b, t, k, in);
  scalar_t* const grad = p.grad + place;
  acc label = 0, blanks[kMaxBlanks], total = 0;
  bool any = false;
  for (int j = 0; j < kMaxBlanks; ++j) blanks[j] = valid && j < p.blanks ? p.grad_blank[j].at(b, t, k) : acc(0);
  if (valid && s < in.s1 && k < p.label_rows) label = p.grad_label.at(b, t, k);
  total = label;
  any = label != 0;
  for (int j = 0; j < kMaxBlanks; ++j) total += blanks[j], any = any || blanks[j] != 0;
  if (!any) {
    for (int64_t v = threadIdx.x % 32; v < p.classes; v += 32) grad[v] = scalar_t(0.0f);
    return;
  }
  const scalar_t* const z = p.logits + place;
  const acc norm = p.norm[(b * p.frames + t) * p.rows + k];
  const int64_t target = s < in.s1 ? target_of(p, b, s) : -1;
  const bool hat = p.mode == Mode::hat;
  const acc through = p.mode == Mode::softmax ? total : hat ? label : acc(0);
  const acc bound = p.clamp > 0 ? p.clamp * p.reaching(b, in) : acc(0);
  map_row(z, grad, p.classes, [&](int64_t v, scalar_t x) {
    acc d = through == 0 ? acc(0) : -through * Math<scalar_t>::exp_nonpositive(acc(x) - norm);
    if (hat && v == p.blank[0]) {
      const acc sigmoid = Math<acc>::exp_nonpositive(-softplus(-acc(x)));
      d = -label * sigmoid + blanks[0] * (1 - sigmoid);
    }
    if (v == target) d += label;
    for (int j = 0; j < p.blanks && !hat; ++j) d += v == p.blank[j] ? blanks[j] : acc(0);
    if (p.clamp > 0) d = d < -bound ? -bound : d > bound ? bound : d;
    return static_cast<scalar_t>(d);
  });
}

}  // namespace rnnkit::cuda
