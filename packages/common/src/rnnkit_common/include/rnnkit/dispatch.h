// From what a caller chooses at run time, strings and dtypes, to types.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/types.h>
#include <torch/headeronly/util/Exception.h>

#include <string>
#include <string_view>
#include <type_traits>

namespace rnnkit {

// The value of an enum that `text` names, among the names of its values, in their order; `option` is what the error calls
// it.
template <class Enum, size_t count>
Enum parse(const char* option, const std::string& text, const std::string_view (&names)[count]) {
  for (size_t i = 0; i < count; ++i)
    if (names[i] == text) return static_cast<Enum>(i);
  std::string accepted;
  for (size_t i = 0; i < count; ++i)
    accepted += (i == 0 ? "'" : i + 1 < count ? ", '" : " or '") + std::string(names[i]) + "'";
  STD_TORCH_CHECK(false, option, ": expected ", accepted, ", got '", text, "'");
}

// A value, one of those that are listed.
template <auto... values>
struct OneOf {
  std::common_type_t<decltype(values)...> value;
};

namespace detail {

template <class F>
bool choose(F&& f) {
  f();
  return true;
}

template <class F, auto... values, class... Others>
bool choose(F&& f, OneOf<values...> choice, Others... others) {
  const auto with = [&](auto constant) { return choose([&](auto... chosen) { f(constant, chosen...); }, others...); };
  return ((choice.value == values && with(std::integral_constant<decltype(values), values>())) || ...);
}

}  // namespace detail

// Calls f(TypeTag<scalar_t>, constant...) with the C++ type of a floating dtype, and each choice as an integral_constant:
//
//   dispatch(dtype, [&](auto tag, auto gates) { run<typename decltype(tag)::type, decltype(gates)::value>(); },
//            OneOf<1, 2>{gates});
template <class F, class... Choices>
void dispatch(ScalarType dtype, F&& f, Choices... choices) {
  dispatch_floating(dtype, [&](auto tag) {
    const bool is_listed = detail::choose([&](auto... chosen) { f(tag, chosen...); }, choices...);
    STD_TORCH_CHECK(is_listed, "dispatch: a choice is not one of those that are compiled");
  });
}

}  // namespace rnnkit
