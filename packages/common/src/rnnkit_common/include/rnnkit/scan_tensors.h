// From the tensors of a scan op to the ScanForward and ScanBackward that the engines run, and back. Every scan op of the
// project takes its planes either as one packed tensor [B, T, planes * D], as a single nn.Linear produces them, or as
// `planes` tensors [B, T, D]; gradients always come back packed. Outputs are laid out in memory like the first plane: [B, T,
// D], or [T, B, D] transposed. What is checked here keeps memory safe; the Python layer checks first, and in the user's
// words. SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/scan.h>

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <tuple>
#include <vector>

namespace rnnkit {

using torch::stable::Tensor;

class ScanTensors {
 public:
  const int64_t planes, batch, steps, channels;
  const ScalarType dtype;

  ScanTensors(const std::vector<Tensor>& in, int64_t count, const std::optional<Tensor>& lengths,
              const std::optional<Tensor>& reset)
      : planes(count),
        batch(checked(in, count).size(0)),
        steps(in[0].size(1)),
        channels(in.size() == 1 ? in[0].size(2) / count : in[0].size(2)),
        dtype(in[0].scalar_type()),
        time_major_(in[0].stride(0) < in[0].stride(1)),
        lengths_(lengths),
        reset_(reset) {
    for (const Tensor& plane : in) planes_.push_back(rows(plane, in[0].size(2), "planes"));
    if (lengths) check(*lengths, ScalarType::Long, {batch}, "lengths");
    if (reset) check(*reset, ScalarType::Bool, {batch, steps}, "reset");
  }

  // A [B, T, width] tensor of the planes' dtype with unit stride along its last dimension.
  Tensor rows(const Tensor& t, int64_t width, const char* name) const {
    STD_TORCH_CHECK(t.dim() == 3 && t.size(0) == batch && t.size(1) == steps && t.size(2) == width, name,
                    ": expected shape (", batch, ", ", steps, ", ", width, ")");
    STD_TORCH_CHECK(t.scalar_type() == dtype && same_device(t), name, ": dtype or device differs from the planes'");
    return t.stride(2) == 1 || t.size(2) == 1 ? t : torch::stable::contiguous(t);
  }

  // A contiguous tensor of a fixed shape.
  void check(const Tensor& t, ScalarType expected, std::vector<int64_t> shape, const char* name) const {
    bool fits = t.dim() == int64_t(shape.size()) && t.scalar_type() == expected && t.is_contiguous() && same_device(t);
    for (size_t i = 0; fits && i < shape.size(); ++i) fits = t.size(i) == shape[i];
    STD_TORCH_CHECK(fits, name, ": not a contiguous tensor of the expected shape, dtype and device");
  }

  Tensor empty_rows(int64_t width) const {  // uninitialised [B, T, width]
    if (!time_major_) return torch::stable::new_empty(planes_[0], {batch, steps, width});
    return torch::stable::transpose(torch::stable::new_empty(planes_[0], {steps, batch, width}), 0, 1);
  }

  Tensor empty_state() const {  // uninitialised [B, D]
    return torch::stable::new_empty(planes_[0], {batch, channels}, accumulate_type(dtype));
  }

  // [B, ceil(T / kCarry) * D]: flat, because a dimension of 1 for short sequences would make tracers treat them apart.
  int64_t carries_size() const { return next_carry(steps) / kCarry * channels; }

  template <class scalar_t, class Kind>
  void fill(ScanProblem<scalar_t, Kind>& p, double initial, bool reverse, const typename Kind::Options& options) const {
    p.options = options;
    p.batch = batch;
    p.steps = steps;
    p.channels = channels;
    p.lengths = lengths_ ? lengths_->const_data_ptr<int64_t>() : nullptr;
    p.reset = reset_ ? reset_->const_data_ptr<bool>() : nullptr;
    p.initial = static_cast<acc_t<scalar_t>>(initial);
    p.reverse = reverse;
    for (int j = 0; j < Kind::kPlanes; ++j) {
      const Tensor& t = planes_.size() == 1 ? planes_[0] : planes_[j];
      p.in[j] = strided<const scalar_t>(t, planes_.size() == 1 ? j * channels : 0);
    }
  }

  template <class T>
  static Rows<T> strided(const Tensor& t, int64_t offset = 0) {
    return {static_cast<T*>(t.data_ptr()) + offset, t.stride(0), t.stride(1)};
  }

  torch::stable::Device device() const { return planes_[0].device(); }

 private:
  static const Tensor& checked(const std::vector<Tensor>& in, int64_t count) {
    STD_TORCH_CHECK(in.size() == 1 || int64_t(in.size()) == count, "planes: expected 1 or ", count, " tensors");
    STD_TORCH_CHECK(in[0].dim() == 3, "planes: expected tensors of 3 dimensions");
    STD_TORCH_CHECK(in.size() > 1 || in[0].size(2) % count == 0, "planes: last dimension is not divisible");
    return in[0];
  }

  bool same_device(const Tensor& t) const {
    const auto mine = planes_.empty() ? t.device() : planes_[0].device();
    return t.device().type() == mine.type() && t.device().index() == mine.index();
  }

  const bool time_major_;
  const std::optional<Tensor> lengths_, reset_;
  std::vector<Tensor> planes_;
};

// The two ops that a family makes of these: dispatch(dtype, f) calls f(TypeTag<scalar_t>, Kind); Engine::run(problem,
// device) is the backend's.
template <class Engine, class Dispatch, class Options>
std::tuple<Tensor, Tensor, Tensor> scan_forward_op(const ScanTensors& t, const std::optional<Tensor>& h0, double initial,
                                                   bool reverse, bool save, const Options& options, Dispatch dispatch) {
  if (h0) t.check(*h0, accumulate_type(t.dtype), {t.batch, t.channels}, "h0");
  Tensor out = t.empty_rows(t.channels), h_last = t.empty_state();
  Tensor carries = torch::stable::new_empty(h_last, {t.batch, save ? t.carries_size() : 0});
  dispatch(t.dtype, [&](auto tag, auto kind) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    ScanForward<scalar_t, decltype(kind)> p;
    t.fill(p, initial, reverse, options);
    p.h0 = h0 ? h0->template const_data_ptr<acc>() : nullptr;
    p.out = ScanTensors::strided<scalar_t>(out);
    p.h_last = h_last.template mutable_data_ptr<acc>();
    p.carries = save ? carries.template mutable_data_ptr<acc>() : nullptr;
    Engine::run(p, t.device());
  });
  return {out, h_last, carries};
}

template <class Engine, class Dispatch, class Options>
std::tuple<Tensor, Tensor> scan_backward_op(const ScanTensors& t, const Tensor& grad_out,
                                            const std::optional<Tensor>& grad_h_last, const Tensor& carries, double initial,
                                            bool reverse, const Options& options, Dispatch dispatch) {
  const ScalarType acc_dtype = accumulate_type(t.dtype);
  const Tensor grad_rows = t.rows(grad_out, t.channels, "grad_out");
  if (grad_h_last) t.check(*grad_h_last, acc_dtype, {t.batch, t.channels}, "grad_h_last");
  t.check(carries, acc_dtype, {t.batch, t.carries_size()}, "carries");
  Tensor grad_planes = t.empty_rows(t.planes * t.channels), grad_h0 = t.empty_state();
  dispatch(t.dtype, [&](auto tag, auto kind) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    ScanBackward<scalar_t, decltype(kind)> p;
    t.fill(p, initial, reverse, options);
    p.carries = carries.template const_data_ptr<acc>();
    p.grad_out = ScanTensors::strided<const scalar_t>(grad_rows);
    p.grad_h_last = grad_h_last ? grad_h_last->template const_data_ptr<acc>() : nullptr;
    for (int64_t j = 0; j < t.planes; ++j) p.grad_in[j] = ScanTensors::strided<scalar_t>(grad_planes, j * t.channels);
    p.grad_h0 = grad_h0.template mutable_data_ptr<acc>();
    Engine::run(p, t.device());
  });
  return {grad_planes, grad_h0};
}

}  // namespace rnnkit
