// What a caller may choose, and the kinds of scan that it makes. Types alone: cells include this for each target.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/scan.h>

namespace rnnkit {

struct Kind : KindDefaults {
  static constexpr int kPlanes = 2;  // gate, x
};

}  // namespace rnnkit
