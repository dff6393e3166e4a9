// What a caller may choose, and the kinds of scan that it makes. Types alone: cells include this for each target.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/scan.h>

namespace rnnkit {

enum class Gates { one, two };  // minGRU; minLSTM
enum class Activation { g, identity, tanh };

template <Gates gates, Activation activation>
struct Kind : KindDefaults {
  static constexpr int kPlanes = gates == Gates::one ? 2 : 3;
};

}  // namespace rnnkit
