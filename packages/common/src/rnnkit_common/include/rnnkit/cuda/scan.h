// The scan engine for CUDA: one kernel each way, which reads every input once and writes every output once; and one more
// for those steps forward that are not linear, with a thread per channel that walks along time, its loads kCarry steps
// ahead.
//
// A thread owns one channel and kCarry consecutive steps. It loads them all at once, computes its a_s and b_s, and
// composes them into one map h -> a h + b. A block is 32 lanes of channels x up to kMaxChunks such threads along time, and
// up to kMaxCluster blocks of a cluster continue along time; they exchange their maps through (distributed) shared
// memory, so that each thread knows the state that enters its steps, and then replays them. With many channels one thread
// along time is enough and nothing is exchanged; with few, more of the device works on each sequence.
// The backward kernel does the same from the last step to the first, with the adjoint's map P -> a P + b.
//
// Cells: see rnnkit/scan.h, with M = cuda::Math<scalar_t>. The order of all sums is fixed: every run gives the same result.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cell.h>
#include <rnnkit/cuda/math.h>
#include <rnnkit/scan.h>

namespace rnnkit::cuda {

constexpr int kLanes = 32, kMaxChunks = 8, kMaxCluster = 8;
// Work for at least 12 warps on a multiprocessor, and registers for 16 (2 blocks) where a thread can do with 128: each warp
// has 2 to 4 KB of loads in flight, and together they cover bandwidth x latency (some 25 KB, of 132 at 4 TB/s).
constexpr int kWarpsPerMultiprocessor = 12;
template <class acc, int values_per_step>
constexpr int kBlocksPerMultiprocessor = sizeof(acc) * values_per_step <= 12 ? 2 : 1;

template <class acc>
struct Affine {  // h -> a h + b
  acc a, b;
  __device__ __forceinline__ acc operator()(acc h) const { return a * h + b; }
};

// Where a thread stands: its channel, and its place in the processing order among the threads that share it.
struct Place {
  int64_t b, d;
  int index, count;  // along time, over the whole cluster
  bool active, reverse;

  template <class Problem>
  __device__ __forceinline__ explicit Place(const Problem& p) {
    const int64_t tiles = (p.channels + kLanes - 1) / kLanes, tile = blockIdx.x / cluster_size();
    b = tile / tiles;
    d = tile % tiles * kLanes + threadIdx.x;
    index = cluster_rank() * int(blockDim.y) + int(threadIdx.y);
    count = cluster_size() * int(blockDim.y);
    active = d < p.channels;
    reverse = d >= p.reverse_from;
  }
};

template <class acc>
class Exchange {
 public:
  static size_t shared_bytes(int chunks, int cluster) {
    return chunks * cluster == 1 ? 0 : 2 * (chunks + (cluster > 1 ? cluster : 0)) * kLanes * sizeof(Affine<acc>);
  }

  __device__ __forceinline__ Exchange() {
    if (cluster_size() > 1) cluster_barrier();  // every block must have started before its memory is written to
  }

  // Applies the maps of all threads along time, in order, to `state`, and returns what entered this thread's own map.
  __device__ __forceinline__ acc operator()(Affine<acc> map, acc& state) {
    const int chunks = blockDim.y, cluster = cluster_size();
    // two sets of buffers in turn: one barrier then keeps writes from overtaking the reads of the last exchange
    Affine<acc>* const of_chunks = shared_memory<Affine<acc>>() + parity_ * chunks * kLanes + threadIdx.x;
    Affine<acc>* const of_blocks = shared_memory<Affine<acc>>() + (2 * chunks + parity_ * cluster) * kLanes + threadIdx.x;
    parity_ ^= 1;
    of_chunks[threadIdx.y * kLanes] = map;
    __syncthreads();
    acc entering = state;
    if (cluster > 1) {
      if (threadIdx.y == 0) {
        Affine<acc> total{1, 0};
        for (int c = 0; c < chunks; ++c) {
          const Affine<acc> next = of_chunks[c * kLanes];
          total = {next.a * total.a, next(total.b)};
        }
        for (int rank = 0; rank < cluster; ++rank) cluster_shared(of_blocks, rank)[cluster_rank() * kLanes] = total;
      }
      cluster_barrier();
      for (int rank = 0; rank < cluster; ++rank) {
        if (rank == cluster_rank()) entering = state;
        state = of_blocks[rank * kLanes](state);
      }
      for (int c = 0; c < int(threadIdx.y); ++c) entering = of_chunks[c * kLanes](entering);
    } else {
      for (int c = 0; c < chunks; ++c) {
        if (c == int(threadIdx.y)) entering = state;
        state = of_chunks[c * kLanes](state);
      }
    }
    return entering;
  }

  // The sum of a value over all threads along time, always in the same order; for the first of them.
  __device__ __forceinline__ acc sum(acc mine) {
    const int chunks = blockDim.y, cluster = cluster_size();
    if (chunks * cluster == 1) return mine;
    acc* const of_chunks = shared_memory<acc>() + threadIdx.x;
    acc* const of_blocks = of_chunks + chunks * kLanes;
    if (cluster > 1)  // what this memory held before has been read
      cluster_barrier();
    else
      __syncthreads();
    of_chunks[threadIdx.y * kLanes] = mine;
    __syncthreads();
    acc total = 0;
    for (int c = 0; c < chunks && threadIdx.y == 0; ++c) total += of_chunks[c * kLanes];
    if (cluster == 1) return total;
    if (threadIdx.y == 0) cluster_shared(of_blocks, 0)[cluster_rank() * kLanes] = total;
    cluster_barrier();
    total = 0;
    for (int rank = 0; rank < cluster && cluster_rank() == 0 && threadIdx.y == 0; ++rank) total += of_blocks[rank * kLanes];
    return total;
  }

 private:
  int parity_ = 0;
};

// A thread's steps of one plane, from step s of the processing order; each is `stride` after the last.
template <class T>
struct Steps {
  T* first;
  int64_t stride;

  __device__ __forceinline__ Steps(const Rows<T>& rows, const Place& at, int64_t length, int64_t s, int channel_stride = 1)
      : first(rows.at(at.b, position(s, length, at.reverse)) + at.d * channel_stride),
        stride(at.reverse ? -rows.step_stride : rows.step_stride) {}

  template <class scalar_t>
  __device__ __forceinline__ void load(scalar_t (&to)[kCarry], int count) const {
    T* from = first;
    RNNKIT_UNROLL
    for (int i = 0; i < kCarry; ++i, from += stride) to[i] = i < count ? *from : scalar_t(0);
  }
};

// How many of the kCarry steps from s on exist.
__device__ __forceinline__ int steps_from(int64_t s, int64_t length) {
  const int64_t left = length - s;
  return left < 0 ? 0 : left < kCarry ? int(left) : kCarry;
}

// Bit i: whether step s + i is marked in a [B, T] tensor, which may be null.
template <class Problem>
__device__ __forceinline__ unsigned marks_from(const bool* marks, const Problem& p, const Place& at, int64_t s,
                                               int64_t length, int count) {
  unsigned bits = 0;
  if (marks != nullptr) {
    for (int i = 0; i < count; ++i) bits |= unsigned(marks[at.b * p.steps + position(s + i, length, at.reverse)]) << i;
  }
  return bits;
}

template <class scalar_t, class Problem>
__device__ __forceinline__ void zero_padding(const Rows<scalar_t>& rows, const Problem& p, const Place& at, int64_t length,
                                             int channel_stride = 1) {
  for (int64_t t = length + at.index; at.active && t < p.steps; t += at.count)
    rows.at(at.b, t)[at.d * channel_stride] = scalar_t(0);
}

template <class Problem>
__device__ __forceinline__ int64_t checked_length(const Problem& p, int64_t b) {
  const int64_t length = p.length(b);
  if (length < 0 || length > p.steps) device_fail("lengths: a value is not within 0 and T");
  return length;
}

// What no step of the sequence writes: the last state, and zeros in the padding.
template <class scalar_t, class Kind>
__device__ __forceinline__ void finish(const ScanForward<scalar_t, Kind>& p, const Place& at, int64_t length,
                                       acc_t<scalar_t> state) {
  if (at.index == 0 && at.active) p.h_last[at.b * p.channels + at.d] = state;
  zero_padding(p.out, p, at, length);
  const int64_t tile = int64_t(at.count) * kCarry;
  for (int64_t s = next_carry(length) + at.index * kCarry; p.carries != nullptr && at.active && s < p.steps; s += tile)
    p.carries[p.carry_offset(at.b, s) + at.d] = 0;
}

template <class Kind, class scalar_t>
__global__ void __launch_bounds__(kLanes* kMaxChunks, kBlocksPerMultiprocessor<acc_t<scalar_t>, 2 + Kind::kOutputPlanes>)
    scan_forward_kernel(const ScanForward<scalar_t, Kind> p) {
  using acc = acc_t<scalar_t>;
  constexpr int planes = Kind::kPlanes, state_planes = planes - Kind::kOutputPlanes;
  const typename CheckedCell<Math<scalar_t>, Kind>::type cell(p.options);
  const Place at(p);
  const int64_t length = checked_length(p, at.b), tile = int64_t(at.count) * kCarry;
  const int64_t tiles = (length + tile - 1) / tile;
  Exchange<acc> exchange;
  acc state = p.h0 != nullptr && at.active ? p.h0[at.b * p.channels + at.d] : p.initial;
  const auto own = own_of<Math<scalar_t>>(cell, p, {at.b, at.active ? at.d : 0, 0, 0, 1, false});

  scalar_t raw[planes][kCarry];
  const auto load = [&](int64_t s, int from, int to) {
    const int count = at.active ? steps_from(s, length) : 0;
    RNNKIT_UNROLL
    for (int j = from; j < to; ++j)
      Steps<const scalar_t>(p.in[j], at, length, s, channel_stride<Kind>(j)).load(raw[j], count);
  };
  if (tiles > 0) load(at.index * kCarry, 0, state_planes);

  for (int64_t n = 0; n < tiles; ++n) {
    const int64_t block = n * at.count + at.index, s = block * kCarry;
    const int count = steps_from(s, length);
    const unsigned resets = marks_from(p.reset, p, at, s, length, count), pads = marks_from(p.pad, p, at, s, length, count);
    load(s, state_planes, planes);  // needed last
    acc a[kCarry], b[kCarry];
    RNNKIT_UNROLL
    for (int i = 0; i < kCarry; ++i) {
      acc x[planes];
      RNNKIT_UNROLL
      for (int j = 0; j < state_planes; ++j) x[j] = static_cast<acc>(raw[j][i]);
      const bool reset = resets >> i & 1;
      cell.gates({at.b, at.d, block, i, 1, reset}, own, x, a[i], b[i]);
      if (reset) {
        b[i] += a[i] * p.initial;
        a[i] = 0;
      }
      if (i >= count || (pads >> i & 1)) {
        a[i] = 1;
        b[i] = 0;
      }
    }
    if (n + 1 < tiles) load(s + tile, 0, state_planes);  // in flight during all that follows

    acc h = state;
    if (at.count > 1) {
      Affine<acc> map{1, 0};
      RNNKIT_UNROLL
      for (int i = 0; i < kCarry; ++i) map = {a[i] * map.a, a[i] * map.b + b[i]};
      h = exchange(map, state);
    }
    if (at.active && count > 0) {
      if (p.carries != nullptr) p.carries[p.carry_offset(at.b, s) + at.d] = h;
      Steps<scalar_t> out(p.out, at, length, s);
      RNNKIT_UNROLL
      for (int i = 0; i < kCarry; ++i, out.first += out.stride) {
        const acc before = h;
        h = a[i] * h + b[i];
        acc y = h;
        if constexpr (Kind::kOutputPlanes > 0) {
          acc x[planes];
          RNNKIT_UNROLL
          for (int j = state_planes; j < planes; ++j) x[j] = static_cast<acc>(raw[j][i]);
          y = cell.output(own, x, before, h);
        }
        if (pads >> i & 1) y = 0;
        if (i < count) *out.first = static_cast<scalar_t>(y);
      }
    }
    if (at.count == 1) state = h;
  }
  finish(p, at, length, state);
}

template <class Kind, class scalar_t>
__global__ void __launch_bounds__(kLanes) serial_forward_kernel(const ScanForward<scalar_t, Kind> p) {
  using acc = acc_t<scalar_t>;
  constexpr int planes = Kind::kPlanes;
  const typename CheckedCell<Math<scalar_t>, Kind>::type cell(p.options);
  const Place at(p);
  const int64_t length = checked_length(p, at.b);
  if (!at.active) return;
  acc h = p.h0 != nullptr ? p.h0[at.b * p.channels + at.d] : p.initial;
  const auto own = own_of<Math<scalar_t>>(cell, p, {at.b, at.d, 0, 0, 1, false});

  scalar_t raw[planes][kCarry];
  const auto load = [&](int64_t s) {
    RNNKIT_UNROLL
    for (int j = 0; j < planes; ++j)
      Steps<const scalar_t>(p.in[j], at, length, s, channel_stride<Kind>(j)).load(raw[j], steps_from(s, length));
  };
  load(0);
  for (int64_t s = 0; s < length; s += kCarry) {
    const int count = steps_from(s, length);
    const unsigned resets = marks_from(p.reset, p, at, s, length, count), pads = marks_from(p.pad, p, at, s, length, count);
    acc x[kCarry][planes];
    RNNKIT_UNROLL
    for (int i = 0; i < kCarry; ++i) {
      RNNKIT_UNROLL
      for (int j = 0; j < planes; ++j) x[i][j] = static_cast<acc>(raw[j][i]);
    }
    load(s + kCarry);  // in flight during all that follows
    if (p.carries != nullptr) p.carries[p.carry_offset(at.b, s) + at.d] = h;
    Steps<scalar_t> out(p.out, at, length, s);
    RNNKIT_UNROLL
    for (int i = 0; i < kCarry; ++i, out.first += out.stride) {
      if (i >= count) break;
      const bool pad = pads >> i & 1, reset = resets >> i & 1;
      const acc before = reset ? p.initial : h;
      const acc after = cell.step({at.b, at.d, s / kCarry, i, 1, reset}, own, x[i], before);
      acc y = after;
      if constexpr (Kind::kOutputPlanes > 0) y = cell.output(own, x[i], before, after);
      *out.first = static_cast<scalar_t>(pad ? acc(0) : y);
      h = pad ? h : after;
    }
  }
  finish(p, at, length, h);
}

template <class Kind, class scalar_t>
__global__ void __launch_bounds__(kLanes* kMaxChunks, kBlocksPerMultiprocessor<acc_t<scalar_t>, 1 + Kind::kPlanes>)
    scan_backward_kernel(const ScanBackward<scalar_t, Kind> p) {
  using acc = acc_t<scalar_t>;
  constexpr int planes = Kind::kPlanes, state_planes = planes - Kind::kOutputPlanes;
  constexpr int state_sums = Kind::kStateSums, output_sums = Kind::kOutputSums, parameter_factors = kParameterFactors<Kind>;
  constexpr int factors = state_planes + parameter_factors;
  const typename CheckedCell<Math<scalar_t>, Kind>::type cell(p.options);
  const Place at(p);
  const int64_t length = checked_length(p, at.b), tile = int64_t(at.count) * kCarry;
  const int64_t tiles = (length + tile - 1) / tile;
  const int from_end = at.count - 1 - at.index;  // the first thread in processing order takes the last steps
  Exchange<acc> exchange;
  acc state = p.grad_h_last != nullptr && at.active ? p.grad_h_last[at.b * p.channels + at.d] : acc(0);
  const auto own = own_of<Math<scalar_t>>(cell, p, {at.b, at.active ? at.d : 0, 0, 0, 1, false});

  scalar_t raw[planes][kCarry], raw_grad[kCarry];
  acc h = 0;
  const auto load = [&](int64_t s) {
    const int count = at.active ? steps_from(s, length) : 0;
    if (count > 0) h = p.carries[p.carry_offset(at.b, s) + at.d];
    RNNKIT_UNROLL
    for (int j = 0; j < planes; ++j)
      Steps<const scalar_t>(p.in[j], at, length, s, channel_stride<Kind>(j)).load(raw[j], count);
  };
  if (tiles > 0) load((tiles - 1) * tile + from_end * kCarry);

  acc sums[Kind::kParameters + 1] = {};  // + 1: there may be none
  for (int64_t n = tiles - 1; n >= 0; --n) {
    const int64_t block = n * at.count + from_end, s = block * kCarry;
    const int count = at.active ? steps_from(s, length) : 0;
    const unsigned resets = marks_from(p.reset, p, at, s, length, count), pads = marks_from(p.pad, p, at, s, length, count);
    Steps<const scalar_t>(p.grad_out, at, length, s).load(raw_grad, count);
    acc a[kCarry], factor[factors][kCarry], grad[kCarry];
    acc to_h_prev[Kind::kOutputSeesPrevious ? kCarry : 1], h_prev[state_sums > 0 ? kCarry : 1];
    RNNKIT_UNROLL
    for (int i = 0; i < kCarry; ++i) {
      const bool reset = resets >> i & 1, skip = i >= count || (pads >> i & 1);
      acc x[planes], d[factors], after, into_previous = 0;
      RNNKIT_UNROLL
      for (int j = 0; j < planes; ++j) x[j] = static_cast<acc>(raw[j][i]);
      if (reset) h = p.initial;
      cell.gradients({at.b, at.d, block, i, 1, reset}, own, x, h, after, a[i], d);
      if (reset) a[i] = 0;
      if (skip) a[i] = 1;
      RNNKIT_UNROLL
      for (int j = 0; j < factors; ++j) factor[j][i] = skip ? acc(0) : d[j];
      grad[i] = static_cast<acc>(raw_grad[i]);
      if constexpr (Kind::kOutputPlanes > 0) {
        acc d_output[Kind::kOutputPlanes];
        grad[i] = cell.output_gradients(own, x, h, after, grad[i], d_output, into_previous);
        RNNKIT_UNROLL
        for (int j = state_planes; j < planes; ++j) {
          const Steps<scalar_t> to(p.grad_in[j], at, length, s, channel_stride<Kind>(j));
          if (skip) d_output[j - state_planes] = 0;
          if (i < count) to.first[i * to.stride] = static_cast<scalar_t>(d_output[j - state_planes]);
        }
        if constexpr (output_sums > 0)
          if (!skip) cell.add_output(d_output, h, sums + state_sums);
      }
      if (skip) grad[i] = 0;
      if constexpr (Kind::kOutputSeesPrevious) to_h_prev[i] = skip || reset ? acc(0) : into_previous;
      if constexpr (state_sums > 0) h_prev[i] = skip ? acc(0) : h;
      h = skip ? h : after;
    }
    if (n > 0) load(s - tile);  // in flight during all that follows

    const auto adjoint = [&](int i, acc total) {  // what reaches the step before
      if constexpr (Kind::kOutputSeesPrevious) return a[i] * total + to_h_prev[i];
      return a[i] * total;
    };
    acc past = state;
    if (at.count > 1) {
      Affine<acc> map{1, 0};
      RNNKIT_UNROLL
      for (int i = kCarry - 1; i >= 0; --i) map = {a[i] * map.a, adjoint(i, map.b + grad[i])};
      past = exchange(map, state);
    }
    if (count > 0) {
      scalar_t* to[state_planes];
      int64_t stride[state_planes];
      RNNKIT_UNROLL
      for (int j = 0; j < state_planes; ++j) {
        const Steps<scalar_t> steps(p.grad_in[j], at, length, s, channel_stride<Kind>(j));
        stride[j] = steps.stride;
        to[j] = steps.first + (kCarry - 1) * stride[j];
      }
      RNNKIT_UNROLL
      for (int i = kCarry - 1; i >= 0; --i) {
        const acc total = past + grad[i];
        past = adjoint(i, total);
        acc g[state_planes];
        RNNKIT_UNROLL
        for (int j = 0; j < state_planes; ++j) {
          g[j] = total * factor[j][i];
          if (i < count) *to[j] = static_cast<scalar_t>(g[j]);
          to[j] -= stride[j];
        }
        if constexpr (state_sums > 0) cell.add_state(g, h_prev[i], sums);
        RNNKIT_UNROLL
        for (int k = 0; k < parameter_factors; ++k)
          sums[state_sums + output_sums + k] += total * factor[state_planes + k][i];
      }
    }
    if (at.count == 1) state = past;
  }

  if (at.index == 0 && at.active) p.grad_h0[at.b * p.channels + at.d] = state;
  for (int j = 0; j < Kind::kParameters; ++j) {
    const acc total = exchange.sum(sums[j]);
    if (at.index == 0 && at.active) p.sums[(parameter_of_sum<Kind>(j) * p.batch + at.b) * p.channels + at.d] = total;
  }
  RNNKIT_UNROLL
  for (int j = 0; j < planes; ++j) zero_padding(p.grad_in[j], p, at, length, channel_stride<Kind>(j));
}

// One thread per channel.
template <class Problem>
int64_t blocks_of_channels(const Problem& p) {
  return p.batch * ((p.channels + kLanes - 1) / kLanes);
}

inline unsigned checked_grid(int64_t blocks) {
  STD_TORCH_CHECK(blocks <= 2147483647, "scan: batch x channels is too large for one launch");
  return unsigned(blocks);
}

// As many threads along time as fill the device, but none without a step.
template <class scalar_t, class Kernel, class Problem, class Device>
void launch_scan(Kernel* kernel, const Problem& p, Device device) {
  if (p.batch == 0 || p.channels == 0) return;
  const DeviceProperties properties = device_properties(device);
  const int64_t sequences = blocks_of_channels(p);
  const int64_t wanted = int64_t(properties.multiprocessors) * kWarpsPerMultiprocessor;
  const int64_t most = properties.clusters ? kMaxChunks * kMaxCluster : kMaxChunks;
  int64_t threads = 1;
  while (threads < most && sequences * threads < wanted && threads * kCarry < p.steps) threads *= 2;
  const int chunks = int(threads < kMaxChunks ? threads : kMaxChunks), cluster = int(threads / chunks);
  launch(kernel,
         {dim3(checked_grid(sequences * cluster)), dim3(kLanes, chunks),
          Exchange<acc_t<scalar_t>>::shared_bytes(chunks, cluster), unsigned(cluster)},
         device, p);
}

struct Engine {
  template <class scalar_t, class Kind, class Device>
  static void run(const ScanForward<scalar_t, Kind>& p, Device device) {
    if constexpr (Kind::kLinear)
      launch_scan<scalar_t>(&scan_forward_kernel<Kind, scalar_t>, p, device);
    else if (p.batch > 0 && p.channels > 0)
      launch(&serial_forward_kernel<Kind, scalar_t>, {dim3(checked_grid(blocks_of_channels(p))), dim3(kLanes)}, device, p);
  }

  template <class scalar_t, class Kind, class Device>
  static void run(const ScanBackward<scalar_t, Kind>& p, Device device) {
    launch_scan<scalar_t>(&scan_backward_kernel<Kind, scalar_t>, p, device);
  }
};

}  // namespace rnnkit::cuda
