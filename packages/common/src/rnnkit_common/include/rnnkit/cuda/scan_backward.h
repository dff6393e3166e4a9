// The backward kernel of the scan engine: see rnnkit/cuda/scan.h.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cell.h>
#include <rnnkit/cuda/math.h>
#include <rnnkit/cuda/scan_exchange.h>
#include <rnnkit/cuda/scan_planes.h>
#include <rnnkit/cuda/scan_tile.h>
#include <rnnkit/scan.h>

namespace rnnkit::cuda {

template <class Kind, class scalar_t, class Tile>
__global__ void __launch_bounds__(kLanes* BackwardBlock<scalar_t, Kind>::kChunks,
                                  BackwardBlock<scalar_t, Kind>::kPerMultiprocessor)
    scan_backward_kernel(const Cut<ScanBackward<scalar_t, Kind>> p) {
  using acc = acc_t<scalar_t>;
  constexpr int planes = Kind::kPlanes, state_planes = planes - Kind::kOutputPlanes;
  constexpr int state_sums = Kind::kStateSums, output_sums = Kind::kOutputSums, parameter_factors = kParameterFactors<Kind>;
  constexpr int factors = state_planes + parameter_factors;
  constexpr int channels = Tile::kChannels, steps = Tile::kSteps;
  const typename CheckedCell<Math<scalar_t>, Kind>::type cell(p.options);
  using Own = typename CheckedCell<Math<scalar_t>, Kind>::type::Own;
  const Place<channels> at(p, p.sharing);
  const int length = checked_length(p, at.b), tile = at.count * steps, end = (length + tile - 1) / tile * tile;
  ExchangeOf<Kind, acc, Tile, false> exchange(p.sharing);
  acc state[channels];
  load_states(state, from_offset(p.grad_h_last, int64_t(at.b) * p.channels + at.d), at.valid, acc(0));
  Own own[channels];
  RNNKIT_UNROLL
  for (int c = 0; c < channels; ++c)
    own[c] = own_of<Math<scalar_t>>(cell, p, {at.b, c < at.valid ? at.d + c : at.d, 0, 0, 1, false});

  Planes<scalar_t, Kind, Tile, 0, planes> in{};
  acc h[channels] = {};
  acc sums[channels][Kind::kParameters + 1] = {};  // + 1: there may be none
  const auto load = [&](int s) {
    const int count = Marks<steps>::count_from(s, length);
    in.load(p.in, at, s, length, count, p.packed);
    load_states(h, p.carries + p.carry_offset(at.b, count > 0 ? s : 0, kCarryCuda) + at.d, count > 0 ? at.valid : 0, acc(0));
  };
  constexpr bool prefetch = BackwardBlock<scalar_t, Kind>::kPrefetch;
  // Then one turn more than there are tiles: the first has no steps, and loads those of the next.
  // The first thread in processing order takes the last steps.
  for (int s = end - (at.index + 1) * steps + (prefetch ? tile : 0); s >= 0; s -= tile) {
    if (!prefetch) load(s);
    const Marks<steps> marks(p, at, s, length);
    Planes<scalar_t, KindDefaults, Tile, 0, 1> grad_out;
    Planes<scalar_t, Kind, Tile, 0, planes> grad_in;
    acc a[channels][steps], factor[channels][factors][steps], grad[channels][steps];
    acc to_h_prev[channels][Kind::kOutputSeesPrevious ? steps : 1], h_prev[channels][state_sums > 0 ? steps : 1];
    grad_out.load(&p.grad_out, at, s, length, marks.count, p.packed);
    with_or_without_marks(marks.none(), [&](auto none) {
      RNNKIT_UNROLL
      for (int i = 0; i < steps; ++i) {
        const bool reset = !none && marks.reset(i), skip = !none && marks.skip(i);
        RNNKIT_UNROLL
        for (int c = 0; c < channels; ++c) {
          acc x[planes], d[factors], after, into_previous = 0;
          RNNKIT_UNROLL
          for (int j = 0; j < planes; ++j) x[j] = in.get(j, i, c);
          if (reset) h[c] = p.initial;
          cell.gradients({at.b, at.d + c, s, i, 1, reset}, own[c], x, h[c], after, a[c][i], d);
          if (reset) a[c][i] = 0;
          if (skip) a[c][i] = 1;
          RNNKIT_UNROLL
          for (int j = 0; j < factors; ++j) factor[c][j][i] = skip ? acc(0) : d[j];
          grad[c][i] = grad_out.get(0, i, c);
          if constexpr (Kind::kOutputPlanes > 0) {
            acc d_output[Kind::kOutputPlanes];
            grad[c][i] = cell.output_gradients(own[c], x, h[c], after, grad[c][i], d_output, into_previous);
            RNNKIT_UNROLL
            for (int j = state_planes; j < planes; ++j)
              grad_in.set(j, i, c, static_cast<scalar_t>(skip ? acc(0) : d_output[j - state_planes]));
            if constexpr (output_sums > 0)
              if (!skip) cell.add_output(d_output, h[c], sums[c] + state_sums);
          }
          if (skip) grad[c][i] = 0;
          if constexpr (Kind::kOutputSeesPrevious) to_h_prev[c][i] = skip || reset ? acc(0) : into_previous;
          if constexpr (state_sums > 0) h_prev[c][i] = skip ? acc(0) : h[c];
          h[c] = skip ? h[c] : after;
        }
      }
    });
    if (prefetch && s >= tile) load(s - tile);  // in flight during all that follows
    if (prefetch && s >= end) continue;

    const auto adjoint = [&](int i, int c, acc total) {  // what reaches the step before
      if constexpr (Kind::kOutputSeesPrevious) return a[c][i] * total + to_h_prev[c][i];
      return a[c][i] * total;
    };
    acc past[channels];
    if (at.count > 1) {
      Affine<acc> map[channels];
      RNNKIT_UNROLL
      for (int c = 0; c < channels; ++c) {
        map[c] = {1, 0};
        RNNKIT_UNROLL
        for (int i = steps - 1; i >= 0; --i) map[c] = {a[c][i] * map[c].a, adjoint(i, c, map[c].b + grad[c][i])};
      }
      exchange(map, state, past);
    } else {
      RNNKIT_UNROLL
      for (int c = 0; c < channels; ++c) past[c] = state[c];
    }
    if (marks.count > 0) {
      RNNKIT_UNROLL
      for (int i = steps - 1; i >= 0; --i) {
        acc of_plane[state_planes][channels];
        RNNKIT_UNROLL
        for (int c = 0; c < channels; ++c) {
          const acc total = past[c] + grad[c][i];
          past[c] = adjoint(i, c, total);
          acc g[state_planes];
          RNNKIT_UNROLL
          for (int j = 0; j < state_planes; ++j) {
            g[j] = total * factor[c][j][i];
            of_plane[j][c] = g[j];
          }
          if constexpr (state_sums > 0) cell.add_state(g, h_prev[c][i], sums[c]);
          RNNKIT_UNROLL
          for (int k = 0; k < parameter_factors; ++k)
            sums[c][state_sums + output_sums + k] += total * factor[c][state_planes + k][i];
        }
        RNNKIT_UNROLL
        for (int j = 0; j < state_planes; ++j) grad_in.set(j, i, of_plane[j]);
      }
      grad_in.store(p.grad_in, at, s, length, marks.count, p.packed);
    }
    if (at.count == 1) {
      RNNKIT_UNROLL
      for (int c = 0; c < channels; ++c) state[c] = past[c];
    }
  }

  if (at.index == 0) store_states(p.grad_h0 + int64_t(at.b) * p.channels + at.d, state, at.valid);
  if constexpr (Kind::kParameters > 0) {
    Values<acc, channels * Kind::kParameters> totals;
    RNNKIT_UNROLL
    for (int c = 0; c < channels; ++c) {
      RNNKIT_UNROLL
      for (int j = 0; j < Kind::kParameters; ++j) totals.of[c * Kind::kParameters + j] = sums[c][j];
    }
    exchange.sum(totals);
    RNNKIT_UNROLL
    for (int c = 0; c < channels; ++c) {
      RNNKIT_UNROLL
      for (int j = 0; j < Kind::kParameters; ++j)
        if (at.index == 0 && c < at.valid)
          p.sums[(parameter_of_sum<Kind>(j) * p.batch + at.b) * p.channels + at.d + c] =
              totals.of[c * Kind::kParameters + j];
    }
  }
  RNNKIT_UNROLL
  for (int j = 0; j < planes; ++j) zero_padding(p.grad_in[j], p, at, length, channel_stride<Kind>(j));
}

}  // namespace rnnkit::cuda
