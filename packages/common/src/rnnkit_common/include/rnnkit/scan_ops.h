// The ops of a family of scans, on a device whose Engine runs scan problems. What they are is said by a type, the Family:
//
//   kArguments       the schema of what it lets a caller choose, tensors first: "Tensor? seed=None, str pooling='fo'"
//   parse(...)       static; takes these, and returns the Family. It refuses what it does not know
//   planes()         how many there are
//   parameters()     how many there are, if there are any
//   initial()        the state of a fresh sequence, if it is not 0
//   dispatch(dtype, f)   calls f(TypeTag<scalar_t>, Kind)
//   fill(p, t)       what else is to be said of a problem, if there is anything: p.options, p.pad
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/dispatch.h>
#include <rnnkit/layer.h>
#include <rnnkit/scan_tensors.h>
#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>

namespace rnnkit {

struct FamilyDefaults {
  static int64_t parameters() { return 0; }
  static double initial() { return 0; }
  template <class Problem>
  static void fill(Problem&, const ScanTensors&) {}
};

// An op, so that Python need not know the numbers a second time.
inline int64_t steps_per_carry(std::string device) {
#ifdef RNNKIT_EMULATE_CUDA
  device = "cuda";
#endif
  return device == "cuda" ? kCarryCuda : kCarryCpu;
}

// The states [B, D] of the i-th of a stack of layers, contiguous [L, B, D] or [L, B, 1, D].
inline Tensor states_of(const Tensor& stack, int64_t i) {
  const int64_t batch = stack.size(1), channels = stack.size(-1);
  return view_strided(stack, {batch, channels}, {channels, 1}, i * batch * channels);
}

enum class Direction { forward, backward, both };  // both: the second half of the channels goes backward

inline Direction parse_direction(const std::string& direction) {
  constexpr std::string_view kDirections[] = {"forward", "backward", "both"};
  return parse<Direction>("direction", direction, kDirections);
}

inline int64_t first_reversed(Direction direction, int64_t channels) {
  switch (direction) {
    case Direction::forward: return channels;
    case Direction::backward: return 0;
    case Direction::both:
      STD_TORCH_CHECK(channels % 2 == 0, "direction: 'both' expects an even number of channels");
      return channels / 2;
  }
  return channels;
}

// The last state is written to `into`, if given, of any shape.
template <class Engine, class Family>
std::tuple<Tensor, Tensor, Tensor> run_forward(const Family& family, const ScanTensors& t, const std::optional<Tensor>& h0,
                                               Direction direction, bool save,
                                               const std::optional<Tensor>& into = std::nullopt) {
  const int64_t reverse_from = first_reversed(direction, t.channels);
  if (h0) t.check(*h0, accumulate_type(t.dtype), {t.batch, t.channels}, "h0");
  if (into) {
    t.check(*into, accumulate_type(t.dtype), into->sizes(), "h_last");
    STD_TORCH_CHECK(into->numel() == t.batch * t.channels, "h_last: expected B * D values");
  }
  Tensor out = t.empty_rows(t.channels), h_last = into ? *into : t.empty_state();
  Tensor carries = save              ? empty(h_last, {t.batch, t.carries_size(Engine::kCarry)})
                   : h_last.lender() ? Tensor()
                                     : empty(h_last, {t.batch, 0});
  family.dispatch(t.dtype, [&](auto tag, auto kind) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    ScanForward<scalar_t, decltype(kind)> p{};
    t.fill(p, family.initial(), reverse_from);
    family.fill(p, t);
    p.h0 = h0 ? h0->template const_data_ptr<acc>() : nullptr;
    p.out = ScanTensors::strided<scalar_t>(out);
    p.h_last = h_last.template mutable_data_ptr<acc>();
    p.carries = save ? carries.template mutable_data_ptr<acc>() : nullptr;
    Engine::run(p, t.device());
  });
  return {out, h_last, carries};
}

// A last state that a caller wants in a shape of its own: a view of the op's would be one more call.
inline std::optional<Tensor> state_of_shape(const Tensor& planes, const Sizes& shape) {
  if (shape.size() == 0) return std::nullopt;
  return empty(planes, shape, accumulate_type(planes.scalar_type()));
}

struct ScanGradients {
  std::vector<Tensor> inputs;
  Tensor h0;  // [B, D]
};

// The gradients of the first `unseen` inputs are handed to nobody, nor is that of h0, unless it is needed.
template <class Engine, class Family>
ScanGradients run_backward(const Family& family, const ScanTensors& t, const Tensor& grad_out,
                           const std::optional<Tensor>& grad_h_last, const Tensor& carries, Direction direction,
                           size_t unseen = 0, bool needs_h0 = true) {
  const int64_t reverse_from = first_reversed(direction, t.channels), parameters = family.parameters();
  const ScalarType acc_dtype = accumulate_type(t.dtype);
  const Tensor grad_rows = t.rows(grad_out, t.channels, "grad_out");
  if (grad_h_last) t.check(*grad_h_last, acc_dtype, {t.batch, t.channels}, "grad_h_last");
  t.check(carries, acc_dtype, {t.batch, t.carries_size(Engine::kCarry)}, "carries");
  ScanGradients grads{t.empty_gradients(unseen), t.empty_state(needs_h0)};
  const Sizes each{parameters, t.batch, t.channels};
  const Tensor sums = parameters == 0 ? Tensor() : scratch_strided(grads.h0, each, contiguous_strides(each), acc_dtype);
  family.dispatch(t.dtype, [&](auto tag, auto kind) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    ScanBackward<scalar_t, decltype(kind)> p{};
    t.fill(p, family.initial(), reverse_from);
    family.fill(p, t);
    p.carries = carries.template const_data_ptr<acc>();
    p.grad_out = ScanTensors::strided<const scalar_t>(grad_rows);
    p.grad_h_last = grad_h_last ? grad_h_last->template const_data_ptr<acc>() : nullptr;
    t.fill_planes<decltype(kind)>(p.grad_in, grads.inputs);
    p.grad_h0 = grads.h0.template mutable_data_ptr<acc>();
    p.sums = parameters > 0 ? sums.template mutable_data_ptr<acc>() : nullptr;
    Engine::run(p, t.device());
  });
  if (parameters > 0) {
    for (Tensor& grad : t.sum_gradients(sums)) grads.inputs.push_back(grad);
  }
  return grads;
}

// One step from planes [B, P * D] and h to h_next [B, D], contiguous; returns out [B, D].
template <class Engine, class Family>
Tensor run_step(const Family& family, const Tensor& planes, const std::optional<Tensor>& h, const Tensor& h_next) {
  STD_TORCH_CHECK(planes.dim() == 2, "planes: expected shape (B, P * D)");
  const Tensor sequences = view_strided(planes, {planes.size(0), 1, planes.size(1)},
                                        {planes.stride(0), planes.stride(0), planes.stride(1)});  // [B, 1, P * D]
  const ScanTensors t({sequences}, family.planes(), 0, std::nullopt, std::nullopt);
  const Tensor out = std::get<0>(run_forward<Engine>(family, t, h, Direction::forward, false, h_next));
  return view_strided(out, {t.batch, t.channels}, {t.channels, 1});
}

template <class Engine, class Family, class Parse = decltype(&Family::parse)>
struct ScanOps;

template <class Engine, class Family, class... Arguments>
struct ScanOps<Engine, Family, Family (*)(Arguments...)> {
  static std::tuple<Tensor, Tensor, Tensor> scan(std::vector<Tensor> inputs, std::optional<Tensor> h0,
                                                 std::optional<Tensor> lengths, std::optional<Tensor> reset,
                                                 Arguments... arguments, std::string direction, bool save) {
    const Family family = Family::parse(arguments...);
    const ScanTensors t(inputs, family.planes(), family.parameters(), lengths, reset);
    return run_forward<Engine>(family, t, h0, parse_direction(direction), save);
  }

  // h0 only serves the derivative of this op: carries start with it. Returns the gradients of the inputs and, at the end, of
  // h0: a list in a tuple is more than torch's inductor can take.
  static std::vector<Tensor> scan_backward(Tensor grad_out, std::optional<Tensor> grad_h_last, std::vector<Tensor> inputs,
                                           Tensor carries, std::optional<Tensor> /*h0*/, std::optional<Tensor> lengths,
                                           std::optional<Tensor> reset, Arguments... arguments, std::string direction) {
    const Family family = Family::parse(arguments...);
    const ScanTensors t(inputs, family.planes(), family.parameters(), lengths, reset);
    ScanGradients grads = run_backward<Engine>(family, t, grad_out, grad_h_last, carries, parse_direction(direction));
    grads.inputs.push_back(grads.h0);
    return std::move(grads.inputs);
  }

  // `scan` of x weight^T + bias.
  static std::tuple<Tensor, Tensor, Tensor, Tensor> layer(Tensor x, Tensor weight, std::optional<Tensor> bias,
                                                          std::optional<Tensor> h0, std::optional<Tensor> lengths,
                                                          std::optional<Tensor> reset, Arguments... arguments,
                                                          std::string direction, bool batch_first, bool save) {
    return shaped_layer(x, weight, bias, h0, lengths, reset, arguments..., direction, batch_first, save, {});
  }

  // `layer`, called from Python without the dispatcher.
  static std::tuple<Tensor, Tensor, Tensor, Tensor> shaped_layer(Tensor x, Tensor weight, std::optional<Tensor> bias,
                                                                 std::optional<Tensor> h0, std::optional<Tensor> lengths,
                                                                 std::optional<Tensor> reset, Arguments... arguments,
                                                                 std::string direction, bool batch_first, bool save,
                                                                 Sizes state_shape) {
    const Family family = Family::parse(arguments...);
    return layer_op<Engine>(by_batch(x, batch_first), weight, bias, batch_first, save, [&](const Tensor& planes) {
      const ScanTensors t({planes}, family.planes(), family.parameters(), lengths, reset);
      return run_forward<Engine>(family, t, h0, parse_direction(direction), save, state_of_shape(planes, state_shape));
    });
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> layer_backward(Tensor grad_out, std::optional<Tensor> grad_h_last,
                                                                   std::optional<Tensor> x, std::optional<Tensor> weight,
                                                                   std::optional<Tensor> /*bias*/, Tensor planes,
                                                                   Tensor carries, std::optional<Tensor> lengths,
                                                                   std::optional<Tensor> reset, Arguments... arguments,
                                                                   std::string direction, bool batch_first, bool needs_x,
                                                                   bool needs_weight, bool needs_bias, bool needs_h0) {
    if (planes.lender()) check_small(planes.numel(), x ? x->size(-1) : weight ? weight->size(1) : 0, 1);
    const Family family = Family::parse(arguments...);
    const ScanTensors t({planes}, family.planes(), family.parameters(), lengths, reset);
    const ScanGradients grads = run_backward<Engine>(family, t, by_batch(grad_out, batch_first), grad_h_last, carries,
                                                     parse_direction(direction), 1, needs_h0);
    if (x) x = by_batch(*x, batch_first);
    return layer_backward_op<Engine>(grads.inputs[0], grads.h0, x, weight, batch_first,
                                     {needs_x, needs_weight, needs_bias, needs_h0});
  }

  // One step of a stream, for inference: planes [B, P * D], h [B, D].
  static std::tuple<Tensor, Tensor> step(Tensor planes, std::optional<Tensor> h, Arguments... arguments) {
    const Family family = Family::parse(arguments...);
    STD_TORCH_CHECK(planes.dim() == 2, "planes: expected shape (B, P * D)");
    const Sizes shape{planes.size(0), planes.size(1) / family.planes()};
    const Tensor h_next = empty(planes, shape, accumulate_type(planes.scalar_type()));
    return {run_step<Engine>(family, planes, h, h_next), h_next};
  }

  // One step of a stream through a stack of layers of one width, for inference: x [B, K], h [L, B, 1, D]; a bias each, or
  // none.
  static std::tuple<Tensor, Tensor> stack_step(Tensor x, std::vector<Tensor> weights, std::vector<Tensor> biases,
                                               std::optional<Tensor> h, Arguments... arguments) {
    const Family family = Family::parse(arguments...);
    const int64_t layers = weights.size();
    STD_TORCH_CHECK(layers > 0 && (biases.empty() || biases.size() == weights.size()),
                    "weights: expected one for each layer");
    STD_TORCH_CHECK(x.dim() == 2 && weights[0].dim() == 2, "x and weights: expected 2 dimensions");
    const Sizes shape{layers, x.size(0), 1, weights[0].size(0) / family.planes()};
    const Tensor h_next = empty(x, shape, accumulate_type(x.scalar_type()));
    if (h) check_contiguous(*h, x, accumulate_type(x.scalar_type()), shape, "h");
    for (int64_t i = 0; i < layers; ++i) {
      std::optional<Tensor> bias, state;
      if (!biases.empty()) bias = biases[i];
      if (h) state = states_of(*h, i);
      x = run_step<Engine>(family, linear<Engine>(x, weights[i], bias), state, states_of(h_next, i));
    }
    return {x, h_next};
  }
};

// Schemas, for RNNKIT_LIBRARY.

template <class Family>
std::string schema_of_arguments() {
  const std::string arguments = Family::kArguments;
  return arguments.empty() ? "" : ", " + arguments;
}

template <class Family, class Library>
void define_scan(Library& m) {
  const std::string arguments = schema_of_arguments<Family>() + ", str direction='forward'";
  const std::string masks = "Tensor? lengths=None, Tensor? reset=None";
  m.def(("scan(Tensor[] inputs, Tensor? h0=None, " + masks + arguments +
         ", bool save=False) -> (Tensor out, Tensor h_last, Tensor carries)")
            .c_str());
  m.def(("scan_backward(Tensor grad_out, Tensor? grad_h_last, Tensor[] inputs, Tensor carries, Tensor? h0=None, " + masks +
         arguments + ") -> Tensor[]")
            .c_str());
  m.def("steps_per_carry(str device) -> int");
}

template <class Family, class Library>
void define_layer(Library& m) {
  const std::string arguments = schema_of_arguments<Family>();
  const std::string of_layer =
      "Tensor? lengths=None, Tensor? reset=None" + arguments + ", str direction='forward', bool batch_first=True";
  m.def(("layer(Tensor x, Tensor weight, Tensor? bias=None, Tensor? h0=None, " + of_layer +
         ", bool save=False) -> (Tensor out, Tensor h_last, Tensor carries, Tensor planes)")
            .c_str());
  m.def(("layer_backward(Tensor grad_out, Tensor? grad_h_last, Tensor? x, Tensor? weight, Tensor? bias, Tensor planes, "
         "Tensor carries, " +
         of_layer +
         ", bool needs_x=True, bool needs_weight=True, bool needs_bias=True, bool needs_h0=True) "
         "-> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias, Tensor grad_h0)")
            .c_str());
  m.def(("step(Tensor planes, Tensor? h=None" + arguments + ") -> (Tensor out, Tensor h_next)").c_str());
  m.def(("stack_step(Tensor x, Tensor[] weights, Tensor[] biases, Tensor? h=None" + arguments +
         ") -> (Tensor out, Tensor h_next)")
            .c_str());
}

// And kernels, for RNNKIT_LIBRARY_IMPL: those of any device, with the key CompositeExplicitAutograd; and of one.

template <class Library>
void implement_constants(Library& m) {
  m.impl("steps_per_carry", TORCH_BOX(&steps_per_carry));
}

template <class Engine, class Family, class Library>
void implement_scan(Library& m) {
  using Ops = ScanOps<Engine, Family>;
  m.impl("scan", TORCH_BOX(&Ops::scan));
  m.impl("scan_backward", TORCH_BOX(&Ops::scan_backward));
}

template <class Engine, class Family, class Library>
void implement_layer(Library& m) {
  using Ops = ScanOps<Engine, Family>;
  m.impl("layer", TORCH_BOX(&Ops::layer));
  m.impl("layer_backward", TORCH_BOX(&Ops::layer_backward));
  m.impl("step", TORCH_BOX(&Ops::step));
  m.impl("stack_step", TORCH_BOX(&Ops::stack_step));
}

}  // namespace rnnkit
