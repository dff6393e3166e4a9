// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace rnnkit {

// A tensor that was just allocated, on huge pages if it is so large that glibc maps its memory anew each time: to fault that
// in by pages of 4 KiB takes longer than what is computed. numpy does so too, and torch with THP_MEM_ALLOC_ENABLE=1.
// Where the kernel does not take the advice, nothing is lost.
inline torch::stable::Tensor on_huge_pages(torch::stable::Tensor t) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kMapped = 32 << 20;
  const uintptr_t bytes = uintptr_t(t.numel()) * t.element_size();
  if (t.is_cpu() && bytes >= kMapped) {
    const uintptr_t page = sysconf(_SC_PAGESIZE), begin = reinterpret_cast<uintptr_t>(t.mutable_data_ptr());
    const uintptr_t first = (begin + page - 1) / page * page;
    madvise(reinterpret_cast<void*>(first), begin + bytes - first, MADV_HUGEPAGE);
  }
#endif
  return t;
}

}  // namespace rnnkit
