// SPDX-License-Identifier: MIT
// Fresh outputs.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "common/memory.h"
#include "common/parallel.h"

namespace advkern {

inline torch::stable::Tensor in_huge_pages(torch::stable::Tensor fresh) {
  advise_huge_pages(fresh.data_ptr(), size_t(fresh.numel()) * fresh.element_size());
  return fresh;
}

constexpr int64_t kMostVectorBytes = 64;  // of any instruction set
constexpr int64_t kLeastStreamed = 4;     // bytes of an element: half types fill half a vector and stay in the caches

// Whether the rows of a fresh output, as whole vectors of any instruction set, may be stored past the caches: none
// keeps so large a one until it is read.
inline bool past_caches(const torch::stable::Tensor& fresh, int64_t rows) {
  constexpr int64_t kStreamBytes = 32 << 20;
  const int64_t bytes = fresh.numel() * int64_t(fresh.element_size());
  return bytes >= kStreamBytes && bytes / rows % kMostVectorBytes == 0 &&
         reinterpret_cast<uintptr_t>(fresh.data_ptr()) % kMostVectorBytes == 0 &&
         int64_t(fresh.element_size()) >= kLeastStreamed;
}

// Has the system map and clear the huge pages of a fresh output, all threads at once, before it is stored past the
// caches. Where that happens between such stores, these find the cleared lines in a cache and must first drive them
// out, and the clearing drives out what was fetched ahead.
inline void map_pages(const torch::stable::Tensor& fresh) {
  constexpr int64_t kGrainPages = 8;
  volatile char* const start = static_cast<volatile char*>(fresh.data_ptr());
  const int64_t bytes = fresh.numel() * int64_t(fresh.element_size());
  parallel_for(0, (bytes + kHugePage - 1) / kHugePage, kGrainPages, [=](int64_t begin, int64_t end) {
    for (int64_t page = begin; page < end; ++page) start[page * kHugePage] = 0;
  });
}

}  // namespace advkern
