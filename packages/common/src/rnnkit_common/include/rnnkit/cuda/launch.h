// How kernels are launched, and the intrinsics that have no meaning on the host, each with a host version beside it in
// emulation.h. A kernel takes one params struct, is launched through `launch`, and has its shared memory from
// `shared_memory`; then it runs emulated too.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#ifdef RNNKIT_EMULATE_CUDA
#define RNNKIT_UNROLL
#include <rnnkit/cuda/emulation.h>
#else
#define RNNKIT_UNROLL _Pragma("unroll")

#include <cooperative_groups.h>
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdio>

// libtorch_cuda defines it; the library must load where there is none.
#pragma weak aoti_torch_get_current_cuda_stream

namespace rnnkit {

struct Launch {
  dim3 grid, block;
  size_t shared_bytes = 0;
  unsigned cluster = 1;  // blocks; more than 1 only where DeviceProperties::clusters
};

struct DeviceProperties {
  int multiprocessors;
  bool clusters;
};

// torch_c10_cuda_check and its macros are symbols of libtorch_cuda, which CPU-only torch lacks.
inline void check_cuda(cudaError_t error) {
  STD_TORCH_CHECK(error == cudaSuccess, "CUDA error: ", cudaGetErrorString(error));
}

inline DeviceProperties device_properties(torch::stable::Device device) {
  int multiprocessors = 0, major = 0;
  check_cuda(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device.index()));
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index()));
  return {multiprocessors, major >= 9};
}

// Launches on the device and its current stream, without waiting.
template <class Parameters>
void launch(void (*kernel)(Parameters), const Launch& shape, torch::stable::Device device, const Parameters& parameters) {
  STD_TORCH_CHECK(&aoti_torch_get_current_cuda_stream != nullptr, "this PyTorch is built without CUDA");
  const torch::stable::accelerator::DeviceGuard guard(device.index());
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(device.index(), &stream) == AOTI_TORCH_SUCCESS,
                  "no current CUDA stream");
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {shape.cluster, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &cluster;
  config.numAttrs = shape.cluster > 1 ? 1 : 0;
  void* arguments[] = {const_cast<Parameters*>(&parameters)};
  if (shape.shared_bytes > 48 * 1024)
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shape.shared_bytes)));
  check_cuda(cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), arguments));
}

template <class T>
__device__ __forceinline__ T* shared_memory() {
  extern __shared__ __align__(16) unsigned char bytes[];
  return reinterpret_cast<T*>(bytes);
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ __forceinline__ int cluster_size() { return int(cooperative_groups::this_cluster().num_blocks()); }
__device__ __forceinline__ int cluster_rank() { return int(cooperative_groups::this_cluster().block_rank()); }
__device__ __forceinline__ void cluster_barrier() { cooperative_groups::this_cluster().sync(); }
template <class T>
__device__ __forceinline__ T* cluster_shared(T* mine, int rank) {
  return cooperative_groups::this_cluster().map_shared_rank(mine, rank);
}
#else
__device__ __forceinline__ int cluster_size() { return 1; }
__device__ __forceinline__ int cluster_rank() { return 0; }
__device__ __forceinline__ void cluster_barrier() {}
template <class T>
__device__ __forceinline__ T* cluster_shared(T* mine, int) {
  return mine;
}
#endif

// Ends the kernel with an error that the next synchronisation reports, as torch's own index checks do.
__device__ __forceinline__ void device_fail(const char* message) {
  printf("rnnkit: %s\n", message);
  __trap();
}

}  // namespace rnnkit

#endif
