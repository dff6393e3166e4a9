// The op `prune_ranges`: the band that holds most of the occupancy.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "sequences.h"

namespace rnnkit {

// [B, T or T + 1, S], [B, T, S + 1] -> [B, T]
template <class Engine>
Tensor prune_ranges(Tensor label, Tensor blank, Tensor boundary, int64_t s_range, int64_t max_step) {
  STD_TORCH_CHECK(label.dim() == 3 && blank.dim() == 3, "occupancies: expected 3 dimensions");
  const int64_t batch = blank.size(0), frames = blank.size(1), rows = blank.size(2);
  STD_TORCH_CHECK(label.size(0) == batch && label.size(1) >= frames && label.size(2) == rows - 1 &&
                      label.scalar_type() == blank.scalar_type() && same_device(label, blank),
                  "occupancies: shape, dtype or device");
  STD_TORCH_CHECK(s_range >= 1 && s_range <= rows && max_step >= 0, "s_range: expected 1 to S + 1");
  Tensor begin = empty(blank, {batch, frames}, ScalarType::Long);
  const auto run = [&](auto tag) {
    using scalar_t = typename decltype(tag)::type;
    Ranges<scalar_t> p;
    fill_sequences(p, blank, batch, frames, rows - 1, rows, boundary, std::nullopt);
    p.label = nodes<const scalar_t>(label);
    p.blank = nodes<const scalar_t>(blank);
    p.s_range = s_range;
    p.max_step = std::min(max_step, rows);  // more never binds
    p.out = begin.mutable_data_ptr<int64_t>();
    Engine::run(p, blank);
  };
  dispatch_scores(blank.scalar_type(), run);
  return begin;
}

}  // namespace rnnkit
