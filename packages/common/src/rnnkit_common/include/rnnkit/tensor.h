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
#include <initializer_list>
#include <memory>
#include <optional>
#include <utility>

namespace rnnkit {

// The sizes of a tensor, or its strides: a few numbers, and no memory of the heap, which small calls would feel.
class Sizes {
 public:
  Sizes() = default;
  Sizes(std::initializer_list<int64_t> values) : Sizes(values.begin(), int64_t(values.size())) {}
  Sizes(const int64_t* values, int64_t count) : count_(count) {
    STD_TORCH_CHECK(count <= int64_t(values_.size()), "expected at most ", values_.size(), " dimensions, got ", count);
    std::copy_n(values, count, values_.begin());
  }

  int64_t size() const { return count_; }
  const int64_t* data() const { return values_.data(); }
  const int64_t* begin() const { return values_.data(); }
  const int64_t* end() const { return values_.data() + count_; }
  int64_t& operator[](int64_t i) { return values_[i]; }
  int64_t operator[](int64_t i) const { return values_[i]; }
  bool operator==(const Sizes& other) const { return std::equal(begin(), end(), other.begin(), other.end()); }

 private:
  int64_t count_ = 0;
  std::array<int64_t, 5> values_{};
};

class Tensor {
 public:
  // Whoever lends a tensor, and makes more of its kind.
  struct Lender {
    virtual ~Lender() = default;
    virtual Tensor empty_strided(const Sizes& sizes, const Sizes& strides, ScalarType dtype) const = 0;
    virtual void* object() const { return nullptr; }  // of Python; none, if only an op knows it
  };

  Tensor() = default;  // none

  Tensor(torch::stable::Tensor made)  // NOLINT(google-explicit-constructor): torch's functions return these
      : dtype_(made.scalar_type()),
        device_(made.device()),
        sizes_(made.sizes().data(), made.dim()),
        strides_(made.strides().data(), made.dim()),
        made_(std::move(made)) {}

  Tensor(std::shared_ptr<const Lender> lender, void* data, ScalarType dtype, torch::stable::Device device,
         const Sizes& sizes, const Sizes& strides)
      : dtype_(dtype), device_(device), sizes_(sizes), strides_(strides), lender_(std::move(lender)), data_(data) {}

  // For torch's functions, which take no tensors that are lent: whoever lends them falls back on the dispatcher.
  operator const torch::stable::Tensor&() const {  // NOLINT(google-explicit-constructor)
    STD_TORCH_CHECK(made_.has_value(), "not a tensor of torch's dispatcher");
    return *made_;
  }

  bool defined() const { return made_ || lender_; }
  const std::shared_ptr<const Lender>& lender() const { return lender_; }  // null, if it is not lent

  int64_t dim() const { return sizes_.size(); }
  int64_t size(int64_t i) const { return sizes_[index(i)]; }
  int64_t stride(int64_t i) const { return strides_[index(i)]; }
  const Sizes& sizes() const { return sizes_; }
  const Sizes& strides() const { return strides_; }
  ScalarType scalar_type() const { return dtype_; }
  torch::stable::Device device() const { return device_; }
  bool is_cpu() const { return device_.type() == torch::headeronly::DeviceType::CPU; }

  int64_t numel() const {
    int64_t count = 1;
    for (const int64_t size : sizes_) count *= size;
    return count;
  }

  bool is_contiguous() const {
    int64_t expected = 1;
    for (int64_t i = dim(); i-- > 0;) {
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
    const int64_t from_front = i < 0 ? i + dim() : i;
    STD_TORCH_CHECK(0 <= from_front && from_front < dim(), "a tensor of ", dim(), " dimensions has none of number ", i);
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
  Sizes sizes_, strides_;
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
