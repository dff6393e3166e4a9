// What the ops let a caller choose, and the way from the run-time choice to a compile-time kind of scan.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/scan.h>

namespace rnnkit {

enum class Activation { identity, tanh, relu };

// What of the state before acts on the gates: nothing (the first version), v c with v a parameter, or with v a plane.
enum class Peephole { none, parameter, plane };

// x', where the highway comes from: nowhere, the layer's input, or a column of U.
enum class Skip { none, input, column };

template <class acc>
struct Pointers {
  const acc *bias, *weight_c, *mask, *scale;
};

// Of float32 and float64 problems, one of the two is null.
struct SruOptions {
  Activation activation;
  int64_t channels;
  Pointers<float> floats;
  Pointers<double> doubles;

  RNNKIT_HOST_DEVICE const Pointers<float>& of(float) const { return floats; }
  RNNKIT_HOST_DEVICE const Pointers<double>& of(double) const { return doubles; }
};

// Planes, in this order: [v_f,] U0, U1 | U2, [x',] [v_r]. Those of U lie interleaved.
template <Peephole peephole, Skip skip>
struct Kind : KindDefaults {
  static constexpr bool kLinear = peephole == Peephole::none;
  static constexpr bool kOutputSeesPrevious = !kLinear;
  static constexpr int kFirstInterleaved = peephole == Peephole::plane ? 1 : 0;
  static constexpr int kInterleaved = skip == Skip::column ? 4 : 3;
  static constexpr int kOutputPlanes = 1 + (skip != Skip::none) + (peephole == Peephole::plane);
  static constexpr int kPlanes = kFirstInterleaved + 2 + kOutputPlanes;
  // b_f, b_r, and v_f, v_r, where they are parameters
  static constexpr int kStateSums = peephole == Peephole::parameter ? 2 : 1, kOutputSums = kStateSums;
  using Options = SruOptions;
};

// Returns dispatch(dtype, f), which calls f(TypeTag<scalar_t>, Kind).
inline auto dispatch_to(Peephole peephole, Skip skip) {
  return [=](ScalarType dtype, auto f) {
    dispatch_floating(dtype, [&](auto tag) {
      const auto with_skip = [&](auto peephole_tag) {
        constexpr Peephole chosen = decltype(peephole_tag)::value;
        switch (skip) {
          case Skip::none: return f(tag, Kind<chosen, Skip::none>{});
          case Skip::input: return f(tag, Kind<chosen, Skip::input>{});
          case Skip::column: return f(tag, Kind<chosen, Skip::column>{});
        }
      };
      switch (peephole) {
        case Peephole::none: return with_skip(std::integral_constant<Peephole, Peephole::none>{});
        case Peephole::parameter: return with_skip(std::integral_constant<Peephole, Peephole::parameter>{});
        case Peephole::plane: return with_skip(std::integral_constant<Peephole, Peephole::plane>{});
      }
    });
  };
}

}  // namespace rnnkit
