// Functions of Math over arrays.
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_MATH_KERNELS_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_MATH_KERNELS_H
#undef RNNKIT_MATH_KERNELS_H
#else
#define RNNKIT_MATH_KERNELS_H
#endif

#include <rnnkit/cpu/math.h>

#include <string>

namespace rnnkit::RNNKIT_TARGET {

template <class T>
void apply(const T* from, T* to, int64_t count, const std::string& name) {
  using M = Math<T>;
  for (int64_t i = 0; i < count; i += M::kLanes) {
    const int n = int(std::min<int64_t>(M::kLanes, count - i));
    typename M::V x = M::load(from + i, n);
    if (name == "exp") x = M::exp(x);
    if (name == "exp_nonpositive") x = M::exp_nonpositive(x);
    if (name == "sigmoid") x = M::sigmoid(x);
    if (name == "tanh") x = M::tanh(x);
    if (name == "expm1") x = M::expm1(x);
    if (name == "log1p") x = M::log1p(x);
    if (name == "sqrt") x = M::sqrt(x);
    if (name == "log") x = M::log(x);
    if (name == "sin") x = M::sin(x);
    if (name == "cos") x = M::cos(x);
    M::store(to + i, x, n);
  }
}

// To the 16-bit type and back: storing must round as torch does.
template <class S>
void convert(const float* from, S* to, int64_t count) {
  using M = Math<float>;
  for (int64_t i = 0; i < count; i += M::kLanes) {
    const int n = int(std::min<int64_t>(M::kLanes, count - i));
    M::store(to + i, M::load(from + i, n), n);
    M::store(to + i, M::load(to + i, n), n);
  }
}

}  // namespace rnnkit::RNNKIT_TARGET

#endif
