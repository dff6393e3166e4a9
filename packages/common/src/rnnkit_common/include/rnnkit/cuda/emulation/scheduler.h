// Runs CUDA kernels on the CPU, for tests: the same .cu file compiled as ordinary C++ with RNNKIT_EMULATE_CUDA defined.
//
// Every thread of a cluster of blocks is a fiber. Fibers run one at a time, each until it waits or ends, in forward,
// reversed or shuffled order, the last with one block after another held back; a barrier opens when all that it is for wait
// at it. Because threads and blocks run ahead as far as the barriers allow, a missing barrier or a race changes the answer
// between orders; a barrier that some threads never reach is reported, with who waits where; shared memory is allocated
// per block at its exact size, so that the address sanitizer sees an access beyond it, and starts out as NaN or, in reversed
// order, as huge numbers.
//
// This file is the scheduler; builtins.h has CUDA's own names, launch.h what kernels are launched with. Static __shared__
// arrays are not supplied: they do not compile.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace rnnkit::emulation {

enum class Order { forward, reversed, shuffled };

struct Configuration {
  Order order = Order::forward;
  uint64_t seed = 0;                           // of Order::shuffled
  int multiprocessors = 132, capability = 90;  // what the kernels' launch heuristics are told
  int launches = 0;                            // since it was configured
};

inline Configuration& configuration() {
  static Configuration instance;
  return instance;
}

enum class State { ready, at_warp_barrier, at_block_barrier, at_cluster_barrier, finished };

struct Thread {
  ucontext_t context;
  char* stack;
  dim3 thread_index, block_index;
  int block, lane;  // block within the cluster
  int warp_begin;   // index in the cluster of the warp's lane 0
  State state;
  const char* file;
  int line;
  unsigned mask;            // of a warp barrier
  uint64_t exchange[2][2];  // values offered to the warp, by parity of the count
  unsigned exchanges;
  void* fake_stack;
};

class Cluster {
 public:
  static constexpr size_t kStackBytes = 256 * 1024;

  Cluster(dim3 grid, dim3 block, int blocks, size_t shared_bytes)
      : grid(grid),
        block(block),
        blocks(blocks),
        threads_per_block(int(block.x * block.y * block.z)),
        shared_bytes_(shared_bytes),
        threads_(blocks * threads_per_block) {
    static thread_local std::vector<std::unique_ptr<char[]>> stacks;  // kept: a launch may come thousands of times
    while (stacks.size() < threads_.size()) stacks.emplace_back(new char[kStackBytes]);
    for (size_t i = 0; i < threads_.size(); ++i) threads_[i].stack = stacks[i].get();
  }

  static Cluster*& current() {
    static thread_local Cluster* cluster = nullptr;
    return cluster;
  }

  Thread& self() { return *running_; }
  char* shared(int block) { return shared_[block].get(); }
  Thread& thread(int index) { return threads_[index]; }

  // Runs body() as every thread of the cluster whose first block is `first`.
  template <class Body>
  void run(unsigned first, Body& body, std::mt19937_64& random) {
    current() = this;
    body_ = [](void* p) { (*static_cast<Body*>(p))(); };
    argument_ = &body;
    shared_.clear();
    for (int b = 0; b < blocks; ++b) {
      shared_.emplace_back(static_cast<char*>(std::malloc(shared_bytes_)), &std::free);
      // NaN, and -1 as an integer; or, lest that happens to do, what is huge as either
      const int unwritten = configuration().order == Order::reversed ? 0x7f : 0xff;
      if (shared_bytes_ > 0) std::memset(shared_.back().get(), unwritten, shared_bytes_);
    }
    for (int i = 0; i < int(threads_.size()); ++i) start(i, first);
    std::vector<int> order(threads_.size());
    std::iota(order.begin(), order.end(), 0);
    if (configuration().order == Order::reversed) std::reverse(order.begin(), order.end());
    int held = 0, held_end = 0;  // threads that do not run until all others wait for them: a warp or a block
    int in_vain = 0;             // passes in which nothing could change
    for (;;) {
      if (configuration().order == Order::shuffled) {
        std::shuffle(order.begin(), order.end(), random);
        if (held == held_end && random() % 4 == 0) {
          const Thread& thread = threads_[random() % threads_.size()];
          const bool whole_block = random() % 2 == 0;
          held = whole_block ? thread.block * threads_per_block : thread.warp_begin;
          held_end = held + (whole_block ? threads_per_block : warp_size(thread));
        }
      }
      bool ran = false, waiting = false, all_finished = true;
      for (int i : order) {
        if (threads_[i].state == State::ready && (i < held || i >= held_end)) {
          yielded_ = false;
          resume(threads_[i]);
          ran = ran || !yielded_;
          waiting = waiting || yielded_;
        }
        if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
        all_finished = all_finished && threads_[i].state == State::finished;
      }
      if (all_finished) break;
      if (!ran && !open_barriers()) {
        if (held == held_end && !waiting) throw std::runtime_error(describe_divergence());
        if (held == held_end && ++in_vain > 1) throw std::runtime_error("threads wait in vain for a value in memory");
        held = held_end = 0;
      } else {
        in_vain = 0;
      }
    }
    current() = nullptr;
  }

  void wait(State barrier, unsigned mask, const char* file, int line) {
    Thread& thread = self();
    thread.state = barrier;
    thread.mask = mask;
    thread.file = file;
    thread.line = line;
    leave(thread);
  }

  // Lets other threads run first, any number of times: what this one waits for is in memory.
  void yield() {
    yielded_ = true;
    leave(self());
  }

  // Shows *mine to the warp until the next barrier, and returns what each lane shows.
  template <class T>
  void show(const T* mine, const T* (&all)[32], const char* file, int line) {
    const int parity = offer(~0u, mine, file, line);
    for (int lane = 0; lane < warp_size(self()); ++lane)
      std::memcpy(&all[lane], threads_[self().warp_begin + lane].exchange[parity], sizeof(mine));
  }

  // Offers a value to the warp, waits for the lanes of `mask`, and returns what `lane` offered.
  template <class T>
  T exchange(unsigned mask, T value, int lane, const char* file, int line) {
    static_assert(sizeof(T) <= sizeof(Thread::exchange[0]));
    const int parity = offer(mask, value, file, line);
    const Thread& source = threads_[self().warp_begin + lane];
    if (!(mask >> lane & 1)) throw std::runtime_error(where(file, line) + ": a shuffle reads a lane outside its mask");
    T result;
    std::memcpy(&result, source.exchange[parity], sizeof(T));
    return result;
  }

  unsigned ballot(unsigned mask, bool predicate, const char* file, int line) {
    const int parity = offer(mask, uint64_t(predicate), file, line);
    unsigned votes = 0;
    for (int lane = 0; lane < warp_size(self()); ++lane)
      if (mask >> lane & 1) votes |= unsigned(threads_[self().warp_begin + lane].exchange[parity][0]) << lane;
    return votes;
  }

  const dim3 grid, block;
  const int blocks, threads_per_block;

 private:
  void start(int i, unsigned first) {
    Thread& t = threads_[i];
    const int in_block = i % threads_per_block;
    const unsigned flat_block = first + i / threads_per_block;
    t.block = i / threads_per_block;
    t.lane = in_block % 32;
    t.warp_begin = i - t.lane;
    t.thread_index = dim3(in_block % block.x, in_block / block.x % block.y, in_block / (block.x * block.y));
    t.block_index = dim3(flat_block % grid.x, flat_block / grid.x % grid.y, flat_block / (grid.x * grid.y));
    t.state = State::ready;
    t.exchanges = 0;
    t.fake_stack = nullptr;
    getcontext(&t.context);
    t.context.uc_stack.ss_sp = t.stack;
    t.context.uc_stack.ss_size = kStackBytes;
    t.context.uc_link = nullptr;
    makecontext(&t.context, &Cluster::entry, 0);
  }

  static void entry() {
    Cluster& cluster = *current();
    Thread& thread = cluster.self();
    cluster.arrived(thread);
    try {
      cluster.body_(cluster.argument_);
    } catch (...) {
      cluster.failure_ = std::current_exception();
    }
    thread.state = State::finished;
    cluster.leave(thread);
  }

  // The address sanitizer has to be told of every change of stack.
  void resume(Thread& thread) {
    running_ = &thread;
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&fake_stack_, thread.stack, kStackBytes);
#endif
    swapcontext(&scheduler_, &thread.context);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
  }

  void leave(Thread& thread) {
#ifdef __SANITIZE_ADDRESS__
    const bool ends = thread.state == State::finished;
    __sanitizer_start_switch_fiber(ends ? nullptr : &thread.fake_stack, scheduler_stack_, scheduler_stack_size_);
#endif
    swapcontext(&thread.context, &scheduler_);
    arrived(thread);
  }

  void arrived([[maybe_unused]] Thread& thread) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(thread.fake_stack, &scheduler_stack_, &scheduler_stack_size_);
#endif
  }

  template <class T>
  int offer(unsigned mask, T value, const char* file, int line) {
    Thread& thread = self();
    const int parity = int(thread.exchanges++ % 2);  // two sets: a lane may be one exchange ahead of another
    std::memcpy(thread.exchange[parity], &value, sizeof(T));
    wait(State::at_warp_barrier, mask, file, line);
    return parity;
  }

  int warp_size(const Thread& t) const { return std::min(32, threads_per_block - t.warp_begin % threads_per_block); }

  // Opens every barrier at which all that it is for wait: the same kind, at the same place, for the same lanes.
  bool open_barriers() {
    bool opened = false;
    for (const Thread& thread : threads_) {
      const State state = thread.state;
      const bool of_warp = state == State::at_warp_barrier, of_block = state == State::at_block_barrier;
      if (!of_warp && !of_block && state != State::at_cluster_barrier) continue;
      const int begin = of_warp ? thread.warp_begin : of_block ? thread.block * threads_per_block : 0;
      const int end = of_warp ? begin + warp_size(thread) : of_block ? begin + threads_per_block : int(threads_.size());
      const unsigned mask = thread.mask;
      const auto takes_part = [&](const Thread& other) { return !of_warp || (mask >> other.lane & 1); };
      bool complete = true;
      for (int j = begin; j < end; ++j) {
        const Thread& other = threads_[j];
        const bool here = other.state == state && other.file == thread.file && other.line == thread.line;
        complete = complete && (!takes_part(other) || (here && other.mask == mask));
      }
      if (!complete) continue;
      opened = true;
      for (int j = begin; j < end; ++j)
        if (takes_part(threads_[j])) threads_[j].state = State::ready;
    }
    return opened;
  }

  static std::string where(const char* file, int line) { return std::string(file) + ":" + std::to_string(line); }

  std::string describe_divergence() const {
    std::map<std::string, int> waiting;
    for (const Thread& t : threads_)
      ++waiting[t.state == State::finished ? "have ended" : "wait at " + where(t.file, t.line)];
    std::string text = "divergent barrier:";
    for (const auto& [what, count] : waiting) text += " " + std::to_string(count) + " threads " + what + ";";
    text.back() = '.';
    return text;
  }

  const size_t shared_bytes_;
  std::vector<Thread> threads_;
  std::vector<std::unique_ptr<char, decltype(&std::free)>> shared_;
  ucontext_t scheduler_;
  Thread* running_ = nullptr;
  bool yielded_ = false;
  void (*body_)(void*) = nullptr;
  void* argument_ = nullptr;
  std::exception_ptr failure_;
  [[maybe_unused]] void* fake_stack_ = nullptr;
  [[maybe_unused]] const void* scheduler_stack_ = nullptr;
  [[maybe_unused]] size_t scheduler_stack_size_ = 0;
};

inline Thread& self() { return Cluster::current()->self(); }

}  // namespace rnnkit::emulation

extern "C" __attribute__((visibility("default"), used)) inline void rnnkit_emulation_configure(int order, uint64_t seed,
                                                                                               int multiprocessors,
                                                                                               int capability) {
  rnnkit::emulation::configuration() = {static_cast<rnnkit::emulation::Order>(order), seed, multiprocessors, capability};
}

extern "C" __attribute__((visibility("default"), used)) inline int rnnkit_emulation_launches() {
  return rnnkit::emulation::configuration().launches;
}
