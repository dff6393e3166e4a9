// The problem that the scan engines solve, free of tensors and of any one backend.
//
//   h_s = a_s h_{s-1} + b_s,   s = 0 .. length-1,   for every sequence and channel,
//
// where a cell computes a_s and b_s from its planes (one pre-activation per channel and step each), and out_s is h_s or
// what the cell makes of it. Shapes: planes, out [B, T, D] with unit stride along D; h0, h_last [B, D]; carries
// [B, ceil(T / kCarry), D]; lengths [B]; reset [B, T].
// Forward keeps the state before every kCarry-th step; backward recomputes the states between.
//
// A family describes each of its recurrences by a type, its Kind, which it can name without knowing the backend,
//   kPlanes        pre-activations per channel and step
//   kOutputPlanes  the last so many of them do not act on the state, only on the output; without any, the output is h
//   Options        what a caller chooses at run time
// and gives the mathematics in Cell<M, Kind>, over the values of M (vectors on the CPU, single ones on the GPU), made
// from the Options:
//   gates(at, x, a, b)                    h = a h_prev + b
//   gradients(at, x, h_prev, a, b, d)     the same, and d[j] = dh/dx[j] at fixed h_prev
// and, if kOutputPlanes > 0,
//   output(x, h)                          out
//   output_gradients(x, h, grad_out, d)   returns what reaches h; d[j] = that of the j-th output plane
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/types.h>

#include <cstdint>

#ifdef __CUDACC__
#define RNNKIT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define RNNKIT_HOST_DEVICE inline
#endif

namespace rnnkit {

constexpr int kCarry = 16;

// The first step from s on before which the state is kept.
RNNKIT_HOST_DEVICE int64_t next_carry(int64_t s) { return (s + kCarry - 1) / kCarry * kCarry; }

template <class T>
struct Rows {  // [B, T, D]
  T* data;
  int64_t batch_stride, step_stride;

  RNNKIT_HOST_DEVICE T* at(int64_t b, int64_t t) const { return data + b * batch_stride + t * step_stride; }
};

// A step as cells see it: the i-th of a block of kCarry, in processing order, of sequence b, from channel d on.
struct Coordinates {
  int64_t b, d, block;
  int i;
};

struct NoOptions {};

template <class scalar_t, class Kind>
struct ScanProblem {
  using acc = acc_t<scalar_t>;
  Rows<const scalar_t> in[Kind::kPlanes];
  typename Kind::Options options;
  int64_t batch, steps, channels;
  const int64_t* lengths;  // null: all are `steps`
  const bool* reset;       // null: none
  acc initial;             // the state after a reset, and at the start where h0 is null
  bool reverse;            // processes each sequence from its last valid step to its first

  RNNKIT_HOST_DEVICE int64_t length(int64_t b) const { return lengths == nullptr ? steps : lengths[b]; }

  // Where step s of the processing order lies in memory; padding keeps its place.
  RNNKIT_HOST_DEVICE int64_t position(int64_t s, int64_t length) const { return reverse && s < length ? length - 1 - s : s; }

  RNNKIT_HOST_DEVICE bool resets(int64_t b, int64_t t) const { return reset != nullptr && reset[b * steps + t]; }

  RNNKIT_HOST_DEVICE int64_t carry_offset(int64_t b, int64_t s) const {
    return (b * (next_carry(steps) / kCarry) + s / kCarry) * channels;
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
};

}  // namespace rnnkit
