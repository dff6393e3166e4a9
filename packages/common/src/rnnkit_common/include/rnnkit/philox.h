// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): random bits as a function of a
// seed and of where they are used, so that a backward pass draws again what forward drew. M as in cell.h.
// SPDX-License-Identifier: Apache-2.0
#if defined(RNNKIT_PHILOX_H) == defined(RNNKIT_TARGET_TOGGLE)
#ifdef RNNKIT_PHILOX_H
#undef RNNKIT_PHILOX_H
#else
#define RNNKIT_PHILOX_H
#endif

#include <rnnkit/scan.h>
#include <rnnkit/target.h>

namespace rnnkit::RNNKIT_TARGET {

// 32 bits for the i-th step of a block, at channels d, d + 1, ..., of sequence b. Four steps share one Philox block.
template <class M>
RNNKIT_INLINE typename M::U random_bits(uint64_t seed, const Coordinates& at) {
  using U = typename M::U;
  U counter[4] = {U{} + uint32_t(at.first / 4 + at.i / 4), M::count_from(uint32_t(at.d)), U{} + uint32_t(at.b), U{}};
  uint32_t key[2] = {uint32_t(seed), uint32_t(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    U low[2], high[2];
    M::multiply_wide(counter[0], 0xd2511f53u, low[0], high[0]);
    M::multiply_wide(counter[2], 0xcd9e8d57u, low[1], high[1]);
    counter[0] = high[1] ^ counter[1] ^ key[0];
    counter[1] = low[1];
    counter[2] = high[0] ^ counter[3] ^ key[1];
    counter[3] = low[0];
    key[0] += 0x9e3779b9u;
    key[1] += 0xbb67ae85u;
  }
  return counter[at.i % 4];
}

}  // namespace rnnkit::RNNKIT_TARGET

#endif
