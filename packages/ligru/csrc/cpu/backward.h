// The gradients of the recurrence, step by step from the last.
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_LIGRU_CPU_BACKWARD_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_LIGRU_CPU_BACKWARD_H
#undef RNNKIT_LIGRU_CPU_BACKWARD_H
#else
#define RNNKIT_LIGRU_CPU_BACKWARD_H
#endif

#include "pass.h"

namespace rnnkit::RNNKIT_TARGET {

template <class scalar_t, class Factor>
class BackwardPass : Pass<Backward<scalar_t>, scalar_t, Factor> {
  using Base = Pass<Backward<scalar_t>, scalar_t, Factor>;
  using Base::kLanes, Base::kWidth, Base::p, Base::rows, Base::units, Base::depth, Base::blocks, Base::stride, Base::team;
  using Base::order, Base::packed, Base::block_size, Base::sums_at, Base::together;
  using typename Base::acc, typename Base::M, typename Base::Member, typename Base::Seat, typename Base::V;

  struct Means {
    acc grad, along;  // of the gradient, and of it times what was normalised
  };

  const int64_t state_stride = blocks * kWidth;
  Buffer<Factor> grads[2];  // of the product, [rows, stride], in turn
  Buffer<acc> of_gates;     // of a and z, [rows, stride]; where the product is normalised
  Buffer<acc> states;       // of h, [rows, state_stride]
  Buffer<Means> means;      // [unit_groups, rows]

 public:
  explicit BackwardPass(const Backward<scalar_t>& p)
      : Base(p, 2 * p.units, kWidth, true),
        grads{Buffer<Factor>(rows * stride), Buffer<Factor>(p.normalize ? 0 : rows * stride)},
        of_gates(p.normalize ? rows * stride : 0),
        states(rows * state_stride),
        means(team.unit_groups * rows) {}

  void run() {
    this->run_seats([&](int64_t block) { pack(block); }, [&](Member member) { walk(member); });
  }

 private:
  void pack(int64_t block) {
    const int64_t unit = block * kWidth, n = std::min<int64_t>(kWidth, units - unit);
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t i = 0; i < n; ++i)
        packed[block * block_size + packed_at<M, Factor>(k, i)] = static_cast<Factor>(p.u[k * units + unit + i]);
  }

  void walk(Member member) {
    const auto reach = [&](const Seat& seat, int64_t s) {  // what comes to the states after step s
      if (s + 1 < p.steps) return to_states(seat, s + 1);
      for (int64_t r = seat.rows.begin; r < seat.rows.end && p.grad_h_last != nullptr; ++r)
        each_unit(seat, [&](int64_t unit, int n) {
          M::store(states + r * state_stride + unit, M::load(p.grad_h_last + order[r] * units + unit, n), n);
        });
    };
    for (int64_t s = p.steps - 1; s >= 0; --s) {
      // A phase reads what the last one made for all units, and makes the next: without normalisation on two sides in turn.
      together(member, [&](const Seat& seat) {
        reach(seat, s);
        for (int64_t r = seat.rows.begin; r < seat.rows.end; ++r)
          if (p.normalize)
            gate(seat, r, s, of_gates + r * stride);
          else
            gate(seat, r, s, grads[s % 2] + r * stride);
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
          M::store(p.grad_h0 + order[r] * units + unit,
                   p.row(order[r]).begins(0) ? V{} : M::load(states + r * state_stride + unit, n), n);
        });
    });
  }

  // Adds what reaches h through the product of step s.
  void to_states(const Seat& seat, int64_t s) {
    const int64_t running = this->end_of_running(seat, s);
    const Factor* const from = grads[p.normalize ? 0 : s % 2] + 0;
    for (int64_t block = seat.blocks.begin; block < seat.blocks.end; ++block) {
      this->products(seat, running, block, from, [&](int64_t first, int64_t last) {
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

  template <class T>
  RNNKIT_INLINE void gate(const Seat& seat, int64_t r, int64_t s, T* grad) {
    const auto row = p.row(order[r]);
    const int64_t t = row.time(s), at = p.offset(order[r], t, 2 * units);
    if (s >= row.length) {
      each_unit(seat, [&](int64_t unit, int n) {
        for (int half = 0; half < 2; ++half) {
          M::store(grad + half * units + unit, V{}, n);
          M::store(p.grad_gates + at + half * units + unit, V{}, n);
          M::store(p.grad_product + at + half * units + unit, V{}, n);
        }
        M::store(p.h_before + p.offset(order[r], t, units) + unit, V{}, n);
      });
      return;
    }
    const scalar_t* const before = s == 0 ? nullptr : p.out.at(row.b, row.reverse ? t + 1 : t - 1) + row.reverse * units;
    const scalar_t* const grad_out = p.grad_out.at(row.b, t) + row.reverse * units;
    const bool begins = row.begins(s), ends = row.begins(s + 1);
    V sum = {}, along = {};
    each_unit(seat, [&](int64_t unit, int n) {
      acc* const state = states + r * state_stride + unit;
      const V h = begins ? V{} : s > 0 ? M::load(before + unit, n) : this->load_or(p.h0, order[r] * units + unit, n, 0);
      const V mask = this->load_or(p.mask, order[r] * units + unit, n, 1);
      V grad_h, d[2];
      Cell<M>::gradients(p.activation, M::load(p.gates + at + unit, n), M::load(p.gates + at + units + unit, n), mask, h,
                         (ends ? V{} : M::load(state, kLanes)) + M::load(grad_out + unit, n), d[0], d[1], grad_h);
      M::store(state, grad_h, n);
      M::store(p.h_before + p.offset(order[r], t, units) + unit, h, n);
      for (int half = 0; half < 2; ++half) {
        const int64_t j = half * units + unit;
        M::store(p.grad_gates + at + j, d[half], n);
        if (p.normalize) {
          const V normal = M::load(p.normal + at + j, n);
          if (p.weight != nullptr) {
            acc* const of_weight = p.sums + 2 * order[r] * (2 * units) + j;
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
    const auto row = p.row(order[r]);
    const int64_t t = row.time(s), at = p.offset(order[r], t, 2 * units);
    const bool active = s < row.length;
    Means mean{0, 0};
    for (int64_t group = 0; group < team.unit_groups && active; ++group) {
      mean.grad += means[group * rows + r].grad / (2 * units);
      mean.along += means[group * rows + r].along / (2 * units);
    }
    const acc rstd = active ? p.rstd[p.offset(order[r], t, 1)] : 0;
    each_unit(seat, [&](int64_t unit, int n) {
      for (int half = 0; half < 2; ++half) {
        const int64_t j = half * units + unit;
        V grad = {};
        if (active) {
          grad = (M::load(of_gates + r * stride + j, n) - mean.grad - M::load(p.normal + at + j, n) * mean.along) * rstd;
          M::store(p.grad_product + at + j, grad, n);
        }
        M::store(grads[0] + r * stride + j, grad, n);
      }
    });
  }
};

}  // namespace rnnkit::RNNKIT_TARGET

#endif
