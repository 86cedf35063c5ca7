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

// Every tensor of a call must lie where its first one does; `place` is that one.
inline void check_vector(const Tensor& t, const char* name, int64_t length, ScalarType type, const Tensor& place) {
  STD_TORCH_CHECK(t.dim() == 1 && t.is_contiguous() && t.size(0) == length && t.scalar_type() == type,
                  "advkern: ", name, " must be a contiguous vector of length ", length, " and type ", type, ", got ",
                  t.is_contiguous() ? "" : "strides and ", "length ", t.numel(), " and type ", t.scalar_type());
  STD_TORCH_CHECK(t.device() == place.device(), "advkern: ", name, " must be on the device of the others");
}

inline void check_matrix(const Tensor& t, const char* name, int64_t rows, const Tensor& place) {
  STD_TORCH_CHECK(t.dim() == 2 && t.is_contiguous() && t.size(0) == rows, "advkern: ", name,
                  " must be a contiguous matrix of ", rows, " rows, got ", t.dim(), " dimensions and ",
                  t.dim() ? t.size(0) : 0, " rows");
  STD_TORCH_CHECK(t.device() == place.device(), "advkern: ", name, " must be on the device of the others");
}

inline void check_ids(const Tensor& t, const char* name, const Tensor& place) {
  const auto type = t.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Int || type == ScalarType::Long, "advkern: ", name,
                  " must be int32 or int64, got ", type);
  check_vector(t, name, t.numel(), type, place);
}

struct GraphSizes {
  int64_t num_nodes, num_edges, channels;
};

inline GraphSizes check_graph(const Tensor& rowptr, const Tensor& col, const Tensor& x) {
  STD_TORCH_CHECK(rowptr.numel() >= 1, "advkern: rowptr must have num_nodes + 1 entries, got none");
  const GraphSizes sizes{rowptr.numel() - 1, col.numel(), x.dim() == 2 ? x.size(1) : 0};
  check_vector(rowptr, "rowptr", sizes.num_nodes + 1, ScalarType::Long, rowptr);
  check_ids(col, "col", rowptr);
  check_matrix(x, "x", sizes.num_nodes, rowptr);
  return sizes;
}

template <typename T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

template <typename T>
const T* data_or_null(const std::optional<Tensor>& t) {
  return t.has_value() ? data<const T>(*t) : nullptr;
}

// The type in which sums of x's type are taken.
inline ScalarType acc_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

}  // namespace advkern
