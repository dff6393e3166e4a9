// Small matrix products (product.h) on one thread, for one instruction set. Those that are so small cost less than what a
// library does before and after. Tiles of the result stay in registers, whatever the strides; columns of b that are no
// neighbours are packed first.
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_CPU_PRODUCT_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_CPU_PRODUCT_H
#undef RNNKIT_CPU_PRODUCT_H
#else
#define RNNKIT_CPU_PRODUCT_H
#endif

#include <rnnkit/cpu/math.h>
#include <rnnkit/product.h>

namespace rnnkit::RNNKIT_TARGET {

// Four rows by four columns, exchanged.
template <class T>
struct Square {
  using Bits = typename Format<T>::Bits;
  typedef T V __attribute__((vector_size(4 * sizeof(T))));
  typedef Bits I __attribute__((vector_size(4 * sizeof(T))));
  V rows[4];

  template <Bits a, Bits b, Bits c, Bits d>
  static RNNKIT_INLINE V choose(V x, V y) {
#ifdef __clang__
    return __builtin_shufflevector(x, y, a, b, c, d);
#else
    return __builtin_shuffle(x, y, I{a, b, c, d});
#endif
  }

  RNNKIT_INLINE Square transposed() const {
    const V low01 = choose<0, 4, 1, 5>(rows[0], rows[1]), high01 = choose<2, 6, 3, 7>(rows[0], rows[1]);
    const V low23 = choose<0, 4, 1, 5>(rows[2], rows[3]), high23 = choose<2, 6, 3, 7>(rows[2], rows[3]);
    return {{choose<0, 1, 4, 5>(low01, low23), choose<2, 3, 6, 7>(low01, low23), choose<0, 1, 4, 5>(high01, high23),
             choose<2, 3, 6, 7>(high01, high23)}};
  }
};

// b's columns [n, K] from c on, as rows [K, `panel`].
template <class T>
void pack(const Matrix<const T>& b, int64_t c, int n, int panel, T* packed) {
  const int64_t depth = b.columns;
  int whole = 0;  // columns that were packed four by four
  int64_t deep = 0;
  if (b.column_stride == 1) {
    deep = depth / 4 * 4;
    for (; whole + 4 <= n; whole += 4)
      for (int64_t k = 0; k < deep; k += 4) {
        Square<T> square;
        for (int i = 0; i < 4; ++i) std::memcpy(&square.rows[i], b.at(c + whole + i, k), sizeof(square.rows[i]));
        square = square.transposed();
        for (int i = 0; i < 4; ++i) std::memcpy(packed + (k + i) * panel + whole, &square.rows[i], sizeof(square.rows[i]));
      }
  }
  for (int j = 0; j < n; ++j)
    for (int64_t k = j < whole ? deep : 0; k < depth; ++k) packed[k * panel + j] = *b.at(c + j, k);
}

// R rows and W vectors of columns, n columns in all, from (r, c) on; b is [K, W vectors], its rows `b_stride` apart.
template <int R, int W, class T>
void multiply_tile(const Product<T>& p, int64_t r, int64_t c, int n, const T* b, int64_t b_stride) {
  using M = Math<T>;
  constexpr int kLanes = M::kLanes;
  const auto width = [&](int w) { return std::min(std::max(n - w * kLanes, 0), kLanes); };
  typename M::V sums[R][W];
  for (int w = 0; w < W; ++w) {
    const auto bias = p.bias != nullptr ? M::load(p.bias + c + w * kLanes, width(w)) : M::set(0);
    for (int i = 0; i < R; ++i) sums[i][w] = p.adds ? M::load(p.out.at(r + i, c + w * kLanes), width(w)) : bias;
  }
  for (int64_t k = 0; k < p.a.columns; ++k) {
    typename M::V row[W];
    for (int w = 0; w < W; ++w) row[w] = M::load(b + k * b_stride + w * kLanes);
    for (int i = 0; i < R; ++i) {
      const T factor = *p.a.at(r + i, k);
      for (int w = 0; w < W; ++w) sums[i][w] += factor * row[w];
    }
  }
  for (int i = 0; i < R; ++i)
    for (int w = 0; w < W; ++w) M::store(p.out.at(r + i, c + w * kLanes), sums[i][w], width(w));
}

// W vectors of columns from c on, of all rows, R of them at a time.
template <int R, int W, class T>
int64_t multiply_rows(const Product<T>& p, int64_t first, int64_t c, int n, const T* b, int64_t b_stride) {
  int64_t r = first;
  for (; r + R <= p.out.rows; r += R) multiply_tile<R, W>(p, r, c, n, b, b_stride);
  return r;
}

template <int W, class T>
void multiply_in_panels(const Product<T>& p) {
  using M = Math<T>;
  constexpr int kPanel = W * M::kLanes;
  constexpr int kRows = RNNKIT_VECTOR_BYTES == 64 ? 8 : 4;
  const int64_t depth = p.a.columns;
  std::unique_ptr<T[]> packed;
  for (int64_t c = 0; c < p.out.columns; c += kPanel) {
    const int n = int(std::min<int64_t>(kPanel, p.out.columns - c));
    const T* b = p.b.at(c, 0);
    int64_t b_stride = p.b.column_stride;
    if (p.b.row_stride != 1 || n < kPanel) {
      if (!packed) packed = std::make_unique<T[]>(depth * kPanel);
      pack(p.b, c, n, kPanel, packed.get());
      b = packed.get();
      b_stride = kPanel;
    }
    int64_t r = 0;
    if constexpr (W <= 2) r = multiply_rows<kRows, W>(p, r, c, n, b, b_stride);
    r = multiply_rows<2, W>(p, r, c, n, b, b_stride);
    multiply_rows<1, W>(p, r, c, n, b, b_stride);
  }
}

// Where there are few rows, and k is what lies together in both: each value is a sum of products of vectors.
template <class T>
void multiply_along_depth(const Product<T>& p) {
  using M = Math<T>;
  constexpr int kTogether = 4;
  const int64_t depth = p.a.columns;
  for (int64_t r = 0; r < p.out.rows; ++r)
    for (int64_t c = 0; c < p.out.columns; c += kTogether) {
      const int count = int(std::min<int64_t>(kTogether, p.out.columns - c));
      typename M::V sums[kTogether] = {};
      for (int64_t k = 0; k < depth; k += M::kLanes) {
        const int n = int(std::min<int64_t>(M::kLanes, depth - k));
        const auto a = M::load(p.a.at(r, k), n);
        for (int j = 0; j < count; ++j) sums[j] += a * M::load(p.b.at(c + j, k), n);
      }
      for (int j = 0; j < count; ++j) {
        T sum = p.adds ? *p.out.at(r, c + j) : p.bias != nullptr ? p.bias[c + j] : T(0);
        for (int lane = 0; lane < M::kLanes; ++lane) sum += sums[j][lane];
        *p.out.at(r, c + j) = sum;
      }
    }
}

template <class T>
void multiply(const Product<T>& p) {
  constexpr int64_t kFewRows = 4;
  if (p.out.rows >= kFewRows) return multiply_in_panels<2>(p);
  if (p.a.column_stride == 1 && p.b.column_stride == 1) return multiply_along_depth(p);
  multiply_in_panels<4>(p);
}

}  // namespace rnnkit::RNNKIT_TARGET

#endif
