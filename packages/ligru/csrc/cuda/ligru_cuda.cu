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
  STD_TORCH_CHECK(name.empty() || name == "cluster" || name == "async" || name == "grid" || name == "steps",
                  "RNNKIT_LIGRU_ENGINE is '", wanted, "'; it may be cluster, async, grid or steps");
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
template <class Operand, bool backward, class Kernel>
const Choice<Layout<Operand, backward>>& choice_for(int64_t rows, int64_t units, Kernel in_cluster,
                                                    torch::stable::Device device) {
  const DeviceProperties properties = device_properties(device);
  const std::string_view wanted = wanted_engine();
  using Made = Choice<Layout<Operand, backward>>;
  static thread_local std::map<std::tuple<int64_t, int64_t, int, int, std::string>, Made> made;
  const auto key = std::tuple(rows, units, int(device.index()), properties.multiprocessors, std::string(wanted));
  const auto entry = made.find(key);
  if (entry != made.end()) return entry->second;
  const auto clusters = [&](const auto& layout) { return active_clusters(in_cluster, shape_of(layout, 1), device); };
  const Made choice = choose<Operand, backward>(rows, units, properties, wanted, clusters);
  STD_TORCH_CHECK(wanted.empty() || wanted == "steps" || choice.groups > 0, "RNNKIT_LIGRU_ENGINE is '", wanted,
                  "', which cannot hold ", units, " units on this device");
  return made.emplace(key, choice).first->second;
}

template <class Operand, bool backward, class Problem, class Along, class Kernel>
bool run_resident(const Problem& p, const Inputs& in, const Along* along, Kernel in_cluster, Kernel async, Kernel in_grid) {
  const Kernel linked = wanted_engine() == "async" ? async : in_cluster;
  const auto& choice = choice_for<Operand, backward>(p.rows(), p.units, linked, in.g().device());
  if (choice.groups == 0) return false;
  const auto& layout = choice.layout;
  const int64_t sides = layout.in_cluster ? 0 : 2 * int64_t(choice.groups) * layout.blocks;
  const Sizes in_messages{sides * layout.message()}, in_statistics{sides * kRows * 2};
  Tensor messages = in.empty(in_messages), statistics = in.empty_acc(in_statistics);
  const int64_t counters[] = {choice.groups};  // which clusters have no need of
  const Tensor arrived =
      layout.in_cluster ? statistics : Tensor(torch::stable::new_zeros(in.g(), counters, ScalarType::Int));
  const Resident<Problem, Operand, backward> parameters{p,
                                                        layout,
                                                        choice.groups,
                                                        along,
                                                        static_cast<Operand*>(messages.data_ptr()),
                                                        statistics.mutable_data_ptr<float>(),
                                                        static_cast<unsigned*>(arrived.data_ptr())};
  const Kernel in_blocks = layout.blocks > 1 ? linked : in_cluster;  // a block alone cannot st.async
  launch(layout.in_cluster ? in_blocks : in_grid, shape_of(layout, choice.groups), in.g().device(), parameters);
  return true;
}

template <class Operand, class scalar_t>
bool run_resident(const Forward<scalar_t>& p, const Inputs& in) {
  return run_resident<Operand, false>(p, in, p.u, resident_forward<scalar_t, Operand, Link::cluster>,
                                      resident_forward<scalar_t, Operand, Link::async>,
                                      resident_forward<scalar_t, Operand, Link::grid>);
}

template <class Operand, class scalar_t>
bool run_resident(const Backward<scalar_t>& p, const Inputs& in) {
  Tensor along = in.empty({0});
  if (p.normalize) {
    const Sizes shape{p.rows() * p.steps, 2 * p.units};
    along = torch::stable::matmul(torch::stable::from_blob(const_cast<scalar_t*>(p.normal), shape, {2 * p.units, 1},
                                                           in.g().device(), in.g().scalar_type()),
                                  in.inputs[1]);
  }
  return run_resident<Operand, true>(
      p, in, along.const_data_ptr<scalar_t>(), resident_backward<scalar_t, Operand, Link::cluster>,
      resident_backward<scalar_t, Operand, Link::async>, resident_backward<scalar_t, Operand, Link::grid>);
}

struct Engine {
  template <class Product>
  static void multiply(const Product&) {
    STD_TORCH_CHECK(false, "on a GPU, no tensors are lent");
  }

  // Problem: Forward or Backward
  template <template <class> class Problem, class scalar_t>
  static void run(const Problem<scalar_t>& p, const Inputs& in) {
    if (p.rows() == 0) return;
    const bool tf32 = in.tf32 && device_properties(in.g().device()).capability >= 80;
    bool done = false;
    if constexpr (std::is_same_v<scalar_t, float>)
      done = tf32 ? run_resident<Tf32>(p, in) : run_resident<float>(p, in);
    else if constexpr (!std::is_same_v<scalar_t, double>)
      done = run_resident<scalar_t>(p, in);
    if (!done) run_steps(p, in);
  }
};

}  // namespace rnnkit::cuda

RNNKIT_LIBRARY_IMPL(RNNKIT_CUDA_KEY, m) {
  m.impl("recurrence", TORCH_BOX(&rnnkit::recurrence<rnnkit::cuda::Engine>));
  m.impl("recurrence_backward", TORCH_BOX(&rnnkit::recurrence_backward<rnnkit::cuda::Engine>));
}
