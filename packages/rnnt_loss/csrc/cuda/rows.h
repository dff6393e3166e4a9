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

// `count` columns from `start` on: whole packs at multiples of 16 bytes, and fewer than a pack at either end.
template <class T>
struct Columns {
  using scalar_t = std::remove_const_t<T>;
  using P = Pack<scalar_t>;
  T* start;
  int count, head, packs;

  __device__ __forceinline__ Columns(T* start, int count) : start(start), count(count) {
    const int aligned = int((16 - reinterpret_cast<uintptr_t>(start) % 16) % 16 / sizeof(T));
    head = aligned < count ? aligned : count;
    packs = (count - head) / P::kCount;
  }

  __device__ __forceinline__ int column(int pack) const { return head + pack * P::kCount; }
  __device__ __forceinline__ int edges() const { return count - packs * P::kCount; }
  __device__ __forceinline__ int edge(int i) const { return i < head ? i : i + packs * P::kCount; }

  __device__ __forceinline__ P load(int pack) const { return *reinterpret_cast<const P*>(start + column(pack)); }
  __device__ __forceinline__ void store(int pack, const P& from) const {
    *reinterpret_cast<P*>(start + column(pack)) = from;
  }

  // -inf where there is no such pack.
  __device__ __forceinline__ P load_if(int pack) const {
    if (pack < packs) return load(pack);
    P none;
    RNNKIT_UNROLL
    for (int u = 0; u < P::kCount; ++u) none.set(u, scalar_t(-INFINITY));
    return none;
  }
};

// f(v, z[v]) for the columns of this lane of a warp.
template <class scalar_t, class F>
__device__ __forceinline__ void for_row(const scalar_t* z, int count, F f) {
  const Columns<const scalar_t> columns(z, count);
  const int lane = threadIdx.x % 32;
  for (int pack = lane; pack < columns.packs; pack += 32) {
    const Pack<scalar_t> values = columns.load(pack);
    RNNKIT_UNROLL
    for (int u = 0; u < Pack<scalar_t>::kCount; ++u) f(columns.column(pack) + u, values.get(u));
  }
  for (int i = lane; i < columns.edges(); i += 32) f(columns.edge(i), acc_t<scalar_t>(z[columns.edge(i)]));
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

// Powers: of 2, in whose logarithm a float takes one product and sum, or of e.
template <class acc>
struct Powers;

template <>
struct Powers<float> {
  static constexpr float kScale = 1.44269504f;  // log2 of e
  static __device__ __forceinline__ float power(float x) { return approximate_exp2(x); }
  static __device__ __forceinline__ float scaled(float x, float shift) { return fmaf(x, kScale, -shift); }
  static __device__ __forceinline__ float log_of(float shift,
                                                 float sum) {  // of sum * power(shift); one double, for its digits
    return float(double(shift) * (1 / double(kScale)) + double(logf(sum)));
  }
};

template <>
struct Powers<double> {
  static constexpr double kScale = 1;
  static __device__ __forceinline__ double power(double x) { return ::exp(x); }
  static __device__ __forceinline__ double scaled(double x, double shift) { return x - shift; }
  static __device__ __forceinline__ double log_of(double shift, double sum) { return shift + ::log(sum); }
};

// e^(x - shift) for many x, but for a factor that makes up for how shift's logarithm was rounded.
template <class acc>
struct ShiftedPower {
  acc shift, factor;

  __device__ __forceinline__ explicit ShiftedPower(acc of)
      : shift(of * Powers<acc>::kScale), factor(Powers<acc>::power(-Powers<acc>::scaled(of, shift))) {}

  __device__ __forceinline__ acc operator()(acc x) const { return Powers<acc>::power(Powers<acc>::scaled(x, shift)); }
};

// log of a sum of exponentials whose terms come a few at a time: the largest, scaled, and the sum relative to it.
template <class acc>
struct LogSum {
  using B = Powers<acc>;
  acc most = -INFINITY, sum = 0;

  // get(i): the terms, count of them
  template <int count, class F>
  __device__ __forceinline__ void add(F get) {
    acc largest = get(0);
    RNNKIT_UNROLL
    for (int i = 1; i < count; ++i) largest = get(i) > largest ? get(i) : largest;
    largest *= B::kScale;
    const acc now = largest > most ? largest : most, shift = now == -INFINITY ? acc(0) : now;
    sum *= B::power(most - shift);
    RNNKIT_UNROLL
    for (int i = 0; i < count; ++i) sum += B::power(B::scaled(get(i), shift));
    most = now;
  }

  // Of all lanes of a group of kLanes; all of the warp come here.
  template <int kLanes>
  __device__ __forceinline__ acc value() const {
    const acc all = group_most<kLanes>(most), shift = all == -INFINITY ? acc(0) : all;
    return B::log_of(shift, group_total<kLanes>(sum * B::power(most - shift)));
  }
};

}  // namespace rnnkit::cuda
