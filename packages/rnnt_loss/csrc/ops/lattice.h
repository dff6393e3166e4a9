// The op `lattice`: sums over all paths.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <tuple>

#include "sequences.h"

namespace rnnkit {

constexpr int64_t kAnySymbols = int64_t(1) << 40;  // a band does not tell how many there are

// Plane i of a tensor [B, N, T, rows], or [B, T, rows], which is one.
template <class T>
Nodes<T> plane(const Tensor& t, int64_t i) {
  if (t.dim() == 3) return nodes<T>(t);
  return {static_cast<T*>(t.data_ptr()) + i * t.stride(1), t.stride(0), t.stride(2), t.stride(3)};
}

inline int64_t planes_of(const Tensor& t) { return t.dim() == 3 ? 1 : t.size(1); }

// From scores [B, NL, T or T + 1, S or r], [B, NB, T, S + 1 or r] into [B] and, if wanted, occupancies of the same shapes.
// One plane may come without its dimension.
template <class Engine>
void sum_paths(const Tensor& label, const Tensor& blank, const Ints& label_durations, const Ints& blank_durations,
               const MaybeTensor& boundary, const MaybeTensor& begin, bool label_end, bool viterbi, bool occupancies,
               const Tensor& score, const Tensor& label_occupancy, const Tensor& blank_occupancy) {
  const auto has_planes = [](const Tensor& t) { return t.dim() == 3 || t.dim() == 4; };
  STD_TORCH_CHECK(has_planes(label) && has_planes(blank), "label and blank: expected 3 or 4 dimensions");
  const int64_t batch = blank.size(0), frames = blank.size(-2), rows = blank.size(-1);
  const int64_t labels = label_durations.size(), blanks = blank_durations.size();
  STD_TORCH_CHECK(labels + blanks <= kMaxArcs && labels > 0 && blanks > 0, "durations: expected 1 to ", kMaxArcs, " in all");
  STD_TORCH_CHECK(label.size(0) == batch && planes_of(label) == labels && planes_of(blank) == blanks,
                  "label and blank: shapes");
  STD_TORCH_CHECK(label.size(-2) == frames || label.size(-2) == frames + 1, "label: expected T or T + 1 frames");
  STD_TORCH_CHECK(label.size(-1) == (begin ? rows : rows - 1), "label: expected one row less than blank, or a band");
  STD_TORCH_CHECK(label.scalar_type() == blank.scalar_type() && same_device(label, blank), "label: dtype or device");
  for (int64_t d : label_durations) STD_TORCH_CHECK(d >= 0 && d < (1 << 20), "label_durations: out of range");
  for (int64_t d : blank_durations) STD_TORCH_CHECK(d > 0 && d < (1 << 20), "blank_durations: out of range");
  const auto run = [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    Lattice<scalar_t> p;
    fill_sequences(p, blank, batch, frames, begin ? kAnySymbols : rows - 1, rows, boundary, begin);
    p.arcs = int(labels + blanks);
    p.max_diagonals = 1;
    for (int i = 0; i < p.arcs; ++i) {
      const bool is_label = i < labels;
      const int64_t j = is_label ? i : i - labels;
      p.kinds[i] = {int((is_label ? label_durations : blank_durations)[j]), is_label};
      p.scores[i] = plane<const scalar_t>(is_label ? label : blank, j);
      p.occupancies[i] =
          occupancies ? plane<scalar_t>(is_label ? label_occupancy : blank_occupancy, j) : Nodes<scalar_t>{nullptr, 0, 0, 0};
      p.max_diagonals = std::max(p.max_diagonals, p.kinds[i].diagonals());
    }
    p.label_frames = label.size(-2);
    p.label_rows = label.size(-1);
    p.label_end = label_end;
    p.keeps = occupancies;
    p.viterbi = viterbi;
    p.score = score.mutable_data_ptr<scalar_t>();
    Engine::run(p, blank);
  };
  dispatch_scores(blank.scalar_type(), run);
}

template <class Engine>
std::tuple<Tensor, Tensor, Tensor> lattice(Tensor label, Tensor blank, Ints label_durations, Ints blank_durations,
                                           MaybeTensor boundary, MaybeTensor begin, bool label_end, bool viterbi,
                                           bool occupancies, double) {
  STD_TORCH_CHECK(blank.dim() > 0, "blank: expected 3 or 4 dimensions");
  const auto occupancy = [&](const Tensor& t) { return empty(t, occupancies ? t.sizes() : Sizes{0}); };
  const Tensor label_occupancy = occupancy(label), blank_occupancy = occupancy(blank), score = empty(blank, {blank.size(0)});
  sum_paths<Engine>(label, blank, label_durations, blank_durations, boundary, begin, label_end, viterbi, occupancies, score,
                    label_occupancy, blank_occupancy);
  return {score, label_occupancy, blank_occupancy};
}

}  // namespace rnnkit
