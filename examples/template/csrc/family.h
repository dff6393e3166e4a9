// The arguments of the ops, and the way from these to a compile-time kind of scan.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/scan_ops.h>

#include "options.h"

namespace rnnkit {

struct Family : FamilyDefaults {
  static constexpr const char* kArguments = "";

  static Family parse() { return {}; }

  static int64_t planes() { return Kind::kPlanes; }
  static int64_t parameters() { return Kind::kParameters; }

  template <class F>
  void dispatch(ScalarType dtype, F f) const {
    rnnkit::dispatch(dtype, [&](auto tag) { f(tag, Kind()); });
  }
};

}  // namespace rnnkit
