// What the ops let a caller choose, and the way from the run-time choice to a compile-time kind of scan.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/scan.h>

namespace rnnkit {

enum class Pooling { mult, f, fo, ifo };

constexpr int64_t planes_of(Pooling pooling) { return pooling == Pooling::ifo ? 4 : pooling == Pooling::fo ? 3 : 2; }

struct Zoneout {
  const int64_t* seed;  // null: nothing is drawn
  int32_t threshold;    // of 2^24: with this probability an element keeps its state
  double scale;         // of the gates that let something in, where it does not
};

template <Pooling pooling, bool zoneout>
struct Kind : KindDefaults {
  static constexpr int kPlanes = int(planes_of(pooling));
  static constexpr int kOutputPlanes = pooling == Pooling::fo || pooling == Pooling::ifo ? 1 : 0;
  using Options = Zoneout;
};

// Returns dispatch(dtype, f), which calls f(TypeTag<scalar_t>, Kind).
inline auto dispatch_to(Pooling pooling, bool zoneout) {
  return [=](ScalarType dtype, auto f) {
    dispatch_floating(dtype, [&](auto tag) {
      switch (pooling) {
        case Pooling::mult: return f(tag, Kind<Pooling::mult, false>{});
        case Pooling::f: return zoneout ? f(tag, Kind<Pooling::f, true>{}) : f(tag, Kind<Pooling::f, false>{});
        case Pooling::fo: return zoneout ? f(tag, Kind<Pooling::fo, true>{}) : f(tag, Kind<Pooling::fo, false>{});
        case Pooling::ifo: return zoneout ? f(tag, Kind<Pooling::ifo, true>{}) : f(tag, Kind<Pooling::ifo, false>{});
      }
    });
  };
}

}  // namespace rnnkit
