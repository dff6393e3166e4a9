// How kernels are launched, and the intrinsics that have no meaning on the host, each with its host version beside it. A
// kernel takes one params struct, is launched through `launch`, and has its shared memory from `shared_memory`; then it
// runs emulated too.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#ifdef RNNKIT_EMULATE_CUDA
#include <rnnkit/cuda/emulation/builtins.h>
#define RNNKIT_UNROLL
#define RNNKIT_UNROLL_BY(n)

#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>
#else
#define RNNKIT_PRAGMA(text) _Pragma(#text)
#define RNNKIT_UNROLL _Pragma("unroll")
#define RNNKIT_UNROLL_BY(n) RNNKIT_PRAGMA(unroll n)

#include <cooperative_groups.h>
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdio>
#include <map>

// libtorch_cuda defines it; the library must load where there is none.
#pragma weak aoti_torch_get_current_cuda_stream
#endif

namespace rnnkit {

struct Launch {
  dim3 grid, block;
  size_t shared_bytes = 0;
  unsigned cluster = 1;      // blocks; more than 1 only where DeviceProperties::clusters
  bool cooperative = false;  // all blocks run at the same time, so that they may wait for each other
};

struct DeviceProperties {
  int multiprocessors;
  bool clusters;
  int capability;       // 90 for 9.0; what the code that it runs was compiled for, where the device is newer
  size_t shared_bytes;  // that a block can have
};

// device_properties; active_clusters, active_blocks: how many clusters or blocks of a shape the device runs at the same
// time, 0 if it cannot run any; launch, on the device and its current stream, without waiting.
#ifdef RNNKIT_EMULATE_CUDA
template <class Device>
DeviceProperties device_properties(Device) {
  const int capability = emulation::configuration().capability;
  const size_t kilobytes = capability >= 90 ? 227 : capability == 80 ? 163 : capability > 80 ? 99 : 64;
  return {emulation::configuration().multiprocessors, capability >= 90, capability, kilobytes * 1024};
}

template <class Device, class Parameters>
int active_clusters(void (*)(Parameters), const Launch& shape, Device) {
  return emulation::configuration().multiprocessors / int(shape.cluster);
}

template <class Device, class Parameters>
int active_blocks(void (*)(Parameters), const Launch& shape, Device device) {
  const DeviceProperties properties = device_properties(device);
  return shape.shared_bytes <= properties.shared_bytes ? properties.multiprocessors : 0;
}

template <class Device, class Parameters>
void launch(void (*kernel)(Parameters), const Launch& shape, Device, const Parameters& parameters) {
  ++emulation::configuration().launches;
  const unsigned count = shape.grid.x * shape.grid.y * shape.grid.z;
  const unsigned together = shape.cooperative ? count : shape.cluster;
  std::vector<unsigned> order(count / together);
  std::iota(order.begin(), order.end(), 0u);
  std::mt19937_64 random(emulation::configuration().seed);
  if (emulation::configuration().order == emulation::Order::reversed) std::reverse(order.begin(), order.end());
  if (emulation::configuration().order == emulation::Order::shuffled) std::shuffle(order.begin(), order.end(), random);
  emulation::Cluster cluster(shape.grid, shape.block, int(together), shape.shared_bytes);
  auto body = [&] { kernel(parameters); };
  for (unsigned i : order) cluster.run(i * together, body, random);
}
#else
// torch_c10_cuda_check and its macros are symbols of libtorch_cuda, which CPU-only torch lacks.
inline void check_cuda(cudaError_t error) {
  STD_TORCH_CHECK(error == cudaSuccess, "CUDA error: ", cudaGetErrorString(error));
}

static __global__ void probe_kernel() {}

// What the code that the device runs was compiled for: it may be less than what the device is.
inline int loaded_capability(torch::stable::Device device) {
  thread_local std::map<int, int> known;
  const auto [at, is_new] = known.try_emplace(device.index(), 0);
  if (is_new) {
    const torch::stable::accelerator::DeviceGuard guard(device.index());
    cudaFuncAttributes attributes{};
    const cudaError_t error = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(&probe_kernel));
    if (error != cudaSuccess) known.erase(at);
    check_cuda(error);
    at->second = attributes.ptxVersion;
  }
  return at->second;
}

inline DeviceProperties device_properties(torch::stable::Device device) {
  const auto get = [&](cudaDeviceAttr attribute) {
    int value = 0;
    check_cuda(cudaDeviceGetAttribute(&value, attribute, device.index()));
    return value;
  };
  const int capability = loaded_capability(device);
  return {get(cudaDevAttrMultiProcessorCount), capability >= 90, capability,
          size_t(get(cudaDevAttrMaxSharedMemoryPerBlockOptin))};
}

// The limit of shared memory belongs to the kernel, whatever shape another thread is about to launch: it is not lowered.
template <class Parameters>
cudaError_t allow_shape(void (*kernel)(Parameters), const Launch& shape, torch::stable::Device device) {
  cudaError_t error = cudaSuccess;
  if (shape.shared_bytes > 48 * 1024)
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 int(device_properties(device).shared_bytes));
  if (error == cudaSuccess && shape.cluster > 8)
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  return error;
}

inline cudaLaunchConfig_t launch_config(const Launch& shape, cudaLaunchAttribute& attribute) {
  attribute.id = shape.cooperative ? cudaLaunchAttributeCooperative : cudaLaunchAttributeClusterDimension;
  if (shape.cooperative)
    attribute.val.cooperative = 1;
  else
    attribute.val.clusterDim = {shape.cluster, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.attrs = &attribute;
  config.numAttrs = shape.cluster > 1 || shape.cooperative ? 1 : 0;
  return config;
}

template <class Parameters>
int active_clusters(void (*kernel)(Parameters), const Launch& shape, torch::stable::Device device) {
  const torch::stable::accelerator::DeviceGuard guard(device.index());
  cudaLaunchAttribute attribute;
  cudaLaunchConfig_t config = launch_config(shape, attribute);
  config.numAttrs = 1;  // a cluster of one block is one, too
  int count = 0;
  cudaError_t error = allow_shape(kernel, shape, device);
  if (error == cudaSuccess) error = cudaOccupancyMaxActiveClusters(&count, reinterpret_cast<const void*>(kernel), &config);
  if (error == cudaSuccess) return count;
  cudaGetLastError();  // a size that this device cannot have is an answer, not an error
  return 0;
}

template <class Parameters>
int active_blocks(void (*kernel)(Parameters), const Launch& shape, torch::stable::Device device) {
  const torch::stable::accelerator::DeviceGuard guard(device.index());
  int of_multiprocessor = 0;
  cudaError_t error = allow_shape(kernel, shape, device);
  if (error == cudaSuccess)
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&of_multiprocessor, reinterpret_cast<const void*>(kernel),
                                                          int(shape.block.x * shape.block.y), shape.shared_bytes);
  if (error == cudaSuccess) return of_multiprocessor * device_properties(device).multiprocessors;
  cudaGetLastError();
  return 0;
}

template <class Parameters>
void launch(void (*kernel)(Parameters), const Launch& shape, torch::stable::Device device, const Parameters& parameters) {
  STD_TORCH_CHECK(&aoti_torch_get_current_cuda_stream != nullptr, "this PyTorch is built without CUDA");
  const torch::stable::accelerator::DeviceGuard guard(device.index());
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(device.index(), &stream) == AOTI_TORCH_SUCCESS,
                  "no current CUDA stream");
  cudaLaunchAttribute attribute;
  cudaLaunchConfig_t config = launch_config(shape, attribute);
  config.stream = static_cast<cudaStream_t>(stream);
  void* arguments[] = {const_cast<Parameters*>(&parameters)};
  check_cuda(allow_shape(kernel, shape, device));
  check_cuda(cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), arguments));
}
#endif

#ifdef RNNKIT_EMULATE_CUDA
template <class T>
T* shared_memory() {
  return reinterpret_cast<T*>(emulation::Cluster::current()->shared(emulation::self().block));
}
#else
template <class T>
__device__ __forceinline__ T* shared_memory() {
  extern __shared__ __align__(16) unsigned char bytes[];
  return reinterpret_cast<T*>(bytes);
}
#endif

// A warp, as far as scans know it: with `launch` above, and mma.h for Li-GRU, what a port to other GPUs would change.
constexpr int kWarp = 32;
using WarpBits = uint32_t;  // one of each lane

#ifdef RNNKIT_EMULATE_CUDA
inline WarpBits warp_bits(bool mine, RNNKIT_SITE) { return __ballot_sync(~WarpBits{}, mine, file, line); }
#else
__device__ __forceinline__ WarpBits warp_bits(bool mine) { return __ballot_sync(~WarpBits{}, mine); }
#endif

#ifdef RNNKIT_EMULATE_CUDA
inline void cluster_barrier(RNNKIT_SITE) {
  emulation::Cluster::current()->wait(emulation::State::at_cluster_barrier, 0, file, line);
}

template <class T>
T* cluster_shared(T* mine, int rank) {
  auto* cluster = emulation::Cluster::current();
  return reinterpret_cast<T*>(reinterpret_cast<char*>(mine) - cluster->shared(emulation::self().block) +
                              cluster->shared(rank));
}
#else
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ __forceinline__ void cluster_barrier() { cooperative_groups::this_cluster().sync(); }
template <class T>
__device__ __forceinline__ T* cluster_shared(T* mine, int rank) {
  return cooperative_groups::this_cluster().map_shared_rank(mine, rank);
}
#else
__device__ __forceinline__ void cluster_barrier() {}
template <class T>
__device__ __forceinline__ T* cluster_shared(T* mine, int) {
  return mine;
}
#endif
#endif

// Waits until `target` blocks, of those that a cooperative launch runs at the same time, have come here since *arrived was
// 0. What each wrote to global memory before is then visible to all (to loads past the first cache: load_shared_global).
#ifdef RNNKIT_EMULATE_CUDA
inline void group_barrier(unsigned* arrived, unsigned target, RNNKIT_SITE) {
  __syncthreads(file, line);
  const dim3 thread = threadIdx;
  if (thread.x == 0 && thread.y == 0 && thread.z == 0) {
    ++*arrived;
    while (*arrived < target) emulation::Cluster::current()->yield();
  }
  __syncthreads(file, line);
}

template <class T>
T load_shared_global(const T* from) {
  return *from;
}

template <class T>
void store_shared_global(T* to, T value) {
  *to = value;
}
#else
__device__ __forceinline__ void group_barrier(unsigned* arrived, unsigned target) {
  __syncthreads();
  if (threadIdx.x == 0 && threadIdx.y == 0 && threadIdx.z == 0) {
    __threadfence();
    atomicAdd(arrived, 1u);
    while (*static_cast<volatile unsigned*>(arrived) < target) {
    }
    __threadfence();
  }
  __syncthreads();
}

// Of memory that other blocks write, or read, while this kernel runs.
template <class T>
__device__ __forceinline__ T load_shared_global(const T* from) {
  return __ldcg(from);
}

template <class T>
__device__ __forceinline__ void store_shared_global(T* to, T value) {
  __stcg(to, value);
}
#endif

// Has the cache line of an address brought to the multiprocessor.
template <class T>
__device__ __forceinline__ void prefetch_cached([[maybe_unused]] const T* address) {
#ifndef RNNKIT_EMULATE_CUDA
  asm volatile("prefetch.global.L1 [%0];" ::"l"(address));
#endif
}

// What lies at an address, which has to be a multiple of its size: a GPU would end the kernel.
#ifdef RNNKIT_EMULATE_CUDA
template <class T>
T& word_at(char* address) {
  if (reinterpret_cast<uintptr_t>(address) % alignof(T) != 0) throw std::runtime_error("misaligned address");
  return *reinterpret_cast<T*>(address);
}
#else
template <class T>
__device__ __forceinline__ T& word_at(char* address) {
  return *reinterpret_cast<T*>(address);
}
#endif

// Ends the kernel with an error that the next synchronisation reports, as torch's own index checks do.
#ifdef RNNKIT_EMULATE_CUDA
[[noreturn]] inline void device_fail(const char* message) { throw std::runtime_error(message); }
#else
__device__ __forceinline__ void device_fail(const char* message) {
  printf("rnnkit: %s\n", message);
  __trap();
}
#endif

}  // namespace rnnkit
