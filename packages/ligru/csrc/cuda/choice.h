// Which engine runs a recurrence, and how it is laid out: a function of sizes and of what the device says of itself.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cuda/launch.h>

#include <algorithm>
#include <string_view>
#include <type_traits>

#include "layout.h"

namespace rnnkit::cuda {

// Microseconds of a step, fitted to what an H200 took forward, (rows, units): bfloat16 (16, 512) cluster 2.86, grid 3.2,
// steps 16; (128, 512) 9.3 and 5.3; float32 (16, 512) 5.2 and 4.1; (128, 512) 15.8 and 10.8; (16, 2048) steps 53. These say
// 2.8, 3.2, 16; 9.4, 5.0; 5.2, 3.9; 15.3, 12.9; 53: an exchange within a cluster takes the longer the more clusters run.
constexpr double kClusterExchange = 1.0, kEachCluster = 0.4, kGridExchange = 3.0, kStepLaunches = 16;
constexpr double kAlone = 0.6;  // of a block that has nobody to tell: reasoned
struct ValueCosts {
  double resident;  // of each weight that a block multiplies kRows rows with
  double steps;     // of each multiplication in torch's product
};
template <class Operand>
inline constexpr ValueCosts kValueCosts{3e-5, 2e-8};
template <>
inline constexpr ValueCosts kValueCosts<float>{1.05e-4, 2.8e-7};
template <>
inline constexpr ValueCosts kValueCosts<Tf32>{6e-5, 6e-8};  // resident: twice the 16-bit, reasoned; (16, 2048) steps 24

template <class Layout>
struct Choice {
  Layout layout{};
  int groups = 0;  // 0: step by step
};

// clusters(layout): how many clusters of this layout the device runs at the same time. `wanted` is "cluster", "async",
// "grid" or "steps", or empty: whichever is the fastest.
template <class Operand, bool backward, class Clusters>
Choice<Layout<Operand, backward>> choose(int64_t rows, int64_t units, const DeviceProperties& device,
                                         std::string_view wanted, Clusters clusters) {
  using L = Layout<Operand, backward>;
  constexpr ValueCosts kCosts = kValueCosts<Operand>;
  Choice<L> best;
  const bool multiplies = std::is_same_v<Operand, float> || device.capability >= 80;  // others need tensor cores
  if (wanted == "steps" || !multiplies) return best;
  const int64_t tiles = (rows + kRows - 1) / kRows;
  double least = wanted.empty() ? kStepLaunches + kCosts.steps * 2.0 * double(rows) * double(units) * double(units) : 1e30;
  for (int width = 8; width <= kMaxWidth; width += 8) {
    const int64_t fewest = (units + width - 1) / width;
    for (const bool cluster : {true, false}) {
      if (!wanted.empty() && cluster != (wanted == "cluster" || wanted == "async")) continue;
      if (cluster && !device.clusters) continue;
      int64_t blocks = fewest;
      if (cluster)
        for (blocks = 1; blocks < fewest;) blocks *= 2;
      if (blocks > (cluster ? 16 : device.multiprocessors)) continue;
      const L layout{int(units), int(blocks), width, cluster};
      if (layout.shared_bytes() > device.shared_bytes) continue;
      const int64_t together = cluster ? clusters(layout) : device.multiprocessors / blocks;
      if (together == 0) continue;
      const double in_clusters = kClusterExchange + kEachCluster * double(std::min(tiles, together));
      const double exchange = blocks == 1 ? kAlone : cluster ? in_clusters : kGridExchange;
      const double rounds = double((tiles + together - 1) / together);
      const double step = rounds * (exchange + kCosts.resident * layout.product().weight_values());
      if (step >= least) continue;
      least = step;
      best = {layout, int(cluster ? tiles : std::min(tiles, together))};
    }
  }
  return best;
}

}  // namespace rnnkit::cuda
