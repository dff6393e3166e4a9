// Op schemas. Shapes and meanings: src/mingru/_ops.py.
// SPDX-License-Identifier: Apache-2.0
#include <rnnkit/library.h>

RNNKIT_LIBRARY(m) {
  m.def(
      "scan(Tensor[] planes, Tensor? h0, Tensor? lengths, Tensor? reset, int gates, int activation, float initial, "
      "bool reverse, bool save) -> (Tensor out, Tensor h_last, Tensor carries)");
  m.def(
      "scan_backward(Tensor grad_out, Tensor? grad_h_last, Tensor[] planes, Tensor carries, Tensor? h0, "
      "Tensor? lengths, Tensor? reset, int gates, int activation, float initial, bool reverse) "
      "-> Tensor[]");
  m.def("step(Tensor planes, Tensor? h, int gates, int activation, float initial) -> (Tensor out, Tensor h_next)");
}
