// The engine for recurrences of any size, on any device: each step is a matrix product of torch and one kernel, with a block
// for each row. It can be captured in a CUDA graph, as everything here, and is the only one for float64.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../ops.h"
#include "cell_cuda.h"

namespace rnnkit::cuda {

constexpr int kStepThreads = 256;

template <class Problem, class scalar_t>
struct Step {
  Problem problem;
  int64_t s;
  const scalar_t* product;  // of the step before in processing order, [R, 2H] forward and [R, H] backward
  acc_t<scalar_t>* state;   // h, or its gradient, [R, H]
  scalar_t* message;        // what the next product takes, [R, H] forward and [R, 2H] backward
};

// The sums of two values over the block, for all its threads.
template <class acc>
__device__ __forceinline__ void sum_over_block(acc& first, acc& second) {
  acc* const scratch = shared_memory<acc>();
  first = warp_sum(first);
  second = warp_sum(second);
  __syncthreads();  // what this memory held before has been read
  if (threadIdx.x % 32 == 0) {
    scratch[threadIdx.x / 32] = first;
    scratch[kStepThreads / 32 + threadIdx.x / 32] = second;
  }
  __syncthreads();
  first = second = 0;
  for (int warp = 0; warp < kStepThreads / 32; ++warp) {
    first += scratch[warp];
    second += scratch[kStepThreads / 32 + warp];
  }
}

template <class scalar_t>
__global__ void __launch_bounds__(kStepThreads) forward_step(Step<Forward<scalar_t>, scalar_t> step) {
  using M = Math<scalar_t>;
  using acc = typename M::Scalar;
  const Forward<scalar_t>& p = step.problem;
  const int64_t units = p.units, r = blockIdx.x, s = step.s;
  const auto row = checked_row(p, r);
  if (s >= row.length) {
    for (int64_t unit = threadIdx.x; unit < units; unit += kStepThreads) {
      p.out.at(row.b, s)[row.reverse * units + unit] = scalar_t(0.0f);
      const int64_t kept = p.offset(r, s, 2 * units) + unit;
      if (p.gates != nullptr) p.gates[kept] = p.gates[kept + units] = scalar_t(0.0f);
      if (p.gates != nullptr && p.normalize) p.normal[kept] = p.normal[kept + units] = scalar_t(0.0f);
    }
    if (p.gates != nullptr && p.normalize && threadIdx.x == 0) p.rstd[p.offset(r, s, 1)] = 0;
    return;
  }
  const int64_t t = row.time(s), kept = p.offset(r, t, 2 * units);
  const bool begins = row.begins(s);
  const auto product = [&](int64_t j) { return begins ? acc(0) : acc(step.product[r * 2 * units + j]); };
  acc mean = 0, rstd = 1;
  if (p.normalize) {  // first the mean, then the squares around it
    acc sum = 0, squares = 0, none = 0;
    for (int64_t j = threadIdx.x; j < 2 * units; j += kStepThreads) sum += product(j);
    sum_over_block(sum, none);
    mean = sum / (2 * units);
    for (int64_t j = threadIdx.x; j < 2 * units; j += kStepThreads) {
      const acc centred = product(j) - mean;
      squares += centred * centred;
    }
    sum_over_block(squares, none);
    rstd = 1 / sqrt(squares / (2 * units) + p.eps);
    if (p.gates != nullptr && threadIdx.x == 0) p.rstd[p.offset(r, t, 1)] = rstd;
  }
  for (int64_t unit = threadIdx.x; unit < units; unit += kStepThreads) {
    const scalar_t* const g = p.g.at(row.b, t) + unit;
    acc gates[2];
    RNNKIT_UNROLL
    for (int j = 0; j < 2; ++j) {
      const int64_t column = j * units + unit;
      acc u = product(column);
      if (p.normalize) {
        u = (u - mean) * rstd;
        if (p.gates != nullptr) p.normal[kept + column] = static_cast<scalar_t>(u);
        u = u * at_or(p.weight, column, acc(1)) + at_or(p.bias, column, acc(0));
      }
      gates[j] = acc(g[j * units]) + u;
      if (p.gates != nullptr) p.gates[kept + column] = static_cast<scalar_t>(gates[j]);
    }
    acc& h = step.state[r * units + unit];
    h = Cell<M>::step(p.activation, gates[0], gates[1], at_or(p.mask, r * units + unit, acc(1)), begins ? acc(0) : h);
    step.message[r * units + unit] = static_cast<scalar_t>(h);
    p.out.at(row.b, t)[row.reverse * units + unit] = static_cast<scalar_t>(h);
  }
}

// A step of -1 only adds the last product.
template <class scalar_t>
__global__ void __launch_bounds__(kStepThreads) backward_step(Step<Backward<scalar_t>, scalar_t> step) {
  using M = Math<scalar_t>;
  using acc = typename M::Scalar;
  const Backward<scalar_t>& p = step.problem;
  const int64_t units = p.units, r = blockIdx.x, s = step.s;
  const auto row = checked_row(p, r);
  const bool active = s >= 0 && s < row.length;
  const int64_t t = row.time(s), kept = p.offset(r, t, 2 * units);
  acc sum = 0, along = 0;
  for (int64_t unit = threadIdx.x; unit < units; unit += kStepThreads) {
    acc& grad_h = step.state[r * units + unit];
    if (step.product != nullptr) grad_h += acc(step.product[r * units + unit]);
    if (row.begins(s + 1)) grad_h = 0;
    if (s < 0) continue;
    acc d[2] = {0, 0}, h = 0;
    if (active) {
      const int64_t out = row.reverse * units + unit;
      if (!row.begins(s)) h = s > 0 ? acc(p.out.at(row.b, row.time(s - 1))[out]) : at_or(p.h0, r * units + unit, acc(0));
      Cell<M>::gradients(p.activation, acc(p.gates[kept + unit]), acc(p.gates[kept + units + unit]),
                         at_or(p.mask, r * units + unit, acc(1)), h, grad_h + acc(p.grad_out.at(row.b, t)[out]), d[0], d[1],
                         grad_h);
    }
    p.h_before[p.offset(r, t, units) + unit] = static_cast<scalar_t>(h);
    RNNKIT_UNROLL
    for (int j = 0; j < 2; ++j) {
      const int64_t column = j * units + unit;
      p.grad_gates[kept + column] = static_cast<scalar_t>(d[j]);
      if (!p.normalize || !active) {
        step.message[r * 2 * units + column] = static_cast<scalar_t>(d[j]);
        if (p.normalize) p.grad_product[kept + column] = static_cast<scalar_t>(d[j]);
        continue;
      }
      const acc normal = p.normal[kept + column];
      if (p.weight != nullptr) {
        p.sums[2 * r * (2 * units) + column] += d[j] * normal;
        p.sums[(2 * r + 1) * (2 * units) + column] += d[j];
        d[j] *= p.weight[column];
      }
      sum += d[j];
      along += d[j] * normal;
    }
  }
  if (!p.normalize || !active) return;  // the whole block
  sum_over_block(sum, along);
  sum /= 2 * units;
  along /= 2 * units;
  const acc rstd = p.rstd[p.offset(r, t, 1)];
  // the threads read what they wrote themselves, rounded to the tensors' type
  for (int64_t unit = threadIdx.x; unit < units; unit += kStepThreads) {
    RNNKIT_UNROLL
    for (int j = 0; j < 2; ++j) {
      const int64_t column = j * units + unit;
      const acc grad = acc(p.grad_gates[kept + column]) * at_or(p.weight, column, acc(1));
      const acc through = rstd * (grad - sum - acc(p.normal[kept + column]) * along);
      p.grad_product[kept + column] = static_cast<scalar_t>(through);
      step.message[r * 2 * units + column] = static_cast<scalar_t>(through);
    }
  }
}

inline Launch step_shape(int64_t rows, size_t acc_bytes) {
  return {dim3(unsigned(rows)), dim3(kStepThreads), 2 * kStepThreads / 32 * acc_bytes};
}

template <class scalar_t>
void run_steps(const Forward<scalar_t>& p, const Inputs& in) {
  using acc = acc_t<scalar_t>;
  const Sizes shape{p.rows(), p.units};
  torch::stable::Tensor state = in.empty_acc(shape), message = in.empty(shape);
  torch::stable::zero_(state);
  torch::stable::zero_(message);
  if (in.h0) {
    const torch::stable::Tensor h0 = torch::stable::view(*in.h0, shape);
    torch::stable::copy_(state, h0);
    torch::stable::copy_(message, h0);
  }
  const torch::stable::Tensor weight = torch::stable::transpose(in.inputs[1], 0, 1);
  for (int64_t s = 0; s < p.steps; ++s) {
    const torch::stable::Tensor product = torch::stable::matmul(message, weight);
    launch(forward_step<scalar_t>, step_shape(p.rows(), sizeof(acc)), in.g().device(),
           {p, s, product.const_data_ptr<scalar_t>(), state.mutable_data_ptr<acc>(), message.mutable_data_ptr<scalar_t>()});
  }
  torch::stable::Tensor h_last = torch::stable::from_blob(p.h_last, shape, {p.units, 1}, in.g().device(), in.acc());
  torch::stable::copy_(h_last, state);
}

template <class scalar_t>
void run_steps(const Backward<scalar_t>& p, const Inputs& in) {
  using acc = acc_t<scalar_t>;
  const Sizes shape{p.rows(), p.units};
  Tensor product;
  const Tensor message = in.empty({p.rows(), 2 * p.units});
  torch::stable::Tensor state = torch::stable::from_blob(p.grad_h0, shape, {p.units, 1}, in.g().device(), in.acc());
  torch::stable::zero_(state);
  if (p.grad_h_last != nullptr)
    torch::stable::copy_(
        state, torch::stable::from_blob(const_cast<acc*>(p.grad_h_last), shape, {p.units, 1}, in.g().device(), in.acc()));
  for (int64_t s = p.steps - 1; s >= -1; --s) {
    const scalar_t* const made = s == p.steps - 1 ? nullptr : product.const_data_ptr<scalar_t>();
    launch(backward_step<scalar_t>, step_shape(p.rows(), sizeof(acc)), in.g().device(),
           {p, s, made, state.mutable_data_ptr<acc>(), message.mutable_data_ptr<scalar_t>()});
    if (s >= 0) product = torch::stable::matmul(message, in.inputs[1]);
  }
}

}  // namespace rnnkit::cuda
