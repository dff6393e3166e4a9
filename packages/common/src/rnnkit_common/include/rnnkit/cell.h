// What cells are made with, and whether they are made well. Cells: see rnnkit/scan.h. M is Math<acc> on the CPU
// (cpu/math.h) and cuda::Math<scalar_t> on the GPU: a vector type V, whose scalars are M::Scalar, and its functions set,
// select, abs, negative_abs, reciprocal (of 1 to 4), exp, exp_nonpositive, expm1, log, log1p (of x >= 0), sqrt, sigmoid,
// tanh, sin and cos.
//
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_CELL_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_CELL_H
#undef RNNKIT_CELL_H
#else
#define RNNKIT_CELL_H
#endif

#include <rnnkit/scan.h>
#include <rnnkit/target.h>

namespace rnnkit::RNNKIT_TARGET {

template <class M, class Kind>
struct Cell;  // the family's

struct NoOwn {};

// Of a cell without anything of its channels' own.
struct CellDefaults {
  using Own = NoOwn;

  template <class Parameter>
  static RNNKIT_INLINE NoOwn own(const Coordinates&, const Parameter&) {
    return {};
  }
};

// The parameters of a problem, at some channels: parameter(k), for cells.
template <class M, class Problem>
struct ParametersAt {
  const Problem& p;
  int64_t d;
  int lanes;

  RNNKIT_INLINE typename M::V operator()(int k) const { return M::load(p.parameters[k] + d, lanes); }
};

template <class M, class Problem, class Cell>
RNNKIT_INLINE typename Cell::Own own_of(const Cell& cell, const Problem& p, const Coordinates& at) {
  return cell.own(at, ParametersAt<M, Problem>{p, at.d, at.lanes});
}

// One plain error where a cell lacks what its Kind promises, instead of a page of them in an engine.
template <class M, class Kind>
struct CheckedCell {
  using C = Cell<M, Kind>;
  using V = typename M::V;
  static constexpr int kPlanes = Kind::kPlanes, kOutputPlanes = Kind::kOutputPlanes;
  static constexpr int kFactors = kPlanes - kOutputPlanes + kParameterFactors<Kind>;

  static_assert(kPlanes > kOutputPlanes, "a Kind has kPlanes planes, and some of them act on the state");
  static_assert(kParameterFactors<Kind> >= 0, "a Kind has kParameters parameters: no fewer than the sums of both sorts");

  template <class T>
  static T& any();

  template <class T, class = void>
  struct HasOwn : std::false_type {};
  template <class T>
  struct HasOwn<T,
                std::void_t<decltype(typename T::Own(any<const T>().own(any<const Coordinates>(), (V (*)(int)) nullptr)))>>
      : std::true_type {};

  template <class T, class = void>
  struct HasGates : std::false_type {};
  template <class T>
  struct HasGates<T, std::void_t<decltype(any<const T>().gates(any<const Coordinates>(), any<const typename T::Own>(),
                                                               any<const V[kPlanes]>(), any<V>(), any<V>()))>>
      : std::true_type {};

  template <class T, class = void>
  struct HasStep : std::false_type {};
  template <class T>
  struct HasStep<T, std::void_t<decltype(V(any<const T>().step(any<const Coordinates>(), any<const typename T::Own>(),
                                                               any<const V[kPlanes]>(), any<const V>())))>>
      : std::true_type {};

  template <class T, class = void>
  struct HasGradients : std::false_type {};
  template <class T>
  struct HasGradients<T, std::void_t<decltype(any<const T>().gradients(
                             any<const Coordinates>(), any<const typename T::Own>(), any<const V[kPlanes]>(), any<const V>(),
                             any<V>(), any<V>(), any<V[kFactors]>()))>> : std::true_type {};

  template <class T, class = void>
  struct HasOutput : std::false_type {};
  template <class T>
  struct HasOutput<T, std::void_t<decltype(V(any<const T>().output(any<const typename T::Own>(), any<const V[kPlanes]>(),
                                                                   any<const V>(), any<const V>()))),
                                  decltype(V(any<const T>().output_gradients(
                                      any<const typename T::Own>(), any<const V[kPlanes]>(), any<const V>(), any<const V>(),
                                      any<const V>(), any<V[kOutputPlanes + (kOutputPlanes == 0)]>(), any<V>())))>>
      : std::true_type {};

  template <class T, class = void>
  struct AddsState : std::false_type {};
  template <class T>
  struct AddsState<T, std::void_t<decltype(T::add_state(any<V* const>(), any<const V>(), any<V* const>()))>>
      : std::true_type {};

  template <class T, class = void>
  struct AddsOutput : std::false_type {};
  template <class T>
  struct AddsOutput<T, std::void_t<decltype(T::add_output(any<V* const>(), any<const V>(), any<V* const>()))>>
      : std::true_type {};

  static_assert(std::is_constructible_v<C, const typename Kind::template Options<typename M::Scalar>&>,
                "a cell is made from the Options of its Kind, be they NoOptions");
  static_assert(HasOwn<C>::value, "a cell has Own, and own(at, parameter) that returns it; CellDefaults has both");
  static_assert(!Kind::kLinear || HasGates<C>::value, "gates(at, own, x, a, b), with x of kPlanes values");
  static_assert(Kind::kLinear || HasStep<C>::value, "step(at, own, x, h_prev), with x of kPlanes values, returns h");
  static_assert(HasGradients<C>::value,
                "gradients(at, own, x, h_prev, h, a, d), with d of as many values as there are planes of the state, and "
                "parameters with factors");
  static_assert(kOutputPlanes == 0 || HasOutput<C>::value,
                "output(own, x, h_prev, h), and output_gradients(own, x, h_prev, h, grad_out, d, to_h_prev) with d of "
                "kOutputPlanes values");
  static_assert((Kind::kStateSums > 0) == AddsState<C>::value, "add_state(grad, h_prev, sums), where kStateSums says so");
  static_assert((Kind::kOutputSums > 0) == AddsOutput<C>::value,
                "add_output(grad, h_prev, sums), where kOutputSums says so");

  using type = C;
};

}  // namespace rnnkit::RNNKIT_TARGET

#endif
