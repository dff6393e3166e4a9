// The ops, backend aside: Engine runs scan problems on its device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/layer.h>
#include <rnnkit/scan_tensors.h>

#include "options.h"

namespace rnnkit {

template <class Problem>
void fill(Problem& p, const ScanTensors& t, const std::optional<Tensor>& reset, double initial, bool reverse) {
  t.fill(p, initial, reverse, NoOptions{});
  if (reset) t.check(*reset, ScalarType::Bool, {t.batch, t.steps}, "reset");
  p.reset = reset ? reset->const_data_ptr<bool>() : nullptr;
}

template <class Engine>
std::tuple<Tensor, Tensor, Tensor> scan(std::vector<Tensor> planes, std::optional<Tensor> h0, std::optional<Tensor> lengths,
                                        std::optional<Tensor> reset, int64_t gates, int64_t activation, double initial,
                                        bool reverse, bool save) {
  const auto dispatch = dispatch_to(gates, activation);
  const ScanTensors t(planes, gates + 1, lengths);
  return scan_forward_op<Engine>(t, h0, save, dispatch, [&](auto& p) { fill(p, t, reset, initial, reverse); });
}

// One step from planes [B, P * D] and h to h_next [B, D], contiguous; returns out [B, D].
template <class Engine>
Tensor run_step(const Tensor& planes, const std::optional<Tensor>& h, Tensor h_next, int64_t gates, int64_t activation,
                double initial) {
  const auto dispatch = dispatch_to(gates, activation);
  STD_TORCH_CHECK(planes.dim() == 2 && planes.size(1) % (gates + 1) == 0 && (planes.stride(1) == 1 || planes.numel() == 0),
                  "planes: expected shape (B, ", gates + 1, " * D) with unit stride along its last dimension");
  const int64_t batch = planes.size(0), channels = planes.size(1) / (gates + 1);
  const ScalarType acc_dtype = accumulate_type(planes.scalar_type());
  check_contiguous(h_next, planes, acc_dtype, {batch, channels}, "h_next");
  if (h) check_contiguous(*h, planes, acc_dtype, {batch, channels}, "h");
  Tensor out = empty(planes, {batch, channels});
  dispatch(planes.scalar_type(), [&](auto tag, auto kind) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    ScanForward<scalar_t, decltype(kind)> p{};
    p.batch = batch;
    p.steps = 1;
    p.channels = p.reverse_from = channels;
    p.initial = static_cast<acc>(initial);
    for (int j = 0; j < kind.kPlanes; ++j)
      p.in[j] = {static_cast<const scalar_t*>(planes.data_ptr()) + j * channels, planes.stride(0), 0};
    p.h0 = h ? h->template const_data_ptr<acc>() : nullptr;
    p.out = {static_cast<scalar_t*>(out.data_ptr()), channels, 0};
    p.h_last = h_next.template mutable_data_ptr<acc>();
    Engine::run(p, planes.device());
  });
  return out;
}

// One step of a stream, for inference: planes [B, P * D], h [B, D].
template <class Engine>
std::tuple<Tensor, Tensor> step(Tensor planes, std::optional<Tensor> h, int64_t gates, int64_t activation, double initial) {
  check_gates(gates);
  STD_TORCH_CHECK(planes.dim() == 2, "planes: expected shape (B, P * D)");
  Tensor h_next = empty(planes, {planes.size(0), planes.size(1) / (gates + 1)}, accumulate_type(planes.scalar_type()));
  Tensor out = run_step<Engine>(planes, h, h_next, gates, activation, initial);
  return {out, h_next};
}

// One step of a stream through a stack of layers of one width, for inference: x [B, K], h [L, B, 1, D]; a bias each, or
// none.
template <class Engine>
std::tuple<Tensor, Tensor> stack_step(Tensor x, std::vector<Tensor> weights, std::vector<Tensor> biases,
                                      std::optional<Tensor> h, int64_t gates, int64_t activation, double initial) {
  check_gates(gates);
  const int64_t layers = weights.size();
  STD_TORCH_CHECK(layers > 0 && (biases.empty() || biases.size() == weights.size()), "weights: expected one for each layer");
  STD_TORCH_CHECK(x.dim() == 2 && weights[0].dim() == 2, "x and weights: expected 2 dimensions");
  const std::vector<int64_t> shape{layers, x.size(0), 1, weights[0].size(0) / (gates + 1)};
  Tensor h_next = empty(x, shape, accumulate_type(x.scalar_type()));
  if (h) check_contiguous(*h, x, accumulate_type(x.scalar_type()), shape, "h");
  for (int64_t i = 0; i < layers; ++i) {
    std::optional<Tensor> bias, state;
    if (!biases.empty()) bias = biases[i];
    if (h) state = states_of(*h, i);
    x = run_step<Engine>(linear(x, weights[i], bias), state, states_of(h_next, i), gates, activation, initial);
  }
  return {x, h_next};
}

// h0 only serves the derivative of this op: carries start with it.
template <class Engine>
std::vector<Tensor> scan_backward(Tensor grad_out, std::optional<Tensor> grad_h_last, std::vector<Tensor> planes,
                                  Tensor carries, std::optional<Tensor> /*h0*/, std::optional<Tensor> lengths,
                                  std::optional<Tensor> reset, int64_t gates, int64_t activation, double initial,
                                  bool reverse) {
  const auto dispatch = dispatch_to(gates, activation);
  const ScanTensors t(planes, gates + 1, lengths);
  return scan_backward_op<Engine>(t, grad_out, grad_h_last, carries, dispatch,
                                  [&](auto& p) { fill(p, t, reset, initial, reverse); })
      .in_one_list();
}

// `scan` of x weight^T + bias.
template <class Engine>
std::tuple<Tensor, Tensor, Tensor, Tensor> layer(Tensor x, Tensor weight, std::optional<Tensor> bias,
                                                 std::optional<Tensor> h0, std::optional<Tensor> lengths,
                                                 std::optional<Tensor> reset, int64_t gates, int64_t activation,
                                                 double initial, bool reverse, bool batch_first, bool save) {
  return layer_op(by_batch(x, batch_first), weight, bias, batch_first, save, [&](const Tensor& planes) {
    return scan<Engine>({planes}, h0, lengths, reset, gates, activation, initial, reverse, save);
  });
}

template <class Engine>
std::tuple<Tensor, Tensor, Tensor, Tensor> layer_backward(Tensor grad_out, std::optional<Tensor> grad_h_last,
                                                          std::optional<Tensor> x, std::optional<Tensor> weight,
                                                          std::optional<Tensor> /*bias*/, Tensor planes, Tensor carries,
                                                          std::optional<Tensor> lengths, std::optional<Tensor> reset,
                                                          int64_t gates, int64_t activation, double initial, bool reverse,
                                                          bool batch_first, bool needs_x, bool needs_weight,
                                                          bool needs_bias) {
  const auto grads = scan_backward<Engine>(by_batch(grad_out, batch_first), grad_h_last, {planes}, carries, std::nullopt,
                                           lengths, reset, gates, activation, initial, reverse);
  if (x) x = by_batch(*x, batch_first);
  return layer_backward_op(grads[0], grads[1], x, weight, batch_first, {needs_x, needs_weight, needs_bias});
}

}  // namespace rnnkit
