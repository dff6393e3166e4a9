// Op schemas. Shapes and meanings: src/sru/_ops.py.
// SPDX-License-Identifier: Apache-2.0
#include <rnnkit/library.h>
#include <rnnkit/scan_tensors.h>

RNNKIT_LIBRARY(m) {
  m.def(
      "scan(Tensor[] inputs, Tensor? c0, Tensor? lengths, Tensor? pad, Tensor? mask, Tensor? scale, int activation, "
      "int skip, int peephole, bool bidirectional, bool save) -> (Tensor out, Tensor c_last, Tensor carries)");
  m.def(
      "scan_backward(Tensor grad_out, Tensor? grad_c_last, Tensor[] inputs, Tensor carries, Tensor? c0, Tensor? lengths, "
      "Tensor? pad, Tensor? mask, Tensor? scale, int activation, int skip, int peephole, bool bidirectional) "
      "-> Tensor[]");
  m.def(
      "layer(Tensor x, Tensor weight, Tensor bias, Tensor? weight_c, Tensor? c0, Tensor? lengths, Tensor? pad, Tensor? "
      "mask, "
      "Tensor? scale, int activation, bool bidirectional, bool batch_first, bool save) "
      "-> (Tensor out, Tensor c_last, Tensor carries, Tensor u)");
  m.def(
      "layer_backward(Tensor grad_out, Tensor? grad_c_last, Tensor x, Tensor? weight, Tensor bias, Tensor? weight_c, Tensor "
      "u, "
      "Tensor carries, Tensor? lengths, Tensor? pad, Tensor? mask, Tensor? scale, int activation, bool bidirectional, "
      "bool batch_first, bool needs_x, bool needs_weight, bool needs_bias, bool needs_weight_c) "
      "-> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias, Tensor grad_weight_c, Tensor grad_c0)");
  m.def(
      "stack_step(Tensor x, Tensor[] weights, Tensor[] biases, Tensor[] weights_c, Tensor[] scales, Tensor? c, bool "
      "has_skip, "
      "int activation) -> (Tensor out, Tensor c_next)");
  m.def("product(Tensor x, Tensor weight) -> Tensor");
  m.def("steps_per_carry() -> int");
}

RNNKIT_LIBRARY_IMPL(CompositeExplicitAutograd, m) { m.impl("steps_per_carry", TORCH_BOX(&rnnkit::steps_per_carry)); }
