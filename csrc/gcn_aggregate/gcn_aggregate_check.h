// SPDX-License-Identifier: MIT
// What both glue files of gcn_aggregate check again.
#pragma once

#include "common/check.h"
#include "gcn_aggregate/gcn_aggregate_activation.h"

namespace advkern {

inline void check_activation(int64_t activation, int64_t least) {
  STD_TORCH_CHECK(least <= activation && activation <= kLogSoftmax, "advkern: activation must lie in [", least, ", ",
                  kLogSoftmax, "], got ", activation);
}

inline GraphSizes check_aggregate(const Tensor& rowptr, const Tensor& col, const Tensor& x,
                                  const std::optional<Tensor>& weight, const std::optional<Tensor>& row_scale,
                                  const std::optional<Tensor>& col_scale, const std::optional<Tensor>& bias,
                                  int64_t activation) {
  const GraphSizes sizes = check_graph(rowptr, col, x);
  const ScalarType acc = acc_type(x);
  if (weight) check_vector(*weight, "weight", sizes.num_edges, acc, rowptr);
  if (row_scale) check_vector(*row_scale, "row_scale", sizes.num_nodes, acc, rowptr);
  if (col_scale) check_vector(*col_scale, "col_scale", sizes.num_nodes, acc, rowptr);
  if (bias) check_vector(*bias, "bias", sizes.channels, acc, rowptr);
  check_activation(activation, kNone);
  return sizes;
}

inline void check_activation_bwd(const Tensor& grad, const Tensor& out, int64_t activation) {
  const int64_t rows = grad.dim() ? grad.size(0) : 0;
  check_matrix(grad, "grad", rows, grad);
  check_matrix(out, "out", rows, grad);
  STD_TORCH_CHECK(out.size(1) == grad.size(1) && out.scalar_type() == grad.scalar_type(),
                  "advkern: out must have grad's channels and type");
  check_activation(activation, kRelu);
}

inline GraphSizes check_edge_dot(const Tensor& rowptr, const Tensor& col, const Tensor& a, const Tensor& b) {
  const GraphSizes sizes = check_graph(rowptr, col, a);
  check_matrix(b, "b", sizes.num_nodes, rowptr);
  STD_TORCH_CHECK(b.size(1) == sizes.channels && b.scalar_type() == a.scalar_type(),
                  "advkern: b must have a's channels and type");
  return sizes;
}

}  // namespace advkern
