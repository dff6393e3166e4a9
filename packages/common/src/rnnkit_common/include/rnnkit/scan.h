// The problem that the scan engines solve, free of tensors and of any one backend.
//
//   h_s = step(x_s, h_{s-1}),   s = 0 .. length-1,   for every sequence and channel; where it is linear, a_s h_{s-1} + b_s,
//
// with x one value per plane of the input, and out_s is h_s or what the cell makes of it. Shapes: planes, out [B, T, D];
// h0, h_last [B, D]; carries [B, ceil(T / K), D]; lengths [B]; reset, pad [B, T].
// Forward keeps the state before every K-th step; backward recomputes the states between. Backward is linear in the
// gradient that it carries, whatever the step is, so that it can always be cut in time; forward can where the step is
// linear.
//
// A family describes each of its recurrences by a type, its Kind, which it can name without knowing the backend. It
// derives from KindDefaults, which tells what there is to say, and has kPlanes, the number of planes. The mathematics is in
// Cell<M, Kind>, over the values of M (vectors on the CPU, single ones on the GPU), made from the Kind's Options; it derives
// from CellDefaults (cell.h, which also checks what follows):
//   Own, own(at, parameter)                             what belongs to a channel all the time, such as parameter(0)
//   gates(at, own, x, a, b)                             if kLinear: h = a h_prev + b
//   step(at, own, x, h_prev)                            if not: h
//   gradients(at, own, x, h_prev, h, a, d)              h, a = dh/dh_prev, and d[j] = dh/dx[j]; after those of the planes,
//                                                       dh/d(parameter), of the parameters that are no sums (below)
// if kOutputPlanes > 0,
//   output(own, x, h_prev, h)                           out
//   output_gradients(own, x, h_prev, h, grad_out, d, to_h_prev)   returns what reaches h; d[j] is the j-th output plane's
//                                                       gradient, and to_h_prev what reaches h_prev, if kOutputSeesPrevious
// A parameter, [D], has a gradient, which is a sum over time. Where that follows from a plane's gradient, it needs no
// factor:
//   add_state(grad, h_prev, sums)                       adds to kStateSums of them, from the gradients of the state planes
//   add_output(grad, h_prev, sums)                      and to kOutputSums, from those of the output planes
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/types.h>

#include <cstdint>

namespace rnnkit {

// The steps from one state that is kept to the next. A thread of the GPU holds as many at a time in its registers.
constexpr int kCarryCpu = 16, kCarryCuda = 8;

// How many states are kept, of so many steps.
RNNKIT_HOST_DEVICE int64_t carries_of(int64_t steps, int carry) { return (steps + carry - 1) / carry; }

// a h + b, but b where h or a is 0, be the other infinite: the product of many steps' a may be, and the state before a
// reset.
template <class T>
RNNKIT_HOST_DEVICE T through_map(T a, T b, T h) {
  return a == 0 || h == 0 ? b : a * h + b;
}

// Where step s of the processing order lies in memory; padding keeps its place.
RNNKIT_HOST_DEVICE int64_t position(int64_t s, int64_t length, bool reverse) {
  return reverse && s < length ? length - 1 - s : s;
}

template <class T>
struct Rows {  // [B, T, D]
  T* data;
  int64_t batch_stride, step_stride;

  RNNKIT_HOST_DEVICE T* at(int64_t b, int64_t t) const { return data + b * batch_stride + t * step_stride; }
};

// A step as cells see it: the i-th from step `first`, a multiple of 4, in processing order, of sequence b, from channel d
// on.
struct Coordinates {
  int64_t b, d, first;
  int i, lanes;  // lanes: how many channels
  bool reset;    // whether the state before was replaced
};

struct NoOptions {};

struct KindDefaults {
  static constexpr int kOutputPlanes = 0;  // the last so many planes do not act on the state, only on the output
  static constexpr bool kLinear = true;
  static constexpr bool kOutputSeesPrevious = false;
  // These planes lie interleaved in memory: the values of a channel one after the other.
  static constexpr int kFirstInterleaved = 0, kInterleaved = 0;
  static constexpr int kRegisters = 0;   // of a GPU's thread, that its mathematics takes besides what it holds
  static constexpr int kParameters = 0;  // of them:
  static constexpr int kStateSums = 0, kOutputSums = 0;
  template <class acc>
  using Options = NoOptions;
};

// The parameters that are no sums of planes' gradients, and have factors of their own.
template <class Kind>
constexpr int kParameterFactors = Kind::kParameters - Kind::kStateSums - Kind::kOutputSums;

template <class Kind>
constexpr int channel_stride(int plane) {
  const bool interleaved = Kind::kFirstInterleaved <= plane && plane < Kind::kFirstInterleaved + Kind::kInterleaved;
  return interleaved ? Kind::kInterleaved : 1;
}

// The parameter that the j-th sum is the gradient of: first those of the state, then of the output, then with factors. The
// sums of state and output take turns, so that the two of a parameter that both gates have are neighbours.
template <class Kind>
constexpr int parameter_of_sum(int j) {
  static_assert(Kind::kOutputSums == 0 || Kind::kOutputSums == Kind::kStateSums,
                "as many sums of the output as of the state");
  if (Kind::kOutputSums == 0 || j >= 2 * Kind::kStateSums) return j;
  return j < Kind::kStateSums ? 2 * j : 2 * (j - Kind::kStateSums) + 1;
}

template <class scalar_t, class Kind>
struct ScanProblem {
  using acc = acc_t<scalar_t>;
  Rows<const scalar_t> in[Kind::kPlanes];
  typename Kind::template Options<acc> options;
  const acc* parameters[Kind::kParameters + 1];  // [D] each; + 1: there may be none
  int64_t batch, steps, channels;
  const int64_t* lengths;  // null: all are `steps`
  const bool* reset;       // null: none; at such a step a sequence begins anew
  const bool* pad;         // null: none; such a step is not read, leaves the state as it is, and its output is 0
  acc initial;             // the state after a reset, and at the start where h0 is null
  int64_t reverse_from;    // channels from here on are processed from a sequence's last valid step to its first

  RNNKIT_HOST_DEVICE int64_t length(int64_t b) const { return lengths == nullptr ? steps : lengths[b]; }

  RNNKIT_HOST_DEVICE bool pads(int64_t b, int64_t t) const { return pad != nullptr && pad[b * steps + t]; }

  // Whether no state passes into step t: a mark separates the step that has it from those before, for both directions.
  // In padding it means nothing.
  RNNKIT_HOST_DEVICE bool resets(int64_t b, int64_t t, int64_t length, bool reverse) const {
    if (reset == nullptr || pads(b, t)) return false;
    if (!reverse) return reset[b * steps + t];
    int64_t before = t + 1;  // in the order of processing
    while (before < length && pads(b, before)) ++before;
    return before < length && reset[b * steps + before];
  }

  RNNKIT_HOST_DEVICE int64_t carry_offset(int64_t b, int64_t s, int carry) const {
    return (b * carries_of(steps, carry) + s / carry) * channels;
  }
};

template <class scalar_t, class Kind>
struct ScanForward : ScanProblem<scalar_t, Kind> {
  using acc = acc_t<scalar_t>;
  const acc* h0;  // null: `initial`
  Rows<scalar_t> out;
  acc* h_last;
  acc* carries;  // null: not kept
};

template <class scalar_t, class Kind>
struct ScanBackward : ScanProblem<scalar_t, Kind> {
  using acc = acc_t<scalar_t>;
  const acc* carries;
  Rows<const scalar_t> grad_out;
  const acc* grad_h_last;  // null: 0
  Rows<scalar_t> grad_in[Kind::kPlanes];
  acc* grad_h0;
  acc* sums;  // [kParameters, B, D]: the gradients of the parameters from each sequence
};

}  // namespace rnnkit
