// Rows of columns, read and written 16 bytes at a time by a group of lanes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cuda/math.h>
#include <rnnkit/cuda/word.h>

namespace rnnkit::cuda {

constexpr int kRowThreads = 256, kRowWarps = kRowThreads / 32;

template <class scalar_t>
struct alignas(16) Pack {
  static constexpr int kCount = 16 / sizeof(scalar_t), kWidth = sizeof(scalar_t) == 2 ? 2 : 1;
  using W = Word<scalar_t, kWidth>;
  using acc = acc_t<scalar_t>;
  W words[kCount / kWidth];

  __device__ __forceinline__ acc get(int u) const { return words[u / kWidth].get(u % kWidth); }
  __device__ __forceinline__ void set(int u, scalar_t x) { words[u / kWidth].set(u % kWidth, x); }

  template <class F>
  __device__ __forceinline__ void map(F f) {
    RNNKIT_UNROLL
    for (int w = 0; w < kCount / kWidth; ++w) {
      acc values[kWidth];
      RNNKIT_UNROLL
      for (int c = 0; c < kWidth; ++c) values[c] = f(words[w].get(c));
      words[w] = W::rounded(values);
    }
  }
};

// `count` columns from `start` on, in packs that lie at multiples of 16 bytes: the first and the last may be partly outside.
template <class T>
struct Columns {
  using scalar_t = std::remove_const_t<T>;
  using P = Pack<scalar_t>;
  T* start;
  int count, before, packs;

  __device__ __forceinline__ Columns(T* start, int count)
      : start(start),
        count(count),
        before(int(reinterpret_cast<uintptr_t>(start) % 16 / sizeof(T))),
        packs(count > 0 ? (before + count + P::kCount - 1) / P::kCount : 0) {}

  __device__ __forceinline__ int column(int pack) const { return pack * P::kCount - before; }
  __device__ __forceinline__ bool whole(int column) const { return column >= 0 && column + P::kCount <= count; }

  // -inf where there is no column, also beyond the last pack.
  __device__ __forceinline__ P load(int pack) const {
    const int v = column(pack);
    if (whole(v)) return *reinterpret_cast<const P*>(start + v);
    P result;
    RNNKIT_UNROLL
    for (int u = 0; u < P::kCount; ++u) result.set(u, v + u >= 0 && v + u < count ? start[v + u] : scalar_t(-INFINITY));
    return result;
  }

  __device__ __forceinline__ void store(int pack, const P& from) const {
    const int v = column(pack);
    if (whole(v)) {
      *reinterpret_cast<P*>(start + v) = from;
      return;
    }
    RNNKIT_UNROLL
    for (int u = 0; u < P::kCount; ++u)
      if (v + u >= 0 && v + u < count) start[v + u] = static_cast<scalar_t>(from.get(u));
  }
};

// f(v, z[v]) for the columns of this lane of a warp.
template <class scalar_t, class F>
__device__ __forceinline__ void for_row(const scalar_t* z, int count, F f) {
  const Columns<const scalar_t> columns(z, count);
  for (int pack = threadIdx.x % 32; pack < columns.packs; pack += 32) {
    const Pack<scalar_t> values = columns.load(pack);
    const int v = columns.column(pack);
    RNNKIT_UNROLL
    for (int u = 0; u < Pack<scalar_t>::kCount; ++u)
      if (v + u >= 0 && v + u < count) f(v + u, values.get(u));
  }
}

// Over groups of kLanes neighbouring lanes; all of the warp come here.
template <int kLanes, class acc>
__device__ __forceinline__ acc group_total(acc x) {
  RNNKIT_UNROLL
  for (int delta = kLanes / 2; delta > 0; delta /= 2) x += __shfl_xor_sync(~0u, x, delta);
  return x;
}

template <int kLanes, class acc>
__device__ __forceinline__ acc group_most(acc x) {
  RNNKIT_UNROLL
  for (int delta = kLanes / 2; delta > 0; delta /= 2) {
    const acc other = __shfl_xor_sync(~0u, x, delta);
    x = other > x ? other : x;
  }
  return x;
}

// e^x for x <= 0 in two instructions. The product's rounding costs |x| e^x digits: least where it counts.
__device__ __forceinline__ float short_exp(float x) { return approximate_exp2(x * 1.44269504f); }
__device__ __forceinline__ double short_exp(double x) { return ::exp(x); }

// log of a sum of exponentials whose terms come a few at a time: a maximum, and the sum relative to it.
template <class acc>
struct LogSum {
  acc most = -INFINITY, sum = 0;

  // get(i): the terms, count of them
  template <int count, class F>
  __device__ __forceinline__ void add(F get) {
    acc now = most;
    RNNKIT_UNROLL
    for (int i = 0; i < count; ++i) now = get(i) > now ? get(i) : now;
    const acc shift = now == -INFINITY ? acc(0) : now;
    acc total = sum * short_exp(most - shift);
    RNNKIT_UNROLL
    for (int i = 0; i < count; ++i) total += short_exp(get(i) - shift);
    most = now;
    sum = total;
  }

  // Of all lanes of a group of kLanes; all of the warp come here.
  template <int kLanes>
  __device__ __forceinline__ acc value() const {
    const acc all = group_most<kLanes>(most), shift = all == -INFINITY ? acc(0) : all;
    const acc total = group_total<kLanes>(sum * short_exp(most - shift));
    if constexpr (sizeof(acc) == 4) return all + logf(total);
    return all + ::log(total);
  }
};

}  // namespace rnnkit::cuda
