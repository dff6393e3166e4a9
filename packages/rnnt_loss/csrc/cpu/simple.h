// The joiner that adds.
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_RNNT_LOSS_CPU_SIMPLE_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_RNNT_LOSS_CPU_SIMPLE_H
#undef RNNKIT_RNNT_LOSS_CPU_SIMPLE_H
#else
#define RNNKIT_RNNT_LOSS_CPU_SIMPLE_H
#endif

#include <rnnkit/cpu/math.h>
#include <torch/csrc/stable/ops.h>

#include "../problem.h"
#include "joint.h"
#include "rows.h"

namespace rnnkit::RNNKIT_TARGET {

// e^(x - max), and max; zeros where the row is padding. Returns the sum.
template <class scalar_t, class acc>
acc exponentials(const scalar_t* x, int64_t count, bool valid, acc* exps, acc& most) {
  using M = Math<acc>;
  using V = typename M::V;
  most = 0;
  if (!valid) {
    std::fill_n(exps, count, acc(0));
    return 1;
  }
  V many = M::set(-std::numeric_limits<acc>::infinity());
  int64_t i = 0;
  for (; i + M::kLanes <= count; i += M::kLanes) {
    const V v = M::load(x + i);
    many = M::select(v > many, v, many);
  }
  most = -std::numeric_limits<acc>::infinity();
  for (int lane = 0; lane < M::kLanes; ++lane) most = std::max<acc>(most, many[lane]);
  for (; i < count; ++i) most = std::max(most, acc(x[i]));
  if (most == -std::numeric_limits<acc>::infinity()) most = 0;
  V sums = M::set(0);
  for (i = 0; i + M::kLanes <= count; i += M::kLanes) {
    const V v = M::exp(M::load(x + i) - most);
    sums += v;
    M::store(exps + i, v);
  }
  acc sum = 0;
  for (int lane = 0; lane < M::kLanes; ++lane) sum += sums[lane];
  if (i < count) {
    const int n = int(count - i);
    const V v = M::exp(M::load(x + i, n) - most);
    for (int lane = 0; lane < n; ++lane) sum += v[lane];
    M::store(exps + i, v, n);
  }
  return sum;
}

template <class scalar_t>
void simple_exponentials(const Simple<scalar_t>& p) {
  for_rows(p.batch * p.rows, p.classes, [&](int64_t row) {
    const Bounds in = p.bounds(row / p.rows);
    const bool valid = row % p.rows >= in.s0 && row % p.rows <= in.s1 && in.t1 > in.t0;
    const acc_t<scalar_t> sum =
        exponentials(p.lm + row * p.classes, p.classes, valid, p.exp_lm + row * p.classes, p.max_lm[row]);
    p.norm_lm[row] = p.max_lm[row] + std::log(sum);
  });
  for_rows(p.batch * p.frames, p.classes, [&](int64_t row) {
    const Bounds in = p.bounds(row / p.frames);
    const bool valid = row % p.frames >= in.t0 && row % p.frames < in.t1;
    exponentials(p.am + row * p.classes, p.classes, valid, p.exp_am + row * p.classes, p.max_am[row]);
  });
}

// log sum_v e^(lm_v + am_v)
template <class scalar_t>
acc_t<scalar_t> exact_norm(const scalar_t* lm, const scalar_t* am, int64_t count) {
  using M = Math<acc_t<scalar_t>>;
  const auto both = [lm, am](int64_t i, int n)
                        __attribute__((always_inline)) { return M::load(lm + i, n) + M::load(am + i, n); };
  return LogSum<acc_t<scalar_t>>::over(count, both).value();
}

constexpr int64_t kFrameBlock = 16;

template <class scalar_t>
void simple_scores(const Simple<scalar_t>& p) {
  using acc = acc_t<scalar_t>;
  using M = Math<acc>;
  using V = typename M::V;
  const acc none = -std::numeric_limits<acc>::infinity();
  const int64_t blocks = (p.frames + kFrameBlock - 1) / kFrameBlock;
  for_rows(p.batch * blocks, kFrameBlock * p.rows * 64, [&](int64_t item) {
    const int64_t b = item / blocks, begin = item % blocks * kFrameBlock, end = std::min(begin + kFrameBlock, p.frames);
    const Bounds in = p.bounds(b);
    std::vector<acc> of_label(p.rows), of_blank(p.rows);  // lm's part
    for (int64_t s = in.s0; s <= in.s1 && in.t1 > in.t0; ++s) {
      const scalar_t* const lm = p.lm + (b * p.rows + s) * p.classes;
      of_label[s] = s < in.s1 ? acc(lm[p.targets[b * p.symbols + s]]) : acc(0);
      of_blank[s] = lm[p.blank];
    }
    for (int64_t t = begin; t < end; ++t) {
      const int64_t at = (b * p.frames + t) * p.rows;
      acc* const norm = p.norm + at;
      acc* const blank = p.blank_scores + at;
      acc* const label = p.label + (b * p.frames + t) * p.symbols;
      std::fill_n(norm, p.rows, acc(0));
      std::fill_n(blank, p.rows, none);
      std::fill_n(label, p.symbols, none);
      if (t < in.t0 || t >= in.t1) continue;
      const scalar_t* const am = p.am + (b * p.frames + t) * p.classes;
      const acc *product = p.product + at, *max_lm = p.max_lm + b * p.rows;
      const V max_am = M::set(p.max_am[b * p.frames + t]);
      for (int64_t s = in.s0; s <= in.s1; s += M::kLanes) {
        const int n = int(std::min<int64_t>(M::kLanes, in.s1 + 1 - s));
        M::store(norm + s, M::log(M::load(product + s, n)) + (M::load(max_lm + s, n) + max_am), n);
      }
      const acc am_blank = am[p.blank];
      for (int64_t s = in.s0; s <= in.s1; ++s) {
        if (!(product[s] >= Simple<scalar_t>::kLeast))
          norm[s] = exact_norm(p.lm + (b * p.rows + s) * p.classes, am, p.classes);
        const acc norm_lm = p.norm_lm[b * p.rows + s];
        blank[s] = p.score(of_blank[s], am_blank, norm[s], norm_lm);
        if (s < in.s1) label[s] = p.score(of_label[s], am[p.targets[b * p.symbols + s]], norm[s], norm_lm);
      }
    }
  });
}

// What the product's gradient is multiplied by, -of_both (gradients of both scores) / product; 0 where the norm was summed
// anew.
template <class scalar_t>
void simple_weights(const Simple<scalar_t>& p) {
  using acc = acc_t<scalar_t>;
  using M = Math<acc>;
  for_rows(p.batch * p.frames, p.rows * 8, [&](int64_t frame) {
    const int64_t b = frame / p.frames, t = frame % p.frames;
    const Bounds in = p.bounds(b);
    acc* const weight = p.product + frame * p.rows;
    std::fill_n(weight, p.rows, acc(0));
    if (t < in.t0 || t >= in.t1) return;
    for (int64_t s = in.s0; s <= in.s1; ++s)
      weight[s] = -p.of_both * ((s < in.s1 ? p.grad_label.at(b, t, s) : acc(0)) + p.grad_blank.at(b, t, s));
    const acc *norm = p.norm + frame * p.rows, *max_lm = p.max_lm + b * p.rows;
    for (int64_t s = in.s0; s <= in.s1; s += M::kLanes) {
      const int n = int(std::min<int64_t>(M::kLanes, in.s1 + 1 - s));
      const auto shift = M::load(max_lm + s, n) + p.max_am[frame] - M::load(norm + s, n);  // -log of the product
      const auto scaled = M::load(weight + s, n) * M::exp(shift);
      M::store(weight + s, M::select(shift <= -Simple<scalar_t>::kLogLeast, scaled, M::set(0)), n);
    }
  });
}

// grad = exps * (product + more), and what `add` adds.
template <class scalar_t, class acc, class F>
void simple_gradient(const Simple<scalar_t>& p, bool valid, const acc* exps, acc* product, acc more, scalar_t* grad, F add) {
  using M = Math<acc>;
  if (valid) {
    for (int64_t v = 0; v < p.classes; v += M::kLanes) {
      const int n = int(std::min<int64_t>(M::kLanes, p.classes - v));
      M::store(product + v, M::load(exps + v, n) * (M::load(product + v, n) + more), n);
    }
    add();
  } else {
    std::fill_n(product, p.classes, acc(0));
  }
  if constexpr (!std::is_same_v<scalar_t, acc>) {
    for (int64_t v = 0; v < p.classes; v += M::kLanes) {
      const int n = int(std::min<int64_t>(M::kLanes, p.classes - v));
      M::store(grad + v, M::load(product + v, n), n);
    }
  }
}

// Whether the node's norm was summed anew, which the product's gradient then leaves out.
template <class scalar_t>
RNNKIT_INLINE bool summed_anew(const Simple<scalar_t>& p, int64_t b, int64_t t, int64_t s) {
  const auto norm = p.norm[(b * p.frames + t) * p.rows + s];
  return p.max_lm[b * p.rows + s] + p.max_am[b * p.frames + t] - norm > -Simple<scalar_t>::kLogLeast;
}

// Adds what node (t, s) then has for lm's row s, or am's row t, both of which are the same, as it has for its label and
// blank.
template <class scalar_t, class acc>
void add_exact(const Simple<scalar_t>& p, int64_t b, int64_t t, int64_t s, acc through, acc* grad) {
  const acc norm = p.norm[(b * p.frames + t) * p.rows + s];
  const scalar_t* const lm = p.lm + (b * p.rows + s) * p.classes;
  const scalar_t* const am = p.am + (b * p.frames + t) * p.classes;
  for (int64_t v = 0; v < p.classes && through != 0; ++v)
    grad[v] -= p.of_both * through * std::exp(acc(lm[v]) + acc(am[v]) - norm);
}

template <class scalar_t>
void simple_gradients(const Simple<scalar_t>& p) {
  using acc = acc_t<scalar_t>;
  for_rows(p.batch * p.frames, p.classes, [&](int64_t row) {
    const int64_t b = row / p.frames, t = row % p.frames, place = row * p.classes;
    const Bounds in = p.bounds(b);
    acc* const grad = p.grad_am_acc + place;
    simple_gradient(p, t >= in.t0 && t < in.t1, p.exp_am + place, grad, acc(0), p.grad_am + place, [&] {
      for (int64_t s = in.s0; s <= in.s1; ++s) {
        const acc label = s < in.s1 ? p.grad_label.at(b, t, s) : acc(0), blank = p.grad_blank.at(b, t, s);
        if (s < in.s1) grad[p.targets[b * p.symbols + s]] += p.of_both * label;
        grad[p.blank] += p.of_both * blank;
        if (summed_anew(p, b, t, s)) add_exact(p, b, t, s, label + blank, grad);
      }
    });
  });
  // Of lm's rows, sums over time: frame after frame, as the memory lies.
  std::vector<acc> labels(p.batch * p.rows), blanks(p.batch * p.rows);
  std::vector<char> anew(p.batch * p.rows);
  for_rows(p.batch, p.frames * p.rows, [&](int64_t b) {
    const Bounds in = p.bounds(b);
    const int64_t row = b * p.rows;
    for (int64_t t = in.t0; t < in.t1; ++t) {
      for (int64_t s = in.s0; s < in.s1; ++s) labels[row + s] += p.grad_label.at(b, t, s);
      for (int64_t s = in.s0; s <= in.s1; ++s) {
        blanks[row + s] += p.grad_blank.at(b, t, s);
        anew[row + s] |= summed_anew(p, b, t, s);
      }
    }
  });
  for_rows(p.batch * p.rows, p.classes, [&](int64_t row) {
    const int64_t b = row / p.rows, s = row % p.rows, place = row * p.classes;
    const Bounds in = p.bounds(b);
    acc* const grad = p.grad_lm_acc + place;
    const acc direct = p.of_both + p.of_lm;
    const acc alone = -p.of_lm * (labels[row] + blanks[row]) * std::exp(p.max_lm[row] - p.norm_lm[row]);
    simple_gradient(p, s >= in.s0 && s <= in.s1, p.exp_lm + place, grad, alone, p.grad_lm + place, [&] {
      if (s < in.s1) grad[p.targets[b * p.symbols + s]] += direct * labels[row];
      grad[p.blank] += direct * blanks[row];
      for (int64_t t = in.t0; anew[row] && t < in.t1; ++t) {
        const acc label = s < in.s1 ? p.grad_label.at(b, t, s) : acc(0);
        if (summed_anew(p, b, t, s)) add_exact(p, b, t, s, label + p.grad_blank.at(b, t, s), grad);
      }
    });
  });
}

}  // namespace rnnkit::RNNKIT_TARGET

#endif
