// The ops, for any engine: from tensors to the problems of problem.h, and back.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ops/join.h"
#include "ops/joint.h"
#include "ops/lattice.h"
#include "ops/ranges.h"
#include "ops/simple.h"

namespace rnnkit {

template <class Engine, class Library>
void implement_all(Library& m) {
  m.impl("lattice", TORCH_BOX(&lattice<Engine>));
  m.impl("joint_scores", TORCH_BOX(&joint_scores<Engine>));
  m.impl("joint_scores_", TORCH_BOX(&joint_scores_<Engine>));
  m.impl("joint_scores_backward", TORCH_BOX(&joint_scores_backward<Engine>));
  m.impl("joint_scores_backward_", TORCH_BOX(&joint_scores_backward_<Engine>));
  m.impl("simple_scores", TORCH_BOX(&simple_scores<Engine>));
  m.impl("simple_scores_backward", TORCH_BOX(&simple_scores_backward<Engine>));
  m.impl("join_", TORCH_BOX(&join_<Engine>));
  m.impl("join_backward_", TORCH_BOX(&join_backward_<Engine>));
  m.impl("prune_ranges", TORCH_BOX(&prune_ranges<Engine>));
}

}  // namespace rnnkit
