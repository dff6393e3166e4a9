// The ops, for any engine: from tensors to the problems of problem.h, and back. What is checked here keeps memory safe; the
// Python layer checks first, and in the user's words.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/dispatch.h>
#include <rnnkit/tensors.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "problem.h"

namespace rnnkit {

using MaybeTensor = std::optional<Tensor>;
using Ints = std::vector<int64_t>;

constexpr int64_t kAnySymbols = int64_t(1) << 40;  // a band does not tell how many there are

inline ScalarType acc_type(const Tensor& t) { return accumulate_type(t.scalar_type()); }

inline Mode parse_mode(const std::string& mode) {
  constexpr std::string_view kModes[] = {"softmax", "hat", "log_probs"};
  return parse<Mode>("kind", mode, kModes);
}

// Calls f(TypeTag<scalar_t>{}) for the type of scores and occupancies.
template <class F>
void dispatch_scores(ScalarType dtype, F&& f) {
  STD_TORCH_CHECK(dtype == ScalarType::Double || dtype == ScalarType::Float, "scores: expected float32 or float64");
  return dtype == ScalarType::Double ? f(TypeTag<double>{}) : f(TypeTag<float>{});
}

// Null means absent, which the pointer of an empty tensor may be too.
inline const int64_t* present(const MaybeTensor& t) {
  static const int64_t nothing = 0;
  return !t ? nullptr : t->numel() == 0 ? &nothing : t->const_data_ptr<int64_t>();
}

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

// Of a tensor [B, T, rows].
template <class T>
Nodes<T> nodes(const Tensor& t) {
  return {static_cast<T*>(t.data_ptr()), t.stride(0), t.stride(1), t.stride(2)};
}

// Plane i of a tensor [B, N, T, rows], or [B, T, rows], which is one.
template <class T>
Nodes<T> plane(const Tensor& t, int64_t i) {
  if (t.dim() == 3) return nodes<T>(t);
  return {static_cast<T*>(t.data_ptr()) + i * t.stride(1), t.stride(0), t.stride(2), t.stride(3)};
}

inline int64_t planes_of(const Tensor& t) { return t.dim() == 3 ? 1 : t.size(1); }

// [B, NL, T or T + 1, S or r], [B, NB, T, S + 1 or r] -> [B], and occupancies of the same shapes, or of shape (0). One plane
// may come without its dimension.
template <class Engine>
std::tuple<Tensor, Tensor, Tensor> lattice(Tensor label, Tensor blank, Ints label_durations, Ints blank_durations,
                                           MaybeTensor boundary, MaybeTensor begin, bool label_end, bool viterbi,
                                           bool occupancies, double) {
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
  const auto wanted = [&](const Tensor& t) {
    Ints shape{batch, t.size(-2), t.size(-1)};
    if (t.dim() == 4) shape.insert(shape.begin() + 1, t.size(1));
    return empty(t, occupancies ? shape : Ints{0});
  };
  Tensor label_occupancy = wanted(label), blank_occupancy = wanted(blank);
  Tensor score = empty(blank, {batch});
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
  return {score, label_occupancy, blank_occupancy};
}

template <class scalar_t>
void fill_joint(Joint<scalar_t>& p, const Tensor& logits, const Tensor& symbols, const MaybeTensor& boundary,
                const MaybeTensor& begin, const MaybeTensor& offsets, const Ints& blanks, const std::string& mode,
                const Tensor& norm) {
  const int64_t batch = symbols.size(0), frames = norm.size(1), rows = norm.size(2);
  check_contiguous(symbols, logits, ScalarType::Long, {batch, symbols.size(1)}, "symbols");
  check_contiguous(norm, logits, acc_type(logits), {batch, frames, rows}, "norm");
  if (offsets) check_contiguous(*offsets, logits, ScalarType::Long, {batch}, "offsets");
  fill_sequences(p, logits, batch, frames, symbols.size(1), rows, boundary, begin);
  p.mode = parse_mode(mode);
  p.classes = logits.size(-1);
  p.targets = symbols.const_data_ptr<int64_t>();
  p.blanks = int(blanks.size());
  STD_TORCH_CHECK(p.blanks > 0 && p.blanks <= kMaxBlanks && (p.mode != Mode::hat || p.blanks == 1), "blanks: expected 1 to ",
                  kMaxBlanks);
  for (int i = 0; i < p.blanks; ++i) {
    p.blank[i] = blanks[i];
    STD_TORCH_CHECK(blanks[i] >= 0 && blanks[i] < p.classes, "blanks: out of range");
  }
  p.offsets = present(offsets);
  p.norm = static_cast<acc_t<scalar_t>*>(norm.data_ptr());
}

// The logits are [B, T, rows, C]; packed, [N, C]; or, of `first` and the frames after it, [count, rows, C].
template <class scalar_t>
void place_logits(Joint<scalar_t>& p, const Tensor& logits, int64_t first) {
  const int64_t dims = logits.dim();
  STD_TORCH_CHECK(logits.stride(-1) == 1 || logits.size(-1) == 1 || logits.numel() == 0,
                  "logits: expected unit stride along the classes");
  p.first = first;
  p.row_stride = logits.stride(-2);
  p.packed = logits.size(0);
  if (p.offsets != nullptr) {
    STD_TORCH_CHECK(dims == 2 && p.boundary != nullptr && p.begin == nullptr,
                    "packed logits: expected (N, C) and a boundary");
    p.count = p.batch * p.frames;
    p.batch_stride = p.frame_stride = 0;
    return;
  }
  STD_TORCH_CHECK((dims == 4 || dims == 3) && logits.size(-2) == p.rows, "logits: expected ", p.rows, " rows");
  p.frame_stride = logits.stride(-3);
  if (dims == 4) {
    STD_TORCH_CHECK(logits.size(0) == p.batch && logits.size(1) == p.frames && first == 0, "logits: expected shape (",
                    p.batch, ", ", p.frames, ", ", p.rows, ", C)");
    p.batch_stride = logits.stride(0);
    p.count = p.batch * p.frames;
  } else {
    p.batch_stride = p.frames * p.frame_stride;
    p.count = logits.size(0);
    STD_TORCH_CHECK(first >= 0 && first <= p.batch * p.frames - p.count, "first: out of range");
  }
}

template <class scalar_t>
int64_t checked_label_rows(const Joint<scalar_t>& p, const Tensor& label, const Tensor& blank) {
  const int64_t rows = p.begin == nullptr ? p.symbols : p.rows;
  STD_TORCH_CHECK(has_shape(label, {p.batch, p.frames, rows}), "label: expected shape (B, T, S) or (B, T, rows)");
  STD_TORCH_CHECK(has_shape(blank, {p.batch, p.blanks, p.frames, p.rows}), "blank: expected shape (B, blanks, T, rows)");
  return rows;
}

template <class Engine>
void joint_scores_(Tensor logits, Tensor symbols, const MaybeTensor& boundary, const MaybeTensor& begin,
                   const MaybeTensor& offsets, int64_t first, const Ints& blanks, const std::string& mode, Tensor label,
                   Tensor blank, Tensor norm) {
  dispatch_floating(logits.scalar_type(), [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    JointForward<scalar_t> p;
    fill_joint(p, logits, symbols, boundary, begin, offsets, blanks, mode, norm);
    place_logits(p, logits, first);
    STD_TORCH_CHECK(label.scalar_type() == acc_type(logits) && blank.scalar_type() == acc_type(logits) &&
                        same_device(label, logits) && same_device(blank, logits),
                    "label and blank: dtype or device");
    p.label_rows = checked_label_rows(p, label, blank);
    p.logits = logits.const_data_ptr<scalar_t>();
    p.label = nodes<acc>(label);
    for (int i = 0; i < p.blanks; ++i) p.blank_scores[i] = plane<acc>(blank, i);
    Engine::run(p, logits);
  });
}

template <class Engine>
void joint_scores_chunk(Tensor logits, Tensor symbols, MaybeTensor boundary, MaybeTensor begin, int64_t first, Ints blanks,
                        std::string mode, Tensor label, Tensor blank, Tensor norm) {
  joint_scores_<Engine>(logits, symbols, boundary, begin, std::nullopt, first, blanks, mode, label, blank, norm);
}

template <class Engine>
std::tuple<Tensor, Tensor, Tensor> joint_scores(Tensor logits, Tensor symbols, MaybeTensor boundary, MaybeTensor begin,
                                                MaybeTensor offsets, int64_t frames, Ints blanks, std::string mode, double,
                                                double, bool) {
  STD_TORCH_CHECK(symbols.dim() == 2 && logits.dim() >= 2, "symbols and logits: expected 2 dimensions and more");
  const int64_t batch = symbols.size(0), rows = offsets ? symbols.size(1) + 1 : logits.size(-2);
  const ScalarType acc = acc_type(logits);
  Tensor label = empty(logits, {batch, frames, begin ? rows : symbols.size(1)}, acc);
  Tensor blank = empty(logits, {batch, int64_t(blanks.size()), frames, rows}, acc);
  Tensor norm = empty(logits, {batch, frames, rows}, acc);
  joint_scores_<Engine>(logits, symbols, boundary, begin, offsets, 0, blanks, mode, label, blank, norm);
  return {label, blank, norm};
}

template <class Engine>
void joint_gradients(Tensor grad_label, Tensor grad_blank, Tensor logits, Tensor symbols, Tensor norm,
                     const MaybeTensor& boundary, const MaybeTensor& begin, const MaybeTensor& offsets, int64_t first,
                     const Ints& blanks, const std::string& mode, double clamp, double label_weight, Tensor grad) {
  const ScalarType acc_dtype = acc_type(logits);
  for (const Tensor* t : {&grad_label, &grad_blank})
    STD_TORCH_CHECK(t->scalar_type() == acc_dtype && same_device(*t, logits), "grad_label and grad_blank: dtype or device");
  dispatch_floating(logits.scalar_type(), [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    JointBackward<scalar_t> p;
    fill_joint(p, logits, symbols, boundary, begin, offsets, blanks, mode, norm);
    place_logits(p, logits, first);
    p.label_rows = checked_label_rows(p, grad_label, grad_blank);
    p.logits = logits.const_data_ptr<scalar_t>();
    p.grad = grad.mutable_data_ptr<scalar_t>();
    p.grad_label = nodes<const acc>(grad_label);
    for (int i = 0; i < p.blanks; ++i) p.grad_blank[i] = plane<const acc>(grad_blank, i);
    p.clamp = static_cast<acc>(clamp);
    p.label_weight = static_cast<acc>(label_weight);
    Engine::run(p, logits);
  });
}

template <class Engine>
Tensor joint_scores_backward(Tensor grad_label, Tensor grad_blank, Tensor logits, Tensor symbols, Tensor norm,
                             MaybeTensor boundary, MaybeTensor begin, MaybeTensor offsets, Ints blanks, std::string mode,
                             double clamp, double label_weight) {
  logits = torch::stable::contiguous(logits);
  Tensor grad = torch::stable::empty_like(logits);
  joint_gradients<Engine>(grad_label, grad_blank, logits, symbols, norm, boundary, begin, offsets, 0, blanks, mode, clamp,
                          label_weight, grad);
  return grad;
}

template <class Engine>
void joint_scores_backward_(Tensor grad_label, Tensor grad_blank, Tensor logits, Tensor symbols, Tensor norm,
                            MaybeTensor boundary, MaybeTensor begin, MaybeTensor offsets, int64_t first, Ints blanks,
                            std::string mode, double clamp, double label_weight) {
  joint_gradients<Engine>(grad_label, grad_blank, logits, symbols, norm, boundary, begin, offsets, first, blanks, mode,
                          clamp, label_weight, logits);
}

template <class scalar_t>
void fill_simple(Simple<scalar_t>& p, const Tensor& lm, const Tensor& am, const Tensor& symbols, const MaybeTensor& boundary,
                 int64_t blank) {
  const int64_t batch = am.size(0), frames = am.size(1), rows = lm.size(1), classes = am.size(2);
  const ScalarType dtype = am.scalar_type();
  check_contiguous(am, am, dtype, {batch, frames, classes}, "am");
  check_contiguous(lm, am, dtype, {batch, rows, classes}, "lm");
  check_contiguous(symbols, am, ScalarType::Long, {batch, rows - 1}, "symbols");
  fill_sequences(p, am, batch, frames, rows - 1, rows, boundary, std::nullopt);
  STD_TORCH_CHECK(blank >= 0 && blank < classes, "blank: out of range");
  p.classes = classes;
  p.blank = blank;
  p.targets = symbols.const_data_ptr<int64_t>();
  p.lm = lm.const_data_ptr<scalar_t>();
  p.am = am.const_data_ptr<scalar_t>();
}

template <class Engine>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> simple_scores(Tensor lm, Tensor am, Tensor symbols,
                                                                                 MaybeTensor boundary, int64_t blank) {
  STD_TORCH_CHECK(lm.dim() == 3 && am.dim() == 3, "lm and am: expected 3 dimensions");
  lm = torch::stable::contiguous(lm);
  am = torch::stable::contiguous(am);
  const int64_t batch = am.size(0), frames = am.size(1), rows = lm.size(1), classes = am.size(2);
  const ScalarType dtype = acc_type(am);
  Tensor exp_lm = empty(am, {batch, rows, classes}, dtype), exp_am = empty(am, {batch, frames, classes}, dtype);
  Tensor max_lm = empty(am, {batch, rows}, dtype), max_am = empty(am, {batch, frames}, dtype);
  Tensor label = empty(am, {batch, frames, rows - 1}, dtype), norm = empty(am, {batch, frames, rows}, dtype);
  Tensor blank_scores = empty(am, {batch, frames, rows}, dtype);
  dispatch_floating(am.scalar_type(), [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    Simple<scalar_t> p;
    fill_simple(p, lm, am, symbols, boundary, blank);
    p.exp_lm = exp_lm.mutable_data_ptr<acc>();
    p.exp_am = exp_am.mutable_data_ptr<acc>();
    p.max_lm = max_lm.mutable_data_ptr<acc>();
    p.max_am = max_am.mutable_data_ptr<acc>();
    p.norm = norm.mutable_data_ptr<acc>();
    p.label = label.mutable_data_ptr<acc>();
    p.blank_scores = blank_scores.mutable_data_ptr<acc>();
    Engine::simple_exponentials(p, am);
    const Tensor product = torch::stable::matmul(exp_am, transposed(exp_lm, 1, 2));
    p.product = static_cast<acc*>(product.data_ptr());
    Engine::simple_scores(p, am);
  });
  return {label, blank_scores, norm, exp_lm, exp_am, max_lm, max_am};
}

// The gradients of lm and am.
template <class Engine>
std::vector<Tensor> simple_scores_backward(Tensor grad_label, Tensor grad_blank, Tensor lm, Tensor am, Tensor symbols,
                                           Tensor norm, Tensor exp_lm, Tensor exp_am, Tensor max_lm, Tensor max_am,
                                           MaybeTensor boundary, int64_t blank) {
  lm = torch::stable::contiguous(lm);
  am = torch::stable::contiguous(am);
  const int64_t batch = am.size(0), frames = am.size(1), rows = lm.size(1), classes = am.size(2);
  const ScalarType dtype = acc_type(am);
  STD_TORCH_CHECK(has_shape(grad_label, {batch, frames, rows - 1}) && grad_label.scalar_type() == dtype &&
                      same_device(grad_label, am) && has_shape(grad_blank, {batch, frames, rows}) &&
                      grad_blank.scalar_type() == dtype && same_device(grad_blank, am),
                  "grad_label and grad_blank: shape, dtype or device");
  check_contiguous(norm, am, dtype, {batch, frames, rows}, "norm");
  check_contiguous(exp_lm, am, dtype, {batch, rows, classes}, "exp_lm");
  check_contiguous(exp_am, am, dtype, {batch, frames, classes}, "exp_am");
  check_contiguous(max_lm, am, dtype, {batch, rows}, "max_lm");
  check_contiguous(max_am, am, dtype, {batch, frames}, "max_am");
  Tensor weights = empty(am, {batch, frames, rows}, dtype);
  std::vector<Tensor> grads;
  dispatch_floating(am.scalar_type(), [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    Simple<scalar_t> p;
    fill_simple(p, lm, am, symbols, boundary, blank);
    p.exp_lm = static_cast<acc*>(exp_lm.data_ptr());
    p.exp_am = static_cast<acc*>(exp_am.data_ptr());
    p.max_lm = static_cast<acc*>(max_lm.data_ptr());
    p.max_am = static_cast<acc*>(max_am.data_ptr());
    p.norm = static_cast<acc*>(norm.data_ptr());
    p.grad_label = nodes<const acc>(grad_label);
    p.grad_blank = nodes<const acc>(grad_blank);
    p.product = weights.mutable_data_ptr<acc>();
    Engine::simple_weights(p, am);
    const Tensor lm_acc = torch::stable::matmul(transposed(weights, 1, 2), exp_am);
    const Tensor am_acc = torch::stable::matmul(weights, exp_lm);
    const bool in_place = am.scalar_type() == dtype;
    grads = {in_place ? lm_acc : torch::stable::empty_like(lm), in_place ? am_acc : torch::stable::empty_like(am)};
    p.grad_lm_acc = static_cast<acc*>(lm_acc.data_ptr());
    p.grad_am_acc = static_cast<acc*>(am_acc.data_ptr());
    p.grad_lm = grads[0].template mutable_data_ptr<scalar_t>();
    p.grad_am = grads[1].template mutable_data_ptr<scalar_t>();
    Engine::simple_gradients(p, am);
  });
  return grads;
}

// Of `count` frames from `first` on, counted over the batch: [count, rows, H].
template <class Engine>
Tensor join(Tensor enc, Tensor dec, MaybeTensor boundary, MaybeTensor begin, int64_t rows, int64_t first, int64_t count) {
  STD_TORCH_CHECK(enc.dim() == 3 && dec.dim() == 3, "enc and dec: expected 3 dimensions");
  enc = torch::stable::contiguous(enc);
  dec = torch::stable::contiguous(dec);
  const int64_t batch = enc.size(0), frames = enc.size(1), width = enc.size(2), symbols = dec.size(1) - 1;
  check_contiguous(dec, enc, enc.scalar_type(), {batch, symbols + 1, width}, "dec");
  STD_TORCH_CHECK(count >= 0 && first >= 0 && first <= batch * frames - count, "first and count: out of range");
  Tensor hidden = empty(enc, {count, rows, width});
  dispatch_floating(enc.scalar_type(), [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    Join<scalar_t> p;
    fill_sequences(p, enc, batch, frames, symbols, rows, boundary, begin);
    p.width = width;
    p.first = first;
    p.count = count;
    p.enc = enc.const_data_ptr<scalar_t>();
    p.dec = dec.const_data_ptr<scalar_t>();
    p.hidden = hidden.mutable_data_ptr<scalar_t>();
    Engine::run(p, enc);
  });
  return hidden;
}

template <class Engine>
void join_backward_(Tensor grad_hidden, Tensor hidden, MaybeTensor boundary, MaybeTensor begin, int64_t first,
                    Tensor grad_enc, Tensor grad_dec) {
  STD_TORCH_CHECK(hidden.dim() == 3 && grad_enc.dim() == 3 && grad_dec.dim() == 3, "hidden: expected 3 dimensions");
  const int64_t batch = grad_enc.size(0), frames = grad_enc.size(1), width = grad_enc.size(2), rows = hidden.size(1);
  const int64_t symbols = grad_dec.size(1) - 1, count = hidden.size(0);
  const ScalarType dtype = acc_type(hidden);
  check_contiguous(hidden, hidden, hidden.scalar_type(), {count, rows, width}, "hidden");
  check_contiguous(grad_hidden, hidden, hidden.scalar_type(), {count, rows, width}, "grad_hidden");
  check_contiguous(grad_enc, hidden, dtype, {batch, frames, width}, "grad_enc");
  check_contiguous(grad_dec, hidden, dtype, {batch, symbols + 1, width}, "grad_dec");
  STD_TORCH_CHECK(first >= 0 && first <= batch * frames - count, "first: out of range");
  dispatch_floating(hidden.scalar_type(), [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    JoinBackward<scalar_t> p;
    fill_sequences(p, hidden, batch, frames, symbols, rows, boundary, begin);
    p.width = width;
    p.first = first;
    p.count = count;
    p.grad_hidden = grad_hidden.const_data_ptr<scalar_t>();
    p.hidden = hidden.const_data_ptr<scalar_t>();
    p.grad_enc = grad_enc.mutable_data_ptr<acc>();
    p.grad_dec = grad_dec.mutable_data_ptr<acc>();
    Engine::run(p, hidden);
  });
}

// [B, T or T + 1, S], [B, T, S + 1] -> [B, T]
template <class Engine>
Tensor prune_ranges(Tensor label, Tensor blank, Tensor boundary, int64_t s_range, int64_t max_step) {
  STD_TORCH_CHECK(label.dim() == 3 && blank.dim() == 3, "occupancies: expected 3 dimensions");
  const int64_t batch = blank.size(0), frames = blank.size(1), rows = blank.size(2);
  STD_TORCH_CHECK(label.size(0) == batch && label.size(1) >= frames && label.size(2) == rows - 1 &&
                      label.scalar_type() == blank.scalar_type() && same_device(label, blank),
                  "occupancies: shape, dtype or device");
  STD_TORCH_CHECK(s_range >= 1 && s_range <= rows && max_step >= 0, "s_range: expected 1 to S + 1");
  Tensor begin = empty(blank, {batch, frames}, ScalarType::Long);
  const auto run = [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    Ranges<scalar_t> p;
    fill_sequences(p, blank, batch, frames, rows - 1, rows, boundary, std::nullopt);
    p.label = nodes<const scalar_t>(label);
    p.blank = nodes<const scalar_t>(blank);
    p.s_range = s_range;
    p.max_step = std::min(max_step, rows);  // more never binds
    p.out = begin.mutable_data_ptr<int64_t>();
    Engine::run(p, blank);
  };
  dispatch_scores(blank.scalar_type(), run);
  return begin;
}

template <class Engine, class Library>
void implement_all(Library& m) {
  m.impl("lattice", TORCH_BOX(&lattice<Engine>));
  m.impl("joint_scores", TORCH_BOX(&joint_scores<Engine>));
  m.impl("joint_scores_", TORCH_BOX(&joint_scores_chunk<Engine>));
  m.impl("joint_scores_backward", TORCH_BOX(&joint_scores_backward<Engine>));
  m.impl("joint_scores_backward_", TORCH_BOX(&joint_scores_backward_<Engine>));
  m.impl("simple_scores", TORCH_BOX(&simple_scores<Engine>));
  m.impl("simple_scores_backward", TORCH_BOX(&simple_scores_backward<Engine>));
  m.impl("join", TORCH_BOX(&join<Engine>));
  m.impl("join_backward_", TORCH_BOX(&join_backward_<Engine>));
  m.impl("prune_ranges", TORCH_BOX(&prune_ranges<Engine>));
}

}  // namespace rnnkit
