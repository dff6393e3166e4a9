// Matrix products. torch's matmul calls MKL; large ones, in float32 and on an x86 CPU, are made by oneDNN
// instead, through the op that torch.compile uses for nn.Linear: on an AMD EPYC 210 GFLOP/s instead of 165.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/tensors.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

namespace rnnkit {

// The result of an op that this torch may lack, or nothing.
template <size_t n>
std::optional<Tensor> call(const char* op, const char* overload, std::array<StableIValue, n> stack) {
  if (torch_call_dispatcher(op, overload, stack.data(), TORCH_ABI_VERSION) != 0) return std::nullopt;
  return torch::stable::detail::to<Tensor>(stack[0]);
}

inline bool suits_onednn(const Tensor& x, const Tensor& weight) {
#if defined(__x86_64__)
  constexpr int64_t kLarge = 1 << 18;  // below, a call's overhead is not won back
  return x.is_cpu() && x.scalar_type() == torch::headeronly::ScalarType::Float && x.numel() > 0 &&
         weight.size(0) * weight.size(1) >= kLarge;
#else
  return false;
#endif
}

// x weight^T + bias, for x [..., K], weight [M, K] and bias [M]
inline Tensor linear(Tensor x, Tensor weight, std::optional<Tensor> bias = std::nullopt) {
  using torch::stable::detail::from;
  STD_TORCH_CHECK(x.dim() >= 2 && weight.dim() == 2 && x.size(-1) == weight.size(1),
                  "x and weight: expected shapes (..., K) and (M, K)");
  STD_TORCH_CHECK(x.scalar_type() == weight.scalar_type() && same_device(x, weight),
                  "weight: dtype or device differs from x's");
  if (suits_onednn(x, weight)) {
    const auto made = call<6>("mkldnn::_linear_pointwise", "",
                              {from(x), from(weight), from(bias), from(std::string("none")), from(std::vector<double>()),
                               from(std::optional<std::string>())});
    if (made) return *made;
  }
  std::array<StableIValue, 3> stack{from(x), from(weight), from(bias)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::linear", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// sum + x weight^T, for sum [..., M], x [..., K] and weight [M, K]
inline Tensor add_linear(Tensor sum, Tensor x, Tensor weight) {
  using torch::stable::detail::from;
  STD_TORCH_CHECK(x.dim() >= 2 && sum.dim() == x.dim() && weight.dim() == 2 && sum.size(-1) == weight.size(0) &&
                      x.size(-1) == weight.size(1),
                  "sum, x and weight: expected shapes (..., M), (..., K) and (M, K)");
  for (int64_t i = 0; i + 1 < x.dim(); ++i) STD_TORCH_CHECK(sum.size(i) == x.size(i), "sum and x: shapes");
  if (suits_onednn(x, weight)) {
    const auto made = call<5>("mkldnn::_linear_pointwise", "binary",
                              {from(x), from(sum), from(weight), from(std::optional<Tensor>()), from(std::string("add"))});
    if (made) return *made;
  }
  return torch::stable::subtract(sum, torch::stable::matmul(x, transposed(weight, 0, 1)), -1);
}

}  // namespace rnnkit
