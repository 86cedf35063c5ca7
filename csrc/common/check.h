// SPDX-License-Identifier: MIT
// The checks a glue file makes again in C++: torch.ops and pickles go around the Python ones.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/Dispatch.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>

namespace advkern {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline void check_vector(const Tensor& t, const char* name, int64_t length, ScalarType type) {
  STD_TORCH_CHECK(t.dim() == 1 && t.is_contiguous() && t.is_cpu() && t.size(0) == length && t.scalar_type() == type,
                  "advkern: ", name, " must be a contiguous vector of length ", length, " and type ", type,
                  " on the CPU, got ", t.is_contiguous() ? "" : "strides and ", "length ", t.numel(), " and type ",
                  t.scalar_type());
}

inline void check_matrix(const Tensor& t, const char* name, int64_t rows) {
  STD_TORCH_CHECK(t.dim() == 2 && t.is_contiguous() && t.is_cpu() && t.size(0) == rows, "advkern: ", name,
                  " must be a contiguous matrix of ", rows, " rows on the CPU, got ", t.dim(), " dimensions and ",
                  t.dim() ? t.size(0) : 0, " rows");
}

inline void check_ids(const Tensor& t, const char* name) {
  const auto type = t.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Int || type == ScalarType::Long, "advkern: ", name,
                  " must be int32 or int64, got ", type);
  check_vector(t, name, t.numel(), type);
}

template <typename T>
const T* data_or_null(const std::optional<Tensor>& t) {
  return t.has_value() ? static_cast<const T*>(t->data_ptr()) : nullptr;
}

}  // namespace advkern
