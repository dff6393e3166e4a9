// Op schemas. Shapes and meanings: src/sru/_ops.py.
// SPDX-License-Identifier: Apache-2.0
#include <rnnkit/library.h>

#include "family.h"

RNNKIT_LIBRARY(m) {
  rnnkit::define_scan<rnnkit::Family>(m);
  m.def(
      "layer(Tensor x, Tensor weight, Tensor bias, Tensor? weight_c=None, Tensor? c0=None, Tensor? lengths=None, "
      "Tensor? reset=None, Tensor? pad=None, Tensor? mask=None, Tensor? scale=None, str activation='identity', "
      "str direction='forward', bool batch_first=True, bool save=False) "
      "-> (Tensor out, Tensor c_last, Tensor carries, Tensor u)");
  m.def(
      "layer_backward(Tensor grad_out, Tensor? grad_c_last, Tensor x, Tensor? weight, Tensor bias, Tensor? weight_c, "
      "Tensor u, Tensor carries, Tensor? lengths=None, Tensor? reset=None, Tensor? pad=None, Tensor? mask=None, "
      "Tensor? scale=None, str activation='identity', str direction='forward', bool batch_first=True, bool needs_x=True, "
      "bool needs_weight=True, bool needs_bias=True, bool needs_weight_c=True, bool needs_c0=True) "
      "-> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias, Tensor grad_weight_c, Tensor grad_c0)");
  m.def(
      "stack_step(Tensor x, Tensor[] weights, Tensor[] biases, Tensor[] weights_c, Tensor[] scales, Tensor? c=None, "
      "bool has_skip=True, str activation='identity') -> (Tensor out, Tensor c_next)");
  m.def("product(Tensor x, Tensor weight) -> Tensor");
}

RNNKIT_LIBRARY_IMPL(CompositeExplicitAutograd, m) { rnnkit::implement_constants(m); }
