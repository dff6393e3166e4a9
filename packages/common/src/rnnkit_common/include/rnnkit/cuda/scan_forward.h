// The forward kernels of the scan engine: see rnnkit/cuda/scan.h.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cell.h>
#include <rnnkit/cuda/math.h>
#include <rnnkit/cuda/scan_exchange.h>
#include <rnnkit/cuda/scan_planes.h>
#include <rnnkit/cuda/scan_tile.h>
#include <rnnkit/scan.h>

namespace rnnkit::cuda {

// What no step of the sequence writes: the last state, and zeros in the padding.
template <class scalar_t, class Kind, class At, int channels>
__device__ __forceinline__ void finish(const ScanForward<scalar_t, Kind>& p, const At& at, int length,
                                       const acc_t<scalar_t> (&state)[channels]) {
  if (at.index == 0) store_states(p.h_last + int64_t(at.b) * p.channels + at.d, state, at.valid);
  zero_padding(p.out, p, at, length);
  const acc_t<scalar_t> none[channels] = {};
  const int blocks = int(carries_of(p.steps, kCarryCuda));
  for (int block = int(carries_of(length, kCarryCuda)) + at.index; p.carries != nullptr && block < blocks; block += at.count)
    store_states(p.carries + p.carry_offset(at.b, int64_t(block) * kCarryCuda, kCarryCuda) + at.d, none, at.valid);
}

template <class Kind, class scalar_t, class Tile>
__global__ void __launch_bounds__(kLanes* ForwardBlock<scalar_t, Kind>::kChunks,
                                  ForwardBlock<scalar_t, Kind>::kPerMultiprocessor)
    scan_forward_kernel(const Cut<ScanForward<scalar_t, Kind>> p) {
  using acc = acc_t<scalar_t>;
  constexpr int planes = Kind::kPlanes, state_planes = planes - Kind::kOutputPlanes;
  constexpr int channels = Tile::kChannels, steps = Tile::kSteps;
  const typename CheckedCell<Math<scalar_t>, Kind>::type cell(p.options);
  using Own = typename CheckedCell<Math<scalar_t>, Kind>::type::Own;
  const Place<channels> at(p, p.sharing);
  const int length = checked_length(p, at.b), tile = at.count * steps, end = (length + tile - 1) / tile * tile;
  ExchangeOf<Kind, acc, Tile, true> exchange(p.sharing);
  acc state[channels];
  load_states(state, from_offset(p.h0, int64_t(at.b) * p.channels + at.d), at.valid, p.initial);
  Own own[channels];
  RNNKIT_UNROLL
  for (int c = 0; c < channels; ++c)
    own[c] = own_of<Math<scalar_t>>(cell, p, {at.b, c < at.valid ? at.d + c : at.d, 0, 0, 1, false});

  // What acts on the state is loaded a tile ahead, unless the words that hold it are needed until the end.
  constexpr bool prefetch = Kind::kInterleaved == 0;
  constexpr int early = prefetch ? state_planes : planes;
  Planes<scalar_t, Kind, Tile, 0, early> in{};
  Planes<scalar_t, Kind, Tile, early, planes> in_late;
  // Then one turn more than there are tiles: the first has no steps, and loads those of the next.
  for (int s = at.index * steps - (prefetch ? tile : 0); s < end; s += tile) {
    const Marks<steps> marks(p, at, s, s < 0 ? s : length);
    if (!prefetch) in.load(p.in, at, s, length, marks.count, p.packed);
    in_late.load(p.in, at, s, length, marks.count, p.packed);
    acc a[channels][steps], b[channels][steps];
    with_or_without_marks(marks.none(), [&](auto none) {
      RNNKIT_UNROLL
      for (int i = 0; i < steps; ++i) {
        RNNKIT_UNROLL
        for (int c = 0; c < channels; ++c) {
          acc x[planes];
          RNNKIT_UNROLL
          for (int j = 0; j < state_planes; ++j) x[j] = in.get(j, i, c);
          const bool reset = !none && marks.reset(i);
          cell.gates({at.b, at.d + c, s, i, 1, reset}, own[c], x, a[c][i], b[c][i]);
          if (reset) {
            b[c][i] += a[c][i] * p.initial;
            a[c][i] = 0;
          }
          if (!none && marks.skip(i)) {
            a[c][i] = 1;
            b[c][i] = 0;
          }
        }
      }
    });
    if (prefetch && s + tile < end)  // in flight during all that follows
      in.load(p.in, at, s + tile, length, Marks<steps>::count_from(s + tile, length), p.packed);
    if (s < 0) continue;

    // A step whose a is 0, as that of a reset is, forgets also what is infinite.
    const auto apply = [&](auto none, int c, int i, acc before) {
      return none ? a[c][i] * before + b[c][i] : through_map(a[c][i], b[c][i], before);
    };
    acc h[channels];
    if (at.count > 1) {
      Affine<acc> map[channels];
      with_or_without_marks(marks.none(), [&](auto none) {
        RNNKIT_UNROLL
        for (int c = 0; c < channels; ++c) {
          map[c] = {a[c][0], b[c][0]};
          RNNKIT_UNROLL
          for (int i = 1; i < steps; ++i) map[c] = {a[c][i] * map[c].a, apply(none, c, i, map[c].b)};
        }
      });
      exchange(map, state, h);
    } else {
      RNNKIT_UNROLL
      for (int c = 0; c < channels; ++c) h[c] = state[c];
    }
    if (marks.count > 0) {
      if (p.carries != nullptr) store_states(p.carries + p.carry_offset(at.b, s, kCarryCuda) + at.d, h, at.valid);
      Planes<scalar_t, KindDefaults, Tile, 0, 1> out;
      with_or_without_marks(marks.none(), [&](auto none) {
        RNNKIT_UNROLL
        for (int i = 0; i < steps; ++i) {
          acc y[channels];
          RNNKIT_UNROLL
          for (int c = 0; c < channels; ++c) {
            const acc before = h[c];
            h[c] = apply(none, c, i, before);
            y[c] = h[c];
            if constexpr (Kind::kOutputPlanes > 0) {
              acc x[planes];
              RNNKIT_UNROLL
              for (int j = state_planes; j < planes; ++j) x[j] = j < early ? in.get(j, i, c) : in_late.get(j, i, c);
              y[c] = cell.output(own[c], x, before, h[c]);
            }
            if (!none && marks.pad(i)) y[c] = 0;
          }
          out.set(0, i, y);
        }
      });
      out.store(&p.out, at, s, length, marks.count, p.packed);
    }
    if (at.count == 1) {
      RNNKIT_UNROLL
      for (int c = 0; c < channels; ++c) state[c] = h[c];
    }
  }
  finish(p, at, length, state);
}

template <class Kind, class scalar_t, class Tile>
__global__ void __launch_bounds__(kLanes) serial_forward_kernel(const Cut<ScanForward<scalar_t, Kind>> p) {
  using acc = acc_t<scalar_t>;
  constexpr int planes = Kind::kPlanes, channels = Tile::kChannels, steps = Tile::kSteps;
  const typename CheckedCell<Math<scalar_t>, Kind>::type cell(p.options);
  using Own = typename CheckedCell<Math<scalar_t>, Kind>::type::Own;
  const Place<channels> at(p, Sharing{});
  const int length = checked_length(p, at.b);
  acc h[channels];
  load_states(h, from_offset(p.h0, int64_t(at.b) * p.channels + at.d), at.valid, p.initial);
  Own own[channels];
  RNNKIT_UNROLL
  for (int c = 0; c < channels; ++c)
    own[c] = own_of<Math<scalar_t>>(cell, p, {at.b, c < at.valid ? at.d + c : at.d, 0, 0, 1, false});

  Planes<scalar_t, Kind, Tile, 0, planes> next{};
  for (int s = -steps; s < length; s += steps) {  // the first turn has no steps, and loads those of the next
    const Marks<steps> marks(p, at, s, s < 0 ? s : length);
    const Planes<scalar_t, Kind, Tile, 0, planes> in = next;
    next.load(p.in, at, s + steps, length, Marks<steps>::count_from(s + steps, length), p.packed);  // in flight meanwhile
    if (s < 0) continue;
    if (p.carries != nullptr) store_states(p.carries + p.carry_offset(at.b, s, kCarryCuda) + at.d, h, at.valid);
    Planes<scalar_t, KindDefaults, Tile, 0, 1> out;
    with_or_without_marks(marks.none(), [&](auto none) {
      RNNKIT_UNROLL
      for (int i = 0; i < steps; ++i) {
        const bool reset = !none && marks.reset(i), skip = !none && marks.skip(i);
        acc y[channels];
        RNNKIT_UNROLL
        for (int c = 0; c < channels; ++c) {
          acc x[planes];
          RNNKIT_UNROLL
          for (int j = 0; j < planes; ++j) x[j] = in.get(j, i, c);
          const acc before = reset ? p.initial : h[c];
          const acc after = cell.step({at.b, at.d + c, s, i, 1, reset}, own[c], x, before);
          y[c] = after;
          if constexpr (Kind::kOutputPlanes > 0) y[c] = cell.output(own[c], x, before, after);
          if (skip) y[c] = 0;
          h[c] = skip ? h[c] : after;
        }
        out.set(0, i, y);
      }
    });
    out.store(&p.out, at, s, length, marks.count, p.packed);
  }
  finish(p, at, length, h);
}

}  // namespace rnnkit::cuda
