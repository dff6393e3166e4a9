// The arguments of the ops, and the way from these to a compile-time kind of scan.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/scan_ops.h>

#include "options.h"

namespace rnnkit {

struct Family : FamilyDefaults {
  static constexpr const char* kArguments = "str cell='mingru', str activation='g', float initial=0.5";
  Gates gates;
  Activation activation;
  double start;

  static Family parse(std::string cell, std::string activation, double initial) {
    constexpr std::string_view kCells[] = {"mingru", "minlstm"}, kActivations[] = {"g", "identity", "tanh"};
    Family family;
    family.gates = rnnkit::parse<Gates>("cell", cell, kCells);
    family.activation = rnnkit::parse<Activation>("activation", activation, kActivations);
    family.start = initial;
    return family;
  }

  int64_t planes() const { return gates == Gates::one ? 2 : 3; }
  double initial() const { return start; }

  template <class F>
  void dispatch(ScalarType dtype, F f) const {
    rnnkit::dispatch(
        dtype,
        [&](auto tag, auto gates, auto activation) { f(tag, Kind<decltype(gates)::value, decltype(activation)::value>()); },
        OneOf<Gates::one, Gates::two>{gates}, OneOf<Activation::g, Activation::identity, Activation::tanh>{activation});
  }
};

}  // namespace rnnkit
