// From the tensors of a scan op to the ScanForward and ScanBackward that the engines run, and back. A plane is a part of a
// tensor [B, T, planes * D]: by default either one tensor has them all side by side, as a single nn.Linear produces them, or
// each has its own. Gradients come back as one tensor for each that holds planes. Outputs are laid out in memory like the
// first of these: [B, T, D], or [T, B, D] transposed. What is checked here keeps memory safe; the Python layer checks first,
// and in the user's words.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/scan.h>
#include <rnnkit/tensors.h>

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <tuple>
#include <vector>

namespace rnnkit {

// An op, so that Python need not know the number a second time.
inline int64_t steps_per_carry() { return kCarry; }

// The states [B, D] of the i-th of a stack of layers, contiguous [L, B, D] or [L, B, 1, D].
inline Tensor states_of(const Tensor& stack, int64_t i) {
  const int64_t batch = stack.size(1), channels = stack.size(-1);
  return view_strided(stack, {batch, channels}, {channels, 1}, i * batch * channels);
}

struct PlaceOfPlane {
  size_t tensor;
  int64_t offset;  // of its first channel, in elements
};

class ScanTensors {
 public:
  const int64_t batch, steps, channels;
  const ScalarType dtype;

  // `count` planes in one tensor or in as many.
  ScanTensors(const std::vector<Tensor>& in, int64_t count, const std::optional<Tensor>& lengths)
      : ScanTensors(in, in.size() == 1 ? checked(in, count).size(2) / count : checked(in, count).size(2),
                    default_places(in, count), lengths) {}

  ScanTensors(const std::vector<Tensor>& in, int64_t channels, std::vector<PlaceOfPlane> places,
              const std::optional<Tensor>& lengths)
      : batch(in[0].size(0)),
        steps(in[0].size(1)),
        channels(channels),
        dtype(in[0].scalar_type()),
        time_major_(in[0].stride(0) < in[0].stride(1)),
        lengths_(lengths),
        places_(std::move(places)) {
    for (size_t i = 0; i < in.size(); ++i) {
      int64_t width = 0;  // the planes in this tensor tell how wide it must be
      for (const PlaceOfPlane& place : places_) width += place.tensor == i ? channels : 0;
      tensors_.push_back(rows(in[i], width, "planes"));
    }
    if (lengths) check(*lengths, ScalarType::Long, {batch}, "lengths");
  }

  // A [B, T, width] tensor of the planes' dtype with unit stride along its last dimension.
  Tensor rows(const Tensor& t, int64_t width, const char* name) const {
    STD_TORCH_CHECK(has_shape(t, {batch, steps, width}), name, ": expected shape (", batch, ", ", steps, ", ", width, ")");
    STD_TORCH_CHECK(t.scalar_type() == dtype && (tensors_.empty() || same_device(t, tensors_[0])), name,
                    ": dtype or device differs from the planes'");
    return t.stride(2) == 1 || t.size(2) == 1 ? t : torch::stable::contiguous(t);
  }

  // A contiguous tensor of a fixed shape.
  void check(const Tensor& t, ScalarType expected, std::vector<int64_t> shape, const char* name) const {
    check_contiguous(t, tensors_[0], expected, shape, name);
  }

  Tensor empty_rows(int64_t width) const {  // uninitialised [B, T, width]
    if (!time_major_) return empty(tensors_[0], {batch, steps, width});
    return empty_strided(tensors_[0], {batch, steps, width}, {width, batch * width, 1}, dtype);
  }

  Tensor empty_state() const {  // uninitialised [B, D]
    return empty(tensors_[0], {batch, channels}, accumulate_type(dtype));
  }

  std::vector<Tensor> empty_gradients() const {  // of the tensors that hold the planes, uninitialised
    std::vector<Tensor> gradients;
    for (const Tensor& t : tensors_) gradients.push_back(empty_rows(t.size(2)));
    return gradients;
  }

  // [B, ceil(T / kCarry) * D]: flat, because a dimension of 1 for short sequences would make tracers treat them apart.
  int64_t carries_size() const { return next_carry(steps) / kCarry * channels; }

  // A problem without resets and padding, in one direction.
  template <class scalar_t, class Kind>
  void fill(ScanProblem<scalar_t, Kind>& p, double initial, bool reverse, const typename Kind::Options& options) const {
    p.options = options;
    p.batch = batch;
    p.steps = steps;
    p.channels = channels;
    p.lengths = lengths_ ? lengths_->const_data_ptr<int64_t>() : nullptr;
    p.reset = p.pad = nullptr;
    p.initial = static_cast<acc_t<scalar_t>>(initial);
    p.reverse_from = reverse ? 0 : channels;
    fill_planes(p.in, tensors_);
  }

  // Where each plane lies in `tensors`, which are laid out like those of the planes.
  template <class T, int planes>
  void fill_planes(Rows<T> (&rows)[planes], const std::vector<Tensor>& tensors) const {
    for (int j = 0; j < planes; ++j) rows[j] = strided<T>(tensors[places_[j].tensor], places_[j].offset);
  }

  template <class T>
  static Rows<T> strided(const Tensor& t, int64_t offset = 0) {
    return {static_cast<T*>(t.data_ptr()) + offset, t.stride(0), t.stride(1)};
  }

  torch::stable::Device device() const { return tensors_[0].device(); }

 private:
  static const Tensor& checked(const std::vector<Tensor>& in, int64_t count) {
    STD_TORCH_CHECK(in.size() == 1 || int64_t(in.size()) == count, "planes: expected 1 or ", count, " tensors");
    STD_TORCH_CHECK(in[0].dim() == 3, "planes: expected tensors of 3 dimensions");
    STD_TORCH_CHECK(in.size() > 1 || in[0].size(2) % count == 0, "planes: last dimension is not divisible");
    return in[0];
  }

  static std::vector<PlaceOfPlane> default_places(const std::vector<Tensor>& in, int64_t count) {
    const int64_t width = checked(in, count).size(2);
    std::vector<PlaceOfPlane> places;
    for (int64_t j = 0; j < count; ++j) {
      if (in.size() == 1)
        places.push_back({0, j * width / count});
      else
        places.push_back({size_t(j), 0});
    }
    return places;
  }

  const bool time_major_;
  const std::optional<Tensor> lengths_;
  const std::vector<PlaceOfPlane> places_;
  std::vector<Tensor> tensors_;
};

// The two ops that a family makes of these: dispatch(dtype, f) calls f(TypeTag<scalar_t>, Kind); fill(p) fills the
// problem; Engine::run(problem, device) is the backend's. The last state is written to `into`, if given.
template <class Engine, class Dispatch, class Fill>
std::tuple<Tensor, Tensor, Tensor> scan_forward_op(const ScanTensors& t, const std::optional<Tensor>& h0, bool save,
                                                   Dispatch dispatch, Fill fill,
                                                   const std::optional<Tensor>& into = std::nullopt) {
  if (h0) t.check(*h0, accumulate_type(t.dtype), {t.batch, t.channels}, "h0");
  if (into) t.check(*into, accumulate_type(t.dtype), {t.batch, t.channels}, "h_last");
  Tensor out = t.empty_rows(t.channels), h_last = into ? *into : t.empty_state();
  Tensor carries = empty(h_last, {t.batch, save ? t.carries_size() : 0});
  dispatch(t.dtype, [&](auto tag, auto kind) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    ScanForward<scalar_t, decltype(kind)> p;
    fill(p);
    p.h0 = h0 ? h0->template const_data_ptr<acc>() : nullptr;
    p.out = ScanTensors::strided<scalar_t>(out);
    p.h_last = h_last.template mutable_data_ptr<acc>();
    p.carries = save ? carries.template mutable_data_ptr<acc>() : nullptr;
    Engine::run(p, t.device());
  });
  return {out, h_last, carries};
}

struct ScanGradients {
  std::vector<Tensor> planes;  // of the tensors that hold them
  Tensor h0, sums;             // [B, D]; [kStateSums + kOutputSums, B, D], undefined if there are none

  // What the ops return: a list in a tuple is more than torch's inductor can take.
  std::vector<Tensor> in_one_list() && {
    planes.push_back(h0);
    return std::move(planes);
  }
};

template <class Engine, class Dispatch, class Fill>
ScanGradients scan_backward_op(const ScanTensors& t, const Tensor& grad_out, const std::optional<Tensor>& grad_h_last,
                               const Tensor& carries, Dispatch dispatch, Fill fill) {
  const ScalarType acc_dtype = accumulate_type(t.dtype);
  const Tensor grad_rows = t.rows(grad_out, t.channels, "grad_out");
  if (grad_h_last) t.check(*grad_h_last, acc_dtype, {t.batch, t.channels}, "grad_h_last");
  t.check(carries, acc_dtype, {t.batch, t.carries_size()}, "carries");
  ScanGradients grads{t.empty_gradients(), t.empty_state(), {}};
  dispatch(t.dtype, [&](auto tag, auto kind) {
    using scalar_t = typename decltype(tag)::type;
    using acc = acc_t<scalar_t>;
    ScanBackward<scalar_t, decltype(kind)> p;
    fill(p);
    constexpr int sums = kind.kStateSums + kind.kOutputSums;
    if (sums > 0) grads.sums = empty(grads.h0, {sums, t.batch, t.channels});
    p.carries = carries.template const_data_ptr<acc>();
    p.grad_out = ScanTensors::strided<const scalar_t>(grad_rows);
    p.grad_h_last = grad_h_last ? grad_h_last->template const_data_ptr<acc>() : nullptr;
    t.fill_planes(p.grad_in, grads.planes);
    p.grad_h0 = grads.h0.template mutable_data_ptr<acc>();
    p.sums = sums > 0 ? grads.sums.template mutable_data_ptr<acc>() : nullptr;
    Engine::run(p, t.device());
  });
  return grads;
}

}  // namespace rnnkit
