// How the threads of the CPU engine share the rows and units of a recurrence, and wait for each other.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <new>
#include <thread>

namespace rnnkit {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The part of [0, count) that the i-th of n gets.
struct Share {
  int64_t begin, end;
  Share(int64_t count, int64_t i, int64_t n) : begin(count * i / n), end(count * (i + 1) / n) {}
};

// Of this machine; RNNKIT_LIGRU_CORES may say another number.
inline int64_t cores() {
  static const int64_t found = std::max<int64_t>(std::thread::hardware_concurrency(), 1);
  const char* const told = std::getenv("RNNKIT_LIGRU_CORES");
  return told == nullptr ? found : std::max<int64_t>(std::atoll(told), 1);
}

// Seats in `row_groups` x `unit_groups`: each works on its share of the rows, and of the blocks of units.
struct Team {
  int64_t row_groups, unit_groups;

  int64_t seats() const { return row_groups * unit_groups; }

  // Fewer rows for each thread leave less to do for each weight that is loaded; fewer units need, at each step, a barrier
  // and what the others made of each row: `row_lines` lines of the cache for all units. `block_values` of U belong to a
  // block of units, and meet each of its rows in that many multiplications of `lanes`.
  static Team choose(int64_t rows, int64_t row_lines, int64_t blocks, int64_t block_values, int64_t lanes, int64_t steps) {
    constexpr double kBarrier = 1500, kLine = 150, kFork = 20000;  // cycles
    constexpr double kOwnCache = 1024 * 1024, kBytesPerCycle = 8;  // an L2; from the cache that is shared
    const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), cores());  // torch may be told of more
    Team best{1, 1};
    double least = 0;
    for (int64_t row_groups = 1; row_groups <= std::min(threads, std::max<int64_t>(rows, 1)); ++row_groups) {
      for (int64_t unit_groups : {int64_t(1), std::min(threads / row_groups, blocks)}) {
        const Team team{row_groups, unit_groups};
        const double values = double(ceil_div(blocks, unit_groups) * block_values), bytes = values * 64 / lanes;
        const double products = values / lanes * (1.25 * ceil_div(rows, row_groups) + 1);
        const double loads = bytes > kOwnCache ? bytes / kBytesPerCycle : 0;
        const double lines = double(row_lines * ceil_div(rows, row_groups) * (unit_groups - 1)) / unit_groups;
        const double step = std::max(products, loads) + (unit_groups > 1 ? kBarrier + kLine * lines : 0);
        const double cost = step * steps + (team.seats() > 1 ? kFork : 0);
        if (team.seats() == 1 || cost < least) best = team, least = cost;
      }
    }
    return best;
  }
};

// Where the seats of one group of rows meet after each phase of their work. A thread whose core does something else does
// not come: those that wait take its seat for a phase that it has not begun. So one thread can do it all, and none waits for
// one that has nothing to do but wait. Where it has begun, they soon sleep: who yields instead, to processes that never
// rest, gives them a slice of time for each of its own, and comes back milliseconds after what it waited for.
class Meeting {
 public:
  explicit Meeting(int64_t seats) : seats_(seats), begun_(new Phase[seats]) {}

  // f(seat) for seats first..last, and for those that are left; returns when all of the phase, the n-th from 1, is done.
  template <class F>
  void phase(int64_t n, int64_t first, int64_t last, F f) {
    for (int64_t seat = first; seat < last; ++seat) take(n, seat, f);
    if (ends(n, kPatience)) return;
    for (int64_t seat = 0; seat < seats_; ++seat) take(n, seat, f);
    if (!ends(n, 10 * kPatience)) sleep(n);
  }

 private:
  static constexpr int64_t kPatience = 2000;  // loads of a number that rarely changes: a microsecond or two

  struct alignas(64) Phase {
    std::atomic<int64_t> n{0};
  };

  template <class F>
  void take(int64_t n, int64_t seat, F f) {
    int64_t before = n - 1;
    if (!begun_[seat].n.compare_exchange_strong(before, n, std::memory_order_relaxed)) return;
    f(seat);
    done_.fetch_add(1);
    if (asleep_.load() > 0) wake();
  }

  bool is_done(int64_t n) const { return done_.load() >= n * seats_; }

  // Whether phase n ends within so many loads.
  bool ends(int64_t n, int64_t loads) const {
    for (int64_t i = 0; i < loads; ++i)
      if (is_done(n)) return true;
    return false;
  }

  void sleep(int64_t n) {
    asleep_.fetch_add(1);  // before done_ is read, as in take() after it is written: one of both sees the other
    {
      std::unique_lock<std::mutex> lock(mutex_);
      condition_.wait(lock, [&] { return is_done(n); });
    }
    asleep_.fetch_sub(1);
  }

  void wake() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
    }
    condition_.notify_all();
  }

  const int64_t seats_;
  const std::unique_ptr<Phase[]> begun_;
  alignas(64) std::atomic<int64_t> done_{0};  // seats, of all phases
  std::atomic<int64_t> asleep_{0};            // threads
  std::mutex mutex_;
  std::condition_variable condition_;
};

// Of each group of rows. Here, and not in engine.h, so that what a deque is made of is compiled for the baseline alone.
class Meetings {
 public:
  Meetings(int64_t groups, int64_t seats) {
    for (int64_t group = 0; group < groups; ++group) meetings_.emplace_back(seats);
  }
  Meeting& operator[](int64_t group) { return meetings_[group]; }

 private:
  std::deque<Meeting> meetings_;
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
