// What the ops share: sequences, nodes, and the types of scores. What is checked in here and beside it keeps memory safe;
// the Python layer checks first, and in the user's words. SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/dispatch.h>
#include <rnnkit/tensors.h>
#include <torch/csrc/stable/library.h>

#include <optional>
#include <string>
#include <vector>

#include "../problem.h"

namespace rnnkit {

using MaybeTensor = std::optional<Tensor>;
using Ints = std::vector<int64_t>;

inline ScalarType acc_type(const Tensor& t) { return accumulate_type(t.scalar_type()); }

// Calls f(TypeTag<scalar_t>{}) for the type of scores and occupancies.
template <class F>
void dispatch_scores(ScalarType dtype, F&& f) {
  STD_TORCH_CHECK(dtype == ScalarType::Double || dtype == ScalarType::Float, "scores: expected float32 or float64");
  return dtype == ScalarType::Double ? f(TypeTag<double>{}) : f(TypeTag<float>{});
}

// Null means absent, which the pointer of an empty tensor may be too.
inline const int64_t* present(const Tensor* t) {
  static const int64_t nothing = 0;
  return t == nullptr ? nullptr : t->numel() == 0 ? &nothing : t->const_data_ptr<int64_t>();
}
inline const int64_t* present(const MaybeTensor& t) { return present(t ? &*t : nullptr); }

inline void fill_sequences(Sequences& p, const Tensor& like, int64_t batch, int64_t frames, int64_t symbols, int64_t rows,
                           const MaybeTensor& boundary, const MaybeTensor& begin) {
  if (boundary) check_contiguous(*boundary, like, ScalarType::Long, {batch, 4}, "boundary");
  if (begin) check_contiguous(*begin, like, ScalarType::Long, {batch, frames}, "begin");
  STD_TORCH_CHECK(begin ? boundary.has_value() : rows == symbols + 1, "rows: expected S + 1, or a band and a boundary");
  p.batch = batch;
  p.frames = frames;
  p.symbols = symbols;
  p.rows = rows;
  p.boundary = present(boundary);
  p.begin = present(begin);
}

// Which nodes a tensor [n, width] has: all of `frames` frames from the first on, in order, or those of their `places` from
// `row` on.
struct Part {
  const Tensor* places = nullptr;
  int64_t first = 0, frames = 0, row = 0;

  Part() = default;
  Part(const MaybeTensor& places, int64_t first, int64_t frames, int64_t row)
      : places(places ? &*places : nullptr), first(first), frames(frames), row(row) {}
};

inline void fill_chunk(Chunk& p, const Tensor& like, const Part& part) {
  STD_TORCH_CHECK(part.first >= 0 && part.frames >= 0 && part.row >= 0 && part.first <= p.batch * p.frames - part.frames,
                  "first, frames and row: out of range");
  if (part.places != nullptr) check_contiguous(*part.places, like, ScalarType::Long, {p.batch, p.frames, p.rows}, "places");
  p.first = part.first;
  p.count = part.frames;
  p.places = present(part.places);
  p.row = part.row;
  p.n = like.size(0);
  STD_TORCH_CHECK(p.places != nullptr || p.n == p.count * p.rows, "expected ", p.count * p.rows, " nodes, got ", p.n);
}

// Of a tensor [B, T, rows].
template <class T>
Nodes<T> nodes(const Tensor& t) {
  return {static_cast<T*>(t.data_ptr()), t.stride(0), t.stride(1), t.stride(2)};
}

}  // namespace rnnkit
