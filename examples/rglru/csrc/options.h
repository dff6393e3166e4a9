// The kinds of scan. Types alone: cells include this for each target.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/scan.h>

namespace rnnkit {

struct Kind : KindDefaults {
  static constexpr int kPlanes = 3;      // recurrence gate, input gate, x
  static constexpr int kParameters = 1;  // Lambda
};

}  // namespace rnnkit
