// SPDX-License-Identifier: MIT
// What the 32 lanes of a warp do together. Every lane of the warp must call.
#pragma once

#include "common/launch.cuh"

namespace advkern {

constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// Lane `source`'s value, the lane's number taken modulo the warp.
template <typename T>
__device__ T broadcast(T value, int source) {
  return __shfl_sync(kAllLanes, value, source % kWarpSize);
}

// The sum over the lanes whose numbers differ only in the bits from `low` up to below `high` (powers of two).
// Its order is a fixed tree, so the bits are the same every time.
template <typename acc_t>
__device__ acc_t sum_over_lanes(acc_t value, int low, int high) {
  for (int offset = high / 2; offset >= low; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

// The greatest over the same lanes.
template <typename acc_t>
__device__ acc_t max_over_lanes(acc_t value, int low, int high) {
  for (int offset = high / 2; offset >= low; offset /= 2) {
    const acc_t other = __shfl_xor_sync(kAllLanes, value, offset);
    value = other > value ? other : value;
  }
  return value;
}

}  // namespace advkern
