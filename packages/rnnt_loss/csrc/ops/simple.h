// The ops `simple_scores`: of the joiner that adds.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/csrc/stable/ops.h>

#include <tuple>
#include <vector>

#include "sequences.h"

namespace rnnkit {

template <class scalar_t>
void fill_simple(Simple<scalar_t>& p, const Tensor& lm, const Tensor& am, const Tensor& symbols, const MaybeTensor& boundary,
                 int64_t blank, double of_both, double of_lm) {
  const int64_t batch = am.size(0), frames = am.size(1), rows = lm.size(1), classes = am.size(2);
  const ScalarType dtype = am.scalar_type();
  check_contiguous(am, am, dtype, {batch, frames, classes}, "am");
  check_contiguous(lm, am, dtype, {batch, rows, classes}, "lm");
  check_contiguous(symbols, am, ScalarType::Long, {batch, rows - 1}, "symbols");
  fill_sequences(p, am, batch, frames, rows - 1, rows, boundary, std::nullopt);
  STD_TORCH_CHECK(blank >= 0 && blank < classes, "blank: out of range");
  p.classes = classes;
  p.blank = blank;
  p.of_both = acc_t<scalar_t>(of_both);
  p.of_lm = acc_t<scalar_t>(of_lm);
  p.targets = symbols.const_data_ptr<int64_t>();
  p.lm = lm.const_data_ptr<scalar_t>();
  p.am = am.const_data_ptr<scalar_t>();
}

template <class Engine>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> simple_scores(Tensor lm, Tensor am,
                                                                                         Tensor symbols,
                                                                                         MaybeTensor boundary, int64_t blank,
                                                                                         double of_both, double of_lm) {
  STD_TORCH_CHECK(lm.dim() == 3 && am.dim() == 3, "lm and am: expected 3 dimensions");
  lm = contiguous(lm);
  am = contiguous(am);
  const int64_t batch = am.size(0), frames = am.size(1), rows = lm.size(1), classes = am.size(2);
  const ScalarType dtype = acc_type(am);
  Tensor exp_lm = empty(am, {batch, rows, classes}, dtype), exp_am = empty(am, {batch, frames, classes}, dtype);
  Tensor max_lm = empty(am, {batch, rows}, dtype), max_am = empty(am, {batch, frames}, dtype);
  Tensor norm_lm = empty(am, {batch, rows}, dtype);
  Tensor label = empty(am, {batch, frames, rows - 1}, dtype), norm = empty(am, {batch, frames, rows}, dtype);
  Tensor blank_scores = empty(am, {batch, frames, rows}, dtype);
  dispatch_floating(am.scalar_type(), [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    Simple<scalar_t> p;
    fill_simple(p, lm, am, symbols, boundary, blank, of_both, of_lm);
    p.exp_lm = exp_lm.mutable_data_ptr<acc>();
    p.exp_am = exp_am.mutable_data_ptr<acc>();
    p.max_lm = max_lm.mutable_data_ptr<acc>();
    p.max_am = max_am.mutable_data_ptr<acc>();
    p.norm_lm = norm_lm.mutable_data_ptr<acc>();
    p.norm = norm.mutable_data_ptr<acc>();
    p.label = label.mutable_data_ptr<acc>();
    p.blank_scores = blank_scores.mutable_data_ptr<acc>();
    Engine::simple_exponentials(p, am);
    const Tensor product = torch::stable::matmul(exp_am, transposed(exp_lm, 1, 2));
    p.product = static_cast<acc*>(product.data_ptr());
    Engine::simple_scores(p, am);
  });
  return {label, blank_scores, norm, exp_lm, exp_am, max_lm, max_am, norm_lm};
}

// The gradients of lm and am.
template <class Engine>
std::vector<Tensor> simple_scores_backward(Tensor grad_label, Tensor grad_blank, Tensor lm, Tensor am, Tensor symbols,
                                           Tensor norm, Tensor exp_lm, Tensor exp_am, Tensor max_lm, Tensor max_am,
                                           Tensor norm_lm, MaybeTensor boundary, int64_t blank, double of_both,
                                           double of_lm) {
  lm = contiguous(lm);
  am = contiguous(am);
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
  check_contiguous(norm_lm, am, dtype, {batch, rows}, "norm_lm");
  check_contiguous(max_am, am, dtype, {batch, frames}, "max_am");
  Tensor weights = empty(am, {batch, frames, rows}, dtype);
  std::vector<Tensor> grads;
  dispatch_floating(am.scalar_type(), [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    Simple<scalar_t> p;
    fill_simple(p, lm, am, symbols, boundary, blank, of_both, of_lm);
    p.exp_lm = static_cast<acc*>(exp_lm.data_ptr());
    p.exp_am = static_cast<acc*>(exp_am.data_ptr());
    p.max_lm = static_cast<acc*>(max_lm.data_ptr());
    p.max_am = static_cast<acc*>(max_am.data_ptr());
    p.norm_lm = static_cast<acc*>(norm_lm.data_ptr());
    p.norm = static_cast<acc*>(norm.data_ptr());
    p.grad_label = nodes<const acc>(grad_label);
    p.grad_blank = nodes<const acc>(grad_blank);
    p.product = weights.mutable_data_ptr<acc>();
    Engine::simple_weights(p, am);
    const Tensor lm_acc = torch::stable::matmul(transposed(weights, 1, 2), exp_am);
    const Tensor am_acc = torch::stable::matmul(weights, exp_lm);
    const bool in_place = am.scalar_type() == dtype;
    grads = {in_place ? lm_acc : empty(lm, lm.sizes()), in_place ? am_acc : empty(am, am.sizes())};
    p.grad_lm_acc = static_cast<acc*>(lm_acc.data_ptr());
    p.grad_am_acc = static_cast<acc*>(am_acc.data_ptr());
    p.grad_lm = grads[0].template mutable_data_ptr<scalar_t>();
    p.grad_am = grads[1].template mutable_data_ptr<scalar_t>();
    Engine::simple_gradients(p, am);
  });
  return grads;
}

}  // namespace rnnkit
