// A small matrix product, free of tensors: out_rc = sum over k of a_rk b_ck, plus what there is, or plus bias_c.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace rnnkit {

template <class T>
struct Matrix {  // [rows, columns]
  T* data;
  int64_t rows, columns, row_stride, column_stride;

  T* at(int64_t r, int64_t c) const { return data + r * row_stride + c * column_stride; }
  Matrix transposed() const { return {data, columns, rows, column_stride, row_stride}; }
};

template <class T>
struct Product {
  Matrix<const T> a, b;  // [R, K], [C, K]
  Matrix<T> out;         // [R, C], the columns neighbours
  const T* bias;         // [C], or null
  bool adds;             // to what is in `out`
};

}  // namespace rnnkit
