// What the passes forward and backward share.
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_LIGRU_CPU_PASS_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_LIGRU_CPU_PASS_H
#undef RNNKIT_LIGRU_CPU_PASS_H
#else
#define RNNKIT_LIGRU_CPU_PASS_H
#endif

#include <rnnkit/cpu/math.h>
#include <torch/csrc/stable/ops.h>

#include "../cell.h"
#include "product.h"
#include "team.h"

namespace rnnkit::RNNKIT_TARGET {

// What both passes have: the problem, the threads, the packed weights, and one buffer of sums per row and block. Factor is
// what is multiplied.
template <class Problem, class scalar_t, class Factor>
class Pass {
 protected:
  using M = Math<acc_t<scalar_t>>;
  using V = typename M::V;
  using acc = typename M::Scalar;
  static constexpr int kLanes = M::kLanes, kWidth = 2 * kLanes;
  static constexpr int64_t kRowStep = 16 * kPair<Factor>;

  const Problem& p;
  const int64_t rows = p.rows(), units = p.units, depth, blocks, stride, block_size;
  const bool packs;
  const Team team;
  const std::vector<int64_t> order;  // which of the problem's rows ours are
  Meeting packing;                   // of all
  Meetings meetings;                 // of each group of rows
  Buffer<Factor> packed;
  Buffer<acc> sums;

  Pass(const Problem& p, int64_t depth, int64_t units_per_block, bool packs)
      : p(p),
        depth(depth),
        blocks(ceil_div(p.units, units_per_block)),
        stride(ceil_div(depth, kRowStep) * kRowStep + kRowStep),  // a power of two would share the same sets of the cache
        block_size(packed_at<M, Factor>(ceil_div(depth, kPair<Factor>) * kPair<Factor>, 0)),
        packs(packs),
        team(Team::choose(rows, ceil_div(depth * sizeof(Factor), 64), blocks, depth * kWidth / kPair<Factor>, kLanes,
                          p.steps)),
        order(by_length(p, team.row_groups)),
        packing(team.seats()),
        meetings(team.row_groups, team.unit_groups),
        packed(packs ? blocks * block_size : 0),
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

  // The longest rows first, one for each group in turn: those that have ended are then the last of each.
  static std::vector<int64_t> by_length(const Problem& p, int64_t groups) {
    std::vector<int64_t> rows(p.rows()), order(p.rows());
    for (int64_t r = 0; r < p.rows(); ++r) rows[r] = order[r] = r;
    if (p.lengths == nullptr) return order;
    std::stable_sort(rows.begin(), rows.end(), [&](int64_t a, int64_t b) { return p.row(a).length > p.row(b).length; });
    std::vector<int64_t> next(groups);
    for (int64_t i = 0; i < groups; ++i) next[i] = Share(p.rows(), i, groups).begin;
    int64_t group = 0;
    for (int64_t r : rows) {
      while (next[group] == Share(p.rows(), group, groups).end) group = (group + 1) % groups;
      order[next[group]++] = r;
      group = (group + 1) % groups;
    }
    return order;
  }

  // The end of those of a seat's rows that have a step s.
  int64_t end_of_running(const Seat& seat, int64_t s) const {
    int64_t end = seat.rows.end;
    while (end > seat.rows.begin && p.row(order[end - 1]).length <= s) --end;
    return end;
  }

  acc* sums_at(int64_t block, int64_t r) const { return sums + (block * rows + r) * kWidth; }

  // The products of a seat's rows up to `running` with one of its blocks; done(first, end) is called for each tile of rows.
  template <class F>
  RNNKIT_INLINE void products(const Seat& seat, int64_t running, int64_t block, const Factor* x, F done) const {
    const int64_t count = running - seat.rows.begin, tiles = ceil_div(count, kTileRows);
    for (int64_t i = 0; i < tiles; ++i) {
      const Share tile(count, i, tiles);
      const int64_t first = seat.rows.begin + tile.begin, end = seat.rows.begin + tile.end;
      product_of<M, Factor>(int(end - first), x + first * stride, stride, depth, packed + block * block_size,
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

  // pack(block) for all blocks, then walk(member) for all seats, each thread with some of them.
  template <class Pack, class Walk>
  void run_seats(Pack pack, Walk walk) {
    torch::stable::parallel_for(0, team.seats(), 1, [&](int64_t begin, int64_t end) {
      packing.phase(1, begin, end, [&](int64_t seat) {
        const Share mine(packs ? blocks : 0, seat, team.seats());
        for (int64_t block = mine.begin; block < mine.end; ++block) pack(block);
      });
      while (begin < end) {
        const int64_t group = begin / team.unit_groups, of_group = group * team.unit_groups;
        const int64_t last = std::min(end, of_group + team.unit_groups);
        walk(Member{group, begin - of_group, last - of_group});
        begin = last;
      }
    });
  }
};

}  // namespace rnnkit::RNNKIT_TARGET

#endif
