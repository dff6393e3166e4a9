// How the scan kernels read and write planes: whole words of neighbouring channels, where they lie so that this can be done.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <rnnkit/cuda/launch.h>
#include <rnnkit/cuda/tuning.h>
#include <rnnkit/cuda/word.h>
#include <rnnkit/scan.h>

namespace rnnkit::cuda {

// A thread's values of the planes from..to, at kSteps steps: in words as they lie in memory, those of interleaved planes
// one group after the other.
template <class scalar_t, class Kind, class Tile, int from, int to>
class Planes {
 public:
  static constexpr int kChannels = Tile::kChannels, kSteps = Tile::kSteps;

  __device__ __forceinline__ acc_t<scalar_t> get(int plane, int i, int c) const {
    const Within within = within_words(plane, c);
    return words_[within.word][i].get(within.place);
  }

  __device__ __forceinline__ void set(int plane, int i, int c, scalar_t value) {
    const Within within = within_words(plane, c);
    words_[within.word][i].set(within.place, value);
  }

  // Rounds the values of a step, one of each channel.
  __device__ __forceinline__ void set(int plane, int i, const acc_t<scalar_t> (&values)[kChannels]) {
    if (channel_stride<Kind>(plane) == 1) {
      words_[plane - from][i] = WordOf<scalar_t>::rounded(values);
    } else {
      RNNKIT_UNROLL
      for (int c = 0; c < kChannels; ++c) set(plane, i, c, static_cast<scalar_t>(values[c]));
    }
  }

  // Steps that do not exist, and channels, are 0.
  template <class At>
  __device__ __forceinline__ void load(const Rows<const scalar_t>* rows, const At& at, int s, int length, int count,
                                       bool packed) {
    if (packed && count == kSteps) {
      RNNKIT_UNROLL
      for (int j = from; j < to; ++j) {
        Walk<const scalar_t> walk(rows, j, at, s, length);
        RNNKIT_UNROLL
        for (int i = 0; i < kSteps; ++i) words_[j - from][i] = walk.next();
      }
      return;
    }
    RNNKIT_UNROLL
    for (int j = from; j < to; ++j) {
      const int64_t stride = at.reverse ? -rows[j].step_stride : rows[j].step_stride;
      const scalar_t* at_step = rows[j].at(at.b, position(s, length, at.reverse)) + at.d * channel_stride<Kind>(j);
      RNNKIT_UNROLL
      for (int i = 0; i < kSteps; ++i, at_step += stride) {
        RNNKIT_UNROLL
        for (int c = 0; c < kChannels; ++c)
          set(j, i, c, i < count && c < at.valid ? at_step[c * channel_stride<Kind>(j)] : scalar_t(0));
      }
    }
  }

  template <class At>
  __device__ __forceinline__ void store(const Rows<scalar_t>* rows, const At& at, int s, int length, int count,
                                        bool packed) {
    if (packed && count == kSteps) {
      RNNKIT_UNROLL
      for (int j = from; j < to && at.valid > 0; ++j) {
        Walk<scalar_t> walk(rows, j, at, s, length);
        RNNKIT_UNROLL
        for (int i = 0; i < kSteps; ++i) walk.next() = words_[j - from][i];
      }
      return;
    }
    RNNKIT_UNROLL
    for (int j = from; j < to; ++j) {
      const int64_t stride = at.reverse ? -rows[j].step_stride : rows[j].step_stride;
      scalar_t* at_step = rows[j].at(at.b, position(s, length, at.reverse)) + at.d * channel_stride<Kind>(j);
      RNNKIT_UNROLL
      for (int i = 0; i < kSteps; ++i, at_step += stride) {
        RNNKIT_UNROLL
        for (int c = 0; c < kChannels; ++c)
          if (i < count && c < at.valid) at_step[c * channel_stride<Kind>(j)] = static_cast<scalar_t>(get(j, i, c));
      }
    }
  }

 private:
  struct Within {
    int word, place;
  };

  static __device__ __forceinline__ Within within_words(int plane, int c) {
    const int stride = channel_stride<Kind>(plane);
    if (stride == 1) return {plane - from, c};
    const int value = c * stride + plane - Kind::kFirstInterleaved;
    return {Kind::kFirstInterleaved - from + value / kChannels, value % kChannels};
  }

  template <class T>
  using WordOf = std::conditional_t<std::is_const_v<T>, const Word<scalar_t, kChannels>, Word<scalar_t, kChannels>>;

  // Along the j-th words of consecutive steps: 32-bit offsets, which may wrap, from where the sequence begins.
  template <class T>
  struct Walk {
    char* base;
    uint32_t offset, stride;

    template <class At>
    __device__ __forceinline__ Walk(const Rows<T>* rows, int j, const At& at, int s, int length) {
      const int channel = channel_stride<Kind>(j), group = channel == 1 ? j : Kind::kFirstInterleaved;
      const Rows<T>& row = rows[group];
      base = const_cast<char*>(reinterpret_cast<const char*>(row.data + at.b * row.batch_stride + (j - group) * kChannels));
      const uint32_t step = uint32_t(row.step_stride) * sizeof(T);
      offset = uint32_t(position(s, length, at.reverse)) * step + uint32_t(at.d) * channel * sizeof(T);
      stride = at.reverse ? 0 - step : step;
    }

    __device__ __forceinline__ WordOf<T>& next() {
      char* const address = base + offset;
      offset += stride;
      return word_at<WordOf<T>>(address);
    }
  };

  Word<scalar_t, kChannels> words_[to > from ? to - from : 1][kSteps];
};

// Whether the planes of the kind have the layout that Cut::packed tells of.
template <class Tile, class Kind, class T, class Problem>
bool are_packed(const Rows<T>* rows, int count, const Problem& p) {
  constexpr int channels = Tile::kChannels;
  bool packed = p.channels % channels == 0 && p.reverse_from % channels == 0;
  for (int j = 0; j < count; ++j) {
    const Rows<T>& row = rows[j];
    const int stride = channel_stride<Kind>(j), within = stride == 1 ? 0 : j - Kind::kFirstInterleaved;
    const int64_t size = sizeof(T) * channels,
                  bytes = (p.steps * row.step_stride + p.channels * stride) * int64_t(sizeof(T));
    packed = packed && reinterpret_cast<uintptr_t>(row.data - within) % size == 0 && row.batch_stride % channels == 0 &&
             row.step_stride % channels == 0 && row.step_stride >= 0 && bytes <= int64_t(1) << 32;
    packed = packed && row.data - within == rows[j - within].data;
  }
  return packed;
}

}  // namespace rnnkit::cuda
