// The scan engine for CUDA: one kernel each way, which reads every input once and writes every output once.
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

#include <rnnkit/cuda/math.h>
#include <rnnkit/scan.h>

namespace rnnkit::cuda {

template <class M, class Kind>
struct Cell;  // the family's

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
  bool active;

  __device__ __forceinline__ explicit Place(int64_t channels) {
    const int64_t tiles = (channels + kLanes - 1) / kLanes, tile = blockIdx.x / cluster_size();
    b = tile / tiles;
    d = tile % tiles * kLanes + threadIdx.x;
    index = cluster_rank() * int(blockDim.y) + int(threadIdx.y);
    count = cluster_size() * int(blockDim.y);
    active = d < channels;
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

 private:
  int parity_ = 0;
};

// A thread's steps of one [B, T, D] tensor, from step s of the processing order; each is `stride` after the last.
template <class T>
struct Steps {
  T* first;
  int64_t stride;

  template <class Problem>
  __device__ __forceinline__ Steps(const Rows<T>& rows, const Problem& p, const Place& at, int64_t length, int64_t s)
      : first(rows.at(at.b, p.position(s, length)) + at.d), stride(p.reverse ? -rows.step_stride : rows.step_stride) {}

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

// Bit i: a reset before step s + i.
template <class Problem>
__device__ __forceinline__ unsigned resets_from(const Problem& p, int64_t b, int64_t s, int64_t length, int count) {
  unsigned resets = 0;
  if (p.reset != nullptr) {
    for (int i = 0; i < count; ++i) resets |= unsigned(p.resets(b, p.position(s + i, length))) << i;
  }
  return resets;
}

template <class scalar_t, class Problem>
__device__ __forceinline__ void zero_padding(const Rows<scalar_t>& rows, const Problem& p, const Place& at, int64_t length) {
  for (int64_t t = length + at.index; at.active && t < p.steps; t += at.count) rows.at(at.b, t)[at.d] = scalar_t(0);
}

template <class Problem>
__device__ __forceinline__ int64_t checked_length(const Problem& p, int64_t b) {
  const int64_t length = p.length(b);
  if (length < 0 || length > p.steps) device_fail("lengths: a value is not within 0 and T");
  return length;
}

template <class Kind, class scalar_t>
__global__ void __launch_bounds__(kLanes* kMaxChunks, kBlocksPerMultiprocessor<acc_t<scalar_t>, 2 + Kind::kOutputPlanes>)
    scan_forward_kernel(const ScanForward<scalar_t, Kind> p) {
  using acc = acc_t<scalar_t>;
  constexpr int planes = Kind::kPlanes, state_planes = planes - Kind::kOutputPlanes;
  const Cell<Math<scalar_t>, Kind> cell(p.options);
  const Place at(p.channels);
  const int64_t length = checked_length(p, at.b), tile = int64_t(at.count) * kCarry;
  const int64_t tiles = (length + tile - 1) / tile;
  Exchange<acc> exchange;
  acc state = p.h0 != nullptr && at.active ? p.h0[at.b * p.channels + at.d] : p.initial;

  scalar_t raw[planes][kCarry];
  const auto load = [&](int64_t s, int from, int to) {
    const int count = at.active ? steps_from(s, length) : 0;
    RNNKIT_UNROLL
    for (int j = from; j < to; ++j) Steps<const scalar_t>(p.in[j], p, at, length, s).load(raw[j], count);
  };
  if (tiles > 0) load(at.index * kCarry, 0, state_planes);

  for (int64_t n = 0; n < tiles; ++n) {
    const int64_t block = n * at.count + at.index, s = block * kCarry;
    const int count = steps_from(s, length);
    const unsigned resets = resets_from(p, at.b, s, length, count);
    load(s, state_planes, planes);  // needed last
    acc a[kCarry], b[kCarry];
    RNNKIT_UNROLL
    for (int i = 0; i < kCarry; ++i) {
      acc x[planes];
      RNNKIT_UNROLL
      for (int j = 0; j < state_planes; ++j) x[j] = static_cast<acc>(raw[j][i]);
      cell.gates({at.b, at.d, block, i}, x, a[i], b[i]);
      if (resets >> i & 1) b[i] += a[i] * p.initial, a[i] = 0;
      if (i >= count) a[i] = 1, b[i] = 0;
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
      Steps<scalar_t> out(p.out, p, at, length, s);
      RNNKIT_UNROLL
      for (int i = 0; i < kCarry; ++i, out.first += out.stride) {
        h = a[i] * h + b[i];
        acc y = h;
        if constexpr (Kind::kOutputPlanes > 0) {
          acc x[planes];
          RNNKIT_UNROLL
          for (int j = state_planes; j < planes; ++j) x[j] = static_cast<acc>(raw[j][i]);
          y = cell.output(x, h);
        }
        if (i < count) *out.first = static_cast<scalar_t>(y);
      }
    }
    if (at.count == 1) state = h;
  }

  if (at.index == 0 && at.active) p.h_last[at.b * p.channels + at.d] = state;
  zero_padding(p.out, p, at, length);
  for (int64_t s = next_carry(length) + at.index * kCarry; p.carries != nullptr && at.active && s < p.steps; s += tile)
    p.carries[p.carry_offset(at.b, s) + at.d] = 0;
}

template <class Kind, class scalar_t>
__global__ void __launch_bounds__(kLanes* kMaxChunks, kBlocksPerMultiprocessor<acc_t<scalar_t>, 1 + Kind::kPlanes>)
    scan_backward_kernel(const ScanBackward<scalar_t, Kind> p) {
  using acc = acc_t<scalar_t>;
  constexpr int planes = Kind::kPlanes, state_planes = planes - Kind::kOutputPlanes;
  const Cell<Math<scalar_t>, Kind> cell(p.options);
  const Place at(p.channels);
  const int64_t length = checked_length(p, at.b), tile = int64_t(at.count) * kCarry;
  const int64_t tiles = (length + tile - 1) / tile;
  const int from_end = at.count - 1 - at.index;  // the first thread in processing order takes the last steps
  Exchange<acc> exchange;
  acc state = p.grad_h_last != nullptr && at.active ? p.grad_h_last[at.b * p.channels + at.d] : acc(0);

  scalar_t raw[planes][kCarry], raw_grad[kCarry];
  acc h = 0;
  const auto load = [&](int64_t s) {
    const int count = at.active ? steps_from(s, length) : 0;
    if (count > 0) h = p.carries[p.carry_offset(at.b, s) + at.d];
    RNNKIT_UNROLL
    for (int j = 0; j < planes; ++j) Steps<const scalar_t>(p.in[j], p, at, length, s).load(raw[j], count);
  };
  if (tiles > 0) load((tiles - 1) * tile + from_end * kCarry);

  for (int64_t n = tiles - 1; n >= 0; --n) {
    const int64_t block = n * at.count + from_end, s = block * kCarry;
    const int count = at.active ? steps_from(s, length) : 0;
    const unsigned resets = resets_from(p, at.b, s, length, count);
    Steps<const scalar_t>(p.grad_out, p, at, length, s).load(raw_grad, count);
    acc a[kCarry], factor[state_planes][kCarry], grad[kCarry];
    RNNKIT_UNROLL
    for (int i = 0; i < kCarry; ++i) {
      const bool reset = resets >> i & 1;
      acc x[planes], b, d[planes];
      RNNKIT_UNROLL
      for (int j = 0; j < planes; ++j) x[j] = static_cast<acc>(raw[j][i]);
      if (reset) h = p.initial;
      cell.gradients({at.b, at.d, block, i}, x, h, a[i], b, d);
      h = a[i] * h + b;
      if (reset) a[i] = 0;
      if (i >= count) a[i] = 1;
      RNNKIT_UNROLL
      for (int j = 0; j < state_planes; ++j) factor[j][i] = d[j];
      grad[i] = static_cast<acc>(raw_grad[i]);
      if constexpr (Kind::kOutputPlanes > 0) {
        acc d_output[Kind::kOutputPlanes];
        grad[i] = cell.output_gradients(x, h, grad[i], d_output);
        RNNKIT_UNROLL
        for (int j = state_planes; j < planes; ++j) {
          const Steps<scalar_t> to(p.grad_in[j], p, at, length, s);
          if (i < count) to.first[i * to.stride] = static_cast<scalar_t>(d_output[j - state_planes]);
        }
      }
    }
    if (n > 0) load(s - tile);  // in flight during all that follows

    acc past = state;
    if (at.count > 1) {
      Affine<acc> map{1, 0};
      RNNKIT_UNROLL
      for (int i = kCarry - 1; i >= 0; --i) map = {a[i] * map.a, a[i] * (map.b + grad[i])};
      past = exchange(map, state);
    }
    if (count > 0) {
      scalar_t* to[state_planes];
      int64_t stride[state_planes];
      RNNKIT_UNROLL
      for (int j = 0; j < state_planes; ++j) {
        const Steps<scalar_t> steps(p.grad_in[j], p, at, length, s);
        stride[j] = steps.stride;
        to[j] = steps.first + (kCarry - 1) * stride[j];
      }
      RNNKIT_UNROLL
      for (int i = kCarry - 1; i >= 0; --i) {
        const acc total = past + grad[i];
        past = a[i] * total;
        RNNKIT_UNROLL
        for (int j = 0; j < state_planes; ++j) {
          if (i < count) *to[j] = static_cast<scalar_t>(total * factor[j][i]);
          to[j] -= stride[j];
        }
      }
    }
    if (at.count == 1) state = past;
  }

  if (at.index == 0 && at.active) p.grad_h0[at.b * p.channels + at.d] = state;
  RNNKIT_UNROLL
  for (int j = 0; j < planes; ++j) zero_padding(p.grad_in[j], p, at, length);
}

// As many threads along time as fill the device, but none without a step.
template <class scalar_t, class Kernel, class Problem, class Device>
void launch_scan(Kernel* kernel, const Problem& p, Device device) {
  if (p.batch == 0 || p.channels == 0) return;
  const DeviceProperties properties = device_properties(device);
  const int64_t sequences = p.batch * ((p.channels + kLanes - 1) / kLanes);
  const int64_t wanted = int64_t(properties.multiprocessors) * kWarpsPerMultiprocessor;
  const int64_t most = properties.clusters ? kMaxChunks * kMaxCluster : kMaxChunks;
  int64_t threads = 1;
  while (threads < most && sequences * threads < wanted && threads * kCarry < p.steps) threads *= 2;
  const int chunks = int(threads < kMaxChunks ? threads : kMaxChunks), cluster = int(threads / chunks);
  STD_TORCH_CHECK(sequences * cluster <= 2147483647, "scan: batch x channels is too large for one launch");
  launch(kernel,
         {dim3(unsigned(sequences * cluster)), dim3(kLanes, chunks),
          Exchange<acc_t<scalar_t>>::shared_bytes(chunks, cluster), unsigned(cluster)},
         device, p);
}

struct Engine {
  template <class scalar_t, class Kind, class Device>
  static void run(const ScanForward<scalar_t, Kind>& p, Device device) {
    launch_scan<scalar_t>(&scan_forward_kernel<Kind, scalar_t>, p, device);
  }

  template <class scalar_t, class Kind, class Device>
  static void run(const ScanBackward<scalar_t, Kind>& p, Device device) {
    launch_scan<scalar_t>(&scan_backward_kernel<Kind, scalar_t>, p, device);
  }
};

}  // namespace rnnkit::cuda
