// A layer in one op, forward and backward: a product of x [B, T, K] and a weight makes planes [B, T, M] for a scan.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/products.h>

#include <tuple>

namespace rnnkit {

// Sequences as a caller has them, [B, T, .] or, unless `batch_first`, [T, B, .], as [B, T, .]; and the other way round.
inline Tensor by_batch(const Tensor& sequences, bool batch_first) {
  STD_TORCH_CHECK(sequences.dim() == 3, "sequences: expected 3 dimensions");
  return batch_first ? sequences : transposed(sequences, 0, 1);
}

// Sequences [B, T, .] in the order that x has in memory, [B, T, .] or [T, B, .], so that a product copies nothing; and back.
class MemoryOrder {
 public:
  explicit MemoryOrder(const Tensor& x) : time_major_(x.stride(0) < x.stride(1)) {}

  Tensor of(const Tensor& sequences) const { return time_major_ ? transposed(sequences, 0, 1) : sequences; }
  Tensor rows(const Tensor& sequences) const {  // [B * T, .]
    const Tensor ordered = of(sequences);
    if (!ordered.is_contiguous()) return torch::stable::flatten(ordered, 0, 1);
    return view_strided(ordered, {ordered.size(0) * ordered.size(1), ordered.size(2)}, {ordered.size(2), 1});
  }
  Tensor back(const Tensor& ordered) const { return of(ordered); }

  // Sequences [B, T, width] that lie so, uninitialised
  Tensor empty(const Tensor& x, int64_t width) const {
    const int64_t batch = x.size(0), steps = x.size(1);
    if (!time_major_) return rnnkit::empty(x, {batch, steps, width});
    return empty_strided(x, {batch, steps, width}, {width, batch * width, 1}, x.scalar_type());
  }

 private:
  const bool time_major_;
};

// Gradients that somebody needs; those of the others are not computed, and what they need need not be there.
struct Needs {
  bool x, weight, bias, h0;
};

// scan(planes) -> (out, h_last, carries), for weight [M, K] and x [B, T, K]. Planes are returned where backward needs them.
template <class Engine, class Scan>
std::tuple<Tensor, Tensor, Tensor, Tensor> layer_op(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                                                    bool batch_first, bool save, Scan scan) {
  STD_TORCH_CHECK(weight.dim() == 2, "weight: expected 2 dimensions");
  if (bias)
    STD_TORCH_CHECK(has_shape(*bias, {weight.size(0)}) && bias->scalar_type() == x.scalar_type() && same_device(*bias, x),
                    "bias: not a tensor of the expected shape, dtype and device");
  const MemoryOrder order(x);
  Tensor planes;
  if (save && x.lender()) {  // such a tensor can only be handed out as it is
    planes = order.empty(x, weight.size(0));
    multiply<Engine>(order.of(x), weight, bias, order.of(planes));
  } else {
    planes = order.back(linear<Engine>(order.of(x), weight, bias, false));
  }
  auto [out, h_last, carries] = scan(planes);
  return {by_batch(out, batch_first), h_last, carries, save ? planes : nothing(planes)};
}

// Gradients of x, weight, bias and h0, from those of the planes and of h0: x's needs the weight, and the weight's needs x,
// which is [B, T, K].
template <class Engine>
std::tuple<Tensor, Tensor, Tensor, Tensor> layer_backward_op(const Tensor& grad_planes, const Tensor& grad_h0,
                                                             const std::optional<Tensor>& x,
                                                             const std::optional<Tensor>& weight, bool batch_first,
                                                             Needs needs) {
  STD_TORCH_CHECK((!needs.x || weight) && (!needs.weight || x), "x and weight: expected what the gradients need");
  STD_TORCH_CHECK(!x || (x->dim() == 3 && x->size(0) == grad_planes.size(0) && x->size(1) == grad_planes.size(1)),
                  "x: expected shape (B, T, K)");
  const MemoryOrder order(grad_planes);
  const Tensor rows = order.rows(grad_planes);
  const auto none = [&] { return nothing(grad_planes); };
  const auto grad_x = [&] { return order.back(linear<Engine>(order.of(grad_planes), transposed(*weight, 0, 1))); };
  return {needs.x ? by_batch(grad_x(), batch_first) : none(),
          needs.weight ? transposed_product<Engine>(rows, order.rows(*x)) : none(), needs.bias ? sum_rows(rows) : none(),
          needs.h0 ? grad_h0 : none()};
}

}  // namespace rnnkit
