// Of DLPack (https://dmlc.github.io/dlpack), version 1.3, what reading a tensor takes: its binary interface is fixed, and
// torch's copy of its header is not for extensions that keep to torch's stable interface.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace rnnkit::dlpack {

constexpr uint32_t kMajorVersion = 1;
constexpr int32_t kCpu = 1;                                  // a device
constexpr int kInt = 0, kFloat = 2, kBfloat = 4, kBool = 6;  // codes of types

struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};

struct Tensor {
  void* data;
  int32_t device, device_index;
  int32_t dim;
  DataType dtype;
  int64_t *sizes, *strides;  // strides: in elements
  uint64_t byte_offset;
};

// What the attribute __dlpack_c_exchange_api__ of a tensor's type holds, a capsule of this name.
constexpr const char* kCapsule = "dlpack_exchange_api";
struct ExchangeApi {
  uint32_t major, minor;
  const void* previous;
  const void *allocate, *export_to_managed, *import_from_managed;  // not used here
  int (*read)(void* py_object, Tensor* description);  // 0, or a Python exception is set; the object keeps the memory
  const void* current_stream;
};

}  // namespace rnnkit::dlpack
