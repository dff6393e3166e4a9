// How the scan kernels are cut for a device: every number that was chosen, with what speaks for it. "Measured" means on an
// H200 at commit 195826e; "counted", by benchmarks/sass.py for sm_90; "reasoned", neither.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cell.h>
#include <rnnkit/types.h>

#include <cstdlib>

namespace rnnkit::cuda {

// What a thread works on at a time: neighbouring channels, read and written by one access, and consecutive steps.
template <int channels, int steps>
struct Tile {
  static constexpr int kChannels = channels, kSteps = steps;
};

// Two channels share one access, its address and, in 16 bits, the instruction that rounds them: the forward kernel of
// minGRU in bfloat16 then needs half the instructions an output (counted: 34, and 62 with one channel and 16 steps). Four
// would leave too few threads along time. Doubles fill an access of 8 bytes by themselves.
template <class scalar_t>
using TileOf = Tile<sizeof(scalar_t) == 8 ? 1 : 2, kCarryCuda>;

constexpr int kLanes = kWarp;   // threads side by side over channels
constexpr int kMaxCluster = 8;  // blocks along time; the portable limit, and what Hopper allows beyond it:
constexpr int kLargestCluster = 16;

// How many threads along time a block has, and with that the registers that each can have: 16 warps on a multiprocessor
// with 128, 12 with 168, 8 with 255. What a kernel holds of a tile decides: `kept` values of the state's type in each step
// until the state has come in, the planes as they were read, and what belongs to channels. Counted: with these limits no
// loop but those of doubles spills. Reasoned: a warp has 2 to 6 KB of loads in flight, and bandwidth times latency is some
// 25 KB a multiprocessor (132 of them at 4 TB/s).
template <class scalar_t, class Kind, int kept>
struct Block {
  static constexpr int kValues = TileOf<scalar_t>::kChannels * TileOf<scalar_t>::kSteps;
  static constexpr int kRegisters = (kept * sizeof(acc_t<scalar_t>) + Kind::kPlanes * sizeof(scalar_t)) * kValues / 4 +
                                    14 * Kind::kParameters + Kind::kRegisters;
  static constexpr int kPerMultiprocessor = 2;
  static constexpr int kChunks = kRegisters <= 48 ? 8 : kRegisters < 112 ? 6 : 4;
  static constexpr bool kPrefetch = kRegisters <= 96 || (kChunks == 4 && kRegisters < 180);
};

template <class scalar_t, class Kind>
using ForwardBlock = Block<scalar_t, Kind, 2>;
template <class scalar_t, class Kind>
using BackwardBlock = Block<scalar_t, Kind, 2 + Kind::kPlanes - Kind::kOutputPlanes + 2 * Kind::kOutputSeesPrevious>;

// A recurrence that cannot be cut in time waits for its own last step: with fewer warps than this on a multiprocessor (one
// for each scheduler), a thread takes a single channel, and has half the instructions between two steps. Reasoned.
constexpr int kSerialWarps = 4;

constexpr int kWarpsPerMultiprocessor = 12;  // that sequences are cut in time for; reasoned

// Where clusters leave a device idle that much work waits for, or it has none, blocks share a sequence through global
// memory: that many times more of them, and within these limits. An exchange takes some microseconds then, and the counters
// a launch of their own; a block has half a KB of shared memory for what another shows. Reasoned.
constexpr int64_t kGridGain = 2, kLeastGrid = 8;
constexpr int kMostGrid = 64;

// RNNKIT_SCAN=4x2 in the environment asks for 4 threads along time in a block, and clusters of 2, whatever the device;
// 4x64g for 64 blocks that share a sequence through global memory, or as many as run at the same time: for measurements
// (benchmarks/tune.py). 0 where there is none.
struct ForcedShape {
  int chunks = 0, blocks = 0;
  bool in_grid = false;

  ForcedShape() {
    const char* const text = std::getenv("RNNKIT_SCAN");
    if (text == nullptr) return;
    char* end = nullptr;
    chunks = int(std::strtol(text, &end, 10));
    blocks = *end == 'x' ? int(std::strtol(end + 1, &end, 10)) : 0;
    in_grid = *end == 'g';
    end += in_grid;
    STD_TORCH_CHECK(*end == 0 && chunks > 0 && blocks > 0 && blocks <= (in_grid ? kMostGrid : kLargestCluster),
                    "RNNKIT_SCAN: expected THREADSxBLOCKS, as 4x2, or 4x64g, but it is '", text, "'");
  }
};

}  // namespace rnnkit::cuda
