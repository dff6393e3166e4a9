// The arguments of the ops, and the way from these to a compile-time kind of scan.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/scan_ops.h>

#include "options.h"

namespace rnnkit {

struct Family : FamilyDefaults {
  static constexpr const char* kArguments =
      "Tensor? pad=None, Tensor? mask=None, Tensor? scale=None, str activation='identity', str skip='input', "
      "str peephole='parameter'";
  std::optional<Tensor> pad, mask, scale;
  Activation activation;
  Skip skip;
  Peephole peephole;

  static Family parse(std::optional<Tensor> pad, std::optional<Tensor> mask, std::optional<Tensor> scale,
                      std::string activation, std::string skip, std::string peephole) {
    constexpr std::string_view kSkips[] = {"none", "input", "column"}, kPeepholes[] = {"none", "parameter", "plane"};
    Family family;
    family.pad = pad;
    family.mask = mask;
    family.scale = scale;
    family.activation = parse_activation(activation);
    family.skip = rnnkit::parse<Skip>("skip", skip, kSkips);
    family.peephole = rnnkit::parse<Peephole>("peephole", peephole, kPeepholes);
    return family;
  }

  static Activation parse_activation(const std::string& activation) {
    constexpr std::string_view kActivations[] = {"identity", "tanh", "relu"};
    return rnnkit::parse<Activation>("activation", activation, kActivations);
  }

  int64_t planes() const { return 3 + (skip != Skip::none) + (peephole == Peephole::plane ? 2 : 0); }
  int64_t parameters() const { return peephole == Peephole::parameter ? 4 : 2; }

  template <class scalar_t, class Kind, template <class, class> class Problem>
  void fill(Problem<scalar_t, Kind>& p, const ScanTensors& t) const {
    using acc = acc_t<scalar_t>;
    if (pad) t.check(*pad, ScalarType::Bool, {t.batch, t.steps}, "pad");
    if (mask) t.check(*mask, accumulate_type(t.dtype), {t.batch, t.channels}, "mask");
    if (scale) t.check(*scale, accumulate_type(t.dtype), {1}, "scale");
    const auto pointer = [](const std::optional<Tensor>& t) { return t ? t->const_data_ptr<acc>() : nullptr; };
    p.options = {activation, t.channels, pointer(mask), pointer(scale)};
    p.pad = pad ? pad->template const_data_ptr<bool>() : nullptr;
  }

  template <class F>
  void dispatch(ScalarType dtype, F f) const {
    const auto with_kind = [&](auto tag, auto peephole, auto skip) {
      f(tag, Kind<decltype(peephole)::value, decltype(skip)::value>());
    };
    rnnkit::dispatch(dtype, with_kind, OneOf<Peephole::none, Peephole::parameter, Peephole::plane>{peephole},
                     OneOf<Skip::none, Skip::input, Skip::column>{skip});
  }
};

}  // namespace rnnkit
