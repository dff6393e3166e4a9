// Op schemas. Shapes and meanings: src/ligru/_ops.py.
// SPDX-License-Identifier: Apache-2.0
#include <rnnkit/library.h>

RNNKIT_LIBRARY(m) {
  m.def(
      "recurrence(Tensor[] inputs, Tensor? h0=None, Tensor? lengths=None, Tensor? reset=None, Tensor? mask=None, "
      "str activation='relu', bool bidirectional=False, bool normalize=False, float eps=1e-05, bool tf32=False, "
      "bool save=False) "
      " -> (Tensor out, Tensor h_last, Tensor gates, Tensor normal, Tensor rstd)");
  m.def(
      "recurrence_backward(Tensor grad_out, Tensor? grad_h_last, Tensor[] inputs, Tensor out, Tensor gates, "
      "Tensor normal, Tensor rstd, Tensor? h0=None, Tensor? lengths=None, Tensor? reset=None, Tensor? mask=None, str "
      "activation='relu', "
      "bool bidirectional=False, bool normalize=False, float eps=1e-05, bool tf32=False) -> Tensor[]");
}
