// What a caller may choose, and the kinds of scan that it makes. Types alone: cells include this for each target.
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
struct SruOptions {
  Activation activation;
  int64_t channels;
  const acc* mask;   // [B, D], or null: 1
  const acc* scale;  // [1], or null: 1
};

// Planes, in this order: [v_f,] U0, U1 | U2, [x',] [v_r]. Those of U lie interleaved.
// Parameters: b_f, b_r, and v_f, v_r where they are parameters.
template <Peephole peephole, Skip skip>
struct Kind : KindDefaults {
  static constexpr bool kLinear = peephole == Peephole::none;
  static constexpr bool kOutputSeesPrevious = !kLinear;
  static constexpr int kFirstInterleaved = peephole == Peephole::plane ? 1 : 0;
  static constexpr int kInterleaved = skip == Skip::column ? 4 : 3;
  static constexpr int kOutputPlanes = 1 + (skip != Skip::none) + (peephole == Peephole::plane);
  static constexpr int kPlanes = kFirstInterleaved + 2 + kOutputPlanes;
  static constexpr int kStateSums = peephole == Peephole::parameter ? 2 : 1, kOutputSums = kStateSums;
  static constexpr int kParameters = kStateSums + kOutputSums;
  template <class acc>
  using Options = SruOptions<acc>;
};

}  // namespace rnnkit
