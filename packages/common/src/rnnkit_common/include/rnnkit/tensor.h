// A tensor as the ops see it, whichever way it came: through torch's dispatcher, or straight from a call in Python
// (direct.h), in which case it is lent, and only its memory is known here.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/types.h>
#include <torch/csrc/stable/device.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace rnnkit {

class Tensor {
 public:
  static constexpr int64_t kMostDims = 8;

  // Whoever lends a tensor, and makes more of its kind.
  struct Lender {
    virtual ~Lender() = default;
    virtual Tensor empty_strided(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                                 ScalarType dtype) const = 0;
    virtual void* object() const { return nullptr; }  // of Python; none, if only an op knows it
  };

  Tensor() = default;  // none

  Tensor(torch::stable::Tensor made)  // NOLINT(google-explicit-constructor): torch's functions return these
      : dtype_(made.scalar_type()), device_(made.device()), dim_(made.dim()), made_(std::move(made)) {
    STD_TORCH_CHECK(dim_ <= kMostDims, "expected at most ", kMostDims, " dimensions, got ", dim_);
    const auto sizes = made_->sizes(), strides = made_->strides();
    std::copy_n(sizes.data(), dim_, sizes_.begin());
    std::copy_n(strides.data(), dim_, strides_.begin());
  }

  Tensor(std::shared_ptr<const Lender> lender, void* data, ScalarType dtype, torch::stable::Device device, int64_t dim,
         const int64_t* sizes, const int64_t* strides)
      : dtype_(dtype), device_(device), dim_(dim), lender_(std::move(lender)), data_(data) {
    STD_TORCH_CHECK(dim_ <= kMostDims, "expected at most ", kMostDims, " dimensions, got ", dim_);
    std::copy_n(sizes, dim_, sizes_.begin());
    std::copy_n(strides, dim_, strides_.begin());
  }

  // For torch's functions, which take no tensors that are lent: whoever lends them falls back on the dispatcher.
  operator const torch::stable::Tensor&() const {  // NOLINT(google-explicit-constructor)
    STD_TORCH_CHECK(made_.has_value(), "not a tensor of torch's dispatcher");
    return *made_;
  }

  bool defined() const { return made_ || lender_; }
  const std::shared_ptr<const Lender>& lender() const { return lender_; }  // null, if it is not lent

  int64_t dim() const { return dim_; }
  int64_t size(int64_t i) const { return sizes_[index(i)]; }
  int64_t stride(int64_t i) const { return strides_[index(i)]; }
  std::vector<int64_t> sizes() const { return {sizes_.begin(), sizes_.begin() + dim_}; }
  ScalarType scalar_type() const { return dtype_; }
  torch::stable::Device device() const { return device_; }
  bool is_cpu() const { return device_.type() == torch::headeronly::DeviceType::CPU; }

  int64_t numel() const {
    int64_t count = 1;
    for (int64_t i = 0; i < dim_; ++i) count *= sizes_[i];
    return count;
  }

  bool is_contiguous() const {
    int64_t expected = 1;
    for (int64_t i = dim_; i-- > 0;) {
      if (sizes_[i] == 0) return true;
      if (sizes_[i] != 1 && strides_[i] != expected) return numel() == 0;
      expected *= sizes_[i];
    }
    return true;
  }

  void* data_ptr() const { return made_ ? made_->data_ptr() : data_; }

  template <class T>
  T* mutable_data_ptr() const {
    check_type<T>();
    return static_cast<T*>(made_ ? made_->mutable_data_ptr() : data_);
  }

  template <class T>
  const T* const_data_ptr() const {
    check_type<T>();
    return static_cast<const T*>(made_ ? made_->const_data_ptr() : data_);
  }

 private:
  int64_t index(int64_t i) const {
    const int64_t from_front = i < 0 ? i + dim_ : i;
    STD_TORCH_CHECK(0 <= from_front && from_front < dim_, "a tensor of ", dim_, " dimensions has none of number ", i);
    return from_front;
  }

  template <class T>
  void check_type() const {
    STD_TORCH_CHECK(dtype_ == torch::headeronly::CppTypeToScalarType<T>::value, "expected ",
                    torch::headeronly::toString(torch::headeronly::CppTypeToScalarType<T>::value), ", got ",
                    torch::headeronly::toString(dtype_));
  }

  ScalarType dtype_ = ScalarType::Undefined;
  torch::stable::Device device_{torch::headeronly::DeviceType::CPU};
  int64_t dim_ = 0;
  std::array<int64_t, kMostDims> sizes_{}, strides_{};
  std::optional<torch::stable::Tensor> made_;
  std::shared_ptr<const Lender> lender_;
  void* data_ = nullptr;
};

}  // namespace rnnkit

// For TORCH_BOX, and calls of the dispatcher.
template <>
struct torch::stable::detail::FromImpl<rnnkit::Tensor> {
  static StableIValue call(const rnnkit::Tensor& t, uint64_t version, bool is_internal) {
    return FromImpl<torch::stable::Tensor>::call(t, version, is_internal);
  }
};
template <>
struct torch::stable::detail::ToImpl<rnnkit::Tensor> {
  static rnnkit::Tensor call(StableIValue value, uint64_t version, bool is_internal) {
    return ToImpl<torch::stable::Tensor>::call(value, version, is_internal);
  }
};
