// The scan engine for the CPU, for one instruction set (see foreach_target.h): SIMD over channels,
// parallel over sequences and tiles of channels, and over chunks of time only where there are fewer of those than threads.
//
// Cells: see rnnkit/scan.h, with M = Math<acc>.
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_CPU_SCAN_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_CPU_SCAN_H
#undef RNNKIT_CPU_SCAN_H
#else
#define RNNKIT_CPU_SCAN_H
#endif

#include <rnnkit/cell.h>
#include <rnnkit/cpu/math.h>
#include <rnnkit/cpu/product.h>
#include <torch/csrc/stable/ops.h>

namespace rnnkit::RNNKIT_TARGET {

// The channels that one task walks through time together: of one sequence, or forward also of several that lie side by
// side in memory, because the longer the rows, the better the hardware foresees them. The factors of a block stay in the
// L2 cache.
template <class acc>
constexpr int kForwardTile = 32768 / sizeof(acc);
template <class acc>
constexpr int kBackwardTile = 4096 / sizeof(acc);
constexpr int kCarry = kCarryCpu;
constexpr int64_t kMinChunk = 256;         // steps that are worth a task of their own
constexpr int64_t kCachedBytes = 8 << 20;  // more than that, written by one pass, is out of the caches before the next
constexpr int64_t kStepsAhead = 4;         // of the prefetch: where rows end, the hardware loses track

struct Tile {  // some channels of one sequence
  int64_t b, d, length;
  int width;
  bool reverse;

  // The step that is s-th in the order of processing.
  int64_t position(int64_t s) const { return rnnkit::position(s, length, reverse); }

  Coordinates at(int64_t s, int c, int lanes, bool reset) const {
    return {b, d + c, s / kCarry * kCarry, int(s % kCarry), lanes, reset};
  }
};

struct Group {  // the same channels of some sequences
  int64_t b, d;
  int sequences, width;
  bool reverse;

  template <class Problem>
  Tile tile(const Problem& p, int sequence) const {
    return {b + sequence, d, p.length(b + sequence), width, reverse};
  }
};

// How a problem is cut: tasks are groups of sequences x tiles of channels, and chunks of time of these. No tile has channels
// of both directions.
struct Tiling {
  int64_t batch, channels, forward;   // the first so many channels are processed forward
  int64_t groups, directions, tiles;  // of sequences, of time, and of a direction's channels
  int64_t tasks, chunks, stride;      // stride: the widest a tile can be, from one sequence's states to the next

  // side_by_side: whether a step of all sequences lies together in memory, so that several are best walked together.
  // in_chunks: whether time may be cut.
  template <class Problem>
  Tiling(const Problem& p, int lanes, int64_t widest, bool side_by_side, bool in_chunks)
      : batch(p.batch),
        channels(p.channels),
        forward(p.reverse_from),
        groups(batch),
        directions(0 < forward && forward < channels ? 2 : 1) {
    const int64_t threads = torch::stable::get_num_threads(), most = std::max(forward, channels - forward);
    tiles = (most + widest - 1) / widest;
    while (batch * directions * tiles < threads && tiles * lanes < most) tiles *= 2;
    stride = ((most + tiles - 1) / std::max<int64_t>(tiles, 1) + lanes - 1) / lanes * lanes;
    if (side_by_side && tiles == 1) {
      const int64_t together = widest / stride;
      groups = std::min(batch, ((batch + together - 1) / together + threads - 1) / threads * threads);
    }
    tasks = groups * directions * tiles;
    // the extra pass of a chunked scan costs as much as the scan: two threads a task gain nothing
    chunks = in_chunks && tasks > 0 && threads >= 3 * tasks ? std::min(threads / tasks, p.steps / kMinChunk) : 1;
    chunks = std::max<int64_t>(chunks, 1);
  }

  Group group(int64_t task) const {
    const int64_t i = task / (directions * tiles), b = batch * i / groups, end = batch * (i + 1) / groups;
    const bool reverse = directions == 2 ? task / tiles % 2 == 1 : forward == 0;
    const int64_t first = reverse ? forward : 0, last = reverse ? channels : forward;
    const int64_t d = std::min(last, first + task % tiles * stride);
    return {b, d, int(end - b), int(std::min(stride, last - d)), reverse};
  }

  // Chunk boundaries lie on kept states.
  int64_t boundary(int64_t chunk, int64_t length) const {
    return chunk == chunks ? length : length * chunk / chunks / kCarry * kCarry;
  }
};

// The first `count` planes, or all where some are interleaved, of n channels from d on.
template <class M, class Kind, class scalar_t, class V>
RNNKIT_INLINE void load_planes(const Rows<const scalar_t> (&in)[Kind::kPlanes], int64_t b, int64_t t, int64_t d, int n,
                               int count, V (&x)[Kind::kPlanes]) {
  constexpr int begin = Kind::kFirstInterleaved, end = begin + Kind::kInterleaved;
  for (int j = 0; j < count; ++j)
    if (j < begin || j >= end) x[j] = M::load(in[j].at(b, t) + d, n);
  if constexpr (Kind::kInterleaved > 0) {
    V together[Kind::kInterleaved];
    M::load_interleaved(in[begin].at(b, t) + d * Kind::kInterleaved, together, n);
    for (int j = begin; j < end; ++j) x[j] = together[j - begin];
  }
}

// Of all planes, into L1 (locality 3) or L2 (2).
template <class M, class Kind, int locality, class scalar_t>
RNNKIT_INLINE void prefetch_planes(const Rows<const scalar_t> (&in)[Kind::kPlanes], int64_t b, int64_t t, int64_t d) {
  constexpr int begin = Kind::kFirstInterleaved, end = begin + Kind::kInterleaved;
  for (int j = 0; j < Kind::kPlanes; ++j) {
    const bool together = begin <= j && j < end;
    __builtin_prefetch(together ? in[begin].at(b, t) + d * (end - begin) + (j - begin) * M::kLanes : in[j].at(b, t) + d, 0,
                       locality);
  }
}

template <class acc>
struct Aggregate {  // of a chunk, whose state changes from h to a h + b
  acc *a, *b;

  void apply(acc* h, int count) const {
    for (int c = 0; c < count; ++c) h[c] = through_map(a[c], b[c], h[c]);
  }
};

// Runs a pass over every task: at once, or first the chunks' aggregates and then the chunks.
template <class acc, class Pass>
void run_passes(Pass&& pass) {
  const int64_t chunks = pass.tiling.chunks, count = pass.tiling.tasks * chunks;
  if (chunks == 1)
    return torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) pass.run(i, 0, nullptr);
    });
  if constexpr (std::remove_reference_t<Pass>::kInChunks) {
    const int64_t width = pass.tiling.stride;
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
}

template <class Kind, class scalar_t>
class Forward {
  using M = Math<acc_t<scalar_t>>;
  using V = typename M::V;
  using acc = typename M::Scalar;

 public:
  static constexpr bool kInChunks = Kind::kLinear;
  const Tiling tiling;

  explicit Forward(const ScanForward<scalar_t, Kind>& problem)
      : tiling(problem, M::kLanes, kForwardTile<acc>, problem.out.batch_stride < problem.out.step_stride, kInChunks),
        p(problem),
        cell(problem.options) {}

  void run(int64_t task, int64_t chunk, const Aggregate<acc>* totals) const {
    const Group group = tiling.group(task);
    alignas(64) acc state[kForwardTile<acc>];
    for (int q = 0; q < group.sequences; ++q) {
      const Tile tile = group.tile(p, q);
      acc* const h = state + q * tiling.stride;
      for (int c = 0; c < tile.width; ++c) h[c] = p.h0 == nullptr ? p.initial : p.h0[tile.b * p.channels + tile.d + c];
      for (int64_t earlier = 0; earlier < chunk; ++earlier) totals[earlier].apply(h, tile.width);
    }
    const int64_t begin = tiling.boundary(chunk, p.length(group.b));  // 0 where there are several sequences
    const int64_t end = tiling.chunks == 1 ? p.steps : tiling.boundary(chunk + 1, p.length(group.b));
    for (int64_t s = begin; s < end; ++s)
      for (int q = 0; q < group.sequences; ++q) {
        const Tile tile = group.tile(p, q);
        if (s < tile.length) step(tile, s, state + q * tiling.stride);
      }
    for (int q = 0; q < group.sequences && chunk + 1 == tiling.chunks; ++q)
      finish(group.tile(p, q), state + q * tiling.stride);
  }

  void aggregate(int64_t task, int64_t chunk, const Aggregate<acc>& total) const {
    const Tile tile = tiling.group(task).tile(p, 0);
    for (int64_t s = tiling.boundary(chunk, tile.length); s < tiling.boundary(chunk + 1, tile.length); ++s) {
      const int64_t t = tile.position(s);
      if (p.pads(tile.b, t)) continue;
      const bool reset = p.resets(tile.b, t, tile.length, tile.reverse);
      if (reset) {
        std::fill_n(total.a, tile.width, acc(0));
        std::fill_n(total.b, tile.width, p.initial);
      }
      for (int c = 0; c < tile.width; c += M::kLanes) {
        const int n = std::min(M::kLanes, tile.width - c);
        V x[Kind::kPlanes], a, b;
        load_planes<M, Kind>(p.in, tile.b, t, tile.d + c, n, Kind::kPlanes - Kind::kOutputPlanes, x);
        const Coordinates at = tile.at(s, c, n, reset);
        cell.gates(at, own_of<M>(cell, p, at), x, a, b);
        M::store(total.a + c, a * M::load(total.a + c));
        M::store(total.b + c, a * M::load(total.b + c) + b);
      }
    }
  }

 private:
  void finish(const Tile& tile, const acc* h) const {
    std::copy_n(h, tile.width, p.h_last + tile.b * p.channels + tile.d);
    for (int64_t t = tile.length; t < p.steps; ++t) std::fill_n(p.out.at(tile.b, t) + tile.d, tile.width, scalar_t(0));
    for (int64_t s = carries_of(tile.length, kCarry) * kCarry; p.carries != nullptr && s < p.steps; s += kCarry)
      std::fill_n(p.carries + p.carry_offset(tile.b, s, kCarry) + tile.d, tile.width, acc(0));
  }

  void step(const Tile& tile, int64_t s, acc* h) const {
    const int64_t ahead = tile.reverse ? -kStepsAhead : kStepsAhead, t = tile.position(s);
    scalar_t* const out = p.out.at(tile.b, t) + tile.d;
    if (p.carries != nullptr && s % kCarry == 0)
      std::copy_n(h, tile.width, p.carries + p.carry_offset(tile.b, s, kCarry) + tile.d);
    if (p.pads(tile.b, t)) return void(std::fill_n(out, tile.width, scalar_t(0)));
    const bool reset = p.resets(tile.b, t, tile.length, tile.reverse);
    if (reset) std::fill_n(h, tile.width, p.initial);
    for (int c = 0; c < tile.width; c += M::kLanes) {
      const int n = std::min(M::kLanes, tile.width - c);
      V x[Kind::kPlanes];
      load_planes<M, Kind>(p.in, tile.b, t, tile.d + c, n, Kind::kPlanes, x);
      prefetch_planes<M, Kind, 3>(p.in, tile.b, t + ahead, tile.d + c);
      __builtin_prefetch(out + c + ahead * p.out.step_stride, 1);
      const Coordinates at = tile.at(s, c, n, reset);
      const auto own = own_of<M>(cell, p, at);
      const V before = M::load(h + c);
      V state;
      if constexpr (Kind::kLinear) {
        V a, b;
        cell.gates(at, own, x, a, b);
        state = a * before + b;
      } else {
        state = cell.step(at, own, x, before);
      }
      M::store(h + c, state);
      if constexpr (Kind::kOutputPlanes == 0)
        M::store(out + c, state, n);
      else
        M::store(out + c, cell.output(own, x, before, state), n);
    }
  }

  const ScanForward<scalar_t, Kind>& p;
  const typename CheckedCell<M, Kind>::type cell;
};

// The adjoint, from the last step to the first: K_s = dL/dh_s = G_s + P_s, P_{s-1} = a_s K_s + u_s, and dL/dx = K_s dh_s/dx,
// where G_s is what grad_out_s brings to the state, and u_s what it brings to the one before, where the output sees that.
// What flows past a reset is 0.
template <class Kind, class scalar_t>
class Backward {
  using M = Math<acc_t<scalar_t>>;
  using V = typename M::V;
  using acc = typename M::Scalar;
  static constexpr int kOutputPlanes = Kind::kOutputPlanes, kStatePlanes = Kind::kPlanes - kOutputPlanes;
  static constexpr int kSums = Kind::kParameters, kFactors = kStatePlanes + kParameterFactors<Kind>;
  // Gradients of output planes are known before those of the state's; where they lie interleaved with these, they wait.
  static constexpr bool kWait = Kind::kInterleaved > 0;

 public:
  static constexpr bool kInChunks = true;
  const Tiling tiling;

  explicit Backward(const ScanBackward<scalar_t, Kind>& problem)
      : tiling(problem, M::kLanes, kBackwardTile<acc>, false, kInChunks),
        p(problem),
        cell(problem.options),
        past_caches(problem.batch * problem.steps * problem.channels * Kind::kPlanes * sizeof(scalar_t) > kCachedBytes),
        sums(kSums * tiling.tasks * tiling.chunks * tiling.stride) {}

  void run(int64_t task, int64_t chunk, const Aggregate<acc>* totals) {
    const Tile tile = tiling.group(task).tile(p, 0);
    alignas(64) acc past[kBackwardTile<acc>];
    for (int c = 0; c < tile.width; ++c)
      past[c] = p.grad_h_last == nullptr ? acc(0) : p.grad_h_last[tile.b * p.channels + tile.d + c];
    for (int64_t later = tiling.chunks - 1; later > chunk; --later) totals[later].apply(past, tile.width);
    const Block block(std::min<int64_t>(kCarry, p.steps), tiling.stride / M::kLanes);
    for (int64_t begin = last_block(tile, chunk); begin >= tiling.boundary(chunk, tile.length); begin -= kCarry) {
      const int count = run_block(tile, chunk, begin, block, true, sums_of(task, chunk, Kind::kStateSums));
      for (int i = count - 1; i >= 0; --i) {
        const int64_t t = tile.position(begin + i);
        if (!p.pads(tile.b, t)) put_step(tile, t, block, i, past, sums_of(task, chunk, 0));
      }
    }

    if (past_caches) M::finish_streams();
    if (chunk == 0) std::copy_n(past, tile.width, p.grad_h0 + tile.b * p.channels + tile.d);
    if (chunk + 1 == tiling.chunks)
      for (int64_t t = tile.length; t < p.steps; ++t) clear(tile, t);
  }

  void aggregate(int64_t task, int64_t chunk, const Aggregate<acc>& total) const {
    const Tile tile = tiling.group(task).tile(p, 0);
    const Block block(std::min<int64_t>(kCarry, p.steps), tiling.stride / M::kLanes);
    for (int64_t begin = last_block(tile, chunk); begin >= tiling.boundary(chunk, tile.length); begin -= kCarry) {
      const int count = run_block(tile, chunk, begin, block, false, nullptr);
      for (int i = count - 1; i >= 0; --i) {
        const int64_t t = tile.position(begin + i);
        if (p.pads(tile.b, t)) continue;
        for (int c = 0; c < tile.width; c += M::kLanes) {
          const Factors& factors = block.at(i, c);
          M::store(total.a + c, factors.a * M::load(total.a + c));
          V b = factors.a * (M::load(total.b + c) + direct(tile, t, c, std::min(M::kLanes, tile.width - c), factors));
          if constexpr (Kind::kOutputSeesPrevious) b += factors.to_h_prev[0];
          M::store(total.b + c, b);
        }
      }
    }
  }

  // The sums over time of each sequence, from those of the chunks, always in the same order.
  void finish_sums() const {
    for (int64_t task = 0; kSums > 0 && task < tiling.tasks; ++task) {
      const Tile tile = tiling.group(task).tile(p, 0);
      for (int j = 0; j < kSums; ++j) {
        acc* const to = p.sums + (parameter_of_sum<Kind>(j) * p.batch + tile.b) * p.channels + tile.d;
        std::fill_n(to, tile.width, acc(0));
        for (int64_t chunk = 0; chunk < tiling.chunks; ++chunk) {
          const acc* const of_chunk = sums.data() + sums_offset(task, chunk, j);
          for (int c = 0; c < tile.width; ++c) to[c] += of_chunk[c];
        }
      }
    }
  }

 private:
  // Of a step and a vector of channels: P_{s-1} = a K_s + u_s, dL/dx[j] = d[j] K_s; and the rest, where there is any.
  struct Factors {
    V a, d[kFactors], direct[kOutputPlanes > 0], to_h_prev[Kind::kOutputSeesPrevious], h_prev[Kind::kStateSums > 0],
        waiting[kWait ? kOutputPlanes : 0];
  };

  class Block {  // those of up to kCarry steps, in the order in which they are written and read
   public:
    Block(int64_t steps, int64_t columns)
        : columns_(columns),
          large_(steps * columns > kSmall ? new Factors[steps * columns] : nullptr),
          factors_(large_ ? large_.get() : small_) {}
    Block(const Block&) = delete;
    Factors& at(int step, int c) const { return factors_[step * columns_ + c / M::kLanes]; }

   private:
    static constexpr int64_t kSmall = 32;  // on the stack, of which some threads have little; what is large has up to 512 KB
    Factors small_[kSmall];
    const int64_t columns_;
    const std::unique_ptr<Factors[]> large_;
    Factors* const factors_;
  };

  // Of the blocks of up to kCarry steps from a kept state, the last of a chunk; before its first step if there is none.
  int64_t last_block(const Tile& tile, int64_t chunk) const {
    const int64_t begin = tiling.boundary(chunk, tile.length), end = tiling.boundary(chunk + 1, tile.length);
    return end == begin ? begin - 1 : begin + (end - begin - 1) / kCarry * kCarry;
  }

  V direct(const Tile& tile, int64_t t, int c, int n, const Factors& factors) const {
    if constexpr (kOutputPlanes == 0)
      return M::load(p.grad_out.at(tile.b, t) + tile.d + c, n);
    else
      return factors.direct[0];
  }

  int64_t sums_offset(int64_t task, int64_t chunk, int which) const {
    return ((task * tiling.chunks + chunk) * kSums + which) * tiling.stride;
  }

  acc* sums_of(int64_t task, int64_t chunk, int which) { return sums.data() + sums_offset(task, chunk, which); }

  void clear(const Tile& tile, int64_t t) const {  // the gradients of a step that is not processed
    for (int j = 0; j < Kind::kPlanes; ++j) {
      constexpr int first = Kind::kFirstInterleaved, count = Kind::kInterleaved;
      if (first < j && j < first + count) continue;
      const int stride = channel_stride<Kind>(j);
      std::fill_n(p.grad_in[j].at(tile.b, t) + tile.d * stride, tile.width * stride, scalar_t(0));
    }
  }

  void put(scalar_t* to, V gradient, int n) const {
    if (past_caches)
      M::stream(to, gradient, n);
    else
      M::store(to, gradient, n);
  }

  // One step of the adjoint.
  void put_step(const Tile& tile, int64_t t, const Block& block, int step, acc* past, acc* sums) const {
    constexpr int first = Kind::kFirstInterleaved, end = first + Kind::kInterleaved;
    const int64_t stride = tiling.stride;
    for (int c = 0; c < tile.width; c += M::kLanes) {
      const int n = std::min(M::kLanes, tile.width - c);
      const Factors& factors = block.at(step, c);
      const V grad = direct(tile, t, c, n, factors) + M::load(past + c);
      V g[Kind::kPlanes];
      for (int j = 0; j < kStatePlanes; ++j) g[j] = grad * factors.d[j];
      for (int j = 0; j < kStatePlanes; ++j)
        if (j < first || j >= end) put(p.grad_in[j].at(tile.b, t) + tile.d + c, g[j], n);
      if constexpr (kWait) {
        for (int j = kStatePlanes; j < Kind::kPlanes; ++j) g[j] = factors.waiting[j - kStatePlanes];
        V together[Kind::kInterleaved];
        for (int j = first; j < end; ++j) together[j - first] = g[j];
        M::store_interleaved(p.grad_in[first].at(tile.b, t) + (tile.d + c) * Kind::kInterleaved, together, n);
      }
      if constexpr (Kind::kStateSums > 0) {
        V sum[Kind::kStateSums];
        for (int j = 0; j < Kind::kStateSums; ++j) sum[j] = M::load(sums + j * stride + c);
        cell.add_state(g, factors.h_prev[0], sum);
        for (int j = 0; j < Kind::kStateSums; ++j) M::store(sums + j * stride + c, sum[j]);
      }
      for (int k = 0; k < kParameterFactors<Kind>; ++k) {
        acc* const sum = sums + (Kind::kStateSums + Kind::kOutputSums + k) * stride + c;
        M::store(sum, M::load(sum) + grad * factors.d[kStatePlanes + k]);
      }
      V next = grad * factors.a;
      if constexpr (Kind::kOutputSeesPrevious) next += factors.to_h_prev[0];
      M::store(past + c, next);
    }
  }

  // The states of a block forward, with all that depends on them; returns how many steps it has. The gradients of output
  // planes depend on nothing later: they and their sums are written here, if at all.
  int run_block(const Tile& tile, int64_t chunk, int64_t begin, const Block& block, bool write, acc* sums) const {
    const int count = int(std::min<int64_t>(kCarry, tiling.boundary(chunk + 1, tile.length) - begin));
    const int64_t ahead = tile.reverse ? -kCarry : kCarry;  // the same steps of the block that comes next, for the L2 cache
    alignas(64) acc h[kBackwardTile<acc>];
    std::copy_n(p.carries + p.carry_offset(tile.b, begin, kCarry) + tile.d, tile.width, h);
    for (int i = 0; i < count; ++i) {
      const int64_t t = tile.position(begin + i);
      if (p.pads(tile.b, t)) {
        if (write) clear(tile, t);
        continue;
      }
      const bool reset = p.resets(tile.b, t, tile.length, tile.reverse);
      if (reset) std::fill_n(h, tile.width, p.initial);
      for (int c = 0; c < tile.width; c += M::kLanes) {
        const int n = std::min(M::kLanes, tile.width - c);
        V x[Kind::kPlanes], a, d[kFactors], state;
        load_planes<M, Kind>(p.in, tile.b, t, tile.d + c, n, Kind::kPlanes, x);
        prefetch_planes<M, Kind, 2>(p.in, tile.b, t - ahead, tile.d + c);
        const scalar_t* const grad_out = p.grad_out.at(tile.b, t) + tile.d + c;
        __builtin_prefetch(grad_out - ahead * p.grad_out.step_stride, 0, 2);
        const Coordinates at = tile.at(begin + i, c, n, reset);
        const auto own = own_of<M>(cell, p, at);
        const V before = M::load(h + c);
        cell.gradients(at, own, x, before, state, a, d);
        M::store(h + c, state);
        Factors& factors = block.at(i, c);
        factors.a = reset ? M::set(0) : a;
        for (int j = 0; j < kFactors; ++j) factors.d[j] = d[j];
        if constexpr (Kind::kStateSums > 0) factors.h_prev[0] = before;
        if constexpr (kOutputPlanes > 0) {
          V d_output[kOutputPlanes], to_h_prev;
          const V to_h = cell.output_gradients(own, x, before, state, M::load(grad_out, n), d_output, to_h_prev);
          factors.direct[0] = to_h;
          if constexpr (Kind::kOutputSeesPrevious) factors.to_h_prev[0] = reset ? M::set(0) : to_h_prev;
          if (!write) continue;
          for (int j = 0; j < kOutputPlanes; ++j) put_output(tile, j, t, c, n, d_output[j], factors);
          if constexpr (Kind::kOutputSums > 0) {
            V sum[Kind::kOutputSums];
            for (int j = 0; j < Kind::kOutputSums; ++j) sum[j] = M::load(sums + j * tiling.stride + c);
            cell.add_output(d_output, before, sum);
            for (int j = 0; j < Kind::kOutputSums; ++j) M::store(sums + j * tiling.stride + c, sum[j]);
          }
        }
      }
    }
    return count;
  }

  void put_output(const Tile& tile, int output, int64_t t, int c, int n, V gradient, Factors& factors) const {
    constexpr int first = Kind::kFirstInterleaved, end = first + Kind::kInterleaved;
    const int plane = kStatePlanes + output;
    if (first <= plane && plane < end)
      factors.waiting[output] = gradient;
    else
      put(p.grad_in[plane].at(tile.b, t) + tile.d + c, gradient, n);
  }

  const ScanBackward<scalar_t, Kind>& p;
  const typename CheckedCell<M, Kind>::type cell;
  const bool past_caches;  // the gradients will not be in a cache when they are read: do not fetch them to be written
  std::vector<acc> sums;   // [tasks, chunks, kSums, stride]
};

template <class scalar_t, class Kind>
void run_scan(const ScanForward<scalar_t, Kind>& p) {
  run_passes<acc_t<scalar_t>>(Forward<Kind, scalar_t>(p));
}

template <class scalar_t, class Kind>
void run_scan(const ScanBackward<scalar_t, Kind>& p) {
  Backward<Kind, scalar_t> pass(p);
  run_passes<acc_t<scalar_t>>(pass);
  pass.finish_sums();
}

}  // namespace rnnkit::RNNKIT_TARGET

#ifdef RNNKIT_CELL
#include RNNKIT_CELL
#endif

#endif
