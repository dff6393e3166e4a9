// Stores into the shared memory of a cluster's blocks that tell, there, that they have arrived: who waits for so many bytes
// needs no barrier (compute capability 9.0 and later: mbarrier and st.async, PTX 8.1, which CUDA 12.1 brought).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cuda/launch.h>

#include <cstdint>

namespace rnnkit::cuda {

// Of one block, in its shared memory. In turn `expect` is called once, by any thread, and `wait` by all that need the bytes;
// the cluster meets between `prepare` and the first store, and no block sends anything of a turn before all have waited for
// the turn before.
struct alignas(8) Arrivals {
  uint64_t state;

#ifdef RNNKIT_EMULATE_CUDA
  void prepare() { state = 0; }

  void expect(int bytes) {
    Counts counts = get();
    counts.bytes += bytes;
    counts.expected = 1;
    set(counts);
  }

  void wait(int turn) {
    while ((get().turns & 1) == (turn & 1)) emulation::Cluster::current()->yield();
  }

  void arrived(int bytes) {
    Counts counts = get();
    counts.bytes -= bytes;
    set(counts);
  }

 private:
  struct Counts {
    int32_t bytes;  // that are expected, less those that have arrived, maybe before
    int16_t expected, turns;
  };

  Counts get() const {
    Counts counts;
    std::memcpy(&counts, &state, sizeof(counts));
    return counts;
  }

  void set(Counts counts) {
    if (counts.expected && counts.bytes == 0) counts = {0, 0, int16_t((counts.turns + 1) & 1)};
    std::memcpy(&state, &counts, sizeof(counts));
  }
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  __device__ __forceinline__ void prepare() {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(address(this)) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }

  __device__ __forceinline__ void expect(int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address(this)), "r"(bytes) : "memory");
  }

  __device__ __forceinline__ void wait(int turn) {
    uint32_t done = 0;
    while (done == 0)
      asm volatile(
          "{\n.reg .pred done;\n"
          "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%1], %2;\n"
          "selp.u32 %0, 1, 0, done;\n}"
          : "=r"(done)
          : "r"(address(this)), "r"(turn & 1)
          : "memory");
  }

  static __device__ __forceinline__ uint32_t address(const void* shared) {
    return uint32_t(__cvta_generic_to_shared(shared));
  }
#else
  __device__ __forceinline__ void prepare() {}
  __device__ __forceinline__ void expect(int) {}
  __device__ __forceinline__ void wait(int) {}
#endif
};

struct alignas(16) Sixteen {  // bytes
  uint32_t values[4];
};
struct alignas(8) Eight {
  uint32_t values[2];
};

// Writes a value where block `rank` of the cluster, of more than one, has what is `to` here; its `arrivals` count the bytes.
template <class T>
__device__ __forceinline__ void send(T* to, const T& value, Arrivals* arrivals, int rank) {
  static_assert(sizeof(T) == 16 || sizeof(T) == 8);
#ifdef RNNKIT_EMULATE_CUDA
  if (emulation::Cluster::current()->blocks < 2) throw std::runtime_error("st.async: undefined in a cluster of one block");
  *cluster_shared(to, rank) = value;
  cluster_shared(arrivals, rank)->arrived(sizeof(T));
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const auto remote = [rank](const void* shared) {
    uint32_t address;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(Arrivals::address(shared)), "r"(rank));
    return address;
  };
  const uint32_t there = remote(to), counter = remote(arrivals);
  if constexpr (sizeof(T) == 16)
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(there),
                 "r"(value.values[0]), "r"(value.values[1]), "r"(value.values[2]), "r"(value.values[3]), "r"(counter)
                 : "memory");
  else
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];" ::"r"(there),
                 "r"(value.values[0]), "r"(value.values[1]), "r"(counter)
                 : "memory");
#endif
}

}  // namespace rnnkit::cuda
