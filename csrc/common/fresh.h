// SPDX-License-Identifier: MIT
// Fresh outputs.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "common/memory.h"

namespace advkern {

inline torch::stable::Tensor in_huge_pages(torch::stable::Tensor fresh) {
  advise_huge_pages(fresh.data_ptr(), size_t(fresh.numel()) * fresh.element_size());
  return fresh;
}

}  // namespace advkern
