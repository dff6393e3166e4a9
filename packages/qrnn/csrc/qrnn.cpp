// Op schemas. Shapes and meanings: src/qrnn/_ops.py.
// SPDX-License-Identifier: Apache-2.0
#include <rnnkit/library.h>
#include <rnnkit/scan_tensors.h>

RNNKIT_LIBRARY(m) {
  m.def(
      "scan(Tensor[] planes, Tensor? h0, Tensor? lengths, Tensor? seed, int pooling, float zoneout, float scale, "
      "bool reverse, bool save) -> (Tensor out, Tensor h_last, Tensor carries)");
  m.def(
      "scan_backward(Tensor grad_out, Tensor? grad_h_last, Tensor[] planes, Tensor carries, Tensor? h0, "
      "Tensor? lengths, Tensor? seed, int pooling, float zoneout, float scale, bool reverse) "
      "-> Tensor[]");
  m.def(
      "layer(Tensor x, Tensor weight, Tensor? bias, Tensor? h0, Tensor? lengths, Tensor? seed, int pooling, float zoneout, "
      "float scale, bool reverse, bool batch_first, bool save) "
      "-> (Tensor out, Tensor h_last, Tensor carries, Tensor planes)");
  m.def(
      "layer_backward(Tensor grad_out, Tensor? grad_h_last, Tensor? x, Tensor? weight, Tensor? bias, Tensor planes, "
      "Tensor carries, Tensor? lengths, Tensor? seed, int pooling, float zoneout, float scale, bool reverse, "
      "bool batch_first, bool needs_x, bool needs_weight, bool needs_bias) "
      "-> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias, Tensor grad_h0)");
  m.def("steps_per_carry() -> int");
}

RNNKIT_LIBRARY_IMPL(CompositeExplicitAutograd, m) { m.impl("steps_per_carry", TORCH_BOX(&rnnkit::steps_per_carry)); }
