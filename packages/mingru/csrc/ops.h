// The ops, backend aside: tensors in, tensors out, and a call of the backend's engine between.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/scan_tensors.h>

#include <tuple>

#include "options.h"

namespace rnnkit {

// Engine::forward<Cell arguments...>(ScanForward) and Engine::backward(ScanBackward) run on the backend's device.
template <class Engine>
std::tuple<Tensor, Tensor, Tensor> scan(std::vector<Tensor> planes, std::optional<Tensor> h0, std::optional<Tensor> lengths,
                                        std::optional<Tensor> reset, int64_t gates, int64_t activation, double initial,
                                        bool reverse, bool save) {
  check_gates(gates);
  const ScanTensors t(planes, gates + 1, lengths, reset);
  if (h0) t.check(*h0, accumulate_type(t.dtype), {t.batch, t.channels}, "h0");
  Tensor out = t.empty_rows(t.channels), h_last = t.empty_state();
  Tensor carries = torch::stable::new_empty(h_last, {t.batch, save ? t.carries_size() : 0});
  dispatch_cell(t.dtype, gates, activation, [&](auto tag, auto gate_planes, auto act) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    ScanForward<scalar_t, gate_planes + 1> p;
    t.fill<scalar_t, gate_planes + 1>(p, initial, reverse);
    p.h0 = h0 ? h0->template const_data_ptr<acc>() : nullptr;
    p.out = ScanTensors::strided<scalar_t>(out);
    p.h_last = h_last.template mutable_data_ptr<acc>();
    p.carries = save ? carries.template mutable_data_ptr<acc>() : nullptr;
    Engine::template forward<gate_planes, act>(p, t.device());
  });
  return {out, h_last, carries};
}

// One step of a stream, for inference: planes [B, P * D], h [B, D].
template <class Engine>
std::tuple<Tensor, Tensor> step(Tensor planes, std::optional<Tensor> h, int64_t gates, int64_t activation, double initial) {
  check_gates(gates);
  STD_TORCH_CHECK(planes.dim() == 2 && planes.size(1) % (gates + 1) == 0 && planes.stride(1) == 1,
                  "planes: expected shape (B, ", gates + 1, " * D) with unit stride along its last dimension");
  const int64_t batch = planes.size(0), channels = planes.size(1) / (gates + 1);
  const ScalarType acc_dtype = accumulate_type(planes.scalar_type());
  if (h)
    STD_TORCH_CHECK(h->dim() == 2 && h->size(0) == batch && h->size(1) == channels && h->is_contiguous() &&
                        h->scalar_type() == acc_dtype && h->device() == planes.device(),
                    "h: not a contiguous tensor of the expected shape, dtype and device");
  Tensor out = torch::stable::new_empty(planes, {batch, channels});
  Tensor h_next = torch::stable::new_empty(planes, {batch, channels}, acc_dtype);
  dispatch_cell(planes.scalar_type(), gates, activation, [&](auto tag, auto gate_planes, auto act) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    ScanForward<scalar_t, gate_planes + 1> p{};
    p.batch = batch;
    p.steps = 1;
    p.channels = channels;
    p.initial = static_cast<acc>(initial);
    for (int j = 0; j <= gate_planes; ++j)
      p.in[j] = {static_cast<const scalar_t*>(planes.data_ptr()) + j * channels, planes.stride(0), 0};
    p.h0 = h ? h->template const_data_ptr<acc>() : nullptr;
    p.out = {static_cast<scalar_t*>(out.data_ptr()), channels, 0};
    p.h_last = h_next.template mutable_data_ptr<acc>();
    Engine::template forward<gate_planes, act>(p, planes.device());
  });
  return {out, h_next};
}

template <class Engine>
std::tuple<Tensor, Tensor> scan_backward(Tensor grad_out, std::optional<Tensor> grad_h_last, std::vector<Tensor> planes,
                                         Tensor carries, std::optional<Tensor> /*h0: carries start with it; only the
                                         derivative of this op asks for it*/
                                         ,
                                         std::optional<Tensor> lengths, std::optional<Tensor> reset, int64_t gates,
                                         int64_t activation, double initial, bool reverse) {
  check_gates(gates);
  const ScanTensors t(planes, gates + 1, lengths, reset);
  const ScalarType acc_dtype = accumulate_type(t.dtype);
  const Tensor grad_rows = t.rows(grad_out, t.channels, "grad_out");
  if (grad_h_last) t.check(*grad_h_last, acc_dtype, {t.batch, t.channels}, "grad_h_last");
  t.check(carries, acc_dtype, {t.batch, t.carries_size()}, "carries");
  Tensor grad_planes = t.empty_rows((gates + 1) * t.channels), grad_h0 = t.empty_state();
  dispatch_cell(t.dtype, gates, activation, [&](auto tag, auto gate_planes, auto act) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    ScanBackward<scalar_t, gate_planes + 1> p;
    t.fill<scalar_t, gate_planes + 1>(p, initial, reverse);
    p.carries = carries.template const_data_ptr<acc>();
    p.grad_out = ScanTensors::strided<const scalar_t>(grad_rows);
    p.grad_h_last = grad_h_last ? grad_h_last->template const_data_ptr<acc>() : nullptr;
    for (int j = 0; j <= gate_planes; ++j) p.grad_in[j] = ScanTensors::strided<scalar_t>(grad_planes, j * t.channels);
    p.grad_h0 = grad_h0.template mutable_data_ptr<acc>();
    Engine::template backward<gate_planes, act>(p, t.device());
  });
  return {grad_planes, grad_h0};
}

}  // namespace rnnkit
