// SPDX-License-Identifier: MIT
// Some lanes of a warp that share a row of a matrix, 16 bytes each.
#pragma once

#include <cstdint>

#include "common/launch.cuh"
#include "common/types.h"
#include "common/warp.cuh"

namespace advkern {

constexpr int kPackBytes = 16;  // the widest load

template <typename scalar_t>
constexpr int kPack = kPackBytes / int(sizeof(scalar_t));

template <typename scalar_t>
struct alignas(kPackBytes) Pack {
  scalar_t value[kPack<scalar_t>];
};

// The number of lanes, a power of two, that `channels` need; of wider rows a warp holds a part at a time.
template <typename scalar_t>
int lanes_of_row(int64_t channels) {
  int lanes = 1;
  while (lanes < kWarpSize && int64_t(lanes) * kPack<scalar_t> < channels) lanes *= 2;
  return lanes;
}

// Whether every row of a contiguous matrix begins where a 16-byte load may.
inline bool rows_are_aligned(const void* data, int64_t row_bytes) {
  return reinterpret_cast<uintptr_t>(data) % kPackBytes == 0 && row_bytes % kPackBytes == 0;
}

// A lane's channels: neighbours that one load brings, or, where rows are not aligned, every `lanes`-th one.
template <bool kAligned, typename scalar_t>
struct RowTile {
  int64_t first, channels;  // the tile's first channel, and the row's length
  int lanes, lane;

  __device__ RowTile(int64_t first, int64_t channels, int lanes)
      : first(first), channels(channels), lanes(lanes), lane(int(threadIdx.x) % lanes) {}

  __device__ int64_t channel(int k) const { return first + (kAligned ? lane * kPack<scalar_t> + k : lane + k * lanes); }

  // Whether the lane's k-th channel is one; aligned rows end where a load does.
  __device__ bool has(int k) const { return channel(kAligned ? 0 : k) < channels; }

  // The lane's channels of `row`, zeros past its end and where it is not wanted.
  __device__ Pack<scalar_t> load(const scalar_t* row, bool wanted) const {
    Pack<scalar_t> pack{};
    if constexpr (kAligned) {
      if (wanted && has(0)) pack = *reinterpret_cast<const Pack<scalar_t>*>(row + channel(0));
    } else {
#pragma unroll
      for (int k = 0; k < kPack<scalar_t>; ++k)
        if (wanted && has(k)) pack.value[k] = row[channel(k)];
    }
    return pack;
  }

  __device__ void store(scalar_t* row, const Pack<scalar_t>& pack) const {
    if constexpr (kAligned) {
      if (has(0)) *reinterpret_cast<Pack<scalar_t>*>(row + channel(0)) = pack;
    } else {
#pragma unroll
      for (int k = 0; k < kPack<scalar_t>; ++k)
        if (has(k)) row[channel(k)] = pack.value[k];
    }
  }
};

}  // namespace advkern
