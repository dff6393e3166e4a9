// The lattice, one sequence per thread, in doubles whatever the tensors hold: it costs little beside the scores, and thousands
// of steps then add nothing to their rounding. Nodes with the same n = t + s, a diagonal, do not depend on each other: they
// are a vector. For that, arcs are copied to rows of one diagonal each, in which s counts from the diagonal's lowest.
// SPDX-License-Identifier: Apache-2.0

namespace rnnkit::RNNKIT_TARGET {

class Diagonals {
  using M = Math<double>;
  using V = typename M::V;
  static constexpr int64_t kLanes = M::kLanes;
  static constexpr double kNone = -std::numeric_limits<double>::infinity();

 public:
  template <class scalar_t>
  Diagonals(const Lattice<scalar_t>& p, int64_t b)
      : in_(p.bounds(b)),
        n0_(in_.t0 + in_.s0),
        count_(in_.t1 + in_.s1 - n0_ + 1),
        depth_(p.max_diagonals + 1),
        low_(count_),
        high_(count_) {
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
    arcs_.assign(p.arcs * count_ * width_, kNone);
    ring_.assign(depth_ * width_, kNone);
  }

  template <class scalar_t>
  void solve(const Lattice<scalar_t>& p, int64_t b) {
    for (int a = 0; a < p.arcs; ++a)
      visit(p, b, a, [&](double& mine, int64_t t, int64_t k) { mine = p.scores[a].at(b, t, k); });
    const double score = p.viterbi ? forward<true>(p) : forward<false>(p);
    p.score[b] = static_cast<scalar_t>(score);
    if (p.occupancies[0].data == nullptr) return;
    backward(p, score != kNone);
    for (int a = 0; a < p.arcs; ++a) {
      const auto& out = p.occupancies[a];
      const int64_t frames = p.frames_of(p.kinds[a]), rows = p.rows_of(p.kinds[a]);
      for (int64_t t = 0; t < frames; ++t) std::fill_n(&out.at(b, t, 0), rows, scalar_t(0));
      visit(p, b, a, [&](double mine, int64_t t, int64_t k) { out.at(b, t, k) = static_cast<scalar_t>(mine); });
    }
  }

 private:
  // f(place of the arc here, t, k) for each node that arc `a` leaves; a few frames at a time, because a node's neighbours in
  // time lie in other rows here.
  template <class scalar_t, class F>
  void visit(const Lattice<scalar_t>& p, int64_t b, int a, F f) {
    constexpr int64_t kFrames = 8;
    const Arc& arc = p.kinds[a];
    const int64_t rows = p.rows_of(arc);
    for (int64_t begin = in_.t0; begin <= in_.t1; begin += kFrames) {
      const int64_t end = std::min(begin + kFrames, in_.t1 + 1);
      for (int64_t k = 0; k < rows; ++k) {
        for (int64_t t = begin; t < end; ++t) {
          if (t >= p.frames_of(arc)) break;
          const int64_t s = k + (t < p.frames ? p.first_row(b, t) : 0);
          if (s >= in_.s0 && s <= in_.s1 && p.leaves(arc, t, s, in_)) f(*at(a, t + s - n0_, s), t, k);
        }
      }
    }
  }

  double* at(int a, int64_t i, int64_t s) { return arcs_.data() + (a * count_ + i) * width_ + s - low_[i] + depth_; }
  double* ring(int64_t i, int64_t s) { return ring_.data() + i % depth_ * width_ + s - low_[i] + depth_; }
  void clear_ring(int64_t i, double value) { std::fill_n(ring_.data() + i % depth_ * width_, width_, value); }

  V inside(int64_t s, int64_t i, V x, double otherwise) const {  // x up to the diagonal's end
    V lane;
    for (int l = 0; l < kLanes; ++l) lane[l] = l;
    return M::select(lane < M::set(double(high_[i] - s)), x, M::set(otherwise));
  }

  // Leaves, in place of each arc's score, how probable it is that a path to the node it leads to comes over it.
  template <bool viterbi, class Problem>
  double forward(const Problem& p) {
    double score = kNone;
    for (int64_t i = 0; i < count_; ++i) {
      clear_ring(i, kNone);
      for (int64_t s = low_[i]; s < high_[i]; s += kLanes) {
        V x[kMaxArcs], best = M::set(-std::numeric_limits<double>::max()), sum = M::set(0);
        double* from[kMaxArcs];
        int arcs = 0;
        for (int a = 0; a < p.arcs; ++a) {
          const int64_t source = i - p.kinds[a].diagonals();
          if (source < 0) continue;
          from[arcs] = at(a, source, s - p.kinds[a].symbols());
          x[arcs] = M::load(ring(source, s - p.kinds[a].symbols())) + M::load(from[arcs]);
          best = M::select(x[arcs] <= best, best, x[arcs]);  // NaN stays
          ++arcs;
        }
        V alpha;
        if constexpr (viterbi) {
          V none_yet = M::set(1);
          for (int a = 0; a < arcs; ++a) {  // the first of the best
            const V chosen = M::select(x[a] == best, none_yet, M::set(0));
            none_yet -= chosen;
            M::store(from[a], inside(s, i, chosen, 0));
          }
          alpha = M::select(best == M::set(-std::numeric_limits<double>::max()), M::set(kNone), best);
        } else {
          for (int a = 0; a < arcs; ++a) {
            x[a] = M::exp(x[a] - best);
            sum += x[a];
          }
          const V scale = M::set(1) / M::select(sum == M::set(0), M::set(1), sum);
          for (int a = 0; a < arcs; ++a) M::store(from[a], inside(s, i, x[a] * scale, 0));
          alpha = best + M::log(sum);
        }
        M::store(ring(i, s), inside(s, i, alpha, kNone));
      }
      if (i == 0 && low_[0] == in_.s0 && high_[0] > in_.s0) *ring(0, in_.s0) = 0;
    }
    if (low_.back() <= in_.s1 && in_.s1 < high_.back()) score = *ring(count_ - 1, in_.s1);
    return score;
  }

  // Replaces those probabilities by the occupancies; the ring holds those of nodes.
  template <class Problem>
  void backward(const Problem& p, bool reachable) {
    std::fill(ring_.begin(), ring_.end(), 0.0);
    for (int64_t i = count_ - 1; i >= 0; --i) {
      clear_ring(i, 0);
      if (i == count_ - 1) {
        if (reachable) *ring(i, in_.s1) = 1;
        continue;
      }
      for (int64_t s = low_[i]; s < high_[i]; s += kLanes) {
        V node = M::set(0);
        for (int a = 0; a < p.arcs; ++a) {
          const int64_t target = i + p.kinds[a].diagonals();
          if (target >= count_) continue;
          double* const mine = at(a, i, s);
          const V reached = M::load(ring(target, s + p.kinds[a].symbols()));
          const V occupancy = M::select(reached == M::set(0), M::set(0), M::load(mine) * reached);
          M::store(mine, occupancy);
          node += occupancy;
        }
        M::store(ring(i, s), inside(s, i, node, 0));
      }
    }
  }

  const Bounds in_;
  const int64_t n0_, count_, depth_;
  std::vector<int64_t> low_, high_;
  int64_t width_;
  std::vector<double> arcs_;  // [arcs, diagonals, width]
  std::vector<double> ring_;  // [depth, width], of the nodes
};

template <class scalar_t>
void run(const Lattice<scalar_t>& p) {
  torch::stable::parallel_for(0, p.batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) Diagonals(p, b).solve(p, b);
  });
}

// Kuang et al., "Pruned RNN-T for fast, memory-efficient ASR training", section 3.2: the band of each frame that holds most of
// the occupancy, less what has left it; then made to begin at 0, never to fall, and to rise by at most `max_step`.
template <class scalar_t>
void run(const Ranges<scalar_t>& p) {
  torch::stable::parallel_for(0, p.batch, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      const Bounds in = p.bounds(b);
      int64_t* const begin = p.out + b * p.frames;
      for (int64_t t = 0; t < p.frames; ++t) {
        if (t >= in.t1 - 1) {
          begin[t] = std::max<int64_t>(in.s1 - p.s_range + 1, 0);
          continue;
        }
        scalar_t best = 0;
        for (int64_t s = 0; s + p.s_range <= p.rows; ++s) {
          scalar_t score = s > 0 ? -p.label.at(b, t, s - 1) : scalar_t(0);
          for (int64_t k = 0; k < p.s_range; ++k) score += p.blank.at(b, t, s + k);
          if (s == 0 || score > best) best = score, begin[t] = s;
        }
      }
      int64_t least = std::numeric_limits<int64_t>::max(), slack = least;
      for (int64_t t = p.frames - 1; t >= 0; --t) {
        least = std::min(least, begin[t]);
        slack = std::min(slack, p.max_step * t - least);
        begin[t] = p.max_step * t - std::max<int64_t>(slack, 0);
      }
    }
  });
}

}  // namespace rnnkit::RNNKIT_TARGET
