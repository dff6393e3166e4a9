// SRU's ops beside those that all scans have: its layers take their parameters one by one, and let the matrix product add to
// the gradient of x that the scan wrote.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "family.h"

namespace rnnkit {

// x weight, for x [N, K] and weight [K, M]
template <class Engine>
Tensor product(Tensor x, Tensor weight) {
  STD_TORCH_CHECK(x.dim() == 2 && weight.dim() == 2, "x and weight: expected shapes (N, K) and (K, M)");
  return linear<Engine>(x, transposed(weight, 0, 1));
}

// What the scan of a layer reads: U, x and the parameters; its highway is x.
inline std::vector<Tensor> inputs_of(const Tensor& u, const Tensor& x, const Tensor& bias,
                                     const std::optional<Tensor>& weight_c) {
  std::vector<Tensor> inputs{u, x, bias};
  if (weight_c) inputs.push_back(*weight_c);
  return inputs;
}

inline Family family_of_layer(const std::optional<Tensor>& pad, const std::optional<Tensor>& mask,
                              const std::optional<Tensor>& scale, const std::string& activation, bool has_weight_c) {
  return Family::parse(pad, mask, scale, activation, "input", has_weight_c ? "parameter" : "none");
}

// U = x weight, and `scan` of it. U is returned where backward needs it, and c_last has `state_shape`, or [B, D] if that is
// empty.
template <class Engine>
std::tuple<Tensor, Tensor, Tensor, Tensor> shaped_layer(Tensor x, Tensor weight, Tensor bias, std::optional<Tensor> weight_c,
                                                        std::optional<Tensor> c0, std::optional<Tensor> lengths,
                                                        std::optional<Tensor> reset, std::optional<Tensor> pad,
                                                        std::optional<Tensor> mask, std::optional<Tensor> scale,
                                                        std::string activation, std::string direction, bool batch_first,
                                                        bool save, Sizes state_shape) {
  STD_TORCH_CHECK(weight.dim() == 2, "weight: expected 2 dimensions");
  x = by_batch(x, batch_first);
  const Family family = family_of_layer(pad, mask, scale, activation, weight_c.has_value());
  return layer_op<Engine>(x, transposed(weight, 0, 1), std::nullopt, batch_first, save, [&](const Tensor& u) {
    const ScanTensors t(inputs_of(u, x, bias, weight_c), family.planes(), family.parameters(), lengths, reset);
    return run_forward<Engine>(family, t, c0, parse_direction(direction), save, state_of_shape(u, state_shape));
  });
}

template <class Engine>
std::tuple<Tensor, Tensor, Tensor, Tensor> layer(Tensor x, Tensor weight, Tensor bias, std::optional<Tensor> weight_c,
                                                 std::optional<Tensor> c0, std::optional<Tensor> lengths,
                                                 std::optional<Tensor> reset, std::optional<Tensor> pad,
                                                 std::optional<Tensor> mask, std::optional<Tensor> scale,
                                                 std::string activation, std::string direction, bool batch_first,
                                                 bool save) {
  return shaped_layer<Engine>(x, weight, bias, weight_c, c0, lengths, reset, pad, mask, scale, activation, direction,
                              batch_first, save, {});
}

// x's two gradients, of the highway and of the product, are added in the product.
template <class Engine>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> layer_backward(
    Tensor grad_out, std::optional<Tensor> grad_c_last, Tensor x, std::optional<Tensor> weight, Tensor bias,
    std::optional<Tensor> weight_c, Tensor u, Tensor carries, std::optional<Tensor> lengths, std::optional<Tensor> reset,
    std::optional<Tensor> pad, std::optional<Tensor> mask, std::optional<Tensor> scale, std::string activation,
    std::string direction, bool batch_first, bool needs_x, bool needs_weight, bool needs_bias, bool needs_weight_c,
    bool needs_c0) {
  STD_TORCH_CHECK(!needs_x || weight, "weight: expected for the gradient of x");
  x = by_batch(x, batch_first);
  if (x.lender()) check_small(x.numel(), u.size(-1), 1);
  const Family family = family_of_layer(pad, mask, scale, activation, weight_c.has_value());
  const ScanTensors t(inputs_of(u, x, bias, weight_c), family.planes(), family.parameters(), lengths, reset);
  const ScanGradients grads = run_backward<Engine>(family, t, by_batch(grad_out, batch_first), grad_c_last, carries,
                                                   parse_direction(direction), needs_x ? 1 : 2, needs_c0);
  const MemoryOrder order(x);
  const auto none = [&] { return nothing(x); };
  const auto grad_x = [&] {
    return order.back(add_linear<Engine>(order.of(grads.inputs[1]), order.of(grads.inputs[0]), *weight));
  };
  const auto grad_weight = [&] { return transposed_product<Engine>(order.rows(x), order.rows(grads.inputs[0])); };
  return {needs_x ? by_batch(grad_x(), batch_first) : none(), needs_weight ? grad_weight() : none(),
          needs_bias ? grads.inputs[2] : none(), needs_weight_c && weight_c ? grads.inputs[3] : none(),
          needs_c0 ? grads.h0 : none()};
}

// One step of a stream through a stack of layers of one width, for inference: x [B, K], c [L, B, D]. Per layer: weight
// [K, 3 * D], with the skip "input" if the layer has one, or [K, 4 * D], bias [2 * D], and weight_c and scale [1], or none
// of them.
template <class Engine>
std::tuple<Tensor, Tensor> stack_step(Tensor x, std::vector<Tensor> weights, std::vector<Tensor> biases,
                                      std::vector<Tensor> weights_c, std::vector<Tensor> scales, std::optional<Tensor> c,
                                      bool has_skip, std::string activation) {
  const size_t layers = weights.size();
  const auto one_each = [&](const std::vector<Tensor>& given) { return given.empty() || given.size() == layers; };
  STD_TORCH_CHECK(layers > 0 && biases.size() == layers && one_each(weights_c) && one_each(scales),
                  "weights: expected one for each layer, and as many of the others");
  STD_TORCH_CHECK(x.dim() == 2, "x: expected shape (B, K)");
  const int64_t batch = x.size(0), channels = biases[0].numel() / 2;
  const ScalarType acc_dtype = accumulate_type(x.scalar_type());
  if (c) check_contiguous(*c, x, acc_dtype, {int64_t(layers), batch, channels}, "c");
  Tensor c_next = empty(x, {int64_t(layers), batch, channels}, acc_dtype);
  const auto as_sequences = [&](const Tensor& rows) {  // [B, 1, .]
    return view_strided(rows, {rows.size(0), 1, rows.size(1)}, {rows.stride(0), rows.stride(0), rows.stride(1)});
  };
  Family family;
  family.activation = Family::parse_activation(activation);
  family.peephole = weights_c.empty() ? Peephole::none : Peephole::parameter;
  for (size_t i = 0; i < layers; ++i) {
    const bool has_column = weights[i].dim() == 2 && weights[i].size(1) == 4 * channels;
    family.skip = !has_skip ? Skip::none : has_column ? Skip::column : Skip::input;
    family.scale = std::nullopt;
    if (!scales.empty()) family.scale = scales[i];
    std::vector<Tensor> inputs{as_sequences(product<Engine>(x, weights[i]))};
    if (family.skip == Skip::input) inputs.push_back(as_sequences(x));
    inputs.push_back(biases[i]);
    if (!weights_c.empty()) inputs.push_back(weights_c[i]);
    std::optional<Tensor> state;
    if (c) state = states_of(*c, int64_t(i));
    const ScanTensors t(inputs, family.planes(), family.parameters(), std::nullopt, std::nullopt);
    STD_TORCH_CHECK(t.channels == channels, "weights and biases: expected (K, 3 * D) or (K, 4 * D), and (2 * D)");
    const Tensor out =
        std::get<0>(run_forward<Engine>(family, t, state, Direction::forward, false, states_of(c_next, int64_t(i))));
    x = view_strided(out, {batch, channels}, {channels, 1});
  }
  return {x, c_next};
}

template <class Engine, class Library>
void implement_sru(Library& m) {
  implement_scan<Engine, Family>(m);
  m.impl("product", TORCH_BOX(&product<Engine>));
  m.impl("layer", TORCH_BOX(&layer<Engine>));
  m.impl("layer_backward", TORCH_BOX(&layer_backward<Engine>));
  m.impl("stack_step", TORCH_BOX(&stack_step<Engine>));
}

}  // namespace rnnkit
