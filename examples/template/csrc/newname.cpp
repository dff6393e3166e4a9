// Op schemas. Shapes and meanings: src/newname/_ops.py.
// SPDX-License-Identifier: Apache-2.0
#include <rnnkit/library.h>

#include "family.h"

RNNKIT_LIBRARY(m) {
  rnnkit::define_scan<rnnkit::Family>(m);
  rnnkit::define_layer<rnnkit::Family>(m);
}

RNNKIT_LIBRARY_IMPL(CompositeExplicitAutograd, m) { rnnkit::implement_constants(m); }
