// SPDX-License-Identifier: MIT
// Codes of the activations, alike for the CPU and CUDA.
#pragma once

#include <cstdint>

namespace advkern {

constexpr int64_t kNone = 0, kRelu = 1, kElu = 2, kLogSoftmax = 3;  // places in the reference's ACTIVATIONS

}  // namespace advkern
