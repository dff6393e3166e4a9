// Runs a recurrence on the CPU. U is packed once into blocks of two vectors of units, so that a step is products of a few
// rows with one block after the other, all sums in registers; what the gates do follows at once, while those sums are in the
// cache. Threads share rows, units or both, and only those of the same rows meet (team.h).
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_LIGRU_CPU_ENGINE_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_LIGRU_CPU_ENGINE_H
#undef RNNKIT_LIGRU_CPU_ENGINE_H
#else
#define RNNKIT_LIGRU_CPU_ENGINE_H
#endif

#include <rnnkit/cpu/product.h>

#include "backward.h"
#include "forward.h"

namespace rnnkit::RNNKIT_TARGET {

// `rounds`: products are of bfloat16, where the tensors are and this machine has them (avx512_bf16); else of float (double).
template <template <class, class> class Pass, template <class> class Problem, class scalar_t>
void run_pass(const Problem<scalar_t>& p, bool rounds) {
  if constexpr (std::is_same_v<scalar_t, BFloat16> && RNNKIT_X86 && RNNKIT_VECTOR_BYTES == 64) {
    if (rounds && !p.normalize)
      return Pass<scalar_t, BFloat16>(p).run();  // means are taken out of U, which is then no bfloat16
  }
  Pass<scalar_t, acc_t<scalar_t>>(p).run();
}

template <class scalar_t>
void run_recurrence(const Forward<scalar_t>& p, bool rounds) {
  run_pass<ForwardPass>(p, rounds);
}

template <class scalar_t>
void run_recurrence(const Backward<scalar_t>& p, bool rounds) {
  run_pass<BackwardPass>(p, rounds);
}

}  // namespace rnnkit::RNNKIT_TARGET

#endif
