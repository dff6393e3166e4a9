// Op schemas. Shapes and meanings: src/ligru/_ops.py.
// SPDX-License-Identifier: Apache-2.0
#include <rnnkit/library.h>

RNNKIT_LIBRARY(m) {
  m.def(
      "recurrence(Tensor[] inputs, Tensor? h0, Tensor? lengths, Tensor? mask, int activation, bool bidirectional, "
      "bool normalize, float eps, bool save) -> (Tensor out, Tensor h_last, Tensor gates, Tensor normal, Tensor rstd)");
  m.def(
      "recurrence_backward(Tensor grad_out, Tensor? grad_h_last, Tensor[] inputs, Tensor out, Tensor gates, "
      "Tensor normal, Tensor rstd, Tensor? h0, Tensor? lengths, Tensor? mask, int activation, bool bidirectional, "
      "bool normalize, float eps) -> Tensor[]");
}
