// The choice among Li-GRU's engines as an op, for test_choice.py.
#include <rnnkit/library.h>

#include <algorithm>
#include <cuda/choice.h>

#include <string>
#include <vector>

namespace {

using namespace rnnkit::cuda;

// [groups, blocks, width, in_cluster], on a device that has room for clusters of all its multiprocessors.
template <class Operand>
std::vector<int64_t> choice(int64_t rows, int64_t units, int64_t multiprocessors, int64_t capability, int64_t kilobytes,
                            const std::string& wanted) {
  const rnnkit::DeviceProperties device{int(multiprocessors), capability >= 90, int(capability), size_t(kilobytes) * 1024};
  const auto clusters = [&](const auto& layout) { return multiprocessors / layout.blocks; };
  const auto made = choose<Operand, false>(rows, units, device, wanted, clusters);
  return {made.groups, made.layout.blocks, made.layout.width, made.layout.in_cluster};
}

std::vector<int64_t> engine(int64_t rows, int64_t units, std::string operand, int64_t multiprocessors, int64_t capability,
                            int64_t kilobytes, std::string wanted) {
  const auto of = operand == "float32" ? &choice<float> : operand == "tf32" ? &choice<Tf32> : &choice<rnnkit::BFloat16>;
  return of(rows, units, multiprocessors, capability, kilobytes, wanted);
}

}  // namespace

STABLE_TORCH_LIBRARY(rnnkit_choice_test, m) {
  m.def("engine(int rows, int units, str operand, int multiprocessors, int capability, int kilobytes, str wanted) -> int[]");
}
STABLE_TORCH_LIBRARY_IMPL(rnnkit_choice_test, CompositeExplicitAutograd, m) { m.impl("engine", TORCH_BOX(&engine)); }
