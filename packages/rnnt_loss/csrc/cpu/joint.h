// Between logits and the scores of the lattice, one row of classes after the other, which the first cache holds.
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_RNNT_LOSS_CPU_JOINT_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_RNNT_LOSS_CPU_JOINT_H
#undef RNNKIT_RNNT_LOSS_CPU_JOINT_H
#else
#define RNNKIT_RNNT_LOSS_CPU_JOINT_H
#endif

#include <rnnkit/cpu/math.h>
#include <torch/csrc/stable/ops.h>

#include "../problem.h"

namespace rnnkit::RNNKIT_TARGET {

// m and sum e^(x - m), over values that come a vector at a time.
template <class acc>
struct LogSum {
  using M = Math<acc>;
  acc most = -std::numeric_limits<acc>::infinity(), sum = 0;

  // value(i, n): lanes i to i + n - 1 of the row
  template <class F>
  static RNNKIT_INLINE LogSum over(int64_t count, F value) {
    using V = typename M::V;
    constexpr int64_t kLanes = M::kLanes, kUnroll = 4;
    const acc none = -std::numeric_limits<acc>::infinity();
    const auto padded = [&](int64_t i) {
      V x = value(i, int(count - i));
      for (int64_t lane = count - i; lane < kLanes; ++lane) x[lane] = none;
      return x;
    };
    V most[kUnroll], sum[kUnroll];
    for (int u = 0; u < kUnroll; ++u) most[u] = M::set(none), sum[u] = M::set(0);
    int64_t i = 0;
    for (; i + kUnroll * kLanes <= count; i += kUnroll * kLanes) {
      for (int u = 0; u < kUnroll; ++u) {
        const V x = value(i + u * kLanes, kLanes);
        most[u] = M::select(x > most[u], x, most[u]);
      }
    }
    for (; i < count; i += kLanes) {
      const V x = i + kLanes <= count ? value(i, kLanes) : padded(i);
      most[0] = M::select(x > most[0], x, most[0]);
    }
    for (int u = 1; u < kUnroll; ++u) most[0] = M::select(most[u] > most[0], most[u], most[0]);
    LogSum result;
    for (int lane = 0; lane < kLanes; ++lane) result.most = std::max<acc>(result.most, most[0][lane]);
    if (result.most == none) return result;
    const V shift = M::set(result.most);
    for (i = 0; i + kUnroll * kLanes <= count; i += kUnroll * kLanes)
      for (int u = 0; u < kUnroll; ++u) sum[u] += M::exp_nonpositive(value(i + u * kLanes, kLanes) - shift);
    for (; i < count; i += kLanes)
      sum[0] += M::exp_nonpositive((i + kLanes <= count ? value(i, kLanes) : padded(i)) - shift);
    for (int u = 1; u < kUnroll; ++u) sum[0] += sum[u];
    for (int lane = 0; lane < kLanes; ++lane) result.sum += sum[0][lane];
    return result;
  }

  LogSum with(const LogSum& other) const {
    if (other.sum == 0) return *this;
    if (sum == 0) return other;
    const acc m = std::max(most, other.most);
    return {m, sum * std::exp(most - m) + other.sum * std::exp(other.most - m)};
  }

  acc value() const { return most + std::log(sum); }
};

template <class scalar_t>
LogSum<acc_t<scalar_t>> log_sum(const scalar_t* z, int64_t count) {
  using M = Math<acc_t<scalar_t>>;
  return LogSum<acc_t<scalar_t>>::over(count,
                                       [z](int64_t i, int n) __attribute__((always_inline)) { return M::load(z + i, n); });
}

template <class acc>
acc softplus(acc x) {
  return std::max<acc>(x, 0) + std::log1p(std::exp(-std::abs(x)));
}

// Calls f(b, t, bounds) for each frame of the chunk.
template <class Problem, class F>
void for_frames(const Problem& p, F f) {
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, p.rows * p.classes));
  torch::stable::parallel_for(0, p.count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = p.first + begin; i < p.first + end; ++i) f(i / p.frames, i % p.frames, p.bounds(i / p.frames));
  });
}

template <class scalar_t>
acc_t<scalar_t> mean(const scalar_t* z, int64_t count) {
  using M = Math<acc_t<scalar_t>>;
  auto sum = M::set(0);
  int64_t i = 0;
  for (; i + M::kLanes <= count; i += M::kLanes) sum += M::load(z + i);
  acc_t<scalar_t> total = 0;
  for (int lane = 0; lane < M::kLanes; ++lane) total += sum[lane];
  for (; i < count; ++i) total += acc_t<scalar_t>(z[i]);
  return total / acc_t<scalar_t>(count);
}

// N of a node's logits.
template <class scalar_t>
acc_t<scalar_t> norm_of(const Joint<scalar_t>& p, const scalar_t* z) {
  if (p.mode == Mode::log_probs) return 0;
  if (p.mode == Mode::softmax) return log_sum(z, p.classes).value();
  const int64_t blank = p.blank[0];
  return log_sum(z, blank).with(log_sum(z + blank + 1, p.classes - blank - 1)).value();
}

template <class scalar_t>
void run(const JointForward<scalar_t>& p) {
  using acc = acc_t<scalar_t>;
  const acc none = -std::numeric_limits<acc>::infinity();
  for_frames(p, [&](int64_t b, int64_t t, const Bounds& in) {
    for (int64_t k = 0; k < p.rows; ++k) {
      const int64_t s = k + p.first_row(b, t);
      if (!in.has(t, s) || !p.has_row(b, t, k)) {
        p.norm[(b * p.frames + t) * p.rows + k] = 0;
        if (k < p.label_rows) p.label.at(b, t, k) = none;
        for (int64_t j = 0; j < p.blanks + p.durations; ++j) p.blank_scores.at(b, j, t, k) = none;
        continue;
      }
      const scalar_t* const z = p.logits + p.place(p.layout, b, t, k, in);
      const acc norm = norm_of(p, z);
      acc offset = norm;
      if (p.smoothing != 0) offset -= p.smoothing * mean(z, p.classes);
      if (p.mode == Mode::hat) offset += softplus(acc(z[p.blank[0]]));
      const auto score = [&](int64_t v) { return (1 - p.smoothing) * acc(z[v]) - offset; };
      const int64_t target = s < in.s1 ? p.targets[b * p.symbols + s] : -1;
      const bool is_label = target >= 0 && !(p.mode == Mode::hat && target == p.blank[0]);
      p.norm[(b * p.frames + t) * p.rows + k] = norm;
      if (k < p.label_rows) p.label.at(b, t, k) = is_label ? score(target) : none;
      for (int j = 0; j < p.blanks; ++j)
        p.blank_scores.at(b, j, t, k) = p.mode == Mode::hat ? -softplus(-acc(z[p.blank[j]])) : score(p.blank[j]);
      if (p.durations == 0) continue;
      const acc of_durations = log_sum(z + p.classes, p.durations).value();
      for (int64_t j = 0; j < p.durations; ++j)
        p.blank_scores.at(b, p.blanks + j, t, k) = acc(z[p.classes + j]) - of_durations;
    }
  });
}

// d = uniform - sign(total) e^(z - shift), with shift = norm - log |total|: what is too small for the type does not become
// subnormal.
template <class scalar_t>
void softmax_gradient(const scalar_t* z, scalar_t* grad, int64_t count, acc_t<scalar_t> norm, acc_t<scalar_t> total,
                      acc_t<scalar_t> uniform) {
  using M = Math<acc_t<scalar_t>>;
  using V = typename M::V;
  constexpr int64_t kLanes = M::kLanes;
  const V shift = M::set(norm - std::log(std::abs(total))), sign = M::set(-total), more = M::set(uniform);
  const auto gradient = [&](V x) { return M::copysign(M::exp_nonpositive(x - shift), sign) + more; };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) M::store(grad + i, gradient(M::load(z + i)));
  if (i < count) {
    const int n = int(count - i);
    M::store(grad + i, gradient(M::load(z + i, n)), n);
  }
}

// Of the durations' log-softmax: their gradients less their sum's share of each.
template <class scalar_t>
void duration_gradients(const JointBackward<scalar_t>& p, int64_t b, int64_t t, int64_t k, const scalar_t* z,
                        scalar_t* grad) {
  using acc = acc_t<scalar_t>;
  const acc norm = log_sum(z, p.durations).value();
  acc total = 0;
  for (int64_t j = 0; j < p.durations; ++j) total += p.grad_blank.at(b, p.blanks + j, t, k);
  for (int64_t j = 0; j < p.durations; ++j)
    grad[j] = static_cast<scalar_t>(p.grad_blank.at(b, p.blanks + j, t, k) - total * std::exp(acc(z[j]) - norm));
}

template <class scalar_t>
void run(const JointBackward<scalar_t>& p) {
  using acc = acc_t<scalar_t>;
  for_frames(p, [&](int64_t b, int64_t t, const Bounds& in) {
    for (int64_t k = 0; k < p.rows; ++k) {
      const int64_t s = k + p.first_row(b, t);
      const bool valid = in.has(t, s);
      if ((!valid && p.offsets != nullptr) || !p.has_row(b, t, k)) continue;
      scalar_t* const grad = p.grad + p.place(p.grad_layout, b, t, k, in);
      acc label = 0, blanks[kMaxBlanks], total = 0;
      bool any = false;
      if (valid) {
        if (s < in.s1 && k < p.label_rows) label = p.grad_label.at(b, t, k);
        total = label;
        any = label != 0;
        for (int j = 0; j < p.blanks; ++j) {
          blanks[j] = p.grad_blank.at(b, j, t, k);
          total += blanks[j];
          any = any || blanks[j] != 0;
        }
        for (int64_t j = 0; j < p.durations; ++j) any = any || p.grad_blank.at(b, p.blanks + j, t, k) != 0;
      }
      if (!any) {
        std::fill_n(grad, p.columns(), scalar_t(0));
        continue;
      }
      const scalar_t* const z = p.logits + p.place(p.layout, b, t, k, in);
      const acc norm = p.anew ? norm_of(p, z) : p.norm[(b * p.frames + t) * p.rows + k];
      const int64_t target = s < in.s1 ? p.targets[b * p.symbols + s] : p.blank[0];
      // in the accumulators' type, and rounded once: logits may be where the gradients go
      acc at_target = acc(z[target]), at_blank[kMaxBlanks];
      for (int j = 0; j < p.blanks; ++j) at_blank[j] = acc(z[p.blank[j]]);
      const acc through = p.mode == Mode::softmax ? total : p.mode == Mode::hat ? label : acc(0);
      const acc uniform = p.smoothing * total / acc(p.classes);
      const auto softmax_at = [&](acc x) { return uniform - (through == 0 ? acc(0) : through * std::exp(x - norm)); };
      if (through != 0)
        softmax_gradient(z, grad, p.classes, norm, through, uniform);
      else
        std::fill_n(grad, p.classes, scalar_t(0));
      const acc sigmoid = 1 / (1 + std::exp(-at_blank[0]));
      const auto value = [&](int64_t v, acc z_v) {
        if (p.mode == Mode::hat && v == p.blank[0])
          return (v == target ? label : acc(0)) - label * sigmoid + blanks[0] * (1 - sigmoid);
        acc own = v == target ? label : acc(0);
        for (int j = 0; p.mode != Mode::hat && j < p.blanks; ++j) own += v == p.blank[j] ? blanks[j] : acc(0);
        return softmax_at(z_v) + (1 - p.smoothing) * own;
      };
      grad[target] = static_cast<scalar_t>(value(target, at_target));
      for (int j = 0; j < p.blanks; ++j) grad[p.blank[j]] = static_cast<scalar_t>(value(p.blank[j], at_blank[j]));
      if (p.clamp > 0) {
        const acc bound = p.clamp * p.reaching(b, in);
        for (int64_t v = 0; v < p.classes; ++v)
          grad[v] = static_cast<scalar_t>(std::clamp<acc>(acc(grad[v]), -bound, bound));
      }
      if (p.durations > 0) duration_gradients(p, b, t, k, z + p.classes, grad + p.classes);
    }
  });
}

}  // namespace rnnkit::RNNKIT_TARGET

#endif
