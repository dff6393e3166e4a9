// The vector mathematics as ops, for test_math.py.
#include <rnnkit/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <string>

#define RNNKIT_KERNELS "math_kernels.h"
#include <rnnkit/cpu/foreach_target.h>

namespace {

using torch::stable::Tensor;

Tensor apply(const Tensor x, std::string name) {
  Tensor y = torch::stable::empty_like(x);
  if (x.scalar_type() == rnnkit::ScalarType::Double)
    RNNKIT_CALL_TARGET((x.const_data_ptr<double>(), y.mutable_data_ptr<double>(), x.numel(), name), apply<double>);
  else
    RNNKIT_CALL_TARGET((x.const_data_ptr<float>(), y.mutable_data_ptr<float>(), x.numel(), name), apply<float>);
  return y;
}

Tensor convert(const Tensor x, bool half) {
  const auto type = half ? rnnkit::ScalarType::Half : rnnkit::ScalarType::BFloat16;
  Tensor y = torch::stable::new_empty(x, x.sizes(), type);
  const float* from = x.const_data_ptr<float>();
  if (half)
    RNNKIT_CALL_TARGET((from, static_cast<rnnkit::Half*>(y.data_ptr()), x.numel()), convert<rnnkit::Half>);
  else
    RNNKIT_CALL_TARGET((from, static_cast<rnnkit::BFloat16*>(y.data_ptr()), x.numel()), convert<rnnkit::BFloat16>);
  return y;
}

}  // namespace

RNNKIT_LIBRARY(m) {
  m.def("apply(Tensor x, str name) -> Tensor");
  m.def("convert(Tensor x, bool half) -> Tensor");
}

RNNKIT_LIBRARY_IMPL(CPU, m) {
  m.impl("apply", TORCH_BOX(&apply));
  m.impl("convert", TORCH_BOX(&convert));
}
