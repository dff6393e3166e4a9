// Matrix products. torch's matmul calls MKL; large ones, in float32 and on an x86 CPU, are made by oneDNN
// instead, through the op that torch.compile uses for nn.Linear: on an AMD EPYC 210 GFLOP/s instead of 165. Those of
// tensors that are lent are small, and the engine makes them itself.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/product.h>
#include <rnnkit/tensors.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

// out = beta self + alpha a b, of AOTInductor's stable interface: torch's dispatcher takes no Scalars from here.
// libtorch_cuda has the one for a GPU, which is called where there is one.
extern "C" {
AOTITorchError aoti_torch_cpu_addmm_out(AtenTensorHandle out, AtenTensorHandle self, AtenTensorHandle a, AtenTensorHandle b,
                                        double beta, double alpha);
#ifdef __CUDACC__
#pragma weak aoti_torch_cuda_addmm_out
AOTITorchError aoti_torch_cuda_addmm_out(AtenTensorHandle out, AtenTensorHandle self, AtenTensorHandle a, AtenTensorHandle b,
                                         double beta, double alpha);
#endif
}

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

// More multiplications than these, and a library is faster: 2 cores of an AMD EPYC.
constexpr int64_t kSmallProduct = 1 << 20;

inline void check_small(int64_t rows, int64_t columns, int64_t depth) {
  STD_TORCH_CHECK(rows * columns * depth <= kSmallProduct, "a product too large for tensors that are lent");
}

// [..., C] as [R, C]
template <class T>
Matrix<T> as_matrix(const Tensor& t) {
  int64_t rows = 1, row_stride = t.size(-1);
  for (int64_t i = t.dim() - 1; i-- > 0;) {
    if (t.size(i) == 1) continue;  // whose stride may be anything
    if (rows == 1) row_stride = t.stride(i);
    STD_TORCH_CHECK(t.stride(i) == rows * row_stride, "rows that are not equally far apart");
    rows *= t.size(i);
  }
  return {static_cast<T*>(t.data_ptr()), rows, t.size(-1), row_stride, t.stride(-1)};
}

// Of tensors that are lent, a [R, K] and b [C, K], into out [R, C]
template <class Engine>
void multiply(const Tensor& a, const Tensor& b, const std::optional<Tensor>& bias, const Tensor& out,
              bool transposes = false, bool adds = false) {
  STD_TORCH_CHECK(a.scalar_type() == out.scalar_type() && b.scalar_type() == out.scalar_type(),
                  "a product of matrices whose dtypes differ");
  dispatch_wide(out.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    Product<T> p{as_matrix<const T>(a), as_matrix<const T>(b), as_matrix<T>(out), nullptr, adds};
    if (transposes) {  // a [K, R] and b [K, C]
      p.a = p.a.transposed();
      p.b = p.b.transposed();
    }
    if (bias) {
      STD_TORCH_CHECK(bias->is_contiguous() && bias->numel() == p.out.columns, "bias: expected one value for each column");
      p.bias = bias->const_data_ptr<T>();
    }
    STD_TORCH_CHECK(p.a.columns == p.b.columns && p.out.rows == p.a.rows && p.out.columns == p.b.rows &&
                        (p.out.columns == 1 || p.out.column_stride == 1),
                    "a product of matrices that do not fit");
    check_small(p.out.rows, p.out.columns, p.a.columns);
    Engine::multiply(p);
  });
}

// x weight^T + bias, for x [..., K], weight [M, K] and bias [M]; `kept`: the result is handed out.
template <class Engine>
Tensor linear(Tensor x, Tensor weight, std::optional<Tensor> bias = std::nullopt, bool kept = true) {
  using torch::stable::detail::from;
  STD_TORCH_CHECK(x.dim() >= 2 && weight.dim() == 2 && x.size(-1) == weight.size(1),
                  "x and weight: expected shapes (..., K) and (M, K)");
  STD_TORCH_CHECK(x.scalar_type() == weight.scalar_type() && same_device(x, weight),
                  "weight: dtype or device differs from x's");
  if (x.lender()) {
    Sizes sizes = x.sizes();
    sizes[sizes.size() - 1] = weight.size(0);
    check_small(x.numel(), weight.size(0), 1);
    const Tensor out = kept ? empty(x, sizes) : scratch_strided(x, sizes, contiguous_strides(sizes), x.scalar_type());
    multiply<Engine>(x, weight, bias, out);
    return out;
  }
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

// sum + x weight^T, for sum [..., M], which may be overwritten, x [..., K] and weight [M, K]
template <class Engine>
Tensor add_linear(Tensor sum, Tensor x, Tensor weight) {
  using torch::stable::detail::from;
  STD_TORCH_CHECK(x.dim() >= 2 && sum.dim() == x.dim() && weight.dim() == 2 && sum.size(-1) == weight.size(0) &&
                      x.size(-1) == weight.size(1),
                  "sum, x and weight: expected shapes (..., M), (..., K) and (M, K)");
  for (int64_t i = 0; i + 1 < x.dim(); ++i) STD_TORCH_CHECK(sum.size(i) == x.size(i), "sum and x: shapes");
  if (x.lender()) {
    multiply<Engine>(x, weight, std::nullopt, sum, false, true);
    return sum;
  }
  if (suits_onednn(x, weight)) {
    const auto made = call<5>("mkldnn::_linear_pointwise", "binary",
                              {from(x), from(sum), from(weight), from(std::optional<Tensor>()), from(std::string("add"))});
    if (made) return *made;
  }
  if (!sum.is_contiguous() || !x.is_contiguous() || sum.numel() == 0)
    return torch::stable::subtract(sum, torch::stable::matmul(x, transposed(weight, 0, 1)), -1);
#ifdef __CUDACC__
  const auto add = sum.is_cpu() ? &aoti_torch_cpu_addmm_out : &aoti_torch_cuda_addmm_out;
#else
  const auto add = &aoti_torch_cpu_addmm_out;
#endif
  const auto rows = [](const Tensor& t) -> torch::stable::Tensor {  // [R, .]
    return view_strided(t, {t.numel() / t.size(-1), t.size(-1)}, {t.size(-1), 1});
  };
  const torch::stable::Tensor to = rows(sum), from_rows = rows(x), columns = transposed(weight, 0, 1);
  TORCH_ERROR_CODE_CHECK(add(to.get(), to.get(), from_rows.get(), columns.get(), 1, 1));
  return sum;
}

// a^T b, for a [R, M] and b [R, K]
template <class Engine>
Tensor transposed_product(const Tensor& a, const Tensor& b) {
  if (!a.lender()) return torch::stable::matmul(transposed(a, 0, 1), b);
  const Tensor out = empty(a, {a.size(1), b.size(1)});
  multiply<Engine>(a, b, std::nullopt, out, true);
  return out;
}

// Of tensors that are lent: the sum over the second dimension of t [P, R, N], into out, P * N values.
inline void sum_rows_into(const Tensor& t, const Tensor& out) {
  STD_TORCH_CHECK(t.stride(2) == 1 || t.size(2) == 1, "rows whose values are not neighbours");
  dispatch_wide(t.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    std::vector<double> sums(t.size(2));
    for (int64_t i = 0; i < t.size(0); ++i) {
      std::fill(sums.begin(), sums.end(), 0.);
      for (int64_t r = 0; r < t.size(1); ++r) {
        const T* const row = t.const_data_ptr<T>() + i * t.stride(0) + r * t.stride(1);
        for (int64_t c = 0; c < t.size(2); ++c) sums[c] += row[c];
      }
      std::copy(sums.begin(), sums.end(), out.mutable_data_ptr<T>() + i * t.size(2));
    }
  });
}

// The sum over the first dimension of a tensor of two, or over the second of one of three.
inline Tensor sum_rows(const Tensor& t) {
  const int64_t over[] = {t.dim() - 2};
  if (!t.lender()) return torch::stable::sum(t, over);
  STD_TORCH_CHECK(t.dim() == 2, "a sum of tensors that are lent, and not of two dimensions");
  const Tensor out = empty(t, {t.size(1)});
  sum_rows_into(view_strided(t, {1, t.size(0), t.size(1)}, {0, t.stride(0), t.stride(1)}), out);
  return out;
}

}  // namespace rnnkit
