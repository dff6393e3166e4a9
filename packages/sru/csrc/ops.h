// The ops, backend aside: Engine runs scan problems on its device. Inputs: [U, (x), (v_f, v_r), parameters],
// the parameters b_f, b_r [2, D], or with v_f, v_r [4, D].
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/layer.h>
#include <rnnkit/scan_tensors.h>

#include <utility>

#include "options.h"

namespace rnnkit {

// [2 * D] each, of the dtype of states
struct Parameters {
  Tensor bias;
  std::optional<Tensor> weight_c;
};

inline Parameters split(const Tensor& parameters) {
  STD_TORCH_CHECK(parameters.dim() == 2 && parameters.is_contiguous(), "parameters: expected 2 contiguous dimensions");
  const int64_t rows = parameters.size(0), size = 2 * parameters.size(1);
  STD_TORCH_CHECK(rows == 2 || rows == 4, "parameters: expected 2 or 4 rows");
  Parameters apart{view_strided(parameters, {size}, {1}), std::nullopt};
  if (rows == 4) apart.weight_c = view_strided(parameters, {size}, {1}, size);
  return apart;
}

// The tensors of one call, and what they say of its kind. Sequences: U, (x), (v_f, v_r).
class SruProblem {
 public:
  const Peephole peephole;
  const Skip skip;
  const ScanTensors t;

  SruProblem(const std::vector<Tensor>& sequences, const Parameters& parameters, const std::optional<Tensor>& lengths,
             const std::optional<Tensor>& pad, const std::optional<Tensor>& mask, const std::optional<Tensor>& scale,
             int64_t activation, int64_t skip_index, int64_t peephole_index, bool bidirectional)
      : peephole(checked<Peephole>(peephole_index, "peephole")),
        skip(checked<Skip>(skip_index, "skip")),
        t(checked(sequences), parameters.bias.numel() / 2, places(), lengths),
        bidirectional_(bidirectional),
        activation_(checked<Activation>(activation, "activation")),
        parameters_(parameters),
        pad_(pad),
        mask_(mask),
        scale_(scale) {
    const ScalarType acc_dtype = accumulate_type(t.dtype);
    STD_TORCH_CHECK(!bidirectional || t.channels % 2 == 0, "bias: expected an even number of channels");
    t.check(parameters.bias, acc_dtype, {2 * t.channels}, "bias");
    STD_TORCH_CHECK(parameters.weight_c.has_value() == (peephole == Peephole::parameter), "weight_c: expected if v is one");
    if (parameters.weight_c) t.check(*parameters.weight_c, acc_dtype, {2 * t.channels}, "weight_c");
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

  const std::vector<Tensor>& checked(const std::vector<Tensor>& sequences) const {
    const size_t count = 1 + (skip == Skip::input) + (peephole == Peephole::plane ? 2 : 0);
    STD_TORCH_CHECK(sequences.size() == count, "sequences: expected ", count, " tensors, got ", sequences.size());
    for (const Tensor& t : sequences) STD_TORCH_CHECK(t.dim() == 3, "sequences: expected 3 dimensions");
    return sequences;
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
    const auto pointer = [](const std::optional<Tensor>& t) { return t ? t->const_data_ptr<acc>() : nullptr; };
    return {parameters_.bias.const_data_ptr<acc>(), pointer(parameters_.weight_c), pointer(mask_), pointer(scale_)};
  }

  const bool bidirectional_;
  const Activation activation_;
  const Parameters parameters_;
  const std::optional<Tensor> pad_, mask_, scale_;
};

template <class Engine>
std::tuple<Tensor, Tensor, Tensor> forward(const SruProblem& problem, const std::optional<Tensor>& c0, bool save,
                                           const std::optional<Tensor>& into = std::nullopt) {
  return scan_forward_op<Engine>(
      problem.t, c0, save, dispatch_to(problem.peephole, problem.skip), [&](auto& p) { problem.fill(p); }, into);
}

// Gradients of the planes and of c0, and as sums those of the parameters, [2 or 4, D].
template <class Engine>
ScanGradients backward(const SruProblem& problem, const Tensor& grad_out, const std::optional<Tensor>& grad_c_last,
                       const Tensor& carries) {
  ScanGradients grads =
      scan_backward_op<Engine>(problem.t, grad_out, grad_c_last, carries, dispatch_to(problem.peephole, problem.skip),
                               [&](auto& p) { problem.fill(p); });
  const int64_t over_sequences[] = {1};
  grads.sums = torch::stable::sum(grads.sums, over_sequences);
  return grads;
}

inline std::pair<std::vector<Tensor>, Parameters> apart(std::vector<Tensor> inputs) {
  STD_TORCH_CHECK(!inputs.empty(), "inputs: expected tensors");
  const Parameters parameters = split(inputs.back());
  inputs.pop_back();
  return {inputs, parameters};
}

template <class Engine>
std::tuple<Tensor, Tensor, Tensor> scan(std::vector<Tensor> inputs, std::optional<Tensor> c0, std::optional<Tensor> lengths,
                                        std::optional<Tensor> pad, std::optional<Tensor> mask, std::optional<Tensor> scale,
                                        int64_t activation, int64_t skip, int64_t peephole, bool bidirectional, bool save) {
  const auto [sequences, parameters] = apart(inputs);
  return forward<Engine>({sequences, parameters, lengths, pad, mask, scale, activation, skip, peephole, bidirectional}, c0,
                         save);
}

// c0 only serves the derivative of this op: carries start with it.
template <class Engine>
std::vector<Tensor> scan_backward(Tensor grad_out, std::optional<Tensor> grad_c_last, std::vector<Tensor> inputs,
                                  Tensor carries, std::optional<Tensor> /*c0*/, std::optional<Tensor> lengths,
                                  std::optional<Tensor> pad, std::optional<Tensor> mask, std::optional<Tensor> scale,
                                  int64_t activation, int64_t skip, int64_t peephole, bool bidirectional) {
  const auto [sequences, parameters] = apart(inputs);
  ScanGradients grads =
      backward<Engine>({sequences, parameters, lengths, pad, mask, scale, activation, skip, peephole, bidirectional},
                       grad_out, grad_c_last, carries);
  grads.planes.push_back(grads.sums);
  return std::move(grads).in_one_list();
}

// x weight, for x [N, K] and weight [K, M]
inline Tensor product(Tensor x, Tensor weight) {
  STD_TORCH_CHECK(x.dim() == 2 && weight.dim() == 2, "x and weight: expected shapes (N, K) and (K, M)");
  return linear(x, transposed(weight, 0, 1));
}

inline SruProblem layer_problem(const Tensor& u, const Tensor& x, const Tensor& bias, const std::optional<Tensor>& weight_c,
                                const std::optional<Tensor>& lengths, const std::optional<Tensor>& pad,
                                const std::optional<Tensor>& mask, const std::optional<Tensor>& scale, int64_t activation,
                                bool bidirectional) {
  const Peephole peephole = weight_c ? Peephole::parameter : Peephole::none;
  return {{u, x},     {bias, weight_c},     lengths,           pad,          mask, scale,
          activation, int64_t(Skip::input), int64_t(peephole), bidirectional};
}

// The layer whose highway is its input: U = x weight, and `scan` of it. U is returned where backward needs it.
template <class Engine>
std::tuple<Tensor, Tensor, Tensor, Tensor> layer(Tensor x, Tensor weight, Tensor bias, std::optional<Tensor> weight_c,
                                                 std::optional<Tensor> c0, std::optional<Tensor> lengths,
                                                 std::optional<Tensor> pad, std::optional<Tensor> mask,
                                                 std::optional<Tensor> scale, int64_t activation, bool bidirectional,
                                                 bool batch_first, bool save) {
  STD_TORCH_CHECK(weight.dim() == 2, "weight: expected 2 dimensions");
  x = by_batch(x, batch_first);
  return layer_op(x, transposed(weight, 0, 1), std::nullopt, batch_first, save, [&](const Tensor& u) {
    return forward<Engine>(layer_problem(u, x, bias, weight_c, lengths, pad, mask, scale, activation, bidirectional), c0,
                           save);
  });
}

// x's two gradients, of the highway and of the product, are added in the product.
template <class Engine>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> layer_backward(
    Tensor grad_out, std::optional<Tensor> grad_c_last, Tensor x, std::optional<Tensor> weight, Tensor bias,
    std::optional<Tensor> weight_c, Tensor u, Tensor carries, std::optional<Tensor> lengths, std::optional<Tensor> pad,
    std::optional<Tensor> mask, std::optional<Tensor> scale, int64_t activation, bool bidirectional, bool batch_first,
    bool needs_x, bool needs_weight, bool needs_bias, bool needs_weight_c) {
  STD_TORCH_CHECK(!needs_x || weight, "weight: expected for the gradient of x");
  x = by_batch(x, batch_first);
  const ScanGradients grads =
      backward<Engine>(layer_problem(u, x, bias, weight_c, lengths, pad, mask, scale, activation, bidirectional),
                       by_batch(grad_out, batch_first), grad_c_last, carries);
  const MemoryOrder order(x);
  const auto none = [&] { return empty(x, {0}); };
  const auto grad_x = [&] { return order.back(add_linear(order.of(grads.planes[1]), order.of(grads.planes[0]), *weight)); };
  const auto grad_weight = [&] {
    return torch::stable::matmul(transposed(order.rows(x), 0, 1), order.rows(grads.planes[0]));
  };
  const Parameters of = split(grads.sums);
  return {needs_x ? by_batch(grad_x(), batch_first) : none(), needs_weight ? grad_weight() : none(),
          needs_bias ? of.bias : none(), needs_weight_c && of.weight_c ? *of.weight_c : none(), grads.h0};
}

// One step of a stream through a stack of layers of one width, for inference: x [B, K], c [L, B, D]. Per layer: weight
// [K, 3 * D], with the skip "input" if the layer has one, or [K, 4 * D], bias [2 * D], and weight_c and scale [1], or none
// of them.
template <class Engine>
std::tuple<Tensor, Tensor> stack_step(Tensor x, std::vector<Tensor> weights, std::vector<Tensor> biases,
                                      std::vector<Tensor> weights_c, std::vector<Tensor> scales, std::optional<Tensor> c,
                                      bool has_skip, int64_t activation) {
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
  for (size_t i = 0; i < layers; ++i) {
    const bool has_column = weights[i].dim() == 2 && weights[i].size(1) == 4 * channels;
    const Skip skip = !has_skip ? Skip::none : has_column ? Skip::column : Skip::input;
    std::vector<Tensor> sequences{as_sequences(product(x, weights[i]))};
    if (skip == Skip::input) sequences.push_back(as_sequences(x));
    Parameters parameters{biases[i], std::nullopt};
    std::optional<Tensor> scale, state;
    if (!weights_c.empty()) parameters.weight_c = weights_c[i];
    if (!scales.empty()) scale = scales[i];
    if (c) state = states_of(*c, int64_t(i));
    const Peephole peephole = weights_c.empty() ? Peephole::none : Peephole::parameter;
    const SruProblem problem(sequences, parameters, std::nullopt, std::nullopt, std::nullopt, scale, activation,
                             int64_t(skip), int64_t(peephole), false);
    const Tensor out = std::get<0>(forward<Engine>(problem, state, false, states_of(c_next, int64_t(i))));
    x = view_strided(out, {batch, channels}, {channels, 1});
  }
  return {x, c_next};
}

}  // namespace rnnkit
