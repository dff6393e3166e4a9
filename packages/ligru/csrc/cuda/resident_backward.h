// The resident engine backward, a stage after the other.
//
// What the normalisation takes out of a gradient goes through U as well: its mean meets the sums of U's columns, and the
// part along what was normalised meets `along`, all made beforehand. So one exchange carries gradients and sums.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "resident.h"

namespace rnnkit::cuda {

template <class scalar_t, class Operand, Link link>
class ResidentBackward {
  using M = Math<scalar_t>;
  using Problem = Backward<scalar_t>;
  using Parameters = Resident<Problem, Operand, true>;
  using Owned = Pair<Problem>;

  struct Given {
    float a, z, h, grad_out, normal[2], along;
    bool begins;  // h is 0, and no gradient reaches the step before
  };

 public:
  __device__ __forceinline__ explicit ResidentBackward(const Parameters& parameters)
      : p(parameters.problem),
        groups(parameters.groups),
        along(parameters.along),
        member(parameters),
        width(member.layout.width),
        half(member.layout.half()),
        units(p.units),
        first_unit(int64_t(member.rank) * width) {}

  __device__ __forceinline__ void run() {
    load_weights();
    for (int64_t first_row = int64_t(member.group) * kRows; first_row < p.rows(); first_row += int64_t(groups) * kRows) {
      begin(first_row);
      for (int64_t s = p.steps - 1; s >= 0; --s) {
        const int side = int(s % 2);
        gate(s);
        if (p.normalize) tell_sums(side);
        member.exchange(side, p.normalize);
        member.product(member.x(side), member.sums());
        __syncthreads();
        pass_on(s, side);
      }
      end();
    }
  }

 private:
  __device__ __forceinline__ void load_weights() {
    member.product.load(reinterpret_cast<Operand*>(member.memory), [&](int m, int k) {
      const int64_t unit = first_unit + m, from = k % half;
      return unit < units && from < units ? float(p.u[(k / half * units + from) * units + unit]) : 0.0f;
    });
  }

  __device__ __forceinline__ void begin(int64_t first_row) {
    for (int i = threadIdx.x; i < (link == Link::grid ? 1 : 2) * kRows * member.product.x_stride(); i += kThreads) {
      const int size = kRows * member.product.x_stride();  // what no unit writes must not be NaN
      member.x(i / size)[i % size] = Operand(0.0f);
    }
    member.start();
    RNNKIT_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      Owned& pair = pairs[i];
      pair.set(p, i, width, first_row, first_unit);
      grad_h[i] = pair.active ? at_or(p.grad_h_last, pair.r * units + pair.column, 0.0f) : 0.0f;
      of_columns[i] = 0;
      for (int j = 0; j < 2; ++j) of_weight[i][j] = of_bias[i][j] = 0;
      for (int64_t j = 0; p.normalize && pair.active && j < 2 * units; ++j)
        of_columns[i] += float(p.u[j * units + pair.column]);
      if (p.steps > 0) prefetch(i, p.steps - 1);
    }
  }

  __device__ __forceinline__ void prefetch(int i, int64_t s) {
    const Owned& pair = pairs[i];
    if (!pair.active || s >= pair.row.length) return;
    const int64_t t = pair.row.time(s), kept = p.offset(pair.r, t, 2 * units) + pair.column;
    const int64_t column = pair.row.reverse * units + pair.column;
    next[i].a = p.gates[kept];
    next[i].z = p.gates[kept + units];
    next[i].grad_out = p.grad_out.at(pair.row.b, t)[column];
    next[i].begins = pair.row.begins(s);
    next[i].h = next[i].begins ? 0.0f
                : s > 0        ? float(p.out.at(pair.row.b, pair.row.time(s - 1))[column])
                               : at_or(p.h0, pair.r * units + pair.column, 0.0f);
    if (!p.normalize) return;
    next[i].normal[0] = p.normal[kept];
    next[i].normal[1] = p.normal[kept + units];
    next[i].along = along[p.offset(pair.r, t, units) + pair.column];
  }

  // From the gradient of h to those of a and z, while the step's before arrive.
  __device__ __forceinline__ void gate(int64_t s) {
    RNNKIT_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      const Owned& pair = pairs[i];
      now[i] = next[i];
      if (s > 0) prefetch(i, s - 1);
      d[i][0] = d[i][1] = 0;
      if (pair.n >= kRows) continue;
      if (pair.active) {
        const int64_t t = pair.row.time(s), kept = p.offset(pair.r, t, 2 * units) + pair.column;
        if (s < pair.row.length) {
          Cell<M>::gradients(p.activation, now[i].a, now[i].z, at_or(p.mask, pair.r * units + pair.column, 1.0f), now[i].h,
                             grad_h[i] + now[i].grad_out, d[i][0], d[i][1], grad_h[i]);
        } else {
          now[i] = {};
          if (p.normalize) p.grad_product[kept] = p.grad_product[kept + units] = scalar_t(0.0f);
        }
        p.h_before[p.offset(pair.r, t, units) + pair.column] = static_cast<scalar_t>(now[i].h);
        RNNKIT_UNROLL
        for (int j = 0; j < 2; ++j) {
          p.grad_gates[kept + j * units] = static_cast<scalar_t>(d[i][j]);
          of_weight[i][j] += d[i][j] * now[i].normal[j];
          of_bias[i][j] += d[i][j];
          if (p.normalize) d[i][j] *= at_or(p.weight, j * units + pair.column, 1.0f);
        }
      } else {
        now[i] = {};
      }
      RNNKIT_UNROLL
      for (int j = 0; j < 2; ++j) member.own()[(j * kRows + pair.n) * width + pair.unit] = static_cast<Operand>(d[i][j]);
    }
  }

  // Of the gradients, and of them times what was normalised.
  __device__ __forceinline__ void tell_sums(int side) {
    float* const scratch = member.sums();  // of pairs first, which lie anywhere among the threads
    __syncthreads();
    RNNKIT_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      const Owned& pair = pairs[i];
      if (pair.n >= kRows) continue;
      scratch[pair.n * width + pair.unit] = d[i][0] + d[i][1];
      scratch[(kRows + pair.n) * width + pair.unit] = d[i][0] * now[i].normal[0] + d[i][1] * now[i].normal[1];
    }
    __syncthreads();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float sum = 0, product = 0;
    for (int unit = lane; unit < width; unit += 32) {
      sum += scratch[warp * width + unit];
      product += scratch[(kRows + warp) * width + unit];
    }
    sum = warp_sum(sum);
    product = warp_sum(product);
    member.tell(side, warp, sum, product);
  }

  // To the gradient of h before the step.
  __device__ __forceinline__ void pass_on(int64_t s, int side) {
    RNNKIT_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      const Owned& pair = pairs[i];
      if (!pair.active || s >= pair.row.length) continue;
      const float product = member.product.sum(member.sums(), pair.n, pair.unit);
      const float reaching = p.normalize ? through_norm(i, s, side, product) : product;
      grad_h[i] = now[i].begins ? 0.0f : grad_h[i] + reaching;
    }
  }

  __device__ __forceinline__ float through_norm(int i, int64_t s, int side, float product) const {
    const Owned& pair = pairs[i];
    float mean = 0, share = 0;
    for (int rank = 0; rank < member.layout.blocks; ++rank) {
      mean += member.statistics(side, rank, pair.n)[0];
      share += member.statistics(side, rank, pair.n)[1];
    }
    mean /= 2 * units;
    share /= 2 * units;
    const int64_t t = pair.row.time(s), kept = p.offset(pair.r, t, 2 * units) + pair.column;
    const float rstd = p.rstd[p.offset(pair.r, t, 1)];
    RNNKIT_UNROLL
    for (int j = 0; j < 2; ++j)
      p.grad_product[kept + j * units] = static_cast<scalar_t>(rstd * (d[i][j] - mean - now[i].normal[j] * share));
    return rstd * (product - mean * of_columns[i] - share * now[i].along);
  }

  __device__ __forceinline__ void end() {
    RNNKIT_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      const Owned& pair = pairs[i];
      if (!pair.active) continue;
      p.grad_h0[pair.r * units + pair.column] = grad_h[i];
      for (int j = 0; j < 2 && p.weight != nullptr; ++j) {
        p.sums[2 * pair.r * (2 * units) + j * units + pair.column] = of_weight[i][j];
        p.sums[(2 * pair.r + 1) * (2 * units) + j * units + pair.column] = of_bias[i][j];
      }
    }
    member.finish();
  }

  const Problem& p;
  const int groups;
  const scalar_t* const along;
  Member<Parameters, Layout<Operand, true>, link> member;
  const int width, half;
  const int64_t units, first_unit;
  Owned pairs[kPairs];
  float grad_h[kPairs], d[kPairs][2];  // of h, and of the step's a and z
  float of_columns[kPairs], of_weight[kPairs][2], of_bias[kPairs][2];
  Given now[kPairs], next[kPairs];  // of the step, and of the one before it
};

template <class scalar_t, class Operand, Link link>
__global__ void __launch_bounds__(kThreads, 1) resident_backward(Resident<Backward<scalar_t>, Operand, true> parameters) {
  ResidentBackward<scalar_t, Operand, link>(parameters).run();
}

}  // namespace rnnkit::cuda
