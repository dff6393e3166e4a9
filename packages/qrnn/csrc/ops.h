// The ops, backend aside: Engine runs scan problems on its device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/layer.h>
#include <rnnkit/scan_tensors.h>

#include "options.h"

namespace rnnkit {

inline Pooling checked_pooling(int64_t pooling, bool zoneout) {
  STD_TORCH_CHECK(0 <= pooling && pooling <= 3, "pooling: expected 0 (ForgetMult), 1 (f), 2 (fo) or 3 (ifo), got ", pooling);
  STD_TORCH_CHECK(pooling > 0 || !zoneout, "zoneout: ForgetMult has none");
  return static_cast<Pooling>(pooling);
}

inline Zoneout zoneout_options(const ScanTensors& t, const std::optional<Tensor>& seed, double zoneout, double scale) {
  if (seed) t.check(*seed, ScalarType::Long, {1}, "seed");
  STD_TORCH_CHECK(0 <= zoneout && zoneout <= 1, "zoneout: expected a probability, got ", zoneout);
  return {seed ? seed->const_data_ptr<int64_t>() : nullptr, int32_t(zoneout * (1 << 24) + 0.5), scale};
}

template <class Engine>
std::tuple<Tensor, Tensor, Tensor> scan(std::vector<Tensor> planes, std::optional<Tensor> h0, std::optional<Tensor> lengths,
                                        std::optional<Tensor> seed, int64_t pooling, double zoneout, double scale,
                                        bool reverse, bool save) {
  const Pooling kind = checked_pooling(pooling, seed.has_value());
  const ScanTensors t(planes, planes_of(kind), lengths);
  const Zoneout options = zoneout_options(t, seed, zoneout, scale);
  return scan_forward_op<Engine>(t, h0, save, dispatch_to(kind, seed.has_value()),
                                 [&](auto& p) { t.fill(p, 0, reverse, options); });
}

// h0 only serves the derivative of this op: carries start with it.
template <class Engine>
std::vector<Tensor> scan_backward(Tensor grad_out, std::optional<Tensor> grad_h_last, std::vector<Tensor> planes,
                                  Tensor carries, std::optional<Tensor> /*h0*/, std::optional<Tensor> lengths,
                                  std::optional<Tensor> seed, int64_t pooling, double zoneout, double scale, bool reverse) {
  const Pooling kind = checked_pooling(pooling, seed.has_value());
  const ScanTensors t(planes, planes_of(kind), lengths);
  const Zoneout options = zoneout_options(t, seed, zoneout, scale);
  return scan_backward_op<Engine>(t, grad_out, grad_h_last, carries, dispatch_to(kind, seed.has_value()),
                                  [&](auto& p) { t.fill(p, 0, reverse, options); })
      .in_one_list();
}

// `scan` of x weight^T + bias.
template <class Engine>
std::tuple<Tensor, Tensor, Tensor, Tensor> layer(Tensor x, Tensor weight, std::optional<Tensor> bias,
                                                 std::optional<Tensor> h0, std::optional<Tensor> lengths,
                                                 std::optional<Tensor> seed, int64_t pooling, double zoneout, double scale,
                                                 bool reverse, bool batch_first, bool save) {
  return layer_op(by_batch(x, batch_first), weight, bias, batch_first, save, [&](const Tensor& planes) {
    return scan<Engine>({planes}, h0, lengths, seed, pooling, zoneout, scale, reverse, save);
  });
}

template <class Engine>
std::tuple<Tensor, Tensor, Tensor, Tensor> layer_backward(Tensor grad_out, std::optional<Tensor> grad_h_last,
                                                          std::optional<Tensor> x, std::optional<Tensor> weight,
                                                          std::optional<Tensor> /*bias*/, Tensor planes, Tensor carries,
                                                          std::optional<Tensor> lengths, std::optional<Tensor> seed,
                                                          int64_t pooling, double zoneout, double scale, bool reverse,
                                                          bool batch_first, bool needs_x, bool needs_weight,
                                                          bool needs_bias) {
  const auto grads = scan_backward<Engine>(by_batch(grad_out, batch_first), grad_h_last, {planes}, carries, std::nullopt,
                                           lengths, seed, pooling, zoneout, scale, reverse);
  if (x) x = by_batch(*x, batch_first);
  return layer_backward_op(grads[0], grads[1], x, weight, batch_first, {needs_x, needs_weight, needs_bias});
}

}  // namespace rnnkit
