// Runs a recurrence on the CPU. U is packed once into blocks of two vectors of units, so that a step is products of a few
// rows with one block after the other, all sums in registers; what the gates do follows at once, while those sums are in the
// cache. Threads share rows, units or both, and only those of the same rows meet (team.h).
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_LIGRU_CPU_ENGINE_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_LIGRU_CPU_ENGINE_H
#undef RNNKIT_LIGRU_CPU_ENGINE_H
#else
#define RNNKIT_LIGRU_CPU_ENGINE_H
#endif

#include <rnnkit/cpu/math.h>
#include <torch/csrc/stable/ops.h>

#include "../cell.h"
#include "team.h"

namespace rnnkit::RNNKIT_TARGET {

// Rows in one product: two sums each, and the registers that are left hold the weights. AVX-512 has 32 registers, the
// others 16.
constexpr int kTileRows = RNNKIT_VECTOR_BYTES == 64 ? 12 : 6;

// sums[r] = sum over k < depth of x[r][k] packed[k], two vectors each, for `rows` rows that lie `stride` apart.
template <class M, int rows>
void product(const typename M::Scalar* x, int64_t stride, int64_t depth, const typename M::Scalar* packed,
             typename M::Scalar* sums) {
  using V = typename M::V;
  V sum[rows][2] = {};
  for (int64_t k = 0; k < depth; ++k) {
    const V* const weights = reinterpret_cast<const V*>(packed) + 2 * k;
    const V first = weights[0], second = weights[1];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      sum[r][0] += first * x[r * stride + k];
      sum[r][1] += second * x[r * stride + k];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
    M::store(sums + (2 * r) * M::kLanes, sum[r][0]);
    M::store(sums + (2 * r + 1) * M::kLanes, sum[r][1]);
  }
}

template <class M, int most = kTileRows>
void product_of(int rows, const typename M::Scalar* x, int64_t stride, int64_t depth, const typename M::Scalar* packed,
                typename M::Scalar* sums) {
  if constexpr (most > 0) {
    if (rows == most) return product<M, most>(x, stride, depth, packed, sums);
    product_of<M, most - 1>(rows, x, stride, depth, packed, sums);
  }
}

// What both passes have: the problem, the threads, the packed weights, and one buffer of sums per row and block.
template <class Problem, class scalar_t>
class Pass {
 protected:
  using M = Math<acc_t<scalar_t>>;
  using V = typename M::V;
  using acc = typename M::Scalar;
  static constexpr int kLanes = M::kLanes, kWidth = 2 * kLanes;

  const Problem& p;
  const int64_t rows = p.rows(), units = p.units, depth, blocks, stride;
  const bool packs;
  const Team team;
  Meetings meetings;  // of each group of rows
  Buffer<acc> packed, sums;

  Pass(const Problem& p, int64_t depth, int64_t units_per_block, bool packs)
      : p(p),
        depth(depth),
        blocks(ceil_div(p.units, units_per_block)),
        stride(ceil_div(depth, 16) * 16 + 16),  // rows apart by a power of two would share the same sets of the cache
        packs(packs),
        team(Team::choose(torch::stable::get_num_threads(), rows, blocks, depth * kWidth, kLanes, p.steps)),
        meetings(team.row_groups, team.unit_groups),
        packed(packs ? blocks * depth * kWidth : 0),
        sums(blocks * rows * kWidth) {}

  struct Seat {
    Share rows, blocks;
    int64_t unit_group;
  };

  // A thread that has some of the seats of a group of rows.
  struct Member {
    int64_t group, first, last, phases = 0;
  };

  // f(seat) for all seats of the member's group, by whichever of its threads is there.
  template <class F>
  void together(Member& member, F f) {
    const Share of_rows(rows, member.group, team.row_groups);
    meetings[member.group].phase(++member.phases, member.first, member.last,
                                 [&](int64_t i) { f(Seat{of_rows, Share(blocks, i, team.unit_groups), i}); });
  }

  acc* sums_at(int64_t block, int64_t r) const { return sums + (block * rows + r) * kWidth; }

  // The products of a seat's rows with one of its blocks; done(first, end) is called for each tile of rows.
  template <class F>
  RNNKIT_INLINE void products(const Seat& seat, int64_t block, const acc* x, F done) const {
    const int64_t count = seat.rows.end - seat.rows.begin, tiles = ceil_div(count, kTileRows);
    for (int64_t i = 0; i < tiles; ++i) {
      const Share tile(count, i, tiles);
      const int64_t first = seat.rows.begin + tile.begin, end = seat.rows.begin + tile.end;
      product_of<M>(int(end - first), x + first * stride, stride, depth, packed + block * depth * kWidth,
                    sums_at(block, first));
      done(first, end);
    }
  }

  static V load_or(const acc* from, int64_t offset, int n, acc otherwise) {
    return from == nullptr ? V{} + otherwise : M::load(from + offset, n);
  }

  static acc total(V x) {
    acc sum = 0;
    for (int i = 0; i < kLanes; ++i) sum += x[i];
    return sum;
  }

  int lanes(int64_t unit) const { return int(std::min<int64_t>(kLanes, units - unit)); }

  // walk(member) for all seats, each thread with some of them.
  template <class F>
  void run_seats(F walk) const {
    torch::stable::parallel_for(0, team.seats(), 1, [&](int64_t begin, int64_t end) {
      while (begin < end) {
        const int64_t group = begin / team.unit_groups, of_group = group * team.unit_groups;
        const int64_t last = std::min(end, of_group + team.unit_groups);
        walk(Member{group, begin - of_group, last - of_group});
        begin = last;
      }
    });
  }
};

template <class scalar_t>
class ForwardPass : Pass<Forward<scalar_t>, scalar_t> {
  using Base = Pass<Forward<scalar_t>, scalar_t>;
  using Base::kLanes, Base::kWidth, Base::p, Base::rows, Base::units, Base::depth, Base::blocks, Base::stride, Base::team;
  using Base::packed, Base::packs, Base::sums_at, Base::together;
  using typename Base::acc, typename Base::M, typename Base::Member, typename Base::Seat, typename Base::V;

  static constexpr int64_t kFewSteps = 4;  // as of a stream: packing would take longer than their products
  std::vector<acc> mean;                   // of U's columns; where it is normalised
  Buffer<acc> states[2];                   // [rows, stride], in turn
  Buffer<V> squares;                       // [unit_groups, rows], sums over the units of each group; where it is normalised

 public:
  explicit ForwardPass(const Forward<scalar_t>& p)
      : Base(p, p.units, kLanes, p.rows() * p.steps > kFewSteps),
        mean(units, 0),
        states{Buffer<acc>(rows * stride), Buffer<acc>(rows * stride)},
        squares(team.unit_groups * rows) {}

  void run() {
    for (int64_t j = 0; j < 2 * units && p.normalize; ++j)
      for (int64_t k = 0; k < units; ++k) mean[k] += static_cast<acc>(p.u[j * units + k]) / (2 * units);
    if (packs) {
      torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
        for (int64_t block = begin; block < end; ++block) pack(block);
      });
    }
    this->run_seats([&](Member member) { walk(member); });
  }

 private:
  // Without its mean over the 2H units, U gives products that have none either: their squares are all that is left to sum.
  void pack(int64_t block) {
    for (int half = 0; half < 2; ++half) {
      for (int64_t unit = block * kLanes; unit < std::min(units, (block + 1) * kLanes); ++unit) {
        const scalar_t* const from = p.u + (half * units + unit) * units;
        acc* const to = packed + block * depth * kWidth + half * kLanes + unit % kLanes;
        for (int64_t k = 0; k < depth; ++k) to[k * kWidth] = static_cast<acc>(from[k]) - mean[k];
      }
    }
  }

  // Each of U's rows times x.
  void product_unpacked(int64_t block, int64_t r, const acc* x) const {
    for (int half = 0; half < 2; ++half) {
      for (int64_t unit = block * kLanes; unit < std::min(units, (block + 1) * kLanes); ++unit) {
        const scalar_t* const from = p.u + (half * units + unit) * units;
        V sum[4] = {};
        for (int64_t k = 0; k < units; k += 4 * kLanes) {
          for (int i = 0; i < 4; ++i) {
            const int64_t at = k + i * kLanes;
            if (at >= units) break;
            const int n = this->lanes(at);
            sum[i] += (M::load(from + at, n) - M::load(mean.data() + at, n)) * M::load(x + at, n);
          }
        }
        sums_at(block, r)[half * kLanes + unit % kLanes] = this->total((sum[0] + sum[1]) + (sum[2] + sum[3]));
      }
    }
  }

  void walk(Member member) {
    if (p.h0 != nullptr) {
      together(member, [&](const Seat& seat) {
        each_row(seat, [&](int64_t r) {
          if (!p.row(r).begins(0)) std::copy_n(p.h0 + r * units, units, states[0] + r * stride);
        });
      });
    }
    for (int64_t s = 0; s < p.steps; ++s) {
      const acc* const h = states[s % 2] + 0;
      together(member, [&](const Seat& seat) {
        for (int64_t block = seat.blocks.begin; block < seat.blocks.end; ++block) {
          const auto done = [&](int64_t first, int64_t last) {
            for (int64_t r = first; r < last; ++r) p.normalize ? add_squares(seat, block, r) : gate(block, r, s, acc(1));
          };
          if (packs) {
            this->products(seat, block, h, done);
          } else {
            for (int64_t r = seat.rows.begin; r < seat.rows.end; ++r) product_unpacked(block, r, h + r * stride);
            done(seat.rows.begin, seat.rows.end);
          }
        }
      });
      if (p.normalize) {
        together(member, [&](const Seat& seat) {
          for (int64_t r = seat.rows.begin; r < seat.rows.end; ++r) {
            const acc rstd = find_rstd(seat, r, s);
            for (int64_t block = seat.blocks.begin; block < seat.blocks.end; ++block) gate(block, r, s, rstd);
          }
        });
      }
    }
    together(member, [&](const Seat& seat) {
      each_row(seat, [&](int64_t r) { std::copy_n(states[p.steps % 2] + r * stride, units, p.h_last + r * units); });
    });
  }

  // f(r) for a seat's part of its group's rows
  template <class F>
  void each_row(const Seat& seat, F f) const {
    const Share mine(seat.rows.end - seat.rows.begin, seat.unit_group, team.unit_groups);
    for (int64_t r = seat.rows.begin + mine.begin; r < seat.rows.begin + mine.end; ++r) f(r);
  }

  void add_squares(const Seat& seat, int64_t block, int64_t r) {
    const V a = M::load(sums_at(block, r), kLanes), z = M::load(sums_at(block, r) + kLanes, kLanes);
    V& sum = squares[seat.unit_group * rows + r];
    sum = a * a + z * z + (block == seat.blocks.begin ? V{} : sum);
  }

  acc find_rstd(const Seat& seat, int64_t r, int64_t s) {
    V sum = squares[r];
    for (int64_t group = 1; group < team.unit_groups; ++group) sum += squares[group * rows + r];
    const acc rstd = 1 / std::sqrt(this->total(sum) / (2 * units) + p.eps);
    const auto row = p.row(r);
    if (p.gates != nullptr && seat.unit_group == 0) p.rstd[p.offset(r, row.time(s), 1)] = s < row.length ? rstd : 0;
    return rstd;
  }

  RNNKIT_INLINE void gate(int64_t block, int64_t r, int64_t s, acc rstd) {
    const auto row = p.row(r);
    const int64_t unit = block * kLanes, t = row.time(s);
    const int n = this->lanes(unit);
    const V h = M::load(states[s % 2] + r * stride + unit, kLanes);
    scalar_t* const out = p.out.at(row.b, t) + row.reverse * units + unit;
    acc* const next = states[(s + 1) % 2] + r * stride + unit;
    if (s >= row.length) {
      for (int half = 0; half < 2 && p.gates != nullptr; ++half) {
        const int64_t kept = p.offset(r, t, 2 * units) + half * units + unit;
        M::store(p.gates + kept, V{}, n);
        if (p.normalize) M::store(p.normal + kept, V{}, n);
      }
      M::store(out, V{}, n);
      return M::store(next, h, n);
    }
    V a = M::load(sums_at(block, r), kLanes), z = M::load(sums_at(block, r) + kLanes, kLanes);
    if (p.normalize) {
      a *= rstd;
      z *= rstd;
      if (p.gates != nullptr) {
        M::store(p.normal + p.offset(r, t, 2 * units) + unit, a, n);
        M::store(p.normal + p.offset(r, t, 2 * units) + units + unit, z, n);
      }
      a = a * this->load_or(p.weight, unit, n, 1) + this->load_or(p.bias, unit, n, 0);
      z = z * this->load_or(p.weight, units + unit, n, 1) + this->load_or(p.bias, units + unit, n, 0);
    }
    const scalar_t* const g = p.g.at(row.b, t) + unit;
    a += M::load(g, n);
    z += M::load(g + units, n);
    if (p.gates != nullptr) {
      M::store(p.gates + p.offset(r, t, 2 * units) + unit, a, n);
      M::store(p.gates + p.offset(r, t, 2 * units) + units + unit, z, n);
    }
    const V fresh = Cell<M>::step(p.activation, a, z, this->load_or(p.mask, r * units + unit, n, 1), h);
    M::store(out, fresh, n);
    M::store(next, row.begins(s + 1) ? V{} : fresh, n);
  }
};

template <class scalar_t>
class BackwardPass : Pass<Backward<scalar_t>, scalar_t> {
  using Base = Pass<Backward<scalar_t>, scalar_t>;
  using Base::kLanes, Base::kWidth, Base::p, Base::rows, Base::units, Base::depth, Base::blocks, Base::stride, Base::team;
  using Base::packed, Base::sums_at, Base::together;
  using typename Base::acc, typename Base::M, typename Base::Member, typename Base::Seat, typename Base::V;

  struct Means {
    acc grad, along;  // of the gradient, and of it times what was normalised
  };

  const int64_t state_stride = blocks * kWidth;
  Buffer<acc> grads[2];  // of a and z, [rows, stride], in turn; then of the product, where it is normalised
  Buffer<acc> states;    // of h, [rows, state_stride]
  Buffer<Means> means;   // [unit_groups, rows]

 public:
  explicit BackwardPass(const Backward<scalar_t>& p)
      : Base(p, 2 * p.units, kWidth, true),
        grads{Buffer<acc>(rows * stride), Buffer<acc>(rows * stride)},
        states(rows * state_stride),
        means(team.unit_groups * rows) {}

  void run() {
    torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) pack(block);
    });
    this->run_seats([&](Member member) { walk(member); });
  }

 private:
  void pack(int64_t block) {
    const int64_t unit = block * kWidth, n = std::min<int64_t>(kWidth, units - unit);
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t i = 0; i < n; ++i) packed[(block * depth + k) * kWidth + i] = static_cast<acc>(p.u[k * units + unit + i]);
  }

  void walk(Member member) {
    const auto reach = [&](const Seat& seat, int64_t s) {  // what comes to the states after step s
      if (s + 1 < p.steps) return to_states(seat, s + 1);
      for (int64_t r = seat.rows.begin; r < seat.rows.end && p.grad_h_last != nullptr; ++r)
        each_unit(seat, [&](int64_t unit, int n) {
          M::store(states + r * state_stride + unit, M::load(p.grad_h_last + r * units + unit, n), n);
        });
    };
    for (int64_t s = p.steps - 1; s >= 0; --s) {
      // A phase reads what the last one made for all units, and makes the next: without normalisation on two sides in turn.
      together(member, [&](const Seat& seat) {
        reach(seat, s);
        for (int64_t r = seat.rows.begin; r < seat.rows.end; ++r)
          gate(seat, r, s, grads[p.normalize ? 0 : s % 2] + r * stride);
      });
      if (p.normalize) {
        together(member, [&](const Seat& seat) {
          for (int64_t r = seat.rows.begin; r < seat.rows.end; ++r) through_norm(seat, r, s);
        });
      }
    }
    together(member, [&](const Seat& seat) {
      reach(seat, -1);
      for (int64_t r = seat.rows.begin; r < seat.rows.end; ++r)
        each_unit(seat, [&](int64_t unit, int n) {
          M::store(p.grad_h0 + r * units + unit, p.row(r).begins(0) ? V{} : M::load(states + r * state_stride + unit, n), n);
        });
    });
  }

  // Adds what reaches h through the product of step s.
  void to_states(const Seat& seat, int64_t s) {
    const acc* const from = grads[p.normalize ? 1 : s % 2] + 0;
    for (int64_t block = seat.blocks.begin; block < seat.blocks.end; ++block) {
      this->products(seat, block, from, [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; ++r) {
          for (int half = 0; half < 2; ++half) {
            acc* const state = states + r * state_stride + block * kWidth + half * kLanes;
            M::store(state, M::load(state, kLanes) + M::load(sums_at(block, r) + half * kLanes, kLanes));
          }
        }
      });
    }
  }

  // f(unit, lanes) for each vector of a seat's units
  template <class F>
  RNNKIT_INLINE void each_unit(const Seat& seat, F f) const {
    for (int64_t unit = seat.blocks.begin * kWidth; unit < std::min(units, seat.blocks.end * kWidth); unit += kLanes)
      f(unit, this->lanes(unit));
  }

  RNNKIT_INLINE void gate(const Seat& seat, int64_t r, int64_t s, acc* grad) {
    const auto row = p.row(r);
    const int64_t t = row.time(s), at = p.offset(r, t, 2 * units);
    if (s >= row.length) {
      each_unit(seat, [&](int64_t unit, int n) {
        for (int half = 0; half < 2; ++half) {
          M::store(grad + half * units + unit, V{}, n);
          M::store(p.grad_gates + at + half * units + unit, V{}, n);
          M::store(p.grad_product + at + half * units + unit, V{}, n);
        }
        M::store(p.h_before + p.offset(r, t, units) + unit, V{}, n);
      });
      return;
    }
    const scalar_t* const before = s == 0 ? nullptr : p.out.at(row.b, row.reverse ? t + 1 : t - 1) + row.reverse * units;
    const scalar_t* const grad_out = p.grad_out.at(row.b, t) + row.reverse * units;
    const bool begins = row.begins(s), ends = row.begins(s + 1);
    V sum = {}, along = {};
    each_unit(seat, [&](int64_t unit, int n) {
      acc* const state = states + r * state_stride + unit;
      const V h = begins ? V{} : s > 0 ? M::load(before + unit, n) : this->load_or(p.h0, r * units + unit, n, 0);
      const V mask = this->load_or(p.mask, r * units + unit, n, 1);
      V grad_h, d[2];
      Cell<M>::gradients(p.activation, M::load(p.gates + at + unit, n), M::load(p.gates + at + units + unit, n), mask, h,
                         (ends ? V{} : M::load(state, kLanes)) + M::load(grad_out + unit, n), d[0], d[1], grad_h);
      M::store(state, grad_h, n);
      M::store(p.h_before + p.offset(r, t, units) + unit, h, n);
      for (int half = 0; half < 2; ++half) {
        const int64_t j = half * units + unit;
        M::store(p.grad_gates + at + j, d[half], n);
        if (p.normalize) {
          const V normal = M::load(p.normal + at + j, n);
          if (p.weight != nullptr) {
            acc* const of_weight = p.sums + 2 * r * (2 * units) + j;
            M::store(of_weight, M::load(of_weight, n) + d[half] * normal, n);
            M::store(of_weight + 2 * units, M::load(of_weight + 2 * units, n) + d[half], n);
            d[half] *= M::load(p.weight + j, n);
          }
          sum += n == kLanes ? d[half] : first_lanes(d[half], n);
          along += n == kLanes ? d[half] * normal : first_lanes(d[half] * normal, n);
        }
        M::store(grad + j, d[half], n);
      }
    });
    if (p.normalize) means[seat.unit_group * rows + r] = {this->total(sum), this->total(along)};
  }

  static V first_lanes(V x, int n) {
    for (int i = n; i < kLanes; ++i) x[i] = 0;
    return x;
  }

  // From the gradients of a and z, through the normalisation, to those of the product.
  RNNKIT_INLINE void through_norm(const Seat& seat, int64_t r, int64_t s) {
    const auto row = p.row(r);
    const int64_t t = row.time(s), at = p.offset(r, t, 2 * units);
    const bool active = s < row.length;
    Means mean{0, 0};
    for (int64_t group = 0; group < team.unit_groups && active; ++group) {
      mean.grad += means[group * rows + r].grad / (2 * units);
      mean.along += means[group * rows + r].along / (2 * units);
    }
    const acc rstd = active ? p.rstd[p.offset(r, t, 1)] : 0;
    each_unit(seat, [&](int64_t unit, int n) {
      for (int half = 0; half < 2; ++half) {
        const int64_t j = half * units + unit;
        V grad = {};
        if (active) {
          grad = (M::load(grads[0] + r * stride + j, n) - mean.grad - M::load(p.normal + at + j, n) * mean.along) * rstd;
          M::store(p.grad_product + at + j, grad, n);
        }
        M::store(grads[1] + r * stride + j, grad, n);
      }
    });
  }
};

template <class scalar_t>
void run_recurrence(const Forward<scalar_t>& p) {
  ForwardPass<scalar_t>(p).run();
}

template <class scalar_t>
void run_recurrence(const Backward<scalar_t>& p) {
  BackwardPass<scalar_t>(p).run();
}

}  // namespace rnnkit::RNNKIT_TARGET

#endif
