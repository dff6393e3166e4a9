// The ops, for any engine: from tensors to the problems of problem.h, and back. What is checked here keeps memory safe; the
// Python layer checks first, and in the user's words.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/dispatch.h>
#include <rnnkit/products.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>
#include <vector>

#include "problem.h"

namespace rnnkit {

inline Activation parse_activation(const std::string& activation) {
  constexpr std::string_view kActivations[] = {"relu", "leaky_relu", "tanh", "sin"};
  return parse<Activation>("activation", activation, kActivations);
}

// The tensors and options that both passes have. inputs: g, u and, or not, the weight and bias of the normalisation.
struct Inputs {
  std::vector<Tensor> inputs;
  std::optional<Tensor> h0, lengths, reset, mask;
  Activation activation;
  bool bidirectional, normalize;
  double eps;
  bool tf32 = false;  // float32 may be multiplied as TF32, where there are tensor cores

  Tensor g() const { return inputs[0]; }
  bool affine() const { return inputs.size() == 4; }
  int64_t batch() const { return g().size(0); }
  int64_t steps() const { return g().size(1); }
  int64_t units() const { return inputs[1].size(1); }
  int64_t directions() const { return bidirectional ? 2 : 1; }
  ScalarType acc() const { return accumulate_type(g().scalar_type()); }

  void check() {
    STD_TORCH_CHECK(inputs.size() == 2 || (affine() && normalize), "inputs: expected g and u, or also a weight and a bias");
    STD_TORCH_CHECK(g().dim() == 3 && inputs[1].dim() == 2, "g and u: expected 3 and 2 dimensions");
    check_rows(g(), 2 * units(), "g");
    if (g().stride(2) != 1) inputs[0] = contiguous(g());
    inputs[1] = contiguous(inputs[1]);
    check(inputs[1], g().scalar_type(), {2 * units(), units()}, "u");
    for (size_t i = 2; i < inputs.size(); ++i) check(inputs[i], acc(), {2 * units()}, "weight and bias");
    if (lengths) check(*lengths, ScalarType::Long, {batch()}, "lengths");
    if (reset) check(*reset, ScalarType::Bool, {batch(), steps()}, "reset");
    for (const auto& state : {h0, mask})
      if (state) check(*state, acc(), {directions(), batch(), units()}, "h0 and mask");
  }

  // [B, T, width] of g's dtype
  void check_rows(const Tensor& t, int64_t width, const char* name) const {
    STD_TORCH_CHECK(has_shape(t, {batch(), steps(), width}), name, ": expected shape (", batch(), ", ", steps(), ", ", width,
                    ")");
    STD_TORCH_CHECK(t.scalar_type() == g().scalar_type() && same_device(t, g()), name, ": dtype or device differs from g's");
  }

  // Contiguous and of a fixed shape
  void check(const Tensor& t, ScalarType dtype, const Sizes& shape, const char* name) const {
    check_contiguous(t, g(), dtype, shape, name);
  }

  Tensor empty(const Sizes& shape) const { return rnnkit::empty(g(), shape); }
  Tensor scratch(const Sizes& shape) const {
    return scratch_strided(g(), shape, contiguous_strides(shape), g().scalar_type());
  }
  Tensor empty_acc(const Sizes& shape) const { return rnnkit::empty(g(), shape, acc()); }

  // Of a tensor [D, B, T, width], or of none if `wanted` is false
  Sizes over_time(int64_t width, bool wanted) const {
    return wanted ? Sizes{directions(), batch(), steps(), width} : Sizes{0};
  }

  template <class scalar_t>
  void fill(Recurrence<scalar_t>& p) const {
    using acc = acc_t<scalar_t>;
    const auto pointer = [](const std::optional<Tensor>& t) { return t ? t->const_data_ptr<acc>() : nullptr; };
    p.batch = batch();
    p.steps = steps();
    p.units = units();
    p.directions = int(directions());
    p.activation = activation;
    p.normalize = normalize;
    p.eps = static_cast<acc>(eps);
    p.lengths = lengths ? lengths->const_data_ptr<int64_t>() : nullptr;
    p.reset = reset ? reset->const_data_ptr<bool>() : nullptr;
    p.mask = pointer(mask);
    p.h0 = pointer(h0);
    p.weight = affine() ? inputs[2].const_data_ptr<acc>() : nullptr;
    p.bias = affine() ? inputs[3].const_data_ptr<acc>() : nullptr;
    p.u = inputs[1].const_data_ptr<scalar_t>();
  }

  template <class T>
  static Rows<T> strided(const Tensor& t) {
    return {static_cast<T*>(t.data_ptr()), t.stride(0), t.stride(1)};
  }
};

// What forward makes. gates, and with normalisation normal and rstd, are for backward; see src/ligru/_ops.py.
struct Outputs {
  Tensor out, h_last, gates, normal, rstd;
};

template <class Engine>
void run_forward(const Inputs& in, const Outputs& outputs, bool save) {
  dispatch_floating(in.g().scalar_type(), [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    Forward<scalar_t> p;
    in.fill(p);
    p.g = Inputs::strided<const scalar_t>(in.g());
    p.out = Inputs::strided<scalar_t>(outputs.out);
    p.h_last = outputs.h_last.mutable_data_ptr<acc_t<scalar_t>>();
    p.gates = save ? outputs.gates.mutable_data_ptr<scalar_t>() : nullptr;
    p.normal = save ? outputs.normal.mutable_data_ptr<scalar_t>() : nullptr;
    p.rstd = save ? outputs.rstd.mutable_data_ptr<acc_t<scalar_t>>() : nullptr;
    if (in.units() > 0) Engine::run(p, in);
  });
}

template <class Engine>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> recurrence(std::vector<Tensor> inputs, std::optional<Tensor> h0,
                                                              std::optional<Tensor> lengths, std::optional<Tensor> reset,
                                                              std::optional<Tensor> mask, std::string activation,
                                                              bool bidirectional, bool normalize, double eps, bool tf32,
                                                              bool save) {
  Inputs in{inputs, h0, lengths, reset, mask, parse_activation(activation), bidirectional, normalize, eps, tf32};
  in.check();
  const int64_t units = in.units();
  const Outputs made{in.empty({in.batch(), in.steps(), in.directions() * units}),
                     in.empty_acc({in.directions(), in.batch(), units}), in.empty(in.over_time(2 * units, save)),
                     in.empty(in.over_time(2 * units, save && normalize)), in.empty_acc(in.over_time(1, save && normalize))};
  run_forward<Engine>(in, made, save);
  return {made.out, made.h_last, made.gates, made.normal, made.rstd};
}

// What backward makes, of each step: the gradients of the gates and of U h [D, B, T, 2H], and h before it [D, B, T, H]; and
// of h0; and of what normalisation multiplies by and adds, [D * B, 2, 2H or 0], sums over time.
struct Gradients {
  Tensor gates, product, h_before, h0, sums;
};

template <class Engine>
void run_backward(const Inputs& in, const Tensor& grad_out, const std::optional<Tensor>& grad_h_last, const Outputs& made,
                  const Gradients& grads) {
  dispatch_floating(in.g().scalar_type(), [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    Backward<scalar_t> p;
    in.fill(p);
    p.out = Inputs::strided<const scalar_t>(made.out);
    p.grad_out = Inputs::strided<const scalar_t>(grad_out);
    p.grad_h_last = grad_h_last ? grad_h_last->template const_data_ptr<acc>() : nullptr;
    p.gates = made.gates.const_data_ptr<scalar_t>();
    p.normal = made.normal.const_data_ptr<scalar_t>();
    p.rstd = made.rstd.const_data_ptr<acc>();
    p.grad_gates = grads.gates.mutable_data_ptr<scalar_t>();
    p.grad_product = grads.product.mutable_data_ptr<scalar_t>();
    p.h_before = grads.h_before.mutable_data_ptr<scalar_t>();
    p.grad_h0 = grads.h0.mutable_data_ptr<acc>();
    p.sums = grads.sums.mutable_data_ptr<acc>();
    if (in.units() > 0) Engine::run(p, in);
  });
}

// The gradient of U, from those of U h.
template <class Engine>
Tensor gradient_of_u(const Inputs& in, const Gradients& grads) {
  const int64_t units = in.units(), count = in.directions() * in.batch() * in.steps();
  return transposed_product<Engine>(view_strided(grads.product, {count, 2 * units}, {2 * units, 1}),
                                    view_strided(grads.h_before, {count, units}, {units, 1}));
}

// The gradients of the inputs and, at the end, of h0.
template <class Engine>
std::vector<Tensor> recurrence_backward(Tensor grad_out, std::optional<Tensor> grad_h_last, std::vector<Tensor> inputs,
                                        Tensor out, Tensor gates, Tensor normal, Tensor rstd, std::optional<Tensor> h0,
                                        std::optional<Tensor> lengths, std::optional<Tensor> reset,
                                        std::optional<Tensor> mask, std::string activation, bool bidirectional,
                                        bool normalize, double eps, bool tf32) {
  Inputs in{inputs, h0, lengths, reset, mask, parse_activation(activation), bidirectional, normalize, eps, tf32};
  in.check();
  const int64_t units = in.units(), directions = in.directions(), batch = in.batch(), steps = in.steps();
  if (in.g().lender()) {
    STD_TORCH_CHECK(!bidirectional && !in.affine(), "sums of gradients that are for the dispatcher");
    check_small(batch * steps, 2 * units, units);
  }
  for (const Tensor* t : {&out, &grad_out}) in.check_rows(*t, directions * units, "out and grad_out");
  if (out.stride(2) != 1) out = contiguous(out);
  if (grad_out.stride(2) != 1) grad_out = contiguous(grad_out);
  if (grad_h_last) in.check(*grad_h_last, in.acc(), {directions, batch, units}, "grad_h_last");
  in.check(gates, in.g().scalar_type(), in.over_time(2 * units, true), "gates");
  in.check(normal, in.g().scalar_type(), in.over_time(2 * units, normalize), "normal");
  in.check(rstd, in.acc(), in.over_time(1, normalize), "rstd");
  Gradients made;
  made.gates = in.empty(bidirectional ? in.over_time(2 * units, true) : Sizes{batch, steps, 2 * units});
  made.product = normalize ? in.scratch(in.over_time(2 * units, true)) : made.gates;
  made.h_before = in.scratch(in.over_time(units, true));
  made.h0 = in.empty_acc({directions, batch, units});
  made.sums = in.empty_acc({directions * batch, 2, in.affine() ? 2 * units : 0});
  if (in.affine()) fill_with_zeros(made.sums);
  run_backward<Engine>(in, grad_out, grad_h_last, {out, Tensor(), gates, normal, rstd}, made);
  const int64_t all[] = {0};
  std::vector<Tensor> grads;
  grads.push_back(bidirectional ? Tensor(torch::stable::sum(made.gates, all)) : made.gates);
  grads.push_back(gradient_of_u<Engine>(in, made));
  if (in.affine()) {
    const Tensor both = torch::stable::sum(made.sums, all);
    for (int64_t i : {0, 1}) grads.emplace_back(torch::stable::clone(torch::stable::select(both, 0, i)));
  }
  grads.push_back(made.h0);
  return grads;
}

}  // namespace rnnkit
