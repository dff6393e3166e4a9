// Registration of a family's ops under the namespace that the build helper passes as RNNKIT_NAMESPACE. RNNKIT_LIBRARY, used
// once, also makes the library a Python module, `_C`, which is empty: importing it loads the ops. A CUDA source that is
// compiled for emulation registers for the CPU instead, so that the very same tests can call it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#ifndef RNNKIT_TEST_LIBRARY
#include <Python.h>
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

#ifdef RNNKIT_TEST_LIBRARY  // loaded with torch.ops.load_library
#define RNNKIT_MODULE_
#else
#define RNNKIT_MODULE_                                                                          \
  PyMODINIT_FUNC PyInit__C() {                                                                  \
    static struct PyModuleDef module = {                                                        \
        PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr}; \
    return PyModule_Create(&module);                                                            \
  }
#endif
