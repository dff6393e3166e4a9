// What every op checks of its tensors before it takes pointers from them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/tensor.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

namespace rnnkit {

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.device().type() == b.device().type() && a.device().index() == b.device().index();
}

inline bool has_shape(const Tensor& t, const Sizes& shape) { return t.sizes() == shape; }

inline Sizes contiguous_strides(const Sizes& sizes) {
  Sizes strides = sizes;
  int64_t stride = 1;
  for (int64_t i = sizes.size(); i-- > 0;) {
    strides[i] = stride;
    const bool too_large = __builtin_mul_overflow(stride, std::max<int64_t>(sizes[i], 1), &stride);
    STD_TORCH_CHECK(!too_large, "a tensor would be too large");
  }
  return strides;
}

// Uninitialised memory on the device of `like`. torch's C interface makes it, because a call of the dispatcher takes as long
// as a small kernel; and views likewise.
inline Tensor empty_strided(const Tensor& like, const Sizes& sizes, const Sizes& strides, ScalarType dtype) {
  if (like.lender()) return like.lender()->empty_strided(sizes, strides, dtype);
  const torch::stable::Tensor& made_like = like;
  const auto number = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  int32_t device_type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(made_like.get(), &device_type));
  AtenTensorHandle made;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(sizes.size(), sizes.data(), strides.data(), number, device_type,
                                                  made_like.get_device(), &made));
  return torch::stable::Tensor(made);
}

inline Tensor empty(const Tensor& like, const Sizes& sizes, ScalarType dtype) {
  return empty_strided(like, sizes, contiguous_strides(sizes), dtype);
}

inline Tensor empty(const Tensor& like, const Sizes& sizes) { return empty(like, sizes, like.scalar_type()); }

// The same memory, from its `first` element on.
inline Tensor view_strided(const Tensor& t, const Sizes& sizes, const Sizes& strides, int64_t first = 0) {
  if (t.lender()) {
    char* const data = static_cast<char*>(t.data_ptr()) + first * bytes_of(t.scalar_type());
    return {t.lender(), data, t.scalar_type(), t.device(), sizes, strides};
  }
  const torch::stable::Tensor& viewed = t;
  AtenTensorHandle made;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch__reinterpret_tensor(viewed.get(), sizes.size(), sizes.data(), strides.data(), first, &made));
  return torch::stable::Tensor(made);
}

inline void fill_with_zeros(const Tensor& t) {  // contiguous
  if (t.lender()) {
    std::memset(t.data_ptr(), 0, t.numel() * bytes_of(t.scalar_type()));
  } else {
    torch::stable::Tensor made = t;
    torch::stable::zero_(made);
  }
}

inline Tensor contiguous(const Tensor& t) { return t.is_contiguous() ? t : Tensor(torch::stable::contiguous(t)); }

// Memory that an op needs while it runs, and hands to nobody: of tensors that are lent, not a tensor of theirs.
inline Tensor scratch_strided(const Tensor& like, const Sizes& sizes, const Sizes& strides, ScalarType dtype) {
  struct Scratch : Tensor::Lender {
    std::shared_ptr<const Lender> lender;
    std::unique_ptr<char[]> memory;
    Tensor empty_strided(const Sizes& sizes, const Sizes& strides, ScalarType dtype) const override {
      return lender->empty_strided(sizes, strides, dtype);
    }
  };
  if (!like.lender()) return empty_strided(like, sizes, strides, dtype);
  int64_t bytes = bytes_of(dtype);
  for (const int64_t size : sizes)
    STD_TORCH_CHECK(!__builtin_mul_overflow(bytes, size, &bytes), "a tensor would be too large");
  const auto scratch = std::make_shared<Scratch>();
  scratch->lender = like.lender();
  scratch->memory.reset(new char[bytes]);  // not set to zero
  return {scratch, scratch->memory.get(), dtype, like.device(), sizes, strides};
}

// In the place of a result that nobody wants.
inline Tensor nothing(const Tensor& like) { return like.lender() ? Tensor() : empty(like, {0}); }

// With two dimensions of a tensor of two or three exchanged.
inline Tensor transposed(const Tensor& t, int64_t first, int64_t second) {
  Sizes sizes = t.sizes(), strides = t.strides();
  std::swap(sizes[first], sizes[second]);
  std::swap(strides[first], strides[second]);
  return view_strided(t, sizes, strides);
}

// A contiguous tensor of a fixed shape, on the device of `like`.
inline void check_contiguous(const Tensor& t, const Tensor& like, ScalarType dtype, const Sizes& shape, const char* name) {
  STD_TORCH_CHECK(has_shape(t, shape) && t.scalar_type() == dtype && t.is_contiguous() && same_device(t, like), name,
                  ": not a contiguous tensor of the expected shape, dtype and device");
}

}  // namespace rnnkit
