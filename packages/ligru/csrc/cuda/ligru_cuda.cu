// CUDA kernels, the choice among them, and their registration.
// SPDX-License-Identifier: Apache-2.0
#include <rnnkit/library.h>

#include "resident.h"
#include "steps.h"

#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <tuple>

namespace rnnkit::cuda {

// Microseconds that a step takes, as far as they can be told beforehand: reasoned, not tuned.
constexpr double kClusterExchange = 0.5, kGridExchange = 1.6, kStepLaunches = 8;
constexpr double kWeightBytes = 200e3;    // that a multiprocessor reads of its own memory in a microsecond
constexpr double kTorchProducts = 100e6;  // multiplications in a matrix product that is too small to be efficient

inline std::string_view wanted_engine() {
  const char* const wanted = std::getenv("RNNKIT_LIGRU_ENGINE");
  const std::string_view name(wanted == nullptr ? "" : wanted);
  STD_TORCH_CHECK(name.empty() || name == "cluster" || name == "grid" || name == "steps", "RNNKIT_LIGRU_ENGINE is '", wanted,
                  "'; it may be cluster, grid or steps");
  return name;
}

template <class scalar_t, bool backward>
class Choice {
 public:
  Layout<scalar_t, backward> layout{};
  int groups = 0;  // 0: step by step

  // Made once for each size: asking the device takes longer than a launch.
  template <class Kernel>
  static const Choice& of(int64_t rows, int64_t units, Kernel in_cluster, torch::stable::Device device) {
    const DeviceProperties properties = device_properties(device);
    const std::string_view wanted = wanted_engine();
    static thread_local std::map<std::tuple<int64_t, int64_t, int, int, std::string>, Choice> made;
    const auto key = std::tuple(rows, units, int(device.index()), properties.multiprocessors, std::string(wanted));
    const auto entry = made.find(key);
    if (entry != made.end()) return entry->second;
    return made.emplace(key, Choice(rows, units, in_cluster, device, properties, wanted)).first->second;
  }

  static Launch shape(const Layout<scalar_t, backward>& layout, int groups) {
    Launch launch;
    launch.grid = dim3(unsigned(groups * layout.blocks));
    launch.block = dim3(kThreads);
    launch.shared_bytes = layout.shared_bytes();
    launch.cluster = layout.in_cluster ? unsigned(layout.blocks) : 1;
    launch.cooperative = !layout.in_cluster;
    return launch;
  }

 private:
  template <class Kernel>
  Choice(int64_t rows, int64_t units, Kernel in_cluster, torch::stable::Device device, const DeviceProperties& properties,
         std::string_view wanted) {
    const int tiles = int((rows + kRows - 1) / kRows);
    double least = wanted.empty() ? kStepLaunches + 2.0 * rows * units * units / kTorchProducts : 1e30;
    if (wanted == "steps") return;
    const bool has_mma = sizeof(scalar_t) > 2 || properties.capability >= 80;
    for (int width = 8; width <= kMaxWidth && has_mma; width += 8) {
      const int fewest = int(std::min<int64_t>((units + width - 1) / width, 1 << 20));
      for (const bool cluster : {true, false}) {
        int blocks = fewest;
        for (int power = 1; cluster && power < 2 * fewest; power *= 2) blocks = power;
        if (blocks > (cluster ? 16 : properties.multiprocessors) || (cluster && !properties.clusters)) continue;
        if (cluster ? wanted == "grid" : wanted == "cluster") continue;
        const Layout<scalar_t, backward> candidate{int(units), blocks, width, cluster};
        if (candidate.shared_bytes() > properties.shared_bytes) continue;
        int together = properties.multiprocessors / blocks;
        if (cluster) together = active_clusters(in_cluster, shape(candidate, 1), device);
        if (together == 0) continue;
        const double rounds = (tiles + together - 1) / together;
        const double bytes = double(candidate.product().weight_values()) * sizeof(typename decltype(candidate)::Operand);
        const double step = rounds * ((cluster ? kClusterExchange : kGridExchange) + bytes / kWeightBytes);
        if (step < least) {
          least = step;
          layout = candidate;
          groups = cluster ? tiles : std::min(tiles, together);
        }
      }
    }
    STD_TORCH_CHECK(wanted.empty() || groups > 0, "RNNKIT_LIGRU_ENGINE is '", wanted, "', which cannot hold ", units,
                    " units on this device");
  }
};

template <class Problem, class scalar_t, bool backward, class Kernel>
bool run_resident(const Problem& p, const Inputs& in, const scalar_t* along, Kernel in_cluster, Kernel in_grid) {
  const auto& choice = Choice<scalar_t, backward>::of(p.rows(), p.units, in_cluster, in.g().device());
  if (choice.groups == 0) return false;
  const auto& layout = choice.layout;
  const int64_t sides = layout.in_cluster ? 0 : 2 * int64_t(choice.groups) * layout.blocks;
  Tensor messages = layout.in_cluster || sizeof(typename Layout<scalar_t, backward>::Operand) == 2
                        ? in.empty({sides * layout.message()})
                        : in.empty_acc({sides * layout.message()});
  Tensor statistics = in.empty_acc({sides * kRows * 2});
  const int64_t counters[] = {choice.groups};
  Tensor arrived = torch::stable::new_zeros(in.g(), counters, ScalarType::Int);
  using Operand = typename Layout<scalar_t, backward>::Operand;
  const Resident<Problem, scalar_t, backward> parameters{p,
                                                         layout,
                                                         choice.groups,
                                                         along,
                                                         static_cast<Operand*>(messages.data_ptr()),
                                                         statistics.mutable_data_ptr<float>(),
                                                         static_cast<unsigned*>(arrived.data_ptr())};
  launch(layout.in_cluster ? in_cluster : in_grid, Choice<scalar_t, backward>::shape(layout, choice.groups), in.g().device(),
         parameters);
  return true;
}

struct Engine {
  template <class scalar_t>
  static void run(const Forward<scalar_t>& p, const Inputs& in) {
    if (p.rows() == 0) return;
    if constexpr (!std::is_same_v<scalar_t, double>) {
      if (run_resident<Forward<scalar_t>, scalar_t, false>(p, in, nullptr, resident_forward<scalar_t, true>,
                                                           resident_forward<scalar_t, false>))
        return;
    }
    run_steps(p, in);
  }

  template <class scalar_t>
  static void run(const Backward<scalar_t>& p, const Inputs& in) {
    if (p.rows() == 0) return;
    if constexpr (!std::is_same_v<scalar_t, double>) {
      Tensor along = in.empty({0});
      if (p.normalize) {
        const std::vector<int64_t> shape{p.rows() * p.steps, 2 * p.units};
        along = torch::stable::matmul(torch::stable::from_blob(const_cast<scalar_t*>(p.normal), shape, {2 * p.units, 1},
                                                               in.g().device(), in.g().scalar_type()),
                                      in.inputs[1]);
      }
      if (run_resident<Backward<scalar_t>, scalar_t, true>(p, in, along.const_data_ptr<scalar_t>(),
                                                           resident_backward<scalar_t, true>,
                                                           resident_backward<scalar_t, false>))
        return;
    }
    run_steps(p, in);
  }
};

}  // namespace rnnkit::cuda

RNNKIT_LIBRARY_IMPL(RNNKIT_CUDA_KEY, m) {
  m.impl("recurrence", TORCH_BOX(&rnnkit::recurrence<rnnkit::cuda::Engine>));
  m.impl("recurrence_backward", TORCH_BOX(&rnnkit::recurrence_backward<rnnkit::cuda::Engine>));
}
