// From the tensors of a scan op to the ScanForward and ScanBackward that the engines run, and back. Inputs are tensors
// [B, T, k * D] that hold the planes, k of them each, in the order of the Kind; and then the parameters, [k * D] or [k, D].
// As an example, one tensor that a single nn.Linear has produced, or one for each plane. Gradients come back as one tensor
// for each input. Outputs are laid out in memory like the first input: [B, T, D], or [T, B, D] transposed. What is checked
// here keeps memory safe; the Python layer checks first, and in the user's words.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/products.h>
#include <rnnkit/scan.h>

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <vector>

namespace rnnkit {

class ScanTensors {
 public:
  const int64_t batch, steps, channels;
  const ScalarType dtype;

  ScanTensors(const std::vector<Tensor>& inputs, int64_t planes, int64_t parameters, const std::optional<Tensor>& lengths,
              const std::optional<Tensor>& reset)
      : batch(first_of(inputs).size(0)),
        steps(inputs[0].size(1)),
        channels(width_of_planes(inputs) / planes),
        dtype(inputs[0].scalar_type()),
        time_major_(inputs[0].stride(0) < inputs[0].stride(1)),
        lengths_(lengths),
        reset_(reset) {
    STD_TORCH_CHECK(width_of_planes(inputs) == planes * channels, "inputs: expected (B, T, k * D) with ", planes,
                    " planes in all");
    int64_t rows_of_parameters = 0;
    for (const Tensor& t : inputs) {
      if (t.dim() == 3) {
        STD_TORCH_CHECK(parameters_.empty(), "inputs: expected the planes before the parameters");
        STD_TORCH_CHECK(channels == 0 || t.size(2) % channels == 0, "inputs: expected (B, T, k * D), all of one D");
        tensors_.push_back(rows(t, t.size(2), "inputs"));
      } else {
        const int64_t count = channels == 0 ? 0 : t.numel() / channels;
        STD_TORCH_CHECK(parameters > 0, "inputs: expected no parameters");
        STD_TORCH_CHECK(t.dim() <= 2 && t.numel() == count * channels && (t.dim() != 2 || t.size(1) == channels),
                        "inputs: expected parameters of shape (k * D) or (k, D)");
        STD_TORCH_CHECK(t.scalar_type() == accumulate_type(dtype) && t.is_contiguous() && same_device(t, tensors_[0]),
                        "inputs: expected parameters that are contiguous, of the states' dtype and the planes' device");
        parameters_.push_back(t);
        rows_of_parameters += count;
      }
    }
    STD_TORCH_CHECK(channels == 0 || rows_of_parameters == parameters, "inputs: expected ", parameters, " parameters, got ",
                    rows_of_parameters);
    if (lengths) check(*lengths, ScalarType::Long, {batch}, "lengths");
    if (reset) check(*reset, ScalarType::Bool, {batch, steps}, "reset");
  }

  // A [B, T, width] tensor of the planes' dtype with unit stride along its last dimension.
  Tensor rows(const Tensor& t, int64_t width, const char* name) const {
    STD_TORCH_CHECK(has_shape(t, {batch, steps, width}), name, ": expected shape (", batch, ", ", steps, ", ", width, ")");
    STD_TORCH_CHECK(t.scalar_type() == dtype && (tensors_.empty() || same_device(t, tensors_[0])), name,
                    ": dtype or device differs from the planes'");
    return t.stride(2) == 1 || t.size(2) == 1 ? t : contiguous(t);
  }

  // A contiguous tensor of a fixed shape.
  void check(const Tensor& t, ScalarType expected, const Sizes& shape, const char* name) const {
    check_contiguous(t, tensors_[0], expected, shape, name);
  }

  Tensor empty_rows(int64_t width) const {  // uninitialised [B, T, width]
    if (time_major_ && tensors_[0].lender()) return transposed(empty(tensors_[0], {steps, batch, width}), 0, 1);
    return empty_strided(tensors_[0], {batch, steps, width}, strides_of_rows(width), dtype);
  }

  Tensor empty_state(bool is_seen = true) const {  // uninitialised [B, D]
    const Sizes sizes{batch, channels}, strides{channels, 1};
    return (is_seen ? empty_strided : scratch_strided)(tensors_[0], sizes, strides, accumulate_type(dtype));
  }

  // Of the tensors that hold the planes, uninitialised; those of the first `unseen` are handed to nobody.
  std::vector<Tensor> empty_gradients(size_t unseen) const {
    std::vector<Tensor> gradients;
    for (const Tensor& t : tensors_) {
      const int64_t width = t.size(2);
      const bool is_seen = gradients.size() >= unseen;
      gradients.push_back(is_seen ? empty_rows(width)
                                  : scratch_strided(t, {batch, steps, width}, strides_of_rows(width), dtype));
    }
    return gradients;
  }

  // The gradients of the tensors that hold parameters, from those [P, B, D] of all parameters in each sequence.
  std::vector<Tensor> sum_gradients(const Tensor& of_sequences) const {
    std::vector<Tensor> gradients;
    const bool lent = of_sequences.lender() != nullptr;
    const Tensor of_parameters = lent ? Tensor() : sum_rows(of_sequences);
    int64_t first = 0;
    for (const Tensor& t : parameters_) {
      const Sizes& sizes = t.sizes();
      if (lent) {
        const int64_t count = channels == 0 ? 0 : t.numel() / channels;
        const Tensor sums =
            view_strided(of_sequences, {count, batch, channels}, {batch * channels, channels, 1}, first * batch);
        gradients.push_back(empty(t, sizes));
        sum_rows_into(sums, gradients.back());
      } else {
        gradients.push_back(view_strided(of_parameters, sizes, contiguous_strides(sizes), first));
      }
      first += t.numel();
    }
    return gradients;
  }

  // [B, ceil(T / carry) * D]: flat, because a dimension of 1 for short sequences would make tracers treat them apart.
  int64_t carries_size(int carry) const { return carries_of(steps, carry) * channels; }

  // A problem without padding but behind lengths; `reverse_from`: the first channel that runs backward.
  template <class scalar_t, class Kind>
  void fill(ScanProblem<scalar_t, Kind>& p, double initial, int64_t reverse_from) const {
    using acc = acc_t<scalar_t>;
    p.batch = batch;
    p.steps = steps;
    p.channels = channels;
    p.lengths = lengths_ ? lengths_->const_data_ptr<int64_t>() : nullptr;
    p.reset = reset_ ? reset_->const_data_ptr<bool>() : nullptr;
    p.pad = nullptr;
    p.initial = static_cast<acc>(initial);
    p.reverse_from = reverse_from;
    fill_planes<Kind>(p.in, tensors_);
    int k = 0;
    for (const Tensor& t : parameters_) {
      const int64_t count = channels == 0 ? 0 : t.numel() / channels;
      for (int64_t i = 0; i < count && k < Kind::kParameters; ++i, ++k)
        p.parameters[k] = t.const_data_ptr<acc>() + i * channels;
    }
  }

  // Where each plane lies in `tensors`, which are laid out like those of the planes.
  template <class Kind, class T>
  void fill_planes(Rows<T> (&rows)[Kind::kPlanes], const std::vector<Tensor>& tensors) const {
    size_t i = 0;
    int64_t before = 0;  // planes in the tensors before
    for (int j = 0; j < Kind::kPlanes; ++j) {
      while (channels > 0 && (j - before + 1) * channels > tensors[i].size(2)) {
        before += tensors[i].size(2) / channels;
        ++i;
      }
      const bool interleaved = channel_stride<Kind>(j) > 1;
      STD_TORCH_CHECK(channels == 0 || !interleaved ||
                          (tensors[i].size(2) == Kind::kInterleaved * channels && before == Kind::kFirstInterleaved),
                      "inputs: expected a tensor with just the interleaved planes");
      rows[j] = strided<T>(tensors[i], interleaved ? j - before : (j - before) * channels);
    }
  }

  template <class T>
  static Rows<T> strided(const Tensor& t, int64_t offset = 0) {
    return {static_cast<T*>(t.data_ptr()) + offset, t.stride(0), t.stride(1)};
  }

  torch::stable::Device device() const { return tensors_[0].device(); }

 private:
  static const Tensor& first_of(const std::vector<Tensor>& inputs) {
    STD_TORCH_CHECK(!inputs.empty() && inputs[0].dim() == 3, "inputs: expected tensors, the first of 3 dimensions");
    return inputs[0];
  }

  static int64_t width_of_planes(const std::vector<Tensor>& inputs) {
    int64_t width = 0;
    for (const Tensor& t : inputs) width += t.dim() == 3 ? t.size(2) : 0;
    return width;
  }

  Sizes strides_of_rows(int64_t width) const {
    return time_major_ ? Sizes{width, batch * width, 1} : contiguous_strides({batch, steps, width});
  }

  const bool time_major_;
  const std::optional<Tensor> lengths_, reset_;
  std::vector<Tensor> tensors_, parameters_;
};

}  // namespace rnnkit
