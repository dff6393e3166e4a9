// Registration of a family's ops under the namespace that the build helper passes as RNNKIT_NAMESPACE. RNNKIT_LIBRARY, used
// once, also makes the library a Python module, `_C`: importing it loads the ops; and RNNKIT_METHOD makes an op a method of
// it (direct.h). A CUDA source that is compiled for emulation registers for the CPU instead, so that the very same tests
// can call it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#ifndef RNNKIT_TEST_LIBRARY
#include <rnnkit/direct.h>
#endif
#include <torch/csrc/stable/library.h>

#ifndef RNNKIT_NAMESPACE
#error "RNNKIT_NAMESPACE is set by rnnkit_common.build"
#endif

// FRAGMENT: a second definition of the same namespace in one process warns, where LIBRARY would end the process.
#define RNNKIT_LIBRARY(m) \
  RNNKIT_MODULE_          \
  RNNKIT_EXPAND_(STABLE_TORCH_LIBRARY_FRAGMENT, (RNNKIT_NAMESPACE, m))
#define RNNKIT_LIBRARY_IMPL(key, m) RNNKIT_EXPAND_(STABLE_TORCH_LIBRARY_IMPL, (RNNKIT_NAMESPACE, key, m))
#define RNNKIT_EXPAND_(macro, arguments) macro arguments

#ifdef RNNKIT_EMULATE_CUDA
#define RNNKIT_CUDA_KEY CPU
#else
#define RNNKIT_CUDA_KEY CUDA
#endif

// Those of a family whose ScanOps are `Ops`, as implement_scan and implement_layer have them.
#define RNNKIT_SCAN_METHODS(Ops)    \
  RNNKIT_METHOD("scan", &Ops::scan) \
  RNNKIT_METHOD("scan_backward", &Ops::scan_backward)
#define RNNKIT_LAYER_METHODS(Ops)                       \
  RNNKIT_METHOD("layer", &Ops::shaped_layer)            \
  RNNKIT_METHOD("layer_backward", &Ops::layer_backward) \
  RNNKIT_METHOD("step", &Ops::step)                     \
  RNNKIT_METHOD("stack_step", &Ops::stack_step)

#ifdef RNNKIT_TEST_LIBRARY  // loaded with torch.ops.load_library
#define RNNKIT_MODULE_
#define RNNKIT_METHOD(name, ...)
#else
#define RNNKIT_METHOD(name, ...) \
  static const bool C10_CONCATENATE(rnnkit_method_, __COUNTER__) = ::rnnkit::direct::add_method<__VA_ARGS__>(name);
#define RNNKIT_MODULE_                                                                                          \
  PyMODINIT_FUNC PyInit__C() {                                                                                  \
    ::rnnkit::direct::Torch::get(); /* now, when no other thread may wait for it with the interpreter's lock */ \
    static std::vector<PyMethodDef> methods = ::rnnkit::direct::methods();                                      \
    methods.push_back({nullptr, nullptr, 0, nullptr});                                                          \
    static struct PyModuleDef module = {                                                                        \
        PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods.data(), nullptr, nullptr, nullptr, nullptr};          \
    return PyModule_Create(&module);                                                                            \
  }
#endif
