// Kernels with one planted fault each, for test_emulation.py: faulty FAULT ORDER SEED prints what the kernel wrote.
#include <rnnkit/cuda/launch.h>

#include <cstdio>
#include <string>

constexpr int kThreads = 64;

enum Fault {
  none,
  missing_barrier,
  shared_race,
  block_race,
  shared_out_of_bounds,
  global_out_of_bounds,
  divergent_barrier,
  early_exit,
  shuffle_outside_mask,
  missing_cluster_barrier,
  early_cluster_write,
  uninitialised_shared,
  fault_count
};
const char* const kNames[] = {"none",
                              "missing_barrier",
                              "shared_race",
                              "block_race",
                              "shared_out_of_bounds",
                              "global_out_of_bounds",
                              "divergent_barrier",
                              "early_exit",
                              "shuffle_outside_mask",
                              "missing_cluster_barrier",
                              "early_cluster_write",
                              "uninitialised_shared"};

struct Parameters {
  Fault fault;
  int cluster;
  float* out;    // [blocks, kThreads]
  float* total;  // [1]
};

// Each thread passes its number to the next through shared memory, and the warps sum theirs by shuffles.
__global__ void kernel(Parameters p) {
  float* const shared = rnnkit::shared_memory<float>();
  const int t = threadIdx.x;
  if (p.fault == early_exit && t == 5) return;
  if (p.fault != uninitialised_shared || t != 7) shared[t] = float(t);
  if (p.fault == shared_race) shared[0] = float(t);
  if (p.fault == shared_out_of_bounds) shared[t + 1] = float(t);
  if (p.fault == divergent_barrier && t % 2 == 0)
    __syncthreads();
  else if (p.fault != missing_barrier)
    __syncthreads();
  float value = shared[(t + 1) % kThreads] + shared[0];

  const unsigned mask = p.fault == shuffle_outside_mask ? 0x0000ffffu : 0xffffffffu;
  if (p.fault != shuffle_outside_mask || t % 32 < 16)
    for (int bits = 16; bits > 0; bits /= 2) value += __shfl_xor_sync(mask, value, bits);

  if (p.cluster > 1) {
    const int rank = int(blockIdx.x) % p.cluster;
    if (p.fault == early_cluster_write)
      __syncthreads();  // the other block may still be reading what is written here
    else
      rnnkit::cluster_barrier();
    if (t == 0) rnnkit::cluster_shared(shared, 1 - rank)[0] = 100.0f * (1 + rank);
    if (p.fault != missing_cluster_barrier) rnnkit::cluster_barrier();
    value += shared[0];
  }
  if (p.fault == block_race) *p.total = *p.total * 0.5f + float(blockIdx.x);  // depends on the order of blocks
  const int offset = p.fault == global_out_of_bounds ? kThreads : 0;
  p.out[blockIdx.x * kThreads + t + offset] = value;
}

int main(int, char** arguments) {
  Fault fault = none;
  for (int i = 0; i < fault_count; ++i)
    if (arguments[1] == std::string(kNames[i])) fault = Fault(i);
  rnnkit_emulation_configure(std::stoi(arguments[2]), std::stoul(arguments[3]), 132, 90);
  const int blocks = 4;
  std::vector<float> out(blocks * kThreads), total(1);
  const unsigned cluster = fault == missing_cluster_barrier || fault == early_cluster_write || fault == none ? 2 : 1;
  try {
    rnnkit::launch(&kernel, {dim3(blocks), dim3(kThreads), kThreads * sizeof(float), cluster}, 0,
                   Parameters{fault, int(cluster), out.data(), total.data()});
  } catch (const std::exception& error) {
    std::printf("error: %s\n", error.what());
    return 1;
  }
  for (float x : out) std::printf("%g ", x);
  std::printf("%g\n", total[0]);
}
