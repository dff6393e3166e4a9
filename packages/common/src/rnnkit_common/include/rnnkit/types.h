// Element types: what a tensor stores, what a kernel computes in, and the way from a run-time dtype to a C++ type.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#ifdef __CUDACC__
#define RNNKIT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define RNNKIT_HOST_DEVICE inline
#endif

namespace rnnkit {

using BFloat16 = torch::headeronly::BFloat16;
using Half = torch::headeronly::Half;
using ScalarType = torch::headeronly::ScalarType;

// The type of states and sums: float, or double where the tensors are double.
template <class scalar_t>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <class scalar_t>
using acc_t = typename Accumulate<scalar_t>::type;

inline ScalarType accumulate_type(ScalarType dtype) { return dtype == ScalarType::Double ? dtype : ScalarType::Float; }

inline int64_t bytes_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Double:
    case ScalarType::Long: return 8;
    case ScalarType::Float:
    case ScalarType::Int: return 4;
    case ScalarType::Half:
    case ScalarType::BFloat16: return 2;
    case ScalarType::Bool: return 1;
    default: STD_TORCH_CHECK(false, "dtype must be float64, float32, float16, bfloat16, int64, int32 or bool");
  }
}

template <class T>
struct TypeTag {
  using type = T;
};

// Calls f(TypeTag<scalar_t>{}) for the C++ type of a floating dtype.
template <class F>
auto dispatch_floating(ScalarType dtype, F&& f) {
  switch (dtype) {
    case ScalarType::Double: return f(TypeTag<double>{});
    case ScalarType::Float: return f(TypeTag<float>{});
    case ScalarType::Half: return f(TypeTag<Half>{});
    case ScalarType::BFloat16: return f(TypeTag<BFloat16>{});
    default: STD_TORCH_CHECK(false, "dtype must be float64, float32, float16 or bfloat16");
  }
}

// The same for the types of states and sums, float and double.
template <class F>
void dispatch_wide(ScalarType dtype, F&& f) {
  if (dtype == ScalarType::Double) return f(TypeTag<double>{});
  STD_TORCH_CHECK(dtype == ScalarType::Float, "dtype must be float64 or float32");
  f(TypeTag<float>{});
}

}  // namespace rnnkit
