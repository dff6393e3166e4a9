// What the ops let a caller choose, and the way from the run-time choice to a compile-time kind of scan.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/scan.h>

namespace rnnkit {

enum class Activation { g, identity, tanh };

template <int gate_planes, Activation activation>
struct Kind : KindDefaults {
  static constexpr int kPlanes = gate_planes + 1;
};

inline void check_gates(int64_t gates) {
  STD_TORCH_CHECK(gates == 1 || gates == 2, "gates: expected 1 (minGRU) or 2 (minLSTM), got ", gates);
}

// Returns dispatch(dtype, f), which calls f(TypeTag<scalar_t>, Kind).
inline auto dispatch_to(int64_t gates, int64_t activation) {
  check_gates(gates);
  STD_TORCH_CHECK(0 <= activation && activation <= 2, "activation: expected 0 (g), 1 (identity) or 2 (tanh)");
  return [=](ScalarType dtype, auto f) {
    dispatch_floating(dtype, [&](auto tag) {
      switch (static_cast<Activation>(activation)) {
        case Activation::g: return gates == 1 ? f(tag, Kind<1, Activation::g>{}) : f(tag, Kind<2, Activation::g>{});
        case Activation::identity:
          return gates == 1 ? f(tag, Kind<1, Activation::identity>{}) : f(tag, Kind<2, Activation::identity>{});
        case Activation::tanh: return gates == 1 ? f(tag, Kind<1, Activation::tanh>{}) : f(tag, Kind<2, Activation::tanh>{});
      }
    });
  };
}

}  // namespace rnnkit
