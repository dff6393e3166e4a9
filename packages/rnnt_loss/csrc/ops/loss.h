// The exact loss and its gradient in one call each, of tensors that are lent (rnnkit/tensor.h): of small lattices, whose
// calls cost more than their kernels. What the ops joint_scores and lattice make, which all others go by, is made here in
// one piece of memory.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <string>
#include <tuple>

#include "joint.h"
#include "lattice.h"

namespace rnnkit {

enum class Reduction { none, mean, sum };

inline Reduction parse_reduction(const std::string& reduction) {
  constexpr std::string_view kReductions[] = {"none", "mean", "sum"};
  return parse<Reduction>("reduction", reduction, kReductions);
}

inline bool parse_modified(const std::string& rnnt_type) {
  constexpr std::string_view kTypes[] = {"regular", "modified"};
  return parse<int>("rnnt_type", rnnt_type, kTypes) == 1;
}

// Planes of one piece of memory: of label arcs [B, T, S], of blanks and of the nodes [B, T, S + 1].
struct LatticePlanes {
  Tensor memory, label, blank, norm;

  static int64_t size(const Tensor& logits) { return logits.size(0) * logits.size(1) * (3 * logits.size(2) - 1); }

  LatticePlanes(const Tensor& memory, const Tensor& logits) : memory(memory) {
    const int64_t batch = logits.size(0), frames = logits.size(1), rows = logits.size(2);
    const int64_t labels = batch * frames * (rows - 1), nodes = batch * frames * rows;
    check_contiguous(memory, logits, acc_type(logits), {labels + 2 * nodes}, "planes");
    label = view_strided(memory, {batch, frames, rows - 1}, {frames * (rows - 1), rows - 1, 1});
    blank = view_strided(memory, {batch, 1, frames, rows}, {frames * rows, frames * rows, rows, 1}, labels);
    norm = view_strided(memory, {batch, frames, rows}, {frames * rows, rows, 1}, labels + nodes);
  }
};

// The loss, of shape [B] or [], and, if `save`, the occupancies and norms that backward needs.
template <class Engine>
std::tuple<Tensor, Tensor> exact_loss(Tensor logits, Tensor symbols, MaybeTensor boundary, int64_t blank, std::string kind,
                                      double smoothing, std::string rnnt_type, std::string reduction, bool zero_infinity,
                                      bool save) {
  STD_TORCH_CHECK(logits.lender() && logits.dim() == 4 && logits.size(2) > 0 && logits.size(3) > 0,
                  "logits: expected 4 dimensions, and lent");
  STD_TORCH_CHECK(0 <= smoothing && smoothing <= 1, "smoothing: expected a number within 0..1, got ", smoothing);
  const ScalarType acc_dtype = acc_type(logits);
  const Sizes size{LatticePlanes::size(logits)}, one{1}, batch{logits.size(0)};
  const LatticePlanes scores(scratch_strided(logits, size, one, acc_dtype), logits);
  const Ints blanks{blank};
  score_joint<Engine>(logits, symbols, boundary, std::nullopt, std::nullopt, {}, {blanks, kind, 0, smoothing}, scores.label,
                      scores.blank, scores.norm);
  const LatticePlanes kept(save ? empty(logits, size, acc_dtype) : scores.memory, logits);
  const Tensor score = scratch_strided(logits, batch, one, acc_dtype);
  const bool modified = parse_modified(rnnt_type);
  sum_paths<Engine>(scores.label, scores.blank, {int64_t(modified)}, {1}, boundary, std::nullopt, modified, false, save,
                    score, kept.label, kept.blank);
  const Reduction way = parse_reduction(reduction);
  const Tensor loss = empty(logits, way == Reduction::none ? batch : Sizes(), acc_dtype);
  dispatch_scores(acc_dtype, [&](auto tag) {
    using acc = typename decltype(tag)::type;
    if (save) std::copy_n(scores.norm.const_data_ptr<acc>(), scores.norm.numel(), kept.norm.mutable_data_ptr<acc>());
    acc sum = 0;
    for (int64_t b = 0; b < batch[0]; ++b) {
      const acc of_sequence = -score.const_data_ptr<acc>()[b];
      const acc counted = zero_infinity && std::isinf(of_sequence) && of_sequence > 0 ? acc(0) : of_sequence;
      if (way == Reduction::none) loss.mutable_data_ptr<acc>()[b] = counted;
      sum += counted;
    }
    if (way != Reduction::none) *loss.mutable_data_ptr<acc>() = way == Reduction::mean ? sum / acc(batch[0]) : sum;
  });
  return {loss, save ? kept.memory : Tensor()};
}

// The gradient of the logits, from that of the loss.
template <class Engine>
Tensor exact_loss_backward(Tensor grad_loss, Tensor logits, Tensor symbols, MaybeTensor boundary, Tensor planes,
                           int64_t blank, std::string kind, double smoothing, std::string reduction, double label_weight) {
  STD_TORCH_CHECK(logits.lender() && logits.dim() == 4 && logits.size(2) > 0 && logits.size(3) > 0,
                  "logits: expected 4 dimensions, and lent");
  const Reduction way = parse_reduction(reduction);
  const ScalarType acc_dtype = acc_type(logits);
  const int64_t batch = logits.size(0);
  check_contiguous(grad_loss, logits, acc_dtype, way == Reduction::none ? Sizes{batch} : Sizes(), "grad_loss");
  const LatticePlanes kept(planes, logits);
  const LatticePlanes grads(scratch_strided(logits, {LatticePlanes::size(logits)}, {1}, acc_dtype), logits);
  dispatch_scores(acc_dtype, [&](auto tag) {
    using acc = typename decltype(tag)::type;
    const auto scale = [&](const Tensor& occupancy, const Tensor& grad, acc weight) {
      const int64_t each = occupancy.numel() / batch;
      for (int64_t b = 0; b < batch; ++b) {
        const acc of_loss = grad_loss.const_data_ptr<acc>()[way == Reduction::none ? b : 0];
        const acc factor = -weight * (way == Reduction::mean ? of_loss / acc(batch) : of_loss);
        const acc* const from = occupancy.const_data_ptr<acc>() + b * each;
        acc* const to = grad.mutable_data_ptr<acc>() + b * each;
        for (int64_t i = 0; i < each; ++i) to[i] = factor * from[i];
      }
    };
    if (batch > 0) scale(kept.label, grads.label, acc(label_weight));
    if (batch > 0) scale(kept.blank, grads.blank, 1);
  });
  const Tensor grad = empty(logits, logits.sizes());
  const Ints blanks{blank};
  differentiate_joint<Engine>(grads.label, grads.blank, logits, symbols, kept.norm, boundary, std::nullopt, std::nullopt, {},
                              {blanks, kind, 0, smoothing}, 0, label_weight, false, grad);
  return grad;
}

}  // namespace rnnkit
