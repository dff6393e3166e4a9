// The resident engine forward, a stage after the other: what a block does of a step.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "resident.h"

namespace rnnkit::cuda {

template <class scalar_t, class Operand, Link link>
class ResidentForward {
  using M = Math<scalar_t>;
  using Problem = Forward<scalar_t>;
  using Parameters = Resident<Problem, Operand, false>;
  using Owned = Pair<Problem>;

 public:
  __device__ __forceinline__ explicit ResidentForward(const Parameters& parameters)
      : p(parameters.problem),
        groups(parameters.groups),
        member(parameters),
        width(member.layout.width),
        half(member.layout.half()),
        units(p.units),
        first_unit(int64_t(member.rank) * width) {}

  __device__ __forceinline__ void run() {
    load_weights();
    for (int64_t first_row = int64_t(member.group) * kRows; first_row < p.rows(); first_row += int64_t(groups) * kRows) {
      begin(first_row);
      for (int64_t s = 0; s < p.steps; ++s) {
        const int side = int(s % 2);
        take_inputs(s);
        member.product(member.x(side), member.sums());
        __syncthreads();
        if (p.normalize) tell_statistics(side);
        gate(s, side);
        if (s + 1 < p.steps) member.exchange(side ^ 1, false);
      }
      end();
    }
  }

 private:
  __device__ __forceinline__ void load_weights() {
    member.product.load(reinterpret_cast<Operand*>(member.memory), [&](int m, int k) {
      const int64_t unit = first_unit + m % width;
      return unit < units && k < units ? float(p.u[(m / width * units + unit) * units + k]) : 0.0f;
    });
  }

  // The states before the first step, and the first step's inputs.
  __device__ __forceinline__ void begin(int64_t first_row) {
    for (int i = threadIdx.x; i < kRows * half; i += kThreads) {
      const int n = i / half, k = i % half;
      const bool given = first_row + n < p.rows() && k < units && !p.row(first_row + n).begins(0);
      member.x(1)[n * member.product.x_stride() + k] = Operand(0.0f);  // what no unit writes must not be NaN
      member.x(0)[n * member.product.x_stride() + k] =
          static_cast<Operand>(given ? at_or(p.h0, (first_row + n) * units + k, 0.0f) : 0.0f);
    }
    member.start();
    RNNKIT_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      Owned& pair = pairs[i];
      pair.set(p, i, width, first_row, first_unit);
      prefetch(i, 0);
      h[i] = pair.active && !begins[i] ? at_or(p.h0, pair.r * units + pair.column, 0.0f) : 0.0f;
    }
  }

  __device__ __forceinline__ void prefetch(int i, int64_t s) {
    const Owned& pair = pairs[i];
    begins[i] = pair.active && pair.row.begins(s);
    if (!pair.active || s >= pair.row.length) return;
    const scalar_t* const from = p.g.at(pair.row.b, pair.row.time(s)) + pair.column;
    next[i][0] = from[0];
    next[i][1] = from[units];
  }

  // The next step's arrive while this one's product is made.
  __device__ __forceinline__ void take_inputs(int64_t s) {
    RNNKIT_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      g[i][0] = next[i][0];
      g[i][1] = next[i][1];
      prefetch(i, s + 1);
    }
  }

  // A warp for each row: the mean of this block's products, and their squares around it.
  __device__ __forceinline__ void tell_statistics(int side) {
    static_assert(kWarps == kRows);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, count = 2 * member.units_of(member.rank);
    const auto value = [&](int m) { return member.product.sum(member.sums(), warp, m); };
    float sum = 0, squares = 0;
    for (int m = lane; m < 2 * width; m += 32) sum += value(m);  // 0 where there is no unit
    const float mean = warp_sum(sum) / (count > 0 ? count : 1);
    for (int m = lane; m < 2 * width; m += 32)
      if (first_unit + m % width < units) squares += (value(m) - mean) * (value(m) - mean);
    squares = warp_sum(squares);
    member.tell(side, warp, mean, squares);
    member.exchange_statistics(side);
  }

  __device__ __forceinline__ void gate(int64_t s, int side) {
    RNNKIT_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      const Owned& pair = pairs[i];
      if (pair.n >= kRows) continue;
      if (pair.active && s >= pair.row.length) {
        write_padding(pair, s);
      } else if (pair.active) {
        const int64_t t = pair.row.time(s), kept = p.offset(pair.r, t, 2 * units) + pair.column;
        float u[2] = {member.product.sum(member.sums(), pair.n, pair.unit),
                      member.product.sum(member.sums(), pair.n, width + pair.unit)};
        if (p.normalize) normalise(pair, t, side, u);
        const float a = g[i][0] + u[0], z = g[i][1] + u[1];
        if (p.gates != nullptr) {
          p.gates[kept] = static_cast<scalar_t>(a);
          p.gates[kept + units] = static_cast<scalar_t>(z);
        }
        h[i] = Cell<M>::step(p.activation, a, z, at_or(p.mask, pair.r * units + pair.column, 1.0f), h[i]);
        p.out.at(pair.row.b, t)[pair.row.reverse * units + pair.column] = static_cast<scalar_t>(h[i]);
      }
      if (begins[i]) h[i] = 0;  // before the step that follows
      member.own()[pair.n * width + pair.unit] = static_cast<Operand>(h[i]);
    }
  }

  __device__ __forceinline__ void write_padding(const Owned& pair, int64_t s) const {
    p.out.at(pair.row.b, s)[pair.row.reverse * units + pair.column] = scalar_t(0.0f);
    if (p.gates == nullptr) return;
    const int64_t kept = p.offset(pair.r, s, 2 * units) + pair.column;
    p.gates[kept] = p.gates[kept + units] = scalar_t(0.0f);
    if (!p.normalize) return;
    p.normal[kept] = p.normal[kept + units] = scalar_t(0.0f);
    if (pair.column == 0) p.rstd[p.offset(pair.r, s, 1)] = 0;
  }

  // u, from what all blocks told: those of the blocks around their means, and of their means around that of all.
  __device__ __forceinline__ void normalise(const Owned& pair, int64_t t, int side, float (&u)[2]) const {
    float mean = 0, squares = 0;
    for (int rank = 0; rank < member.layout.blocks; ++rank)
      mean += 2 * member.units_of(rank) * member.statistics(side, rank, pair.n)[0];
    mean /= 2 * units;
    for (int rank = 0; rank < member.layout.blocks; ++rank) {
      const float* const told = member.statistics(side, rank, pair.n);
      squares += told[1] + 2 * member.units_of(rank) * (told[0] - mean) * (told[0] - mean);
    }
    const float rstd = 1 / sqrtf(squares / (2 * units) + p.eps);
    if (p.gates != nullptr && pair.column == 0) p.rstd[p.offset(pair.r, t, 1)] = rstd;
    const int64_t kept = p.offset(pair.r, t, 2 * units) + pair.column;
    RNNKIT_UNROLL
    for (int j = 0; j < 2; ++j) {
      u[j] = (u[j] - mean) * rstd;
      if (p.gates != nullptr) p.normal[kept + j * units] = static_cast<scalar_t>(u[j]);
      u[j] = u[j] * at_or(p.weight, j * units + pair.column, 1.0f) + at_or(p.bias, j * units + pair.column, 0.0f);
    }
  }

  __device__ __forceinline__ void end() {
    RNNKIT_UNROLL
    for (int i = 0; i < kPairs; ++i)
      if (pairs[i].active) p.h_last[pairs[i].r * units + pairs[i].column] = h[i];
    member.finish();
  }

  const Problem& p;
  const int groups;
  Member<Parameters, Layout<Operand, false>, link> member;
  const int width, half;
  const int64_t units, first_unit;
  Owned pairs[kPairs];
  float h[kPairs], g[kPairs][2], next[kPairs][2];  // g: of the step; next: of the one after it
  bool begins[kPairs];                             // that one
};

template <class scalar_t, class Operand, Link link>
__global__ void __launch_bounds__(kThreads, 1) resident_forward(Resident<Forward<scalar_t>, Operand, false> parameters) {
  ResidentForward<scalar_t, Operand, link>(parameters).run();
}

}  // namespace rnnkit::cuda
