// What a caller may choose, and the kinds of scan that it makes. Types alone: cells include this for each target.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/scan.h>

namespace rnnkit {

enum class Pooling { linear, mult, f, fo, ifo };

// Whether the planes are values; pre-activations otherwise.
constexpr bool takes_values(Pooling pooling) { return pooling == Pooling::linear || pooling == Pooling::mult; }

constexpr int planes_of(Pooling pooling) { return pooling == Pooling::ifo ? 4 : pooling == Pooling::fo ? 3 : 2; }

struct Zoneout {
  const int64_t* seed;  // null: nothing is drawn
  int32_t threshold;    // of 2^24: with this probability an element keeps its state
  double scale;         // of the gates that let something in, where it does not
};

template <Pooling pooling, bool zoneout>
struct Kind : KindDefaults {
  static constexpr int kPlanes = planes_of(pooling);
  static constexpr int kOutputPlanes = pooling == Pooling::fo || pooling == Pooling::ifo ? 1 : 0;
  static constexpr int kRegisters = zoneout ? 4 : 0;  // of random numbers
  template <class acc>
  using Options = Zoneout;
};

}  // namespace rnnkit
