// CPU kernels and their registration.
// SPDX-License-Identifier: Apache-2.0
#include <rnnkit/library.h>

#include "../ops.h"
#include "../ops/loss.h"

#define RNNKIT_KERNELS "cpu/kernels.h"
#include <rnnkit/cpu/foreach_target.h>

namespace rnnkit {

// An error inside parallel_for loses its message: what the tensors hold is checked here.
inline void check_values(const Sequences& p) {
  for (int64_t b = 0; b < p.batch; ++b) {
    const Bounds in = p.bounds(b);
    STD_TORCH_CHECK(in.fit(p.symbols, p.frames), "boundary[", b, "] = [", in.s0, ", ", in.t0, ", ", in.s1, ", ", in.t1,
                    "] is not within 0 and S, T");
    for (int64_t t = in.t0; t < in.t1 && p.begin != nullptr; ++t)
      STD_TORCH_CHECK(p.first_row(b, t) >= 0 && (t == in.t0 || p.first_row(b, t) >= p.first_row(b, t - 1)), "ranges[", b,
                      ", ", t, "] begins at ", p.first_row(b, t), ": they may not begin below 0, nor fall over time");
  }
}

inline void check_targets(const Sequences& p, const int64_t* targets, int64_t classes) {
  for (int64_t b = 0; b < p.batch; ++b) {
    const Bounds in = p.bounds(b);
    for (int64_t s = in.s0; s < in.s1; ++s) {
      const int64_t target = targets[b * p.symbols + s];
      STD_TORCH_CHECK(target >= 0 && target < classes, "symbols[", b, ", ", s, "] = ", target, " is not within 0 and ",
                      classes - 1);
    }
  }
}

struct CpuEngine {
  template <class Problem>
  static void run(const Problem& p, const Tensor&) {
    check_values(p);
    if constexpr (has_targets<Problem>::value) {
      check_targets(p, p.targets, p.classes);
      for (int64_t b = 0; p.offsets != nullptr && b < p.batch; ++b)
        STD_TORCH_CHECK(p.packed_fits(b, p.bounds(b)), "logits: ", p.n, " packed nodes do not fit the boundary");
    }
    RNNKIT_CALL_TARGET((p), run);
  }

  template <class Problem>
  static void simple_exponentials(const Problem& p, const Tensor&) {
    check_values(p);
    check_targets(p, p.targets, p.classes);
    RNNKIT_CALL_TARGET((p), simple_exponentials);
  }

  template <class Problem>
  static void simple_scores(const Problem& p, const Tensor&) {
    RNNKIT_CALL_TARGET((p), simple_scores);
  }

  template <class Problem>
  static void simple_weights(const Problem& p, const Tensor&) {  // backward: symbols may have changed since
    check_values(p);
    check_targets(p, p.targets, p.classes);
    RNNKIT_CALL_TARGET((p), simple_weights);
  }

  template <class Problem>
  static void simple_gradients(const Problem& p, const Tensor&) {
    RNNKIT_CALL_TARGET((p), simple_gradients);
  }

 private:
  template <class Problem, class = void>
  struct has_targets : std::false_type {};
  template <class Problem>
  struct has_targets<Problem, std::void_t<decltype(std::declval<Problem>().offsets)>> : std::true_type {};
};

}  // namespace rnnkit

RNNKIT_LIBRARY_IMPL(CPU, m) { rnnkit::implement_all<rnnkit::CpuEngine>(m); }

RNNKIT_METHOD("exact_loss", &rnnkit::exact_loss<rnnkit::CpuEngine>)
RNNKIT_METHOD("exact_loss_backward", &rnnkit::exact_loss_backward<rnnkit::CpuEngine>)
