// A layer in one call each way, of tensors that are lent (rnnkit/tensor.h): small ones, whose calls cost more than their
// kernels. A product of x makes the gates' part, batch normalisation follows, and the recurrence. All of one type, float or
// double, and one direction.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "ops.h"

namespace rnnkit {

// Batch normalisation of rows [R, N]: by their own statistics while training, which the running ones follow, else by the
// running ones.
struct BatchNorm {
  std::optional<Tensor> weight, bias;
  Tensor running_mean, running_var;
  double eps;
  bool training;
};

// Of rows y [R, N]: normal = (y - mean) rstd, and g = weight normal + bias. y and g may be one. Sums are double.
template <class T>
void normalize_rows(const BatchNorm& norm, int64_t rows, int64_t columns, const T* y, double momentum, T* normal, T* rstd,
                    T* g) {
  T* const running_mean = norm.running_mean.mutable_data_ptr<T>();
  T* const running_var = norm.running_var.mutable_data_ptr<T>();
  std::vector<double> mean(running_mean, running_mean + columns), var(running_var, running_var + columns);
  if (norm.training) {
    std::fill(mean.begin(), mean.end(), 0.);
    std::fill(var.begin(), var.end(), 0.);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) mean[c] += y[r * columns + c];
    for (int64_t c = 0; c < columns; ++c) mean[c] /= double(rows);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) {
        const double centred = y[r * columns + c] - mean[c];
        var[c] += centred * centred;
      }
    for (int64_t c = 0; c < columns; ++c) {
      running_mean[c] = T(running_mean[c] + momentum * (mean[c] - running_mean[c]));
      running_var[c] = T(running_var[c] + momentum * (var[c] / double(rows - 1) - running_var[c]));
      var[c] /= double(rows);
    }
  }
  for (int64_t c = 0; c < columns; ++c) rstd[c] = T(1 / std::sqrt(var[c] + norm.eps));
  const T* const weight = norm.weight ? norm.weight->const_data_ptr<T>() : nullptr;
  const T* const bias = norm.bias ? norm.bias->const_data_ptr<T>() : nullptr;
  const std::vector<T> centre(mean.begin(), mean.end());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t i = r * columns + c;
      normal[i] = (y[i] - centre[c]) * rstd[c];
      g[i] = (weight == nullptr ? normal[i] : weight[c] * normal[i]) + (bias == nullptr ? T(0) : bias[c]);
    }
}

// From the gradient of g, in its place, that of y; and those of weight and bias, sums over the rows.
template <class T>
void differentiate_rows(const BatchNorm& norm, int64_t rows, int64_t columns, const T* normal, const T* rstd, T* grad,
                        T* grad_weight, T* grad_bias) {
  std::vector<double> along(columns), sum(columns);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      along[c] += grad[r * columns + c] * normal[r * columns + c];
      sum[c] += grad[r * columns + c];
    }
  std::copy(along.begin(), along.end(), grad_weight);
  std::copy(sum.begin(), sum.end(), grad_bias);
  const T* const weight = norm.weight ? norm.weight->const_data_ptr<T>() : nullptr;
  const T share = norm.training ? T(1) / T(rows) : T(0);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t i = r * columns + c;
      const T scale = weight == nullptr ? rstd[c] : weight[c] * rstd[c];
      grad[i] = scale * (grad[i] - share * (grad_bias[c] + normal[i] * grad_weight[c]));
    }
}

// What forward leaves to backward, in one piece of memory: normal [B, T, 2H] and rstd [2H] of batch normalisation, gates of
// the recurrence [1, B, T, 2H] and, if that normalises, its normal and rstd [1, B, T, 1].
struct KeptOfLayer {
  Tensor normal, rstd, gates, recurrent_normal, recurrent_rstd;

  static int64_t size(int64_t rows, int64_t units, bool normalizes) {
    return 2 * units * (2 * rows + 1) + (normalizes ? rows * (2 * units + 1) : 0);
  }

  KeptOfLayer(const Tensor& memory, int64_t batch, int64_t steps, int64_t units, bool normalizes) {
    const int64_t width = 2 * units, rows = batch * steps;
    STD_TORCH_CHECK(memory.is_contiguous() && memory.numel() == size(rows, units, normalizes), "kept: size");
    const Sizes over_time{1, batch, steps, width}, strides = contiguous_strides(over_time), none{0}, one{1};
    normal = view_strided(memory, {batch, steps, width}, {steps * width, width, 1});
    rstd = view_strided(memory, {width}, one, rows * width);
    gates = view_strided(memory, over_time, strides, (rows + 1) * width);
    const int64_t first = (2 * rows + 1) * width;
    recurrent_normal = normalizes ? view_strided(memory, over_time, strides, first) : view_strided(memory, none, one);
    recurrent_rstd = normalizes ? view_strided(memory, {1, batch, steps, 1}, {rows, steps, 1, 1}, first + rows * width)
                                : view_strided(memory, none, one);
  }
};

// -> (out [B, T, H], h_last [1, B, H], what is kept), for x [B, T, K], w [2H, K], u [2H, H], h0 and mask [1, B, H].
template <class Engine>
std::tuple<Tensor, Tensor, Tensor> layer(Tensor x, Tensor w, Tensor u, std::optional<Tensor> norm_weight,
                                         std::optional<Tensor> norm_bias, Tensor running_mean, Tensor running_var,
                                         Tensor batches, std::optional<Tensor> h0, std::optional<Tensor> mask,
                                         std::string activation, bool normalize, double eps, double norm_eps,
                                         double momentum, bool training, bool save) {
  STD_TORCH_CHECK(x.lender() && x.dim() == 3 && x.is_contiguous() && w.dim() == 2 && u.dim() == 2, "x, w and u: dimensions");
  const int64_t batch = x.size(0), steps = x.size(1), units = u.size(1), rows = batch * steps, width = 2 * units;
  STD_TORCH_CHECK(has_shape(w, {width, x.size(2)}) && rows > (training ? 1 : 0) && units > 0, "x, w and u: shapes");
  for (const auto& t : {norm_weight, norm_bias, std::optional(running_mean), std::optional(running_var)})
    if (t) check_contiguous(*t, x, x.scalar_type(), {width}, "norm");
  check_contiguous(batches, x, ScalarType::Long, {}, "num_batches_tracked");
  STD_TORCH_CHECK(!training || norm_eps > 0, "norm: eps");
  check_small(rows, width, std::max(units, x.size(2)));  // as backward does
  const BatchNorm norm{norm_weight, norm_bias, running_mean, running_var, norm_eps, training};
  const Sizes size{KeptOfLayer::size(rows, units, normalize)}, one{1};
  const Tensor memory = save ? empty(x, size) : scratch_strided(x, size, one, x.scalar_type());
  const KeptOfLayer kept(memory, batch, steps, units, normalize);
  const Tensor g = scratch_strided(x, {batch, steps, width}, {steps * width, width, 1}, x.scalar_type());
  Inputs in{{g, u}, h0, std::nullopt, std::nullopt, mask, parse_activation(activation), false, normalize, eps};
  in.check();
  const Outputs made{empty(x, {batch, steps, units}), empty(x, {1, batch, units}), kept.gates, kept.recurrent_normal,
                     kept.recurrent_rstd};
  multiply<Engine>(x, w, std::nullopt, g);
  dispatch_wide(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* const y = g.mutable_data_ptr<T>();
    if (training) ++*batches.mutable_data_ptr<int64_t>();
    normalize_rows<T>(norm, rows, width, y, momentum, kept.normal.mutable_data_ptr<T>(), kept.rstd.mutable_data_ptr<T>(), y);
  });
  run_forward<Engine>(in, made, save);
  return {made.out, made.h_last, save ? memory : Tensor()};
}

// -> the gradients of x, w, u, norm_weight, norm_bias and h0. x's needs w, and w's needs x.
template <class Engine>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> layer_backward(
    Tensor grad_out, std::optional<Tensor> grad_h_last, std::optional<Tensor> x, std::optional<Tensor> w, Tensor u,
    std::optional<Tensor> norm_weight, std::optional<Tensor> h0, Tensor out, Tensor kept_memory, std::optional<Tensor> mask,
    std::string activation, bool normalize, double eps, bool training, bool needs_h0) {
  STD_TORCH_CHECK(out.lender() && out.dim() == 3, "out: expected 3 dimensions, and lent");
  const int64_t batch = out.size(0), steps = out.size(1), units = out.size(2), rows = batch * steps, width = 2 * units;
  STD_TORCH_CHECK(!x || (x->is_contiguous() && has_shape(*x, {batch, steps, x->size(-1)})), "x: expected shape (B, T, K)");
  STD_TORCH_CHECK(!w || has_shape(*w, {width, w->size(-1)}), "w: expected shape (2H, K)");
  check_small(rows, width, std::max({units, x ? x->size(2) : 0, w ? w->size(1) : 0}));
  const KeptOfLayer kept(kept_memory, batch, steps, units, normalize);
  Inputs in{{kept.normal, u}, h0, std::nullopt, std::nullopt, mask, parse_activation(activation), false, normalize, eps};
  in.check();
  for (const Tensor* t : {&out, &grad_out}) in.check_rows(*t, units, "out and grad_out");
  if (grad_h_last) in.check(*grad_h_last, out.scalar_type(), {1, batch, units}, "grad_h_last");
  Gradients grads;
  grads.gates = in.scratch({batch, steps, width});
  grads.product = normalize ? in.scratch({1, batch, steps, width}) : grads.gates;
  grads.h_before = in.scratch({1, batch, steps, units});
  grads.h0 = needs_h0 ? in.empty({1, batch, units}) : in.scratch({1, batch, units});
  grads.sums = in.scratch({0});
  run_backward<Engine>(in, grad_out, grad_h_last, {out, Tensor(), kept.gates, kept.recurrent_normal, kept.recurrent_rstd},
                       grads);
  const Tensor grad_u = gradient_of_u<Engine>(in, grads);
  const Tensor grad_weight = norm_weight ? in.empty({width}) : in.scratch({width});
  const Tensor grad_bias = in.empty({width});
  dispatch_wide(out.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const BatchNorm norm{norm_weight, std::nullopt, Tensor(), Tensor(), 0, training};
    differentiate_rows<T>(norm, rows, width, kept.normal.const_data_ptr<T>(), kept.rstd.const_data_ptr<T>(),
                          grads.gates.mutable_data_ptr<T>(), grad_weight.mutable_data_ptr<T>(),
                          grad_bias.mutable_data_ptr<T>());
  });
  const Tensor of_rows = view_strided(grads.gates, {rows, width}, {width, 1});
  const auto rows_of_x = [&] { return view_strided(*x, {rows, x->size(2)}, {x->size(2), 1}); };
  return {w ? linear<Engine>(grads.gates, transposed(*w, 0, 1)) : Tensor(),
          x ? transposed_product<Engine>(of_rows, rows_of_x()) : Tensor(),
          grad_u,
          norm_weight ? grad_weight : Tensor(),
          grad_bias,
          needs_h0 ? grads.h0 : Tensor()};
}

}  // namespace rnnkit
