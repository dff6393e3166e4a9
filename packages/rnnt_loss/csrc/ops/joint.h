// The ops `joint_scores`: from logits to the scores of arcs, and their gradients.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <tuple>

#include "sequences.h"

namespace rnnkit {

// How scores come from logits: the arguments that all ops of this file have.
struct ScoreOptions {
  const Ints& blanks;
  const std::string& kind;
  int64_t durations;
  double smoothing;
};

template <class T>
Planes<T> planes(const Tensor& t) {  // of a tensor [B, N, T, rows]
  return {static_cast<T*>(t.data_ptr()), t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

template <class scalar_t>
void fill_joint(Joint<scalar_t>& p, const Tensor& logits, const Tensor& symbols, const MaybeTensor& boundary,
                const MaybeTensor& begin, const MaybeTensor& offsets, const ScoreOptions& options, const Tensor& norm) {
  constexpr std::string_view kModes[] = {"softmax", "hat", "log_probs"};
  STD_TORCH_CHECK(symbols.dim() == 2 && norm.dim() == 3, "symbols and norm: expected 2 and 3 dimensions");
  const int64_t batch = symbols.size(0), frames = norm.size(1), rows = norm.size(2);
  check_contiguous(symbols, logits, ScalarType::Long, {batch, symbols.size(1)}, "symbols");
  check_contiguous(norm, logits, acc_type(logits), {batch, frames, rows}, "norm");
  if (offsets) check_contiguous(*offsets, logits, ScalarType::Long, {batch}, "offsets");
  fill_sequences(p, logits, batch, frames, symbols.size(1), rows, boundary, begin);
  p.mode = parse<Mode>("kind", options.kind, kModes);
  p.durations = options.durations;
  STD_TORCH_CHECK(p.durations >= 0 && p.durations <= logits.size(-1), "durations: expected 0 to ", logits.size(-1),
                  " columns");
  p.classes = logits.size(-1) - p.durations;
  p.targets = symbols.const_data_ptr<int64_t>();
  p.blanks = int(options.blanks.size());
  STD_TORCH_CHECK(p.blanks > 0 && p.blanks <= kMaxBlanks && (p.mode != Mode::hat || p.blanks == 1), "blanks: expected 1 to ",
                  kMaxBlanks);
  for (int i = 0; i < p.blanks; ++i) {
    p.blank[i] = options.blanks[i];
    STD_TORCH_CHECK(p.blank[i] >= 0 && p.blank[i] < p.classes, "blanks: out of range");
  }
  STD_TORCH_CHECK(options.smoothing == 0 || p.mode == Mode::softmax, "smoothing: expected 0 but with kind 'softmax'");
  p.smoothing = acc_t<scalar_t>(options.smoothing);
  p.offsets = present(offsets);
  p.norm = static_cast<acc_t<scalar_t>*>(norm.data_ptr());
}

// The logits are [B, T, rows, columns]; packed, [N, columns]; or [n, columns], those of a part.
template <class scalar_t>
void place_logits(Joint<scalar_t>& p, const Tensor& logits, const Part& part) {
  const int64_t dims = logits.dim();
  STD_TORCH_CHECK(logits.stride(-1) == 1 || logits.size(-1) == 1 || logits.numel() == 0,
                  "logits: expected unit stride along the classes");
  if (dims == 2 && p.offsets == nullptr) return fill_chunk(p, logits, part);
  p.first = p.row = 0;
  p.count = p.batch * p.frames;
  p.places = nullptr;
  p.n = logits.size(0);
  if (p.offsets != nullptr) {
    STD_TORCH_CHECK(dims == 2 && p.boundary != nullptr && p.begin == nullptr,
                    "packed logits: expected (N, C) and a boundary");
    return;
  }
  STD_TORCH_CHECK(dims == 4 && logits.size(2) == p.rows && logits.size(0) == p.batch && logits.size(1) == p.frames,
                  "logits: expected shape (", p.batch, ", ", p.frames, ", ", p.rows, ", C)");
}

template <class scalar_t>
Layout layout_of(const Joint<scalar_t>& p, const Tensor& logits) {
  if (logits.dim() == 4) return {logits.stride(0), logits.stride(1), logits.stride(2)};
  const int64_t row = logits.stride(0);
  return {p.frames * p.rows * row, p.rows * row, row};
}

template <class scalar_t>
int64_t checked_label_rows(const Joint<scalar_t>& p, const Tensor& label, const Tensor& blank) {
  const int64_t rows = p.begin == nullptr ? p.symbols : p.rows;
  STD_TORCH_CHECK(has_shape(label, {p.batch, p.frames, rows}), "label: expected shape (B, T, S) or (B, T, rows)");
  STD_TORCH_CHECK(has_shape(blank, {p.batch, p.blanks + p.durations, p.frames, p.rows}),
                  "blank: expected shape (B, blanks + durations, T, rows)");
  return rows;
}

template <class Engine>
void score_joint(const Tensor& logits, const Tensor& symbols, const MaybeTensor& boundary, const MaybeTensor& begin,
                 const MaybeTensor& offsets, const Part& part, const ScoreOptions& options, const Tensor& label,
                 const Tensor& blank, const Tensor& norm) {
  dispatch_floating(logits.scalar_type(), [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    JointForward<scalar_t> p;
    fill_joint(p, logits, symbols, boundary, begin, offsets, options, norm);
    place_logits(p, logits, part);
    STD_TORCH_CHECK(label.scalar_type() == acc_type(logits) && blank.scalar_type() == acc_type(logits) &&
                        same_device(label, logits) && same_device(blank, logits),
                    "label and blank: dtype or device");
    p.label_rows = checked_label_rows(p, label, blank);
    p.layout = layout_of(p, logits);
    p.logits = logits.const_data_ptr<scalar_t>();
    p.label = nodes<acc>(label);
    p.blank_scores = planes<acc>(blank);
    Engine::run(p, logits);
  });
}

template <class Engine>
std::tuple<Tensor, Tensor, Tensor> joint_scores(Tensor logits, Tensor symbols, MaybeTensor boundary, MaybeTensor begin,
                                                MaybeTensor offsets, int64_t packed_frames, Ints blanks, std::string kind,
                                                int64_t durations, double smoothing, double, double, bool) {
  STD_TORCH_CHECK(symbols.dim() == 2 && logits.dim() == (offsets ? 2 : 4),
                  "symbols and logits: expected 2 and 4 dimensions");
  STD_TORCH_CHECK(durations >= 0 && durations <= logits.size(-1), "durations: expected 0 to ", logits.size(-1), " columns");
  const int64_t batch = symbols.size(0), frames = offsets ? packed_frames : logits.size(1);
  const int64_t rows = offsets ? symbols.size(1) + 1 : logits.size(2);
  const ScalarType acc = acc_type(logits);
  Tensor label = empty(logits, {batch, frames, begin ? rows : symbols.size(1)}, acc);
  Tensor blank = empty(logits, {batch, int64_t(blanks.size()) + durations, frames, rows}, acc);
  Tensor norm = empty(logits, {batch, frames, rows}, acc);
  const ScoreOptions options{blanks, kind, durations, smoothing};
  score_joint<Engine>(logits, symbols, boundary, begin, offsets, {}, options, label, blank, norm);
  return {label, blank, norm};
}

// Of the frames of a part; nodes without logits have no scores.
template <class Engine>
void joint_scores_(Tensor logits, Tensor symbols, Tensor label, Tensor blank, Tensor norm, MaybeTensor boundary,
                   MaybeTensor begin, MaybeTensor places, int64_t first, int64_t frames, int64_t row, Ints blanks,
                   std::string kind, int64_t durations, double smoothing) {
  const ScoreOptions options{blanks, kind, durations, smoothing};
  score_joint<Engine>(logits, symbols, boundary, begin, std::nullopt, {places, first, frames, row}, options, label, blank,
                      norm);
}

template <class Engine>
void differentiate_joint(const Tensor& grad_label, const Tensor& grad_blank, const Tensor& logits, const Tensor& symbols,
                         const Tensor& norm, const MaybeTensor& boundary, const MaybeTensor& begin,
                         const MaybeTensor& offsets, const Part& part, const ScoreOptions& options, double clamp,
                         double label_weight, bool anew, const Tensor& grad) {
  const ScalarType acc_dtype = acc_type(logits);
  for (const Tensor* t : {&grad_label, &grad_blank})
    STD_TORCH_CHECK(t->scalar_type() == acc_dtype && same_device(*t, logits), "grad_label and grad_blank: dtype or device");
  dispatch_floating(logits.scalar_type(), [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    JointBackward<scalar_t> p;
    fill_joint(p, logits, symbols, boundary, begin, offsets, options, norm);
    place_logits(p, logits, part);
    p.label_rows = checked_label_rows(p, grad_label, grad_blank);
    p.layout = layout_of(p, logits);
    p.logits = logits.const_data_ptr<scalar_t>();
    p.grad_layout = layout_of(p, grad);
    p.grad = grad.mutable_data_ptr<scalar_t>();
    p.grad_label = nodes<const acc>(grad_label);
    p.grad_blank = planes<const acc>(grad_blank);
    p.clamp = static_cast<acc>(clamp);
    p.label_weight = static_cast<acc>(label_weight);
    p.anew = anew;
    Engine::run(p, logits);
  });
}

template <class Engine>
Tensor joint_scores_backward(Tensor grad_label, Tensor grad_blank, Tensor logits, Tensor symbols, Tensor norm,
                             MaybeTensor boundary, MaybeTensor begin, MaybeTensor offsets, Ints blanks, std::string kind,
                             int64_t durations, double smoothing, double clamp, double label_weight) {
  const Tensor grad = empty(logits, logits.sizes());
  const ScoreOptions options{blanks, kind, durations, smoothing};
  differentiate_joint<Engine>(grad_label, grad_blank, logits, symbols, norm, boundary, begin, offsets, {}, options, clamp,
                              label_weight, false, grad);
  return grad;
}

// Writes the gradients over the logits, which may be those of a part.
template <class Engine>
void joint_scores_backward_(Tensor grad_label, Tensor grad_blank, Tensor logits, Tensor symbols, Tensor norm,
                            MaybeTensor boundary, MaybeTensor begin, MaybeTensor offsets, MaybeTensor places, int64_t first,
                            int64_t frames, int64_t row, Ints blanks, std::string kind, int64_t durations, double smoothing,
                            double clamp, double label_weight, bool anew) {
  const ScoreOptions options{blanks, kind, durations, smoothing};
  differentiate_joint<Engine>(grad_label, grad_blank, logits, symbols, norm, boundary, begin, offsets,
                              {places, first, frames, row}, options, clamp, label_weight, anew, logits);
}

}  // namespace rnnkit
