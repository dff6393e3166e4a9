// The scan engine for the CPU, for one instruction set (see foreach_target.h; no include guard): SIMD over channels,
// parallel over sequences and tiles of channels, and over chunks of time only where there are fewer of those than threads.
//
// Cells: see rnnkit/scan.h, with M = Math<acc>.
// SPDX-License-Identifier: Apache-2.0

namespace rnnkit::RNNKIT_TARGET {

template <class M, class Kind>
struct Cell;  // the family's

// The channels that one task walks through time together: of one sequence, or forward also of several that lie side by
// side in memory, because the longer the rows, the better the hardware foresees them. The factors of a block stay in the
// L2 cache.
template <class acc>
constexpr int kForwardTile = 32768 / sizeof(acc);
template <class acc>
constexpr int kBackwardTile = 4096 / sizeof(acc);
constexpr int64_t kMinChunk = 256;         // steps that are worth a task of their own
constexpr int64_t kCachedBytes = 8 << 20;  // more than that, written by one pass, is out of the caches before the next
constexpr int64_t kStepsAhead = 4;         // of the prefetch: where rows end, the hardware loses track

struct Tile {  // some channels of one sequence
  int64_t b, d, length;
  int width;
};

struct Group {  // the same channels of some sequences
  int64_t b, d;
  int sequences, width, stride;  // the states of a sequence are `stride` after those of the one before

  template <class Problem>
  Tile tile(const Problem& p, int sequence) const {
    return {b + sequence, d, p.length(b + sequence), width};
  }
};

// How a problem is cut: tasks are groups of sequences x tiles of channels, and chunks of time of these.
struct Tiling {
  int64_t batch, channels, groups, tiles, tasks, chunks;
  int lanes;

  // side_by_side: whether a step of all sequences lies together in memory, so that several are best walked together.
  Tiling(int64_t batch, int64_t channels, int64_t steps, int lanes, int64_t widest, bool side_by_side)
      : batch(batch), channels(channels), groups(batch), tiles((channels + widest - 1) / widest), lanes(lanes) {
    const int64_t threads = torch::stable::get_num_threads();
    while (batch * tiles < threads && tiles * lanes < channels) tiles *= 2;
    if (side_by_side && tiles == 1 && channels > 0) {
      const int64_t together = widest / padded(channels);
      groups = std::min(batch, ((batch + together - 1) / together + threads - 1) / threads * threads);
    }
    tasks = groups * tiles;
    // the extra pass of a chunked scan costs as much as the scan: two threads a task gain nothing
    chunks = tasks > 0 && threads >= 3 * tasks ? std::min(threads / tasks, steps / kMinChunk) : 1;
    chunks = std::max<int64_t>(chunks, 1);
  }

  Group group(int64_t task) const {
    const int64_t i = task / tiles, b = batch * i / groups, end = batch * (i + 1) / groups;
    const int64_t width = padded((channels + tiles - 1) / tiles), d = std::min(channels, task % tiles * width);
    return {b, d, int(end - b), int(std::min(width, channels - d)), int(width)};
  }

  // Chunk boundaries lie on kept states.
  int64_t boundary(int64_t chunk, int64_t length) const {
    return chunk == chunks ? length : length * chunk / chunks / kCarry * kCarry;
  }

 private:
  int64_t padded(int64_t width) const { return (width + lanes - 1) / lanes * lanes; }
};

inline Coordinates coordinates(const Tile& at, int64_t s, int c) { return {at.b, at.d + c, s / kCarry, int(s % kCarry)}; }

template <class acc>
struct Aggregate {  // of a chunk, whose state changes from h to a h + b
  acc *a, *b;

  void apply(acc* h, int count) const {
    for (int c = 0; c < count; ++c) h[c] = a[c] * h[c] + b[c];
  }
};

// Runs a pass over every task: at once, or first the chunks' aggregates and then the chunks.
template <class acc, class Pass>
void run_passes(const Pass& pass) {
  const int64_t chunks = pass.tiling.chunks, count = pass.tiling.tasks * chunks;
  if (chunks == 1)
    return torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) pass.run(i, 0, nullptr);
    });
  const int64_t width = pass.tiling.group(0).stride;
  std::vector<acc> storage(2 * width * count);
  std::vector<Aggregate<acc>> totals(count);
  for (int64_t i = 0; i < count; ++i) totals[i] = {&storage[2 * width * i], &storage[2 * width * i + width]};
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::fill_n(totals[i].a, width, acc(1));
      pass.aggregate(i / chunks, i % chunks, totals[i]);
    }
  });
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) pass.run(i / chunks, i % chunks, totals.data() + i / chunks * chunks);
  });
}

template <class Kind, class scalar_t>
class Forward {
  using M = Math<acc_t<scalar_t>>;
  using V = typename M::V;
  using acc = typename M::Scalar;

 public:
  const Tiling tiling;

  explicit Forward(const ScanForward<scalar_t, Kind>& problem)
      : tiling(problem.batch, problem.channels, problem.steps, M::kLanes, kForwardTile<acc>,
               problem.out.batch_stride < problem.out.step_stride),
        p(problem),
        cell(problem.options) {}

  void run(int64_t task, int64_t chunk, const Aggregate<acc>* totals) const {
    const Group group = tiling.group(task);
    alignas(64) acc state[kForwardTile<acc>];
    for (int q = 0; q < group.sequences; ++q) {
      const Tile at = group.tile(p, q);
      acc* const h = state + q * group.stride;
      for (int c = 0; c < at.width; ++c) h[c] = p.h0 == nullptr ? p.initial : p.h0[at.b * p.channels + at.d + c];
      for (int64_t earlier = 0; earlier < chunk; ++earlier) totals[earlier].apply(h, at.width);
    }
    const int64_t begin = tiling.boundary(chunk, p.length(group.b));  // 0 where there are several sequences
    const int64_t end = tiling.chunks == 1 ? p.steps : tiling.boundary(chunk + 1, p.length(group.b));
    for (int64_t s = begin; s < end; ++s)
      for (int q = 0; q < group.sequences; ++q) {
        const Tile at = group.tile(p, q);
        if (s < at.length) step(at, s, state + q * group.stride);
      }
    for (int q = 0; q < group.sequences && chunk + 1 == tiling.chunks; ++q)
      finish(group.tile(p, q), state + q * group.stride);
  }

  void aggregate(int64_t task, int64_t chunk, const Aggregate<acc>& total) const {
    const Tile at = tiling.group(task).tile(p, 0);
    for (int64_t s = tiling.boundary(chunk, at.length); s < tiling.boundary(chunk + 1, at.length); ++s) {
      const int64_t t = p.position(s, at.length);
      if (p.resets(at.b, t)) {
        std::fill_n(total.a, at.width, acc(0));
        std::fill_n(total.b, at.width, p.initial);
      }
      for (int c = 0; c < at.width; c += M::kLanes) {
        const int n = std::min(M::kLanes, at.width - c);
        V x[Kind::kPlanes], a, b;
        for (int j = 0; j < Kind::kPlanes - Kind::kOutputPlanes; ++j) x[j] = M::load(p.in[j].at(at.b, t) + at.d + c, n);
        cell.gates(coordinates(at, s, c), x, a, b);
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

  void step(const Tile& at, int64_t s, acc* h) const {
    const int64_t ahead = p.reverse ? -kStepsAhead : kStepsAhead, t = p.position(s, at.length);
    if (p.carries != nullptr && s % kCarry == 0) std::copy_n(h, at.width, p.carries + p.carry_offset(at.b, s) + at.d);
    if (p.resets(at.b, t)) std::fill_n(h, at.width, p.initial);
    const scalar_t* in[Kind::kPlanes];
    for (int j = 0; j < Kind::kPlanes; ++j) in[j] = p.in[j].at(at.b, t) + at.d;
    scalar_t* out = p.out.at(at.b, t) + at.d;
    for (int c = 0; c < at.width; c += M::kLanes) {
      const int n = std::min(M::kLanes, at.width - c);
      V x[Kind::kPlanes], a, b;
      for (int j = 0; j < Kind::kPlanes; ++j) {
        x[j] = M::load(in[j] + c, n);
        __builtin_prefetch(in[j] + c + ahead * p.in[j].step_stride);
      }
      __builtin_prefetch(out + c + ahead * p.out.step_stride, 1);
      cell.gates(coordinates(at, s, c), x, a, b);
      const V state = a * M::load(h + c) + b;
      M::store(h + c, state);
      if constexpr (Kind::kOutputPlanes == 0)
        M::store(out + c, state, n);
      else
        M::store(out + c, cell.output(x, state), n);
    }
  }

  const ScanForward<scalar_t, Kind>& p;
  const Cell<M, Kind> cell;
};

// The adjoint, from the last step to the first: K_s = dL/dh_s = G_s + P_s, P_{s-1} = a_s K_s, and dL/dx = K_s dh_s/dx,
// where G_s is what grad_out_s brings to the state. What flows past a reset is 0.
template <class Kind, class scalar_t>
class Backward {
  using M = Math<acc_t<scalar_t>>;
  using V = typename M::V;
  using acc = typename M::Scalar;
  static constexpr int kStatePlanes = Kind::kPlanes - Kind::kOutputPlanes;

 public:
  const Tiling tiling;

  explicit Backward(const ScanBackward<scalar_t, Kind>& problem)
      : tiling(problem.batch, problem.channels, problem.steps, M::kLanes, kBackwardTile<acc>, false),
        p(problem),
        cell(problem.options),
        past_caches(problem.batch * problem.steps * problem.channels * Kind::kPlanes * sizeof(scalar_t) > kCachedBytes) {}

  void run(int64_t task, int64_t chunk, const Aggregate<acc>* totals) const {
    const Tile at = tiling.group(task).tile(p, 0);
    alignas(64) acc past[kBackwardTile<acc>];
    for (int c = 0; c < at.width; ++c)
      past[c] = p.grad_h_last == nullptr ? acc(0) : p.grad_h_last[at.b * p.channels + at.d + c];
    for (int64_t later = tiling.chunks - 1; later > chunk; --later) totals[later].apply(past, at.width);
    Factors factors;
    for (int64_t begin = last_block(at, chunk); begin >= tiling.boundary(chunk, at.length); begin -= kCarry) {
      const int count = run_block(at, chunk, begin, factors, true);
      for (int i = count - 1; i >= 0; --i) {
        const int64_t t = p.position(begin + i, at.length);
        for (int c = 0; c < at.width; c += M::kLanes) {
          const int n = std::min(M::kLanes, at.width - c);
          const V grad = direct(at, t, c, n, factors[i]) + M::load(past + c);
          for (int j = 0; j < kStatePlanes; ++j) put(at, j, t, c, n, grad * M::load(factors[i].d[j] + c));
          M::store(past + c, grad * M::load(factors[i].a + c));
        }
      }
    }

    if (past_caches) M::finish_streams();
    if (chunk == 0) std::copy_n(past, at.width, p.grad_h0 + at.b * p.channels + at.d);
    if (chunk + 1 == tiling.chunks)
      for (int j = 0; j < Kind::kPlanes; ++j)
        for (int64_t t = at.length; t < p.steps; ++t) std::fill_n(p.grad_in[j].at(at.b, t) + at.d, at.width, scalar_t(0));
  }

  void aggregate(int64_t task, int64_t chunk, const Aggregate<acc>& total) const {
    const Tile at = tiling.group(task).tile(p, 0);
    Factors factors;
    for (int64_t begin = last_block(at, chunk); begin >= tiling.boundary(chunk, at.length); begin -= kCarry) {
      const int count = run_block(at, chunk, begin, factors, false);
      for (int i = count - 1; i >= 0; --i) {
        const int64_t t = p.position(begin + i, at.length);
        for (int c = 0; c < at.width; c += M::kLanes) {
          const V a = M::load(factors[i].a + c);
          M::store(total.a + c, a * M::load(total.a + c));
          M::store(total.b + c,
                   a * (M::load(total.b + c) + direct(at, t, c, std::min(M::kLanes, at.width - c), factors[i])));
        }
      }
    }
  }

 private:
  struct StepFactors {  // of one step: P_{s-1} = a K_s, dL/dx[j] = d[j] K_s, and G_s where it is not grad_out
    alignas(64) acc a[kBackwardTile<acc>], d[kStatePlanes][kBackwardTile<acc>];
    alignas(64) acc direct[Kind::kOutputPlanes == 0 ? 1 : kBackwardTile<acc>];
  };
  using Factors = StepFactors[kCarry];

  // Of the blocks of up to kCarry steps from a kept state, the last of a chunk; before its first step if there is none.
  int64_t last_block(const Tile& at, int64_t chunk) const {
    const int64_t begin = tiling.boundary(chunk, at.length), end = tiling.boundary(chunk + 1, at.length);
    return end == begin ? begin - 1 : begin + (end - begin - 1) / kCarry * kCarry;
  }

  V direct(const Tile& at, int64_t t, int c, int n, const StepFactors& factors) const {
    if constexpr (Kind::kOutputPlanes == 0)
      return M::load(p.grad_out.at(at.b, t) + at.d + c, n);
    else
      return M::load(factors.direct + c);
  }

  void put(const Tile& at, int plane, int64_t t, int c, int n, V gradient) const {
    scalar_t* const to = p.grad_in[plane].at(at.b, t) + at.d + c;
    past_caches ? M::stream(to, gradient, n) : M::store(to, gradient, n);
  }

  // The states of a block forward, with all that depends on them; returns how many steps it has. The gradients of output
  // planes depend on nothing later, and are written here, if at all.
  int run_block(const Tile& at, int64_t chunk, int64_t begin, Factors& factors, bool write) const {
    const int count = int(std::min<int64_t>(kCarry, tiling.boundary(chunk + 1, at.length) - begin));
    const int64_t ahead = p.reverse ? -kCarry : kCarry;  // the same steps of the block that comes next, for the L2 cache
    constexpr int kL2 = 2;
    alignas(64) acc h[kBackwardTile<acc>];
    std::copy_n(p.carries + p.carry_offset(at.b, begin) + at.d, at.width, h);
    for (int i = 0; i < count; ++i) {
      const int64_t t = p.position(begin + i, at.length);
      const bool reset = p.resets(at.b, t);
      if (reset) std::fill_n(h, at.width, p.initial);
      for (int c = 0; c < at.width; c += M::kLanes) {
        const int n = std::min(M::kLanes, at.width - c);
        V x[Kind::kPlanes], a, b, d[kStatePlanes];
        for (int j = 0; j < Kind::kPlanes; ++j) {
          const scalar_t* const in = p.in[j].at(at.b, t) + at.d + c;
          x[j] = M::load(in, n);
          __builtin_prefetch(in - ahead * p.in[j].step_stride, 0, kL2);
        }
        const scalar_t* const grad_out = p.grad_out.at(at.b, t) + at.d + c;
        __builtin_prefetch(grad_out - ahead * p.grad_out.step_stride, 0, kL2);
        const V before = M::load(h + c);
        cell.gradients(coordinates(at, begin + i, c), x, before, a, b, d);
        const V state = a * before + b;
        M::store(h + c, state);
        M::store(factors[i].a + c, reset ? M::set(0) : a);
        for (int j = 0; j < kStatePlanes; ++j) M::store(factors[i].d[j] + c, d[j]);
        if constexpr (Kind::kOutputPlanes > 0) {
          V d_output[Kind::kOutputPlanes];
          M::store(factors[i].direct + c, cell.output_gradients(x, state, M::load(grad_out, n), d_output));
          for (int j = 0; write && j < Kind::kOutputPlanes; ++j) put(at, kStatePlanes + j, t, c, n, d_output[j]);
        }
      }
    }
    return count;
  }

  const ScanBackward<scalar_t, Kind>& p;
  const Cell<M, Kind> cell;
  const bool past_caches;  // the gradients will not be in a cache when they are read: do not fetch them to be written
};

template <class scalar_t, class Kind>
void run_scan(const ScanForward<scalar_t, Kind>& p) {
  run_passes<acc_t<scalar_t>>(Forward<Kind, scalar_t>(p));
}

template <class scalar_t, class Kind>
void run_scan(const ScanBackward<scalar_t, Kind>& p) {
  run_passes<acc_t<scalar_t>>(Backward<Kind, scalar_t>(p));
}

}  // namespace rnnkit::RNNKIT_TARGET
