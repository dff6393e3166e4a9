// The scan engine for the CPU, for one instruction set (see foreach_target.h; no include guard): SIMD over channels,
// parallel over sequences and tiles of channels, and over chunks of time only where there are fewer of those than threads.
//
// A cell over the vectors of M = Math<acc> supplies
//   kPlanes                                            pre-activations per channel and step
//   gates(x[kPlanes], &a, &b)                          h = a h_prev + b
//   gradients(x[kPlanes], h_prev, &a, &b, d[kPlanes])  the same, and dh/dx[j] at fixed h_prev
// SPDX-License-Identifier: Apache-2.0

namespace rnnkit::RNNKIT_TARGET {

constexpr int kForwardTile = 512;          // channels: long rows for the prefetchers
constexpr int kBackwardTile = 256;         // channels: the factors of a block stay in the L2 cache
constexpr int64_t kMinChunk = 256;         // steps that are worth a task of their own
constexpr int64_t kCachedBytes = 8 << 20;  // more than that, written by one pass, is out of the caches before the next
constexpr int64_t kStepsAhead = 4;         // of the prefetch: rows of a tile are too far apart for the hardware to foresee

// How a problem is cut: tasks are sequences x tiles of `width` channels x chunks of time.
struct Tiling {
  int64_t channels, width, tiles, tasks, chunks;

  Tiling(int64_t batch, int64_t channels, int64_t steps, int64_t lanes, int64_t max_width) : channels(channels) {
    const int64_t threads = torch::stable::get_num_threads();
    width = max_width;
    while (width > lanes && batch * ((channels + width - 1) / width) < threads) width /= 2;
    tiles = (channels + width - 1) / width;
    tasks = batch * tiles;
    // the extra pass of a chunked scan costs as much as the scan: two threads a task gain nothing
    chunks = tasks > 0 && threads >= 3 * tasks ? std::min(threads / tasks, steps / kMinChunk) : 1;
    chunks = std::max<int64_t>(chunks, 1);
  }

  // Chunk boundaries lie on kept states.
  int64_t boundary(int64_t chunk, int64_t length) const {
    return chunk == chunks ? length : length * chunk / chunks / kCarry * kCarry;
  }
};

struct Tile {
  int64_t b, d, length;
  int width;
};

template <class Problem>
Tile tile_of(const Problem& p, const Tiling& tiling, int64_t task) {
  const int64_t b = task / tiling.tiles, d = task % tiling.tiles * tiling.width;
  return {b, d, p.length(b), int(std::min(tiling.width, tiling.channels - d))};
}

template <class acc, int width>
struct Aggregate {  // of a chunk, whose state changes from h to a h + b
  alignas(64) acc a[width], b[width];

  void apply(acc* h, int count) const {
    for (int c = 0; c < count; ++c) h[c] = a[c] * h[c] + b[c];
  }
};

// Runs a pass over every task: at once, or first the chunks' aggregates and then the chunks.
template <class Pass>
void run_scan(const Pass& pass) {
  const int64_t chunks = pass.tiling.chunks, count = pass.tiling.tasks * chunks;
  std::vector<typename Pass::Total> totals(chunks == 1 ? 0 : count);
  if (chunks > 1)
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) pass.aggregate(i / chunks, i % chunks, totals[i]);
    });
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) pass.run(i / chunks, i % chunks, totals.data() + i / chunks * chunks);
  });
}

template <class Cell, class scalar_t>
class Forward {
  using M = typename Cell::M;
  using V = typename M::V;
  using acc = typename M::Scalar;
  using Problem = ScanForward<scalar_t, Cell::kPlanes>;

 public:
  using Total = Aggregate<acc, kForwardTile>;
  const Tiling tiling;

  explicit Forward(const Problem& problem)
      : tiling(problem.batch, problem.channels, problem.steps, M::kLanes, kForwardTile), p(problem) {}

  void run(int64_t task, int64_t chunk, const Total* totals) const {
    const Tile at = tile_of(p, tiling, task);
    alignas(64) acc h[kForwardTile];
    for (int c = 0; c < at.width; ++c) h[c] = p.h0 == nullptr ? p.initial : p.h0[at.b * p.channels + at.d + c];
    for (int64_t earlier = 0; earlier < chunk; ++earlier) totals[earlier].apply(h, at.width);
    steps(at, tiling.boundary(chunk, at.length), tiling.boundary(chunk + 1, at.length), h);
    if (chunk + 1 == tiling.chunks) finish(at, h);
  }

  void aggregate(int64_t task, int64_t chunk, Total& total) const {
    const Tile at = tile_of(p, tiling, task);
    std::fill_n(total.a, kForwardTile, acc(1));
    std::fill_n(total.b, kForwardTile, acc(0));
    for (int64_t s = tiling.boundary(chunk, at.length); s < tiling.boundary(chunk + 1, at.length); ++s) {
      const int64_t t = p.position(s, at.length);
      if (p.resets(at.b, t)) {
        std::fill_n(total.a, at.width, acc(0));
        std::fill_n(total.b, at.width, p.initial);
      }
      for (int c = 0; c < at.width; c += M::kLanes) {
        const int n = std::min(M::kLanes, at.width - c);
        V x[Cell::kPlanes], a, b;
        for (int j = 0; j < Cell::kPlanes; ++j) x[j] = M::load(p.in[j].at(at.b, t) + at.d + c, n);
        Cell::gates(x, a, b);
        M::store(total.a + c, a * M::load(total.a + c));
        M::store(total.b + c, a * M::load(total.b + c) + b);
      }
    }
  }

 private:
  void finish(const Tile& at, const acc* h) const {
    std::copy_n(h, at.width, p.h_last + at.b * p.channels + at.d);
    for (int64_t t = at.length; t < p.steps; ++t) std::fill_n(p.out.at(at.b, t) + at.d, at.width, scalar_t(0));
    for (int64_t s = next_carry(at.length); p.carries != nullptr && s < p.steps; s += kCarry)
      std::fill_n(p.carries + p.carry_offset(at.b, s) + at.d, at.width, acc(0));
  }

  void steps(const Tile& at, int64_t begin, int64_t end, acc* h) const {
    const int64_t ahead = p.reverse ? -kStepsAhead : kStepsAhead;
    for (int64_t s = begin; s < end; ++s) {
      const int64_t t = p.position(s, at.length);
      if (p.carries != nullptr && s % kCarry == 0) std::copy_n(h, at.width, p.carries + p.carry_offset(at.b, s) + at.d);
      if (p.resets(at.b, t)) std::fill_n(h, at.width, p.initial);
      const scalar_t* in[Cell::kPlanes];
      for (int j = 0; j < Cell::kPlanes; ++j) in[j] = p.in[j].at(at.b, t) + at.d;
      scalar_t* out = p.out.at(at.b, t) + at.d;
      for (int c = 0; c < at.width; c += M::kLanes) {
        const int n = std::min(M::kLanes, at.width - c);
        V x[Cell::kPlanes], a, b;
        for (int j = 0; j < Cell::kPlanes; ++j) {
          x[j] = M::load(in[j] + c, n);
          __builtin_prefetch(in[j] + c + ahead * p.in[j].step_stride);
        }
        __builtin_prefetch(out + c + ahead * p.out.step_stride, 1);
        Cell::gates(x, a, b);
        const V state = a * M::load(h + c) + b;
        M::store(h + c, state);
        M::store(out + c, state, n);
      }
    }
  }

  const Problem& p;
};

// The adjoint, from the last step to the first: K_s = dL/dh_s = grad_out_s + P_s, P_{s-1} = a_s K_s, and
// dL/dx = K_s dh_s/dx. What flows past a reset is 0.
template <class Cell, class scalar_t>
class Backward {
  using M = typename Cell::M;
  using V = typename M::V;
  using acc = typename M::Scalar;
  using Problem = ScanBackward<scalar_t, Cell::kPlanes>;

 public:
  using Total = Aggregate<acc, kBackwardTile>;
  const Tiling tiling;

  explicit Backward(const Problem& problem)
      : tiling(problem.batch, problem.channels, problem.steps, M::kLanes, kBackwardTile),
        p(problem),
        past_caches(problem.batch * problem.steps * problem.channels * Cell::kPlanes * sizeof(scalar_t) > kCachedBytes) {}

  void run(int64_t task, int64_t chunk, const Total* totals) const {
    const Tile at = tile_of(p, tiling, task);
    alignas(64) acc past[kBackwardTile];
    for (int c = 0; c < at.width; ++c)
      past[c] = p.grad_h_last == nullptr ? acc(0) : p.grad_h_last[at.b * p.channels + at.d + c];
    for (int64_t later = tiling.chunks - 1; later > chunk; --later) totals[later].apply(past, at.width);

    const int64_t begin = tiling.boundary(chunk, at.length), end = tiling.boundary(chunk + 1, at.length);
    for (int64_t s = begin + (end - begin - 1) / kCarry * kCarry; s >= begin && begin < end; s -= kCarry)
      block(at, s, int(std::min<int64_t>(kCarry, end - s)), past);

    if (past_caches) M::finish_streams();
    if (chunk == 0) std::copy_n(past, at.width, p.grad_h0 + at.b * p.channels + at.d);
    if (chunk + 1 == tiling.chunks)
      for (int j = 0; j < Cell::kPlanes; ++j)
        for (int64_t t = at.length; t < p.steps; ++t) std::fill_n(p.grad_in[j].at(at.b, t) + at.d, at.width, scalar_t(0));
  }

  void aggregate(int64_t task, int64_t chunk, Total& total) const {
    const Tile at = tile_of(p, tiling, task);
    std::fill_n(total.a, kBackwardTile, acc(1));
    std::fill_n(total.b, kBackwardTile, acc(0));
    for (int64_t s = tiling.boundary(chunk + 1, at.length) - 1; s >= tiling.boundary(chunk, at.length); --s) {
      const int64_t t = p.position(s, at.length);
      const bool reset = p.resets(at.b, t);
      for (int c = 0; c < at.width; c += M::kLanes) {
        const int n = std::min(M::kLanes, at.width - c);
        V x[Cell::kPlanes], a, b;
        for (int j = 0; j < Cell::kPlanes; ++j) x[j] = M::load(p.in[j].at(at.b, t) + at.d + c, n);
        Cell::gates(x, a, b);
        if (reset) a = M::set(0);
        M::store(total.a + c, a * M::load(total.a + c));
        M::store(total.b + c, a * (M::load(total.b + c) + M::load(p.grad_out.at(at.b, t) + at.d + c, n)));
      }
    }
  }

 private:
  // Up to kCarry steps from a kept state: their factors forward, then the adjoint backward.
  void block(const Tile& at, int64_t begin, int count, acc* past) const {
    const int64_t ahead = p.reverse ? -kCarry : kCarry;  // the same steps of the block that comes next
    alignas(64) acc h[kBackwardTile], factor[kCarry][1 + Cell::kPlanes][kBackwardTile];
    std::copy_n(p.carries + p.carry_offset(at.b, begin) + at.d, at.width, h);
    for (int i = 0; i < count; ++i) {
      const int64_t t = p.position(begin + i, at.length);
      const bool reset = p.resets(at.b, t);
      if (reset) std::fill_n(h, at.width, p.initial);
      for (int c = 0; c < at.width; c += M::kLanes) {
        const int n = std::min(M::kLanes, at.width - c);
        V x[Cell::kPlanes], a, b, d[Cell::kPlanes];
        for (int j = 0; j < Cell::kPlanes; ++j) {
          const scalar_t* const in = p.in[j].at(at.b, t) + at.d + c;
          x[j] = M::load(in, n);
          __builtin_prefetch(in - ahead * p.in[j].step_stride);
        }
        __builtin_prefetch(p.grad_out.at(at.b, t) + at.d + c - ahead * p.grad_out.step_stride);
        const V before = M::load(h + c);
        Cell::gradients(x, before, a, b, d);
        M::store(h + c, a * before + b);
        M::store(factor[i][0] + c, reset ? M::set(0) : a);
        for (int j = 0; j < Cell::kPlanes; ++j) M::store(factor[i][1 + j] + c, d[j]);
      }
    }
    for (int i = count - 1; i >= 0; --i) {
      const int64_t t = p.position(begin + i, at.length);
      const scalar_t* grad_out = p.grad_out.at(at.b, t) + at.d;
      for (int c = 0; c < at.width; c += M::kLanes) {
        const int n = std::min(M::kLanes, at.width - c);
        const V grad = M::load(grad_out + c, n) + M::load(past + c);
        for (int j = 0; j < Cell::kPlanes; ++j) {
          const V result = grad * M::load(factor[i][1 + j] + c);
          scalar_t* const to = p.grad_in[j].at(at.b, t) + at.d + c;
          past_caches ? M::stream(to, result, n) : M::store(to, result, n);
        }
        M::store(past + c, grad * M::load(factor[i][0] + c));
      }
    }
  }

  const Problem& p;
  const bool past_caches;  // the gradients will not be in a cache when they are read: do not fetch them to be written
};

}  // namespace rnnkit::RNNKIT_TARGET
