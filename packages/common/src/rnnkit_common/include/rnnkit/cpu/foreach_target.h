// Compiles one file of kernels several times, once per instruction set, and chooses among the results at run time:
//
//   #define RNNKIT_KERNELS "cpu/kernels.h"         // code inside `namespace rnnkit::RNNKIT_TARGET`
//   #include <rnnkit/cpu/foreach_target.h>
//   ...
//   RNNKIT_CALL_TARGET((params), forward<float>);  // avx512::, avx2:: or baseline::forward<float>(params)
//
// A wheel built on any machine is so fast on every machine, without per-file compiler flags. The kernels, and the headers
// for targets that they include, are read once per instruction set, of which target.h tells.
// RNNKIT_ONLY_TARGET compiles them once, for one instruction set: a third of the time, for rounds of edit and test.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/target.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/Exception.h>

#undef RNNKIT_TARGET
#undef RNNKIT_VECTOR_BYTES
#undef RNNKIT_F16C

#define RNNKIT_PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define RNNKIT_TARGET_BEGIN(isa) RNNKIT_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define RNNKIT_TARGET_END RNNKIT_PRAGMA(clang attribute pop)
#else
#define RNNKIT_TARGET_BEGIN(isa) RNNKIT_PRAGMA(GCC push_options) RNNKIT_PRAGMA(GCC target(isa))
#define RNNKIT_TARGET_END RNNKIT_PRAGMA(GCC pop_options)
#endif

#define RNNKIT_BASELINE 0
#define RNNKIT_AVX2 1
#define RNNKIT_AVX512 2
#define RNNKIT_WITH_BF16 3  // the same kernels, which may ask whether there are products of bfloat16, too
#ifdef RNNKIT_ONLY_TARGET
#define RNNKIT_COMPILES(target) (RNNKIT_ONLY_TARGET == target)
#else
#define RNNKIT_COMPILES(target) (RNNKIT_X86 || target == RNNKIT_BASELINE)
#endif

namespace rnnkit {

enum class CpuTarget {
  baseline = RNNKIT_BASELINE,
  avx2 = RNNKIT_AVX2,
  avx512 = RNNKIT_AVX512,
  avx512_bf16 = RNNKIT_WITH_BF16
};

inline bool compiled(CpuTarget target) {
  return target >= CpuTarget::avx512 ? RNNKIT_COMPILES(RNNKIT_AVX512)
         : target == CpuTarget::avx2 ? RNNKIT_COMPILES(RNNKIT_AVX2)
                                     : RNNKIT_COMPILES(RNNKIT_BASELINE);
}

inline CpuTarget best_cpu_target() {
#if RNNKIT_X86
  [[maybe_unused]] const bool bf16 = __builtin_cpu_supports("avx512bf16");
#else
  [[maybe_unused]] constexpr bool bf16 = false;
#endif
#ifdef RNNKIT_ONLY_TARGET
  return RNNKIT_ONLY_TARGET == RNNKIT_AVX512 && bf16 ? CpuTarget::avx512_bf16 : static_cast<CpuTarget>(RNNKIT_ONLY_TARGET);
#elif RNNKIT_X86
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return bf16 ? CpuTarget::avx512_bf16 : CpuTarget::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return CpuTarget::avx2;  // these have F16C too
#endif
  return CpuTarget::baseline;
}

// The best this machine has, or what the environment variable RNNKIT_CPU_TARGET asks for.
inline CpuTarget cpu_target() {
  static const CpuTarget best = best_cpu_target();
  const char* wanted = std::getenv("RNNKIT_CPU_TARGET");
  if (wanted == nullptr) return best;
  const std::string_view name(wanted);
  constexpr std::string_view kNames[] = {"baseline", "avx2", "avx512", "avx512_bf16"};
  const auto* const found = std::find(std::begin(kNames), std::end(kNames), name);
  STD_TORCH_CHECK(found != std::end(kNames), "RNNKIT_CPU_TARGET is '", wanted,
                  "'; it may be avx512_bf16, avx512, avx2 or baseline");
  const auto target = static_cast<CpuTarget>(found - std::begin(kNames));
  STD_TORCH_CHECK(target <= best, "RNNKIT_CPU_TARGET is '", wanted, "', which this CPU does not have");
  STD_TORCH_CHECK(compiled(target), "RNNKIT_CPU_TARGET is '", wanted, "', for which this library was not compiled");
  return target;
}

}  // namespace rnnkit

#if RNNKIT_COMPILES(RNNKIT_AVX512)
#define RNNKIT_TARGET avx512
#define RNNKIT_VECTOR_BYTES 64
#define RNNKIT_F16C 1
RNNKIT_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#include RNNKIT_KERNELS
RNNKIT_TARGET_END
#undef RNNKIT_TARGET
#undef RNNKIT_VECTOR_BYTES
#undef RNNKIT_F16C
#include <rnnkit/cpu/toggle_target.h>
#define RNNKIT_CALL_AVX512(arguments, ...) \
  if (rnnkit_wanted >= ::rnnkit::CpuTarget::avx512) return ::rnnkit::avx512::__VA_ARGS__ arguments;
#ifdef RNNKIT_AVX512_BF16
#define RNNKIT_NAME_OF_AVX512 "avx512_bf16 avx512 "
#else
#define RNNKIT_NAME_OF_AVX512 "avx512 "
#endif
#else
#define RNNKIT_CALL_AVX512(arguments, ...)
#define RNNKIT_NAME_OF_AVX512
#endif

#if RNNKIT_COMPILES(RNNKIT_AVX2)
#define RNNKIT_TARGET avx2
#define RNNKIT_VECTOR_BYTES 32
#define RNNKIT_F16C 1
RNNKIT_TARGET_BEGIN("avx2,fma,f16c")
#include RNNKIT_KERNELS
RNNKIT_TARGET_END
#undef RNNKIT_TARGET
#undef RNNKIT_VECTOR_BYTES
#undef RNNKIT_F16C
#include <rnnkit/cpu/toggle_target.h>
#define RNNKIT_CALL_AVX2(arguments, ...) \
  if (rnnkit_wanted == ::rnnkit::CpuTarget::avx2) return ::rnnkit::avx2::__VA_ARGS__ arguments;
#define RNNKIT_NAME_OF_AVX2 "avx2 "
#else
#define RNNKIT_CALL_AVX2(arguments, ...)
#define RNNKIT_NAME_OF_AVX2
#endif

#if RNNKIT_COMPILES(RNNKIT_BASELINE)
#define RNNKIT_TARGET baseline
#define RNNKIT_VECTOR_BYTES 16
#define RNNKIT_F16C 0
#include RNNKIT_KERNELS
#undef RNNKIT_TARGET
#undef RNNKIT_VECTOR_BYTES
#undef RNNKIT_F16C
#include <rnnkit/cpu/toggle_target.h>
#define RNNKIT_CALL_BASELINE(arguments, ...) return ::rnnkit::baseline::__VA_ARGS__ arguments;
#define RNNKIT_NAME_OF_BASELINE "baseline "
#else
#define RNNKIT_CALL_BASELINE(arguments, ...)
#define RNNKIT_NAME_OF_BASELINE
#endif

#include <rnnkit/cpu/toggle_target.h>  // back: what the last target has read is not to be read again

// "avx512 avx2 baseline", as far as they are compiled: for the tests, which run them all; avx512_bf16 too, where the kernels
// are not the same with it (RNNKIT_AVX512_BF16).
extern "C" __attribute__((visibility("default"), used)) inline const char* rnnkit_cpu_targets() {
  return "" RNNKIT_NAME_OF_AVX512 RNNKIT_NAME_OF_AVX2 RNNKIT_NAME_OF_BASELINE;
}

#define RNNKIT_CALL_TARGET(arguments, ...)                              \
  [&] {                                                                 \
    [[maybe_unused]] const auto rnnkit_wanted = ::rnnkit::cpu_target(); \
    RNNKIT_CALL_AVX512(arguments, __VA_ARGS__)                          \
    RNNKIT_CALL_AVX2(arguments, __VA_ARGS__)                            \
    RNNKIT_CALL_BASELINE(arguments, __VA_ARGS__)                        \
  }()
