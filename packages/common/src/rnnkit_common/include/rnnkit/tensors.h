// What every op checks of its tensors before it takes pointers from them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/types.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <optional>
#include <vector>

namespace rnnkit {

using torch::stable::Tensor;

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.device().type() == b.device().type() && a.device().index() == b.device().index();
}

inline bool has_shape(const Tensor& t, const std::vector<int64_t>& shape) {
  bool fits = t.dim() == int64_t(shape.size());
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = t.size(i) == shape[i];
  return fits;
}

// Uninitialised memory like that of t, of any strides.
inline Tensor new_empty_strided(const Tensor& t, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides) {
  using torch::stable::detail::from;
  std::array<StableIValue, 7> stack{from(t),
                                    from(sizes),
                                    from(strides),
                                    from(std::optional<ScalarType>()),
                                    from(std::optional<torch::headeronly::Layout>()),
                                    from(std::optional<torch::stable::Device>()),
                                    from(std::optional<bool>())};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::new_empty_strided", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// A contiguous tensor of a fixed shape, on the device of `like`.
inline void check_contiguous(const Tensor& t, const Tensor& like, ScalarType dtype, const std::vector<int64_t>& shape,
                             const char* name) {
  STD_TORCH_CHECK(has_shape(t, shape) && t.scalar_type() == dtype && t.is_contiguous() && same_device(t, like), name,
                  ": not a contiguous tensor of the expected shape, dtype and device");
}

}  // namespace rnnkit
