// The ops, backend aside: Engine runs scan problems on its device. Inputs: [U, (x), (v_f, v_r), parameters].
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/layer.h>
#include <rnnkit/scan_tensors.h>

#include "options.h"

namespace rnnkit {

// The tensors of one call, and what they say of its kind.
class SruProblem {
 public:
  const Peephole peephole;
  const Skip skip;
  const ScanTensors t;

  SruProblem(const std::vector<Tensor>& inputs, const std::optional<Tensor>& lengths, const std::optional<Tensor>& pad,
             const std::optional<Tensor>& mask, const std::optional<Tensor>& scale, int64_t activation, int64_t skip_index,
             int64_t peephole_index, bool bidirectional)
      : peephole(checked<Peephole>(peephole_index, "peephole")),
        skip(checked<Skip>(skip_index, "skip")),
        t(sequences(inputs), channels_of(inputs), places(), lengths),
        bidirectional_(bidirectional),
        activation_(checked<Activation>(activation, "activation")),
        parameters_(inputs.back()),
        pad_(pad),
        mask_(mask),
        scale_(scale) {
    const ScalarType acc_dtype = accumulate_type(t.dtype);
    STD_TORCH_CHECK(!bidirectional || t.channels % 2 == 0, "parameters: expected an even number of channels");
    t.check(parameters_, acc_dtype, {peephole == Peephole::parameter ? 4 : 2, t.channels}, "parameters");
    if (pad) t.check(*pad, ScalarType::Bool, {t.batch, t.steps}, "pad");
    if (mask) t.check(*mask, acc_dtype, {t.batch, t.channels}, "mask");
    if (scale) t.check(*scale, acc_dtype, {1}, "scale");
  }

  template <class scalar_t, class AnyKind>
  void fill(ScanProblem<scalar_t, AnyKind>& p) const {
    SruOptions options{activation_, t.channels, {}, {}};
    if constexpr (sizeof(scalar_t) == 8)
      options.doubles = pointers<double>();
    else
      options.floats = pointers<float>();
    t.fill(p, 0, false, options);
    if (bidirectional_) p.reverse_from = t.channels / 2;
    p.pad = pad_ ? pad_->const_data_ptr<bool>() : nullptr;
  }

 private:
  template <class Choice>
  static Choice checked(int64_t index, const char* name) {
    STD_TORCH_CHECK(0 <= index && index <= 2, name, ": expected 0, 1 or 2, got ", index);
    return static_cast<Choice>(index);
  }

  std::vector<Tensor> sequences(const std::vector<Tensor>& inputs) const {
    const size_t count = 1 + (skip == Skip::input) + (peephole == Peephole::plane ? 2 : 0);
    STD_TORCH_CHECK(inputs.size() == count + 1, "inputs: expected ", count + 1, " tensors, got ", inputs.size());
    for (size_t i = 0; i < count; ++i) STD_TORCH_CHECK(inputs[i].dim() == 3, "inputs: expected 3 dimensions");
    return {inputs.begin(), inputs.end() - 1};
  }

  static int64_t channels_of(const std::vector<Tensor>& inputs) {
    STD_TORCH_CHECK(!inputs.empty() && inputs.back().dim() == 2, "parameters: expected 2 dimensions");
    return inputs.back().size(1);
  }

  std::vector<PlaceOfPlane> places() const {  // in the order of Kind
    const size_t v = skip == Skip::input ? 2 : 1;
    std::vector<PlaceOfPlane> places;
    if (peephole == Peephole::plane) places.push_back({v, 0});
    for (int64_t column = 0; column < (skip == Skip::column ? 4 : 3); ++column) places.push_back({0, column});
    if (skip == Skip::input) places.push_back({1, 0});
    if (peephole == Peephole::plane) places.push_back({v + 1, 0});
    return places;
  }

  template <class acc>
  Pointers<acc> pointers() const {
    return {parameters_.const_data_ptr<acc>(), mask_ ? mask_->const_data_ptr<acc>() : nullptr,
            scale_ ? scale_->const_data_ptr<acc>() : nullptr};
  }

  const bool bidirectional_;
  const Activation activation_;
  const Tensor parameters_;
  const std::optional<Tensor> pad_, mask_, scale_;
};

template <class Engine>
std::tuple<Tensor, Tensor, Tensor> scan(std::vector<Tensor> inputs, std::optional<Tensor> c0, std::optional<Tensor> lengths,
                                        std::optional<Tensor> pad, std::optional<Tensor> mask, std::optional<Tensor> scale,
                                        int64_t activation, int64_t skip, int64_t peephole, bool bidirectional, bool save) {
  const SruProblem problem(inputs, lengths, pad, mask, scale, activation, skip, peephole, bidirectional);
  return scan_forward_op<Engine>(problem.t, c0, save, dispatch_to(problem.peephole, problem.skip),
                                 [&](auto& p) { problem.fill(p); });
}

// c0 only serves the derivative of this op: carries start with it.
template <class Engine>
std::vector<Tensor> scan_backward(Tensor grad_out, std::optional<Tensor> grad_c_last, std::vector<Tensor> inputs,
                                  Tensor carries, std::optional<Tensor> /*c0*/, std::optional<Tensor> lengths,
                                  std::optional<Tensor> pad, std::optional<Tensor> mask, std::optional<Tensor> scale,
                                  int64_t activation, int64_t skip, int64_t peephole, bool bidirectional) {
  const SruProblem problem(inputs, lengths, pad, mask, scale, activation, skip, peephole, bidirectional);
  ScanGradients grads =
      scan_backward_op<Engine>(problem.t, grad_out, grad_c_last, carries, dispatch_to(problem.peephole, problem.skip),
                               [&](auto& p) { problem.fill(p); });
  const int64_t over_sequences[] = {1};
  grads.planes.push_back(torch::stable::sum(grads.sums, over_sequences));
  return std::move(grads).in_one_list();
}

// x weight, for x [N, K] and weight [K, M]
inline Tensor product(Tensor x, Tensor weight) {
  STD_TORCH_CHECK(x.dim() == 2 && weight.dim() == 2, "x and weight: expected shapes (N, K) and (K, M)");
  return linear(x, torch::stable::transpose(weight, 0, 1));
}

// The layer whose highway is its input: U = x weight, and `scan` of it. U is returned where backward needs it.
template <class Engine>
std::tuple<Tensor, Tensor, Tensor, Tensor> layer(Tensor x, Tensor weight, Tensor parameters, std::optional<Tensor> c0,
                                                 std::optional<Tensor> lengths, std::optional<Tensor> pad,
                                                 std::optional<Tensor> mask, std::optional<Tensor> scale, int64_t activation,
                                                 int64_t peephole, bool bidirectional, bool save) {
  STD_TORCH_CHECK(weight.dim() == 2, "weight: expected 2 dimensions");
  return layer_op(x, torch::stable::transpose(weight, 0, 1), std::nullopt, save, [&](const Tensor& u) {
    return scan<Engine>({u, x, parameters}, c0, lengths, pad, mask, scale, activation, int64_t(Skip::input), peephole,
                        bidirectional, save);
  });
}

// x's two gradients, of the highway and of the product, are added in the product.
template <class Engine>
std::tuple<Tensor, Tensor, Tensor, Tensor> layer_backward(Tensor grad_out, std::optional<Tensor> grad_c_last, Tensor x,
                                                          std::optional<Tensor> weight, Tensor parameters, Tensor u,
                                                          Tensor carries, std::optional<Tensor> lengths,
                                                          std::optional<Tensor> pad, std::optional<Tensor> mask,
                                                          std::optional<Tensor> scale, int64_t activation, int64_t peephole,
                                                          bool bidirectional, bool needs_x, bool needs_weight,
                                                          bool needs_parameters) {
  STD_TORCH_CHECK(!needs_x || weight, "weight: expected for the gradient of x");
  const auto grads = scan_backward<Engine>(grad_out, grad_c_last, {u, x, parameters}, carries, std::nullopt, lengths, pad,
                                           mask, scale, activation, int64_t(Skip::input), peephole, bidirectional);
  const MemoryOrder order(x);
  const auto none = [&] { return torch::stable::new_empty(x, {0}); };
  const auto grad_weight = [&] {
    return torch::stable::matmul(torch::stable::transpose(order.rows(x), 0, 1), order.rows(grads[0]));
  };
  return {needs_x ? order.back(add_linear(order.of(grads[1]), order.of(grads[0]), *weight)) : none(),
          needs_weight ? grad_weight() : none(), needs_parameters ? grads[2] : none(), grads[3]};
}

// `layer` where no backward follows.
template <class Engine>
std::tuple<Tensor, Tensor> infer(Tensor x, Tensor weight, Tensor parameters, std::optional<Tensor> c0,
                                 std::optional<Tensor> lengths, std::optional<Tensor> pad, std::optional<Tensor> mask,
                                 std::optional<Tensor> scale, int64_t activation, int64_t peephole, bool bidirectional) {
  auto [out, c_last, carries, u] =
      layer<Engine>(x, weight, parameters, c0, lengths, pad, mask, scale, activation, peephole, bidirectional, false);
  return {out, c_last};
}

}  // namespace rnnkit
