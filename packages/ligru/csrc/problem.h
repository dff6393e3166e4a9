// What the engines compute, free of tensors and of any one backend. A row is a sequence in one direction: R = D B of them,
// those that go backward after those that go forward. Row r, in its s-th step, is at time t = time(r, s) and has
//
//   u = U h            or, normalised over its 2H values, (U h - mean) rstd weight + bias
//   a, z = g + u       a in the first H values of each, z in the others
//   h <- sigmoid(z) h + (1 - sigmoid(z)) f(a) mask
//
// where h is 0 before the steps at which a sequence begins anew (reset).
// Shapes: g [B, T, 2H], the same for both directions; reset [B, T]; u [2H, H]; weight, bias [2H]; mask, h0, h_last [R, H];
// out [B, T, D H]; and, kept for backward, gates = (a, z) and normal = (U h - mean) rstd [R, T, 2H], rstd [R, T]. Backward
// makes, at each time, the gradients of a and z [R, T, 2H], those of U h, normalised or not (in the same memory where not),
// and repeats the h that was there before the step [R, T, H], so that the gradient of U is one matrix product. All that is
// written is 0 in the padding.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/scan.h>
#include <rnnkit/types.h>

#include <cstdint>

namespace rnnkit {

enum class Activation { relu, leaky_relu, tanh, sin };

template <class scalar_t>
struct Recurrence {
  using acc = acc_t<scalar_t>;
  int64_t batch, steps, units;
  int directions;
  Activation activation;
  bool normalize;
  acc eps;
  const int64_t* lengths;  // null: all are `steps`
  const bool* reset;       // null: none
  const acc* mask;         // null: 1
  const acc* h0;           // null: 0
  const acc* weight;       // null: 1
  const acc* bias;         // null: 0
  const scalar_t* u;

  RNNKIT_HOST_DEVICE int64_t rows() const { return directions * batch; }

  struct Row {
    int64_t b, length;
    const bool* reset;  // [T], or null
    bool reverse;

    RNNKIT_HOST_DEVICE int64_t time(int64_t s) const { return position(s, length, reverse); }

    // Whether h is 0 before the s-th step. A mark separates the step that has it from the one before, for both directions.
    RNNKIT_HOST_DEVICE bool begins(int64_t s) const {
      if (reset == nullptr || s >= length) return false;
      return reverse ? s > 0 && reset[length - s] : reset[s];
    }
  };

  RNNKIT_HOST_DEVICE Row row(int64_t r) const {
    const bool reverse = r >= batch;
    const int64_t b = reverse ? r - batch : r;
    return {b, lengths == nullptr ? steps : lengths[b], reset == nullptr ? nullptr : reset + b * steps, reverse};
  }

  // Of a tensor [R, T, width]
  RNNKIT_HOST_DEVICE int64_t offset(int64_t r, int64_t t, int64_t width) const { return (r * steps + t) * width; }
};

template <class scalar_t>
struct Forward : Recurrence<scalar_t> {
  using acc = acc_t<scalar_t>;
  Rows<const scalar_t> g;
  Rows<scalar_t> out;
  acc* h_last;
  scalar_t* gates;   // null: nothing is kept
  scalar_t* normal;  // where it is normalised
  acc* rstd;
};

template <class scalar_t>
struct Backward : Recurrence<scalar_t> {
  using acc = acc_t<scalar_t>;
  Rows<const scalar_t> out, grad_out;
  const acc* grad_h_last;  // null: 0
  const scalar_t* gates;
  const scalar_t* normal;
  const acc* rstd;
  scalar_t* grad_gates;    // of a and z
  scalar_t* grad_product;  // of U h
  scalar_t* h_before;
  acc* grad_h0;
  acc* sums;  // [R, 2, 2H], the gradients of weight and bias from each row; where there is a weight
};

}  // namespace rnnkit
