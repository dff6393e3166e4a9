// What the two ops let a caller choose, and the way from the run-time choice to a compile-time cell.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/types.h>

#include <type_traits>

namespace rnnkit {

enum class Activation { g, identity, tanh };

inline void check_gates(int64_t gates) {
  STD_TORCH_CHECK(gates == 1 || gates == 2, "gates: expected 1 (minGRU) or 2 (minLSTM), got ", gates);
}

// Calls f(TypeTag<scalar_t>, gate planes, activation), the latter two as std::integral_constant.
template <class F>
void dispatch_cell(ScalarType dtype, int64_t gate_planes, int64_t activation, F f) {
  check_gates(gate_planes);
  STD_TORCH_CHECK(0 <= activation && activation <= 2, "activation: expected 0 (g), 1 (identity) or 2 (tanh)");
  dispatch_floating(dtype, [&](auto tag) {
    const auto with_gates = [&](auto gates) {
      switch (static_cast<Activation>(activation)) {
        case Activation::g: return f(tag, gates, std::integral_constant<Activation, Activation::g>{});
        case Activation::identity: return f(tag, gates, std::integral_constant<Activation, Activation::identity>{});
        case Activation::tanh: return f(tag, gates, std::integral_constant<Activation, Activation::tanh>{});
      }
    };
    gate_planes == 1 ? with_gates(std::integral_constant<int, 1>{}) : with_gates(std::integral_constant<int, 2>{});
  });
}

}  // namespace rnnkit
