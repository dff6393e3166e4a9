// Vectors of floats or doubles and their elementary functions, for one instruction set (see foreach_target.h).
// `Math<T>::V` is a compiler vector: + - * / and comparisons are its own, `select` chooses by lane.
// Accuracy, fp32: exp 1.2 ulp, expm1 and log1p 2.3, sigmoid 2.2, tanh 2.9, log 0.9, sin and cos 1.7, sqrt exact (held by
// tests/common/test_math.py); fp64: 1e-15.
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_CPU_MATH_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_CPU_MATH_H
#undef RNNKIT_CPU_MATH_H
#else
#define RNNKIT_CPU_MATH_H
#endif

#include <rnnkit/target.h>

namespace rnnkit::RNNKIT_TARGET {

// 1 / i!
struct InverseFactorials {
  double at[20] = {1};
  constexpr InverseFactorials() {
    double factorial = 1;
    for (int i = 1; i < 20; ++i) {
      factorial *= i;
      at[i] = 1 / factorial;
    }
  }
};
inline constexpr InverseFactorials kInverseFactorials;

template <class T>
struct Format;

template <>
struct Format<float> {
  using Bits = int32_t;
  static constexpr int kMantissa = 23;
  static constexpr int kExpTerms = 7, kLogTerms = 5, kSinTerms = 9;  // of the series below, for 2^-24
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr float kMinExp = -87.0f, kMaxExp = 88.72283f;
  static constexpr float kHalfPi[3] = {1.5703125f, 4.837512969970703125e-4f, 7.54978995489188216e-8f};  // their sum
  static constexpr float kMaxSin = 8192.0f;
};

template <>
struct Format<double> {
  using Bits = int64_t;
  static constexpr int kMantissa = 52;
  static constexpr int kExpTerms = 13, kLogTerms = 11, kSinTerms = 17;
  static constexpr double kRound = 6755399441055744.0;
  static constexpr double kLn2High = 0.693147180369123816490, kLn2Low = 1.90821492927058770002e-10;
  static constexpr double kMinExp = -708.0, kMaxExp = 709.782712893384;
  static constexpr double kHalfPi[3] = {1.57079625129699707031, 7.54978941586159635335e-8, 5.39030285815811905290e-15};
  static constexpr double kMaxSin = 1e5;
};

template <class T>
struct Math {
  using Scalar = T;
  using F = Format<T>;
  using Bits = typename F::Bits;
  static constexpr int kLanes = RNNKIT_VECTOR_BYTES / sizeof(T);
  typedef T V __attribute__((vector_size(RNNKIT_VECTOR_BYTES)));
  typedef Bits I __attribute__((vector_size(RNNKIT_VECTOR_BYTES)));

  typedef std::make_unsigned_t<Bits> Unsigned;
  typedef Unsigned U __attribute__((vector_size(RNNKIT_VECTOR_BYTES)));

  static RNNKIT_INLINE V set(T x) { return V{} + x; }
  static RNNKIT_INLINE V select(I mask, V a, V b) { return mask ? a : b; }
  static RNNKIT_INLINE V abs(V x) { return V(I(x) & std::numeric_limits<Bits>::max()); }
  static RNNKIT_INLINE V copysign(V x, V sign) {
    return V((I(x) & std::numeric_limits<Bits>::max()) | (I(sign) & std::numeric_limits<Bits>::min()));
  }
  // Of 1 <= x <= 4. AVX-512 divides floats at 16 cycles a vector; an estimate and a Newton step are as good, at 4.
  static RNNKIT_INLINE V reciprocal(V x) {
#if RNNKIT_X86 && RNNKIT_VECTOR_BYTES == 64
    if constexpr (sizeof(T) == 4) {
      const V estimate = V(_mm512_rcp14_ps(__m512(x)));
      return estimate + estimate * (T(1) - x * estimate);
    }
#endif
    return T(1) / x;
  }

  // e^r - 1 = sum of r^i/i!, for |r| <= ln(2)/2.
  static RNNKIT_INLINE V expm1_reduced(V r) {
    V sum = set(T(kInverseFactorials.at[F::kExpTerms]));
#pragma GCC unroll 16
    for (int i = F::kExpTerms - 1; i > 0; --i) sum = sum * r + T(kInverseFactorials.at[i]);
    return sum * r;
  }

  // x = n ln(2) + r, for kMinExp <= x <= kMaxExp.
  static RNNKIT_INLINE void reduce(V x, V& expm1_r, I& n) {
    const V shifted = x * T(1.4426950408889634) + F::kRound;
    n = I(shifted) - I(set(F::kRound));
    const V k = shifted - F::kRound;
    expm1_r = expm1_reduced((x - k * F::kLn2High) - k * F::kLn2Low);
  }

  static RNNKIT_INLINE V sqrt(V x) {
    V y;
    for (int i = 0; i < kLanes; ++i) y[i] = std::sqrt(x[i]);
    return y;
  }

  static RNNKIT_INLINE V scale_by_power(V x, I n) { return V(I(x) + (n << F::kMantissa)); }

  // -|x|
  static RNNKIT_INLINE V negative_abs(V x) { return V(I(x) | std::numeric_limits<Bits>::min()); }

  // e^x for x <= 0; a result below the smallest normal number is returned as about that number. NaN stays NaN.
  static RNNKIT_INLINE V exp_nonpositive(V x) {
#if RNNKIT_X86 && RNNKIT_VECTOR_BYTES == 64
    if constexpr (sizeof(T) == 4) {  // the same in 13 instructions instead of 18: it dominates the kernels
      const V bounded = V(_mm512_max_ps(__m512(set(F::kMinExp)), __m512(x)));  // x where x is NaN
      const V k = V(_mm512_roundscale_ps(__m512(bounded * T(1.4426950408889634)), _MM_FROUND_TO_NEAREST_INT));
      return V(_mm512_scalef_ps(__m512(expm1_reduced((bounded - k * F::kLn2High) - k * F::kLn2Low) + T(1)), __m512(k)));
    }
#endif
    V expm1_r;
    I n;
    reduce(select(x < F::kMinExp, set(F::kMinExp), x), expm1_r, n);
    return scale_by_power(expm1_r + T(1), n);
  }

  // e^x; results below the smallest normal number are 0, those above the largest are infinite.
  static RNNKIT_INLINE V exp(V x) {
    V clamped = select(x < F::kMinExp, set(F::kMinExp), x);
    clamped = select(clamped > F::kMaxExp, set(F::kMaxExp), clamped);
    V expm1_r;
    I n;
    reduce(clamped, expm1_r, n);
    const I half = n >> 1;  // in two steps, because 2^n itself may overflow where the result does not
    V y = scale_by_power(expm1_r + T(1), half) * scale_by_power(set(1), n - half);
    y = select(x < F::kMinExp, set(0), y);
    return select(x > F::kMaxExp, set(std::numeric_limits<T>::infinity()), y);
  }

  // e^x - 1, which keeps its relative accuracy around 0.
  static RNNKIT_INLINE V expm1(V x) {
    V clamped = select(x < F::kMinExp, set(F::kMinExp), x);
    clamped = select(clamped > F::kMaxExp, set(F::kMaxExp), clamped);
    V expm1_r;
    I n;
    reduce(clamped, expm1_r, n);
    const I half = n >> 1;
    const V power = scale_by_power(set(1), half), rest = scale_by_power(set(1), n - half);
    const V near = power * rest * expm1_r + (power * rest - T(1));
    const V y = select(n > 64, power * (expm1_r + T(1)) * rest, near);  // where 2^n would overflow
    return select(x > F::kMaxExp, set(std::numeric_limits<T>::infinity()), y);
  }

  static RNNKIT_INLINE V sigmoid(V x) {
    const V e = exp_nonpositive(negative_abs(x));
    return select(x >= T(0), set(1), e) / (T(1) + e);
  }

  // tanh |x| = m / (m + 2) with m = e^2|x| - 1, which keeps its relative accuracy down to 0.
  static RNNKIT_INLINE V tanh(V x) {
    const V twice = abs(x) * T(2);
    const T saturated = sizeof(T) == 4 ? T(18) : T(40);  // tanh is 1 to the last bit beyond it
    V expm1_r;
    I n;
    reduce(select(twice > saturated, set(saturated), twice), expm1_r, n);
    const V power = scale_by_power(set(1), n);
    const V m = power * expm1_r + (power - T(1));
    return copysign(m / (m + T(2)), x);
  }

  static RNNKIT_INLINE V sin(V x) { return sin_of_turned(x, 0); }
  static RNNKIT_INLINE V cos(V x) { return sin_of_turned(x, 1); }

  // log x = e ln(2) + 2 atanh(s), s = (m-1)/(m+1), with x = 2^e m and m in [sqrt(1/2), sqrt(2)). Subnormals count as 0.
  static RNNKIT_INLINE V log(V x) {
    const I bits = I(x);
    const Bits sqrt_half = Bits(I(set(T(0.70710678118654752)))[0]);
    const I e = (bits - sqrt_half) >> F::kMantissa;
    const V m = V(bits - (e << F::kMantissa));
    const V k = __builtin_convertvector(e, V);
    const V f = m - T(1);
    const V s = f / (m + T(1)), s2 = s * s;
    V sum = set(T(2) / T(2 * F::kLogTerms + 1));
#pragma GCC unroll 16
    for (int i = F::kLogTerms - 1; i > 0; --i) sum = sum * s2 + T(2) / T(2 * i + 1);
    // 2s = f - s f: the leading term is then exact but for one rounding
    V y = f - (s * (f - s2 * sum) - k * F::kLn2Low) + k * F::kLn2High;
    y = select(x < std::numeric_limits<T>::min(), set(-std::numeric_limits<T>::infinity()), y);
    y = select(x == std::numeric_limits<T>::infinity(), x, y);
    return select(x >= T(0), y, set(std::numeric_limits<T>::quiet_NaN()));
  }

  // log(1 + x) for x >= 0, which keeps its relative accuracy down to 0: the rounding of 1 + x is in both factors.
  static RNNKIT_INLINE V log1p(V x) {
    const V sum = T(1) + x, added = sum - T(1);
    return select(added > T(0), log(sum) * (x / select(added > T(0), added, set(1))), x);
  }

  // first, first + 1, ...
  static RNNKIT_INLINE U count_from(uint32_t first) {
    U lanes;
    for (int i = 0; i < kLanes; ++i) lanes[i] = i;
    return lanes + first;
  }

  // Both halves of the 64-bit product of 32-bit numbers (which doubles keep in lanes of 64 bits).
  static RNNKIT_INLINE void multiply_wide(U x, uint32_t m, U& low, U& high) {
    typedef uint64_t Wide __attribute__((vector_size(RNNKIT_VECTOR_BYTES)));
    const Wide even = multiply_even(Wide(x), m);
    if constexpr (sizeof(T) == 8) {
      low = U(even & 0xffffffffu);
      high = U(even >> 32);
    } else {
      const Wide odd = multiply_even(Wide(x) >> 32, m);
      low = U((even & 0xffffffffu) | (odd << 32));
      high = U((even >> 32) | (odd & ~Wide{} << 32));
    }
  }

  // The first n lanes from memory; the rest are 0. Storage type S is T itself, or a 16-bit type whose T is float.
  template <class S>
  static RNNKIT_INLINE V load(const S* from, int n = kLanes) {
    if (n == kLanes) return load_all(from);
    S padded[kLanes] = {};
    std::memcpy(padded, from, n * sizeof(S));
    return load_all(padded);
  }

  // A store that leaves the caches alone, where the instruction set has one for this type and the address is aligned.
  // `finish_streams` must follow before another thread reads.
  template <class S>
  static RNNKIT_INLINE void stream(S* to, V x, int n) {
#if RNNKIT_X86 && RNNKIT_VECTOR_BYTES == 64
    if constexpr (std::is_same_v<S, float>) {
      if (n == kLanes && reinterpret_cast<uintptr_t>(to) % 64 == 0) return _mm512_stream_ps(to, __m512(x));
    }
#endif
    store(to, x, n);
  }

  static RNNKIT_INLINE void finish_streams() {
#if RNNKIT_X86
    _mm_sfence();
#endif
  }

  // Lane l of x[m] is from[l * k + m]; otherwise as `load`.
  template <class S, int k>
  static RNNKIT_INLINE void load_interleaved(const S* from, V (&x)[k], int n) {
    S padded[k * kLanes] = {};
    if (n < kLanes) from = static_cast<const S*>(std::memcpy(padded, from, n * k * sizeof(S)));
    V in[k];
    for (int q = 0; q < k; ++q) in[q] = load_all(from + q * kLanes);
    deinterleave(in, x, std::make_integer_sequence<int, k>());
  }

  template <class S, int k>
  static RNNKIT_INLINE void store_interleaved(S* to, const V (&x)[k], int n) {
    V out[k];
    interleave(x, out, std::make_integer_sequence<int, k>());
    if (n == kLanes) {
      for (int q = 0; q < k; ++q) store_all(to + q * kLanes, out[q]);
    } else {
      S padded[k * kLanes];
      for (int q = 0; q < k; ++q) store_all(padded + q * kLanes, out[q]);
      std::memcpy(to, padded, n * k * sizeof(S));
    }
  }

  template <class S>
  static RNNKIT_INLINE void store(S* to, V x, int n = kLanes) {
    if (n == kLanes) return store_all(to, x);
    S padded[kLanes];
    store_all(padded, x);
    std::memcpy(to, padded, n * sizeof(S));
  }

 private:
  typedef uint16_t U16 __attribute__((vector_size(RNNKIT_VECTOR_BYTES / 2)));
  typedef uint32_t U32 __attribute__((vector_size(RNNKIT_VECTOR_BYTES)));
  static constexpr std::make_integer_sequence<int, kLanes> kAllLanes{};

  // sin(x + quarters pi/2) = +-sin r or +-cos r, with x = n pi/2 + r and |r| <= pi/4.
  static RNNKIT_INLINE V sin_of_turned(V x, Bits quarters) {
    const V shifted = x * T(0.63661977236758134) + F::kRound;
    const V k = shifted - F::kRound;
    const V r = ((x - k * F::kHalfPi[0]) - k * F::kHalfPi[1]) - k * F::kHalfPi[2];
    const V r2 = r * r;
    V odd = set(sin_coefficient(F::kSinTerms)), even = set(sin_coefficient(F::kSinTerms + 1));
#pragma GCC unroll 16
    for (int i = F::kSinTerms - 2; i > 1; i -= 2) {
      odd = odd * r2 + sin_coefficient(i);
      even = even * r2 + sin_coefficient(i + 1);
    }
    even = even * r2 + sin_coefficient(2);
    const I n = I(shifted) - I(set(F::kRound)) + quarters;
    V y = select((n & 1) == 0, r + (r * r2) * odd, even * r2 + T(1));  // the leading terms exact but for one rounding
    y = V(I(y) ^ ((n & 2) << (8 * sizeof(T) - 2)));
    const I far = ~(abs(x) <= F::kMaxSin);  // NaN and infinity too
    for (int i = 0; i < kLanes; ++i)
      if (far[i]) y[i] = quarters == 0 ? std::sin(x[i]) : std::cos(x[i]);
    return y;
  }

  // Of r^i in the series of sin r (odd i) and cos r (even i).
  static constexpr T sin_coefficient(int i) { return T(i / 2 % 2 ? -kInverseFactorials.at[i] : kInverseFactorials.at[i]); }

  // Lane l is lane Index::at(l) of the 2 * kLanes of a and b.
  template <class Index, int... l>
  static RNNKIT_INLINE V shuffle(V a, V b, std::integer_sequence<int, l...>) {
#ifdef __clang__
    return __builtin_shufflevector(a, b, Index::at(l)...);
#else
    return __builtin_shuffle(a, b, I{Index::at(l)...});
#endif
  }

  // The lanes of plane m, of k, that the q-th vector has, join those of the vectors before.
  template <int k, int m, int q>
  struct FromVector {
    static constexpr int at(int lane) {
      const int from = lane * k + m;
      return from / kLanes == q ? kLanes + from % kLanes : q == 1 && from < kLanes ? from : lane;
    }
  };

  template <int k, int m, int q>
  static RNNKIT_INLINE V gather_plane(const V (&in)[k], V sofar) {
    if constexpr (q == k)
      return sofar;
    else
      return gather_plane<k, m, q + 1>(in, shuffle<FromVector<k, m, q>>(sofar, in[q], kAllLanes));
  }

  template <int k, int... m>
  static RNNKIT_INLINE void deinterleave(const V (&in)[k], V (&x)[k], std::integer_sequence<int, m...>) {
    ((x[m] = gather_plane<k, m, 1>(in, in[0])), ...);
  }

  // The lanes of plane m that the q-th vector, of k, needs join those of the planes before.
  template <int k, int q, int m>
  struct FromPlane {
    static constexpr int at(int lane) {
      const int to = q * kLanes + lane;
      return to % k == m ? kLanes + to / k : m == 1 && to % k == 0 ? to / k : lane;
    }
  };

  template <int k, int q, int m>
  static RNNKIT_INLINE V gather_vector(const V (&x)[k], V sofar) {
    if constexpr (m == k)
      return sofar;
    else
      return gather_vector<k, q, m + 1>(x, shuffle<FromPlane<k, q, m>>(sofar, x[m], kAllLanes));
  }

  template <int k, int... q>
  static RNNKIT_INLINE void interleave(const V (&x)[k], V (&out)[k], std::integer_sequence<int, q...>) {
    ((out[q] = gather_vector<k, q, 1>(x, x[0])), ...);
  }

  // The low 32 bits of each 64, times m. (Compilers do not see that a full 64-bit product is not needed.)
  template <class Wide>
  static RNNKIT_INLINE Wide multiply_even(Wide x, uint32_t m) {
    const Wide factor = Wide{} + m;
#if RNNKIT_X86 && RNNKIT_VECTOR_BYTES == 64
    return Wide(_mm512_mul_epu32(__m512i(x), __m512i(factor)));
#elif RNNKIT_X86 && RNNKIT_VECTOR_BYTES == 32
    return Wide(_mm256_mul_epu32(__m256i(x), __m256i(factor)));
#elif RNNKIT_X86
    return Wide(_mm_mul_epu32(__m128i(x), __m128i(factor)));
#elif RNNKIT_NEON
    return Wide(vmull_n_u32(vmovn_u64(uint64x2_t(x)), m));
#else
    return (x & 0xffffffffu) * factor;
#endif
  }

  static RNNKIT_INLINE V load_all(const T* from) {
    V x;
    std::memcpy(&x, from, sizeof(x));
    return x;
  }

  static RNNKIT_INLINE void store_all(T* to, V x) { std::memcpy(to, &x, sizeof(x)); }

  static RNNKIT_INLINE V load_all(const BFloat16* from) {
#if RNNKIT_NEON
    return V(vshll_n_u16(vld1_u16(reinterpret_cast<const uint16_t*>(from)), 16));
#else
    U16 half;
    std::memcpy(&half, from, sizeof(half));
    return V(__builtin_convertvector(half, U32) << 16);
#endif
  }

  static RNNKIT_INLINE void store_all(BFloat16* to, V x) {  // round to nearest, ties to even
    const U32 bits = U32(x);
    const U32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const U16 half = __builtin_convertvector(U32(x == x) ? rounded : (bits >> 16) | 0x40u, U16);
    std::memcpy(to, &half, sizeof(half));
  }

  static RNNKIT_INLINE V load_all(const Half* from) {
#if RNNKIT_F16C && RNNKIT_VECTOR_BYTES == 64
    return V(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#elif RNNKIT_F16C
    return V(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#elif RNNKIT_NEON
    return V(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const uint16_t*>(from)))));
#else
    V x;
    for (int i = 0; i < kLanes; ++i) x[i] = static_cast<float>(from[i]);
    return x;
#endif
  }

  static RNNKIT_INLINE void store_all(Half* to, V x) {
#if RNNKIT_F16C && RNNKIT_VECTOR_BYTES == 64
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(__m512(x), _MM_FROUND_TO_NEAREST_INT));
#elif RNNKIT_F16C
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(__m256(x), _MM_FROUND_TO_NEAREST_INT));
#elif RNNKIT_NEON
    vst1_u16(reinterpret_cast<uint16_t*>(to), vreinterpret_u16_f16(vcvt_f16_f32(float32x4_t(x))));
#else
    for (int i = 0; i < kLanes; ++i) to[i] = static_cast<Half>(static_cast<float>(x[i]));
#endif
  }
};

}  // namespace rnnkit::RNNKIT_TARGET

#endif
