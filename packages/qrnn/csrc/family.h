// The arguments of the ops, and the way from these to a compile-time kind of scan.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/scan_ops.h>

#include "options.h"

namespace rnnkit {

struct Family : FamilyDefaults {
  static constexpr const char* kArguments = "Tensor? seed=None, str pooling='fo', float zoneout=0., float scale=1.";
  std::optional<Tensor> seed;
  Pooling pooling;
  double zoneout, scale;

  static Family parse(std::optional<Tensor> seed, std::string pooling, double zoneout, double scale) {
    constexpr std::string_view kPoolings[] = {"linear", "mult", "f", "fo", "ifo"};
    Family family;
    family.seed = seed;
    family.pooling = rnnkit::parse<Pooling>("pooling", pooling, kPoolings);
    family.zoneout = zoneout;
    family.scale = scale;
    STD_TORCH_CHECK(!takes_values(family.pooling) || !seed, "seed: the pooling '", pooling, "' has no zoneout");
    STD_TORCH_CHECK(0 <= zoneout && zoneout <= 1, "zoneout: expected a probability, got ", zoneout);
    return family;
  }

  int64_t planes() const { return planes_of(pooling); }

  template <class Problem>
  void fill(Problem& p, const ScanTensors& t) const {
    if (seed) t.check(*seed, ScalarType::Long, {1}, "seed");
    p.options = {seed ? seed->const_data_ptr<int64_t>() : nullptr, int32_t(zoneout * (1 << 24) + 0.5), scale};
  }

  template <class F>
  void dispatch(ScalarType dtype, F f) const {
    const auto with_kind = [&](auto tag, auto pooling, auto draws) {
      constexpr Pooling kPooling = decltype(pooling)::value;
      f(tag, Kind<kPooling, !takes_values(kPooling) && decltype(draws)::value>());
    };
    rnnkit::dispatch(dtype, with_kind, OneOf<Pooling::linear, Pooling::mult, Pooling::f, Pooling::fo, Pooling::ifo>{pooling},
                     OneOf<false, true>{seed.has_value()});
  }
};

}  // namespace rnnkit
