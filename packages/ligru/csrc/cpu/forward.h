// The recurrence, step by step.
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_LIGRU_CPU_FORWARD_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_LIGRU_CPU_FORWARD_H
#undef RNNKIT_LIGRU_CPU_FORWARD_H
#else
#define RNNKIT_LIGRU_CPU_FORWARD_H
#endif

#include "pass.h"

namespace rnnkit::RNNKIT_TARGET {

template <class scalar_t, class Factor>
class ForwardPass : Pass<Forward<scalar_t>, scalar_t, Factor> {
  using Base = Pass<Forward<scalar_t>, scalar_t, Factor>;
  using Base::kLanes, Base::kWidth, Base::p, Base::rows, Base::units, Base::depth, Base::blocks, Base::stride, Base::team;
  using Base::order, Base::packed, Base::packs, Base::block_size, Base::sums_at, Base::together;
  using typename Base::acc, typename Base::M, typename Base::Member, typename Base::Seat, typename Base::V;

  static constexpr bool kRounds = !std::is_same_v<Factor, acc>;
  static constexpr int64_t kFewSteps = 4;  // as of a stream: packing would take longer than their products
  std::vector<acc> mean;                   // of U's columns; where it is normalised
  Buffer<acc> states[2];                   // [rows, stride], in turn
  Buffer<Factor> factors[2];               // the same, where another type is multiplied
  Buffer<V> squares;                       // [unit_groups, rows], sums over the units of each group; where it is normalised

 public:
  explicit ForwardPass(const Forward<scalar_t>& p)
      : Base(p, p.units, kLanes, p.rows() * p.steps > kFewSteps),
        mean(units, 0),
        states{Buffer<acc>(rows * stride), Buffer<acc>(rows * stride)},
        factors{Buffer<Factor>(kRounds ? rows * stride : 0), Buffer<Factor>(kRounds ? rows * stride : 0)},
        squares(team.unit_groups * rows) {}

  void run() {
    for (int64_t j = 0; j < 2 * units && p.normalize; ++j)
      for (int64_t k = 0; k < units; ++k) mean[k] += static_cast<acc>(p.u[j * units + k]) / (2 * units);
    this->run_seats([&](int64_t block) { pack(block); }, [&](Member member) { walk(member); });
  }

 private:
  // Without its mean over the 2H units, U gives products that have none either: their squares are all that is left to sum.
  void pack(int64_t block) {
    for (int half = 0; half < 2; ++half) {
      for (int64_t unit = block * kLanes; unit < std::min(units, (block + 1) * kLanes); ++unit) {
        const scalar_t* const from = p.u + (half * units + unit) * units;
        Factor* const to = packed + block * block_size;
        for (int64_t k = 0; k < depth; ++k)
          to[packed_at<M, Factor>(k, half * kLanes + unit % kLanes)] =
              static_cast<Factor>(static_cast<acc>(from[k]) - mean[k]);
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
          if (p.row(order[r]).begins(0)) return;
          const acc* const h0 = p.h0 + order[r] * units;
          std::copy_n(h0, units, states[0] + r * stride);
          for (int64_t unit = 0; unit < units && kRounds; ++unit)
            factors[0][r * stride + unit] = static_cast<Factor>(h0[unit]);
        });
      });
    }
    for (int64_t s = 0; s < p.steps; ++s) {
      together(member, [&](const Seat& seat) {
        const int64_t running = this->end_of_running(seat, s);
        for (int64_t block = seat.blocks.begin; block < seat.blocks.end; ++block) {
          const auto done = [&](int64_t first, int64_t last) {
            for (int64_t r = first; r < last; ++r) p.normalize ? add_squares(seat, block, r) : gate(block, r, s, acc(1));
          };
          if (packs) {
            this->products(seat, running, block, factor(s % 2), done);
          } else {
            for (int64_t r = seat.rows.begin; r < running; ++r) product_unpacked(block, r, states[s % 2] + r * stride);
            done(seat.rows.begin, running);
          }
          for (int64_t r = running; r < seat.rows.end && !p.normalize; ++r) gate(block, r, s, acc(1));
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
      each_row(seat, [&](int64_t r) { std::copy_n(states[p.steps % 2] + r * stride, units, p.h_last + order[r] * units); });
    });
  }

  const Factor* factor(int64_t side) const {
    if constexpr (kRounds) return factors[side] + 0;
    if constexpr (!kRounds) return states[side] + 0;
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
    const auto row = p.row(order[r]);
    if (p.gates != nullptr && seat.unit_group == 0) p.rstd[p.offset(order[r], row.time(s), 1)] = s < row.length ? rstd : 0;
    return rstd;
  }

  RNNKIT_INLINE void gate(int64_t block, int64_t r, int64_t s, acc rstd) {
    const auto row = p.row(order[r]);
    const int64_t unit = block * kLanes, t = row.time(s);
    const int n = this->lanes(unit);
    const V h = M::load(states[s % 2] + r * stride + unit, kLanes);
    scalar_t* const out = p.out.at(row.b, t) + row.reverse * units + unit;
    acc* const next = states[(s + 1) % 2] + r * stride + unit;
    if (s >= row.length) {
      for (int half = 0; half < 2 && p.gates != nullptr; ++half) {
        const int64_t kept = p.offset(order[r], t, 2 * units) + half * units + unit;
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
        M::store(p.normal + p.offset(order[r], t, 2 * units) + unit, a, n);
        M::store(p.normal + p.offset(order[r], t, 2 * units) + units + unit, z, n);
      }
      a = a * this->load_or(p.weight, unit, n, 1) + this->load_or(p.bias, unit, n, 0);
      z = z * this->load_or(p.weight, units + unit, n, 1) + this->load_or(p.bias, units + unit, n, 0);
    }
    const scalar_t* const g = p.g.at(row.b, t) + unit;
    a += M::load(g, n);
    z += M::load(g + units, n);
    if (p.gates != nullptr) {
      M::store(p.gates + p.offset(order[r], t, 2 * units) + unit, a, n);
      M::store(p.gates + p.offset(order[r], t, 2 * units) + units + unit, z, n);
    }
    const V fresh = Cell<M>::step(p.activation, a, z, this->load_or(p.mask, order[r] * units + unit, n, 1), h);
    M::store(out, fresh, n);
    const V carried = row.begins(s + 1) ? V{} : fresh;
    M::store(next, carried, n);
    if constexpr (kRounds) M::store(factors[(s + 1) % 2] + r * stride + unit, carried, n);
  }
};

}  // namespace rnnkit::RNNKIT_TARGET

#endif
