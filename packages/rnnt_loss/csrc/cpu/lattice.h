// The lattice, one sequence per thread, in doubles whatever the tensors hold: it costs little beside the scores, and
// thousands of steps then add nothing to their rounding. Nodes with the same n = t + s, a diagonal, do not depend on each
// other: they are a vector. For that, arcs are copied to rows of one diagonal each, in which s counts from the diagonal's
// lowest.
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_RNNT_LOSS_CPU_LATTICE_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_RNNT_LOSS_CPU_LATTICE_H
#undef RNNKIT_RNNT_LOSS_CPU_LATTICE_H
#else
#define RNNKIT_RNNT_LOSS_CPU_LATTICE_H
#endif

#include <rnnkit/cpu/math.h>
#include <torch/csrc/stable/ops.h>

#include "../problem.h"

namespace rnnkit::RNNKIT_TARGET {

// kArcs: how many kinds of arcs there are; 0: as many as the problem has.
template <int kArcs>
class Diagonals {
  using M = Math<double>;
  using V = typename M::V;
  static constexpr int64_t kLanes = M::kLanes;
  static constexpr int kMost = kArcs > 0 ? kArcs : kMaxArcs;
  static constexpr double kNone = -std::numeric_limits<double>::infinity();

 public:
  template <class scalar_t>
  Diagonals(const Lattice<scalar_t>& p, int64_t b)
      : in_(p.bounds(b)),
        n0_(in_.t0 + in_.s0),
        count_(in_.t1 + in_.s1 - n0_ + 1),
        depth_(p.max_diagonals + 1),
        arcs_(kArcs > 0 ? kArcs : p.arcs),
        low_(count_),
        high_(count_),
        base_(count_) {
    // The frames whose nodes reach diagonal n are those from `earliest` to `latest`: both only ever grow, by at most 1 a
    // diagonal, so that neighbours are never further apart than `depth_`.
    int64_t earliest = in_.t0, latest = in_.t0, widest = 0;
    for (int64_t i = 0; i < count_; ++i) {
      const int64_t n = n0_ + i;
      while (latest < in_.t1 && p.first_node(b, latest + 1, in_) + latest + 1 <= n) ++latest;
      while (earliest < in_.t1 && p.first_node(b, earliest, in_) + p.rows + earliest <= n) ++earliest;
      low_[i] = std::max(in_.s0, n - latest);
      high_[i] = std::min(in_.s1 + 1, n - earliest + 1);
      widest = std::max(widest, high_[i] - low_[i]);
    }
    width_ = (widest + 2 * depth_ + 2 * kLanes + kLanes - 1) / kLanes * kLanes;
    for (int64_t i = 0; i < count_; ++i) base_[i] = i * width_ - low_[i] + depth_;
    scores_.assign((arcs_ * count_ + 1) * width_, kNone);
    ring_.assign((depth_ + 1) * width_, kNone);
    for (int a = 0; a < arcs_; ++a) diagonals_[a] = p.kinds[a].diagonals(), symbols_[a] = p.kinds[a].symbols();
  }

  template <class scalar_t>
  void solve(const Lattice<scalar_t>& p, int64_t b) {
    for (int a = 0; a < arcs_; ++a) {
      visit(p, b, a, [&](int64_t t, int64_t k, int64_t count, const int64_t* base, double* mine) {
        const auto& from = p.scores[a];
        for (int64_t j = 0; j < count; ++j) mine[base[j] + j] = from.at(b, t, k + j);
      });
    }
    const double score = p.viterbi ? forward<true>() : forward<false>();
    p.score[b] = static_cast<scalar_t>(score);
    if (!p.keeps) return;
    backward(score != kNone);
    for (int a = 0; a < arcs_; ++a) {
      const auto& to = p.occupancies[a];
      const int64_t rows = p.rows_of(p.kinds[a]);
      for (int64_t t = 0; rows > 0 && t < p.frames_of(p.kinds[a]); ++t) std::fill_n(&to.at(b, t, 0), rows, scalar_t(0));
      visit(p, b, a, [&](int64_t t, int64_t k, int64_t count, const int64_t* base, const double* mine) {
        for (int64_t j = 0; j < count; ++j) to.at(b, t, k + j) = static_cast<scalar_t>(mine[base[j] + j]);
      });
    }
  }

 private:
  // f(t, k, count, base, mine) for each frame with nodes that arc `a` leaves: row k + j of it is at mine[base[j] + j].
  template <class scalar_t, class F>
  void visit(const Lattice<scalar_t>& p, int64_t b, int a, F f) {
    const Arc& arc = p.kinds[a];
    for (int64_t t = in_.t0; t < std::min(in_.t1 + 1, p.frames_of(arc)); ++t) {
      if (!p.leaves(arc, t, in_.s0 - 1, in_)) continue;
      const int64_t first = t < p.frames ? p.first_row(b, t) : 0;
      const int64_t begin = std::max(in_.s0, first);
      const int64_t end = std::min(in_.s1 + (arc.label ? 0 : 1), first + p.rows_of(arc));
      if (begin < end)
        f(t, begin - first, end - begin, &base_[t + begin - n0_], scores_.data() + a * count_ * width_ + begin);
    }
  }

  // What the arcs from diagonal i - diagonals_[a] to the nodes of diagonal i hold, at the symbol count of those nodes; where
  // there are none, a row that nobody needs.
  double* arcs_to(int a, int64_t i) {
    const int64_t from = i - diagonals_[a];
    return from < 0 ? spare(scores_.data() + arcs_ * count_ * width_, i) : row(a, from) - symbols_[a];
  }
  const double* nodes_to(int a, int64_t i) {
    const int64_t from = i - diagonals_[a];
    return from < 0 ? spare(ring_.data() + depth_ * width_, i) : ring(from) - symbols_[a];
  }
  double* spare(double* row, int64_t i) { return row - low_[i] + depth_; }
  double* row(int a, int64_t i) { return scores_.data() + a * count_ * width_ + base_[i]; }
  double* ring(int64_t i) { return ring_.data() + i % depth_ * width_ - low_[i] + depth_; }
  void clear_ring(int64_t i, double value) { std::fill_n(ring_.data() + i % depth_ * width_, width_, value); }

  // f(s, keep) for the vectors of a diagonal; keep(x, otherwise) is x up to the diagonal's end.
  template <class F>
  RNNKIT_INLINE void for_vectors(int64_t i, F f) {
    int64_t s = low_[i];
    for (; s + kLanes <= high_[i]; s += kLanes) f(s, [](V x, double) { return x; });
    if (s >= high_[i]) return;
    V lane;
    for (int l = 0; l < kLanes; ++l) lane[l] = l;
    const auto inside = lane < M::set(double(high_[i] - s));
    f(s, [inside](V x, double otherwise) { return M::select(inside, x, M::set(otherwise)); });
  }

  // Leaves, in place of each arc's score, how probable it is that a path to the node it leads to comes over it.
  template <bool viterbi>
  double forward() {
    const double lowest = -std::numeric_limits<double>::max();
    for (int64_t i = 0; i < count_; ++i) {
      clear_ring(i, kNone);
      double* to = ring(i);
      double* arcs[kMost];
      const double* nodes[kMost];
      for (int a = 0; a < arcs_; ++a) arcs[a] = arcs_to(a, i), nodes[a] = nodes_to(a, i);
      const int count = kArcs > 0 ? kArcs : arcs_;
      for_vectors(i, [&](int64_t s, auto keep) __attribute__((always_inline)) {
        V x[kMost], best = M::set(lowest), alpha;
        for (int a = 0; a < count; ++a) {
          x[a] = M::load(nodes[a] + s) + M::load(arcs[a] + s);
          best = M::select(x[a] <= best, best, x[a]);  // NaN stays
        }
        if constexpr (viterbi) {
          V none_yet = M::set(1);
          for (int a = 0; a < count; ++a) {  // the first of the best
            const V chosen = M::select(x[a] == best, none_yet, M::set(0));
            none_yet -= chosen;
            M::store(arcs[a] + s, keep(chosen, 0));
          }
          alpha = M::select(best == M::set(lowest), M::set(kNone), best);
        } else {
          V sum = M::set(0);
          for (int a = 0; a < count; ++a) sum += x[a] = M::exp(x[a] - best);
          const V scale = M::set(1) / M::select(sum == M::set(0), M::set(1), sum);
          for (int a = 0; a < count; ++a) M::store(arcs[a] + s, keep(x[a] * scale, 0));
          alpha = best + M::log(sum);
        }
        M::store(to + s, keep(alpha, kNone));
      });
      if (i == 0 && high_[0] > in_.s0) to[in_.s0] = 0;
    }
    return low_.back() <= in_.s1 && in_.s1 < high_.back() ? ring(count_ - 1)[in_.s1] : kNone;
  }

  // Replaces those probabilities by the occupancies; the ring holds those of nodes.
  void backward(bool reachable) {
    std::fill(ring_.begin(), ring_.end(), 0.0);
    if (reachable) ring(count_ - 1)[in_.s1] = 1;
    for (int64_t i = count_ - 2; i >= 0; --i) {
      clear_ring(i, 0);
      double* to = ring(i);
      double* arcs[kMost];
      const double* nodes[kMost];
      const int count = kArcs > 0 ? kArcs : arcs_;
      for (int a = 0; a < count; ++a) {
        const int64_t target = i + diagonals_[a];
        arcs[a] = row(a, i);
        nodes[a] = target < count_ ? ring(target) + symbols_[a] : spare(ring_.data() + depth_ * width_, i);
      }
      for_vectors(i, [&](int64_t s, auto keep) __attribute__((always_inline)) {
        V node = M::set(0);
        for (int a = 0; a < count; ++a) {
          const V reached = M::load(nodes[a] + s);
          const V occupancy = M::select(reached == M::set(0), M::set(0), M::load(arcs[a] + s) * reached);
          M::store(arcs[a] + s, occupancy);
          node += occupancy;
        }
        M::store(to + s, keep(node, 0));
      });
    }
  }

  const Bounds in_;
  const int64_t n0_, count_, depth_;
  const int arcs_;
  int diagonals_[kMost], symbols_[kMost];
  std::vector<int64_t> low_, high_, base_;  // of each diagonal: its symbol counts, and where count 0 would be in its row
  int64_t width_;
  std::vector<double> scores_;  // [arcs, diagonals, width], and a spare row
  std::vector<double> ring_;    // [depth, width], of the nodes, and a spare row
};

template <class scalar_t>
void run(const Lattice<scalar_t>& p) {
  torch::stable::parallel_for(0, p.batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      if (p.arcs == 2)
        Diagonals<2>(p, b).solve(p, b);
      else
        Diagonals<0>(p, b).solve(p, b);
    }
  });
}

}  // namespace rnnkit::RNNKIT_TARGET

#endif
