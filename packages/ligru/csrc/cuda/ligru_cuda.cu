// CUDA kernels, and their registration.
// SPDX-License-Identifier: Apache-2.0
#include <rnnkit/library.h>

#include "choice.h"
#include "resident_backward.h"
#include "resident_forward.h"
#include "steps.h"

#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <tuple>

namespace rnnkit::cuda {

inline std::string_view wanted_engine() {
  const char* const wanted = std::getenv("RNNKIT_LIGRU_ENGINE");
  const std::string_view name(wanted == nullptr ? "" : wanted);
  STD_TORCH_CHECK(name.empty() || name == "cluster" || name == "grid" || name == "steps", "RNNKIT_LIGRU_ENGINE is '", wanted,
                  "'; it may be cluster, grid or steps");
  return name;
}

template <class Layout>
Launch shape_of(const Layout& layout, int groups) {
  Launch launch;
  launch.grid = dim3(unsigned(groups * layout.blocks));
  launch.block = dim3(kThreads);
  launch.shared_bytes = layout.shared_bytes();
  launch.cluster = layout.in_cluster ? unsigned(layout.blocks) : 1;
  launch.cooperative = !layout.in_cluster;
  return launch;
}

// Made once for each size: asking the device takes longer than a launch.
template <class scalar_t, bool backward, class Kernel>
const Choice<Layout<scalar_t, backward>>& choice_for(int64_t rows, int64_t units, Kernel in_cluster,
                                                     torch::stable::Device device) {
  const DeviceProperties properties = device_properties(device);
  const std::string_view wanted = wanted_engine();
  using Made = Choice<Layout<scalar_t, backward>>;
  static thread_local std::map<std::tuple<int64_t, int64_t, int, int, std::string>, Made> made;
  const auto key = std::tuple(rows, units, int(device.index()), properties.multiprocessors, std::string(wanted));
  const auto entry = made.find(key);
  if (entry != made.end()) return entry->second;
  const auto clusters = [&](const auto& layout) { return active_clusters(in_cluster, shape_of(layout, 1), device); };
  const Made choice = choose<scalar_t, backward>(rows, units, properties, wanted, clusters);
  STD_TORCH_CHECK(wanted.empty() || wanted == "steps" || choice.groups > 0, "RNNKIT_LIGRU_ENGINE is '", wanted,
                  "', which cannot hold ", units, " units on this device");
  return made.emplace(key, choice).first->second;
}

template <class Problem, class scalar_t, bool backward, class Kernel>
bool run_resident(const Problem& p, const Inputs& in, const scalar_t* along, Kernel in_cluster, Kernel in_grid) {
  const auto& choice = choice_for<scalar_t, backward>(p.rows(), p.units, in_cluster, in.g().device());
  if (choice.groups == 0) return false;
  const auto& layout = choice.layout;
  const int64_t sides = layout.in_cluster ? 0 : 2 * int64_t(choice.groups) * layout.blocks;
  const bool narrow = layout.in_cluster || sizeof(typename Layout<scalar_t, backward>::Operand) == 2;
  const Sizes in_messages{sides * layout.message()}, in_statistics{sides * kRows * 2};
  Tensor messages = narrow ? in.empty(in_messages) : in.empty_acc(in_messages);
  Tensor statistics = in.empty_acc(in_statistics);
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
  launch(layout.in_cluster ? in_cluster : in_grid, shape_of(layout, choice.groups), in.g().device(), parameters);
  return true;
}

struct Engine {
  template <class Product>
  static void multiply(const Product&) {
    STD_TORCH_CHECK(false, "on a GPU, no tensors are lent");
  }

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
        const Sizes shape{p.rows() * p.steps, 2 * p.units};
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
