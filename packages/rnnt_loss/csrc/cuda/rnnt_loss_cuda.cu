// CUDA kernels and their registration.
// SPDX-License-Identifier: Apache-2.0
#include <rnnkit/library.h>

#include "../ops.h"
#include "join.h"
#include "joint.h"
#include "lattice.h"
#include "lattice_shared.h"
#include "ranges.h"
#include "simple.h"

namespace rnnkit::cuda {

inline dim3 blocks(int64_t count, int64_t each) {
  const int64_t needed = (count + each - 1) / each;
  STD_TORCH_CHECK(needed < (int64_t(1) << 31), "too many rows for one launch: ", count);
  return dim3(unsigned(needed));
}

struct Engine {
  template <class scalar_t>
  static void run(const Lattice<scalar_t>& p, const Tensor& like) {
    if (p.batch == 0) return;
    const size_t most = device_properties(like.device()).shared_bytes;
    const SharedLattice<scalar_t> in_memory(p, most);
    if (in_memory.frames > 0) {
      const Launch shape{dim3(unsigned(p.batch)), dim3(kSharedLatticeThreads), in_memory.shared_bytes()};
      return launch(walk_for(in_memory), shape, like.device(), in_memory);
    }
    return p.begin == nullptr ? run_general<false>(p, like) : run_general<true>(p, like);
  }

  template <class scalar_t>
  static void run(const JointForward<scalar_t>& p, const Tensor& like) {
    run_joint(joint_forward_kernel<scalar_t, 8>, joint_forward_kernel<scalar_t, 32>, p, like);
  }

  template <class scalar_t>
  static void run(const JointBackward<scalar_t>& p, const Tensor& like) {
    run_joint(joint_backward_kernel<scalar_t, 8>, joint_backward_kernel<scalar_t, 32>, p, like);
  }

  template <class scalar_t>
  static void simple_exponentials(const Simple<scalar_t>& p, const Tensor& like) {
    run_rows(exponentials_kernel<scalar_t>, Exponentials<scalar_t>{p, true}, p.batch * p.rows, kRowWarps, like);
    run_rows(exponentials_kernel<scalar_t>, Exponentials<scalar_t>{p, false}, p.batch * p.frames, kRowWarps, like);
  }

  template <class scalar_t>
  static void simple_scores(const Simple<scalar_t>& p, const Tensor& like) {
    run_rows(simple_scores_kernel<scalar_t>, p, p.batch * p.frames * p.rows, kRowThreads, like);
  }

  template <class scalar_t>
  static void simple_weights(const Simple<scalar_t>& p, const Tensor& like) {
    run_rows(simple_weights_kernel<scalar_t>, p, p.batch * p.frames * p.rows, kRowThreads, like);
  }

  template <class scalar_t>
  static void simple_gradients(const Simple<scalar_t>& p, const Tensor& like) {
    run_rows(simple_gradients_kernel<scalar_t>, Exponentials<scalar_t>{p, true}, p.batch * p.rows, kRowWarps, like);
    run_rows(simple_gradients_kernel<scalar_t>, Exponentials<scalar_t>{p, false}, p.batch * p.frames, kRowWarps, like);
  }

  template <class scalar_t>
  static void run(const Join<scalar_t>& p, const Tensor& like) {
    if (p.count * p.rows == 0) return;
    launch(join_kernel<scalar_t>, {blocks_of_frames(p, kRowWarps), dim3(kRowThreads)}, like.device(), p);
  }

  template <class scalar_t>
  static void run(const JoinBackward<scalar_t>& p, const Tensor& like) {
    if (p.count == 0) return;
    const int64_t sequences = (p.first + p.count - 1) / p.frames - p.first / p.frames + 1;
    const int64_t packs = p.width / Pack<scalar_t>::kCount;
    const int64_t threads = std::clamp<int64_t>((packs + 31) / 32 * 32, 32, kRowThreads);
    const Launch shape{blocks(p.count + sequences * (p.symbols + 1), 1), dim3(unsigned(threads))};
    launch(join_backward_kernel<scalar_t>, shape, like.device(), p);
  }

  template <class scalar_t>
  static void run(const Ranges<scalar_t>& p, const Tensor& like) {
    run_rows(ranges_kernel<scalar_t>, p, p.batch, 1, like);
  }

 private:
  template <bool banded, class scalar_t>
  static void run_general(const Lattice<scalar_t>& p, const Tensor& like) {
    if (p.arcs <= 2) return run_general(lattice_kernel<scalar_t, 1, 2, banded>, 1, p, like);
    if (p.arcs <= 12) return run_general(lattice_kernel<scalar_t, 4, 3, banded>, 4, p, like);
    run_general(lattice_kernel<scalar_t, 4, 4, banded>, 4, p, like);
  }

  template <class scalar_t>
  static void run_general(void (*kernel)(LatticeLaunch<scalar_t>), int lanes, const Lattice<scalar_t>& p,
                          const Tensor& like) {
    const int64_t width = p.rows + p.max_diagonals + 1, shared = (p.max_diagonals + 1) * width * int64_t(sizeof(double));
    STD_TORCH_CHECK(shared <= int64_t(device_properties(like.device()).shared_bytes), "lattice: ", p.rows - 1,
                    " symbols are more than this GPU's shared memory can hold");
    constexpr int64_t kMost = std::numeric_limits<int>::max() / 2;  // the kernel counts in 32 bits
    STD_TORCH_CHECK(p.frames < kMost, "lattice: too many frames: ", p.frames);
    for (int a = 0; a < p.arcs; ++a)
      STD_TORCH_CHECK(std::max(p.scores[a].frame, p.scores[a].row) < kMost, "scores: strides above ", kMost);
    const int64_t threads = std::clamp<int64_t>((width * lanes + 31) / 32 * 32, kFewestLatticeThreads, kLatticeThreads);
    launch(kernel, {dim3(unsigned(p.batch)), dim3(unsigned(threads)), size_t(shared)}, like.device(),
           LatticeLaunch<scalar_t>{p, int(width)});
  }

  template <class scalar_t>
  using Walk = void (*)(SharedLattice<scalar_t>);

  template <class scalar_t>
  static Walk<scalar_t> walk_for(const SharedLattice<scalar_t>& launched) {
    const int64_t rows = launched.problem.rows;
    if (launched.problem.begin != nullptr) return shared_lattice_kernel<scalar_t, 1, true, true>;
    return launched.whole() ? walk_of<scalar_t, true>(rows) : walk_of<scalar_t, false>(rows);
  }

  template <class scalar_t, bool whole>
  static Walk<scalar_t> walk_of(int64_t rows) {
    if (rows <= 32) return shared_lattice_kernel<scalar_t, 1, false, whole>;
    if (rows <= 64) return shared_lattice_kernel<scalar_t, 2, false, whole>;
    if (rows <= 128) return shared_lattice_kernel<scalar_t, 4, false, whole>;
    return shared_lattice_kernel<scalar_t, 8, false, whole>;
  }

  // Blocks for each frame of a chunk, as many as have kRowsAGroup rows for each of their groups.
  static dim3 blocks_of_frames(const Chunk& p, int64_t groups) {
    dim3 grid = blocks(p.count, 1);
    grid.y = unsigned(std::min<int64_t>((p.rows + groups * kRowsAGroup - 1) / (groups * kRowsAGroup), 65535));
    return grid;
  }

  // 8 lanes for a row that two of their accesses read, as many as its label and blanks need.
  template <class scalar_t, template <class> class Problem>
  static void run_joint(void (*few)(Problem<scalar_t>), void (*warp)(Problem<scalar_t>), const Problem<scalar_t>& p,
                        const Tensor& like) {
    if (p.count * p.rows == 0) return;
    STD_TORCH_CHECK(p.columns() < (1 << 30), "logits: too many columns: ", p.columns());
    const int64_t lanes = p.columns() * int64_t(sizeof(scalar_t)) <= 256 && p.blanks < 8 ? 8 : 32;
    const int64_t threads = std::min<int64_t>((p.rows * lanes + 31) / 32 * 32, kRowThreads), groups = threads / lanes;
    launch(lanes == 8 ? few : warp, {blocks_of_frames(p, groups), dim3(unsigned(threads))}, like.device(), p);
  }

  template <class Problem>
  static void run_rows(void (*kernel)(Problem), const Problem& p, int64_t count, int64_t each, const Tensor& like) {
    if (count > 0) launch(kernel, {blocks(count, each), dim3(kRowThreads)}, like.device(), p);
  }
};

}  // namespace rnnkit::cuda

RNNKIT_LIBRARY_IMPL(RNNKIT_CUDA_KEY, m) { rnnkit::implement_all<rnnkit::cuda::Engine>(m); }
