// How the threads of the CPU engine share the rows and units of a recurrence, and wait for each other.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <new>
#include <thread>

namespace rnnkit {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The part of [0, count) that the i-th of n gets.
struct Share {
  int64_t begin, end;
  Share(int64_t count, int64_t i, int64_t n) : begin(count * i / n), end(count * (i + 1) / n) {}
};

// Seats in `row_groups` x `unit_groups`: each works on its share of the rows, and of the blocks of units.
struct Team {
  int64_t row_groups, unit_groups;

  int64_t seats() const { return row_groups * unit_groups; }

  // Fewer rows for each thread leave less to do for each weight that is loaded; fewer units need a barrier at each step.
  // `block_values` of U belong to a block of units, and meet each of its rows in that many multiplications of `lanes`.
  static Team choose(int64_t threads, int64_t rows, int64_t blocks, int64_t block_values, int64_t lanes, int64_t steps) {
    constexpr double kBarrier = 1500, kFork = 20000;              // cycles
    constexpr double kOwnCache = 512 * 1024, kBytesPerCycle = 8;  // half an L2; from the cache that is shared
    Team best{1, 1};
    double least = 0;
    for (int64_t row_groups = 1; row_groups <= std::min(threads, std::max<int64_t>(rows, 1)); ++row_groups) {
      for (int64_t unit_groups : {int64_t(1), std::min(threads / row_groups, blocks)}) {
        const Team team{row_groups, unit_groups};
        const double values = double(ceil_div(blocks, unit_groups) * block_values), bytes = values * 64 / lanes;
        const double products = values / lanes * (1.25 * ceil_div(rows, row_groups) + 1);
        const double loads = bytes > kOwnCache ? bytes / kBytesPerCycle : 0;
        const double step = std::max(products, loads) + (unit_groups > 1 ? kBarrier : 0);
        const double cost = step * steps + (team.seats() > 1 ? kFork : 0);
        if (team.seats() == 1 || cost < least) best = team, least = cost;
      }
    }
    return best;
  }
};

// All seats wait for all. A thread may hold several: torch.parallel_for gives it as many as there are too few threads for,
// and runs its threads at the same time.
class Barrier {
 public:
  explicit Barrier(int64_t seats) : seats_(seats) {}

  void wait(int64_t mine) {
    if (mine == seats_) return;
    const int64_t phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(mine, std::memory_order_acq_rel) + mine == seats_) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; ++spins)
      if (spins > 10000) std::this_thread::yield();  // there may be more threads than cores
  }

 private:
  const int64_t seats_;
  alignas(64) std::atomic<int64_t> arrived_{0};
  alignas(64) std::atomic<int64_t> phase_{0};
};

// Zeros, aligned to a cache line.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count) : data_(static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(64)))) {
    std::memset(static_cast<void*>(data_), 0, count * sizeof(T));
  }
  ~Buffer() { ::operator delete(data_, std::align_val_t(64)); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* operator+(int64_t offset) const { return data_ + offset; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  T* const data_;
};

}  // namespace rnnkit
